"""What C's library keeps of memory that nobody uses any more."""

from __future__ import annotations

import ctypes
import sys


def give_back_memory() -> None:
    """Return free memory to the system, where C's library is glibc; it takes milliseconds.

    Pieces of ever other sizes leave gaps that the next ones do not fit into, and glibc keeps them.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(ctypes.c_size_t(0))
