"""An append-only file of records that survives kills: a checksum before each, one record a line.

What :meth:`Journal.append` returned from is on disk. A writer that is killed leaves at most one
torn record at the end, which nobody was told is saved; it is dropped with a line in the log. A
record that is damaged anywhere else is an error: something changed the file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kg.errors import SavedFileError, StoreError

log = logging.getLogger(__name__)

_LIKE_A_RECORD = re.compile(rb"[0-9a-f]{8} |[0-9a-f]{0,8}$|\0")
"""How a record starts, also a torn one, or what a power cut left of it."""


class JournalError(StoreError, OSError):
    """Records could not be written; none of them is in the journal."""


class Journal:
    """Records of JSON values in a file that only grows.

    Args:
        path: of the file, made where it is missing. One process may append at a time.
        durable: whether to wait for the disk; without, a kill loses nothing, a power cut may.
    """

    def __init__(self, path: str | Path, *, durable: bool = True) -> None:
        self.path, self.durable = Path(path), durable
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(len(line) for line, _ in _lines(self.path))
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self._size = os.fstat(self._handle).st_size
        if self._size > whole:
            log.warning(
                "%s: dropped a torn record of %d bytes at the end, of a writer that was killed",
                *(self.path, self._size - whole),
            )
            os.ftruncate(self._handle, whole)
            self._size = whole
        os.lseek(self._handle, 0, os.SEEK_END)

    def append(self, records: Sequence[Any]) -> None:
        """Write records, all of them or none.

        Raises:
            JournalError: the disk is full or fails; the journal is as it was.
            TypeError: a record is no JSON value.
        """
        content = journal_content(records)
        written = 0
        try:
            while written < len(content):
                written += os.write(self._handle, content[written:])
            if self.durable:
                os.fdatasync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            os.lseek(self._handle, self._size, os.SEEK_SET)
            raise JournalError(
                f"{self.path}: {len(records)} records could not be written ({error.strerror}); "
                "free some space and send them again"
            ) from error
        self._size += len(content)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: str | Path) -> Iterator[Any]:
    """The records of a journal in order, without a torn one at the end.

    Raises:
        SavedFileError: a record other than the last is damaged, or this is no journal.
    """
    for _, record in _lines(Path(path)):
        yield record


def journal_content(records: Sequence[Any]) -> bytes:
    """What a journal of these records consists of."""
    return b"".join(_line(record) for record in records)


def _line(record: Any) -> bytes:
    payload = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def _lines(path: Path) -> Iterator[tuple[bytes, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        torn = None
        for number, line in enumerate(file, 1):
            if torn is not None:
                raise SavedFileError(
                    f"{path}: record {torn} is damaged and others follow it, so the file was "
                    "changed after it was written; restore a copy, or cut it off there"
                )
            try:
                whole = line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(line[9:-1])
            except ValueError:
                whole = False
            if not whole:
                if number == 1 and not _LIKE_A_RECORD.match(line):
                    raise SavedFileError(
                        f"{path}: expected lines of a checksum and a JSON value, as EventLog of "
                        "coldstart.feedback writes them for events, and the first line is none; "
                        "this is another file, check the path"
                    )
                torn = number
                continue
            yield line, json.loads(line[9:-1])
