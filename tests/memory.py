"""What tests of memory share."""

import os
from pathlib import Path


def resident_bytes() -> int:
    """Memory that this process has at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
