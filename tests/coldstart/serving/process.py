"""A server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(model: Path, state: Path, *more: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process and its address; killed at the end if it is still there."""
    environment = os.environ | {"COLDSTART_API_KEY": "secret", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "coldstart.cli", "serve", str(model), "--port", "0"]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [*command, "--state", str(state), *more],
        env=environment | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = ""
    while "http://" not in line:
        line = process.stderr.readline()
        assert line, "the server did not start"
    found = re.search(r"http://\S+?:\d+", line)
    assert found
    try:
        yield process, found.group()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def running_server(model: Path, state: Path, *more: str) -> Iterator[str]:
    """The address of a server."""
    with running(model, state, *more) as (_, address):
        yield address
