"""Vectors on disk, found again by what was encoded and by whom; safe under kills and company."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoders.base import checked_texts
from kg.errors import AlignmentError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "KG_COLDSTART_CACHE"

_FILE = "vectors-1.sqlite"  # the number is that of the tables below
_PER_QUERY = 500  # SQLite's oldest limit is 999 parameters
_TOUCH_AFTER = 3600  # seconds; a use within the hour is not noted again, so reading stays reading
_WAIT = 60.0  # seconds for another process to finish its write

# A vector's row is large and never changes; what is looked up and touched is small and apart.
_TABLES = """
CREATE TABLE IF NOT EXISTS encoders (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    text BLOB NOT NULL, encoder INTEGER NOT NULL, vector INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (text, encoder)) WITHOUT ROWID;
"""


class CacheError(OSError):
    """The cache's folder or file cannot be used."""


# Added later, so it may be absent from an older file.
_LABELS = "CREATE TABLE IF NOT EXISTS labels (encoder INTEGER PRIMARY KEY, label TEXT NOT NULL)"


@dataclass(frozen=True)
class EncoderStats:
    """What a cache holds of one encoder.

    Args:
        fingerprint: identifies weights and settings.
        label: what people call it; empty where it was not told.
        dim: length of its vectors.
        num_vectors: how many there are.
        first_used: when the one that lay unused the longest was last used, seconds since 1970.
        last_used: when any was last used.
    """

    fingerprint: str
    label: str
    dim: int
    num_vectors: int
    first_used: int
    last_used: int


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds.

    Args:
        path: its file.
        num_vectors: vectors, over all encoders.
        num_bytes: size of the file.
        encoders: those it has vectors of, the last used first.
    """

    path: Path
    num_vectors: int
    num_bytes: int
    encoders: tuple[EncoderStats, ...] = ()

    @property
    def by_encoder(self) -> dict[str, int]:
        """Vectors by the encoder's fingerprint."""
        return {e.fingerprint: e.num_vectors for e in sorted(self.encoders, key=_fingerprint)}

    def to_text(self) -> str:
        """A line for the file and one for each encoder."""
        size = f"{self.num_bytes / 1e6:.1f} MB"
        lines = [f"{self.path}: {self.num_vectors} vectors, {size}"]
        for one in self.encoders:
            name = one.label or one.fingerprint
            lines.append(
                f"  {one.num_vectors} of {one.dim} numbers, last used {_day(one.last_used)}, "
                f"the oldest {_day(one.first_used)}: {name}"
            )
        return "\n".join(lines)


def _fingerprint(one: EncoderStats) -> str:
    return one.fingerprint


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class VectorCache:
    """Vectors by text and encoder, in one SQLite file in write-ahead mode.

    A process may be killed at any moment: what was put before is there, what was being put is there
    or not, and nothing is ever half there. Several processes and threads may share a cache. The
    texts are not stored, only a hash of each.

    Args:
        folder: where the file is; by default ``$KG_COLDSTART_CACHE``, else the user's cache folder
            on this system. Made when first needed.
        max_bytes: limit on the size of the file; beyond it the vectors whose last use (to the hour)
            is the longest ago are dropped.
    """

    def __init__(self, folder: str | Path | None = None, *, max_bytes: int = 4_000_000_000) -> None:
        if max_bytes < 1_000_000:
            raise ValueError(f"max_bytes must be at least 1,000,000, got {max_bytes}")
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"VectorCache({str(self.folder)!r})"

    @property
    def path(self) -> Path:
        """The file that holds everything."""
        return self.folder / _FILE

    def get_many(
        self, fingerprint: str, texts: Sequence[str], dim: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The vectors that are here.

        Args:
            fingerprint: of the encoder.
            texts: what was encoded.
            dim: length of the encoder's vectors.

        Returns:
            float32 ``[len(texts), dim]``, zero where nothing is known, and bool ``[len(texts)]``,
            true where something is.
        """
        rows: dict[bytes, int] = {}
        place = np.array([rows.setdefault(key, len(rows)) for key in _keys(texts)], np.int64)
        matrix = np.zeros((len(rows), dim), np.float32)
        found = np.zeros(len(rows), bool)
        if rows and self.path.exists():
            with self._open() as connection:
                self._read_into(matrix, found, connection, fingerprint, rows)
        return matrix[place], found[place]

    def _read_into(
        self,
        matrix: np.ndarray,
        found: np.ndarray,
        connection: sqlite3.Connection,
        fingerprint: str,
        rows: dict[bytes, int],
    ) -> None:
        encoder = connection.execute(
            "SELECT id FROM encoders WHERE fingerprint = ? AND dim = ?",
            (fingerprint, matrix.shape[1]),
        ).fetchone()
        if encoder is None:
            return
        now, size, stale = int(time.time()), matrix.itemsize * matrix.shape[1], []
        for part in _select(connection, list(rows), encoder[0]):
            whole = [row for row in part if len(row[2]) == size]
            at = [rows[key] for key, _, _ in whole]
            vectors = np.frombuffer(b"".join(vector for _, _, vector in whole), "<f4")
            matrix[at] = vectors.reshape(len(at), -1) if at else 0
            found[at] = True
            stale += [(now, key, encoder[0]) for key, used, _ in whole if now - used > _TOUCH_AFTER]
        if stale:
            self._touch(connection, stale)

    def put_many(
        self, fingerprint: str, texts: Sequence[str], matrix: np.ndarray, *, label: str = ""
    ) -> None:
        """Keep these vectors: all of them, or none if the process dies meanwhile.

        Args:
            fingerprint: of the encoder.
            texts: what was encoded.
            matrix: float32 ``[len(texts), dim]``, finite.
            label: what people call the encoder, for :meth:`stats`.

        Raises:
            AlignmentError: the rows of ``matrix`` are not those of ``texts``.
            ValueError: a vector is NaN or infinite.
            CacheError: the file cannot be written.
        """
        keys = _keys(texts)
        matrix = np.ascontiguousarray(matrix, "<f4")
        if matrix.ndim != 2 or len(matrix) != len(keys):
            raise AlignmentError(f"expected [{len(keys)}, dim] vectors, got {list(matrix.shape)}")
        if not np.isfinite(matrix).all():
            row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
            raise ValueError(f"vector {row} is NaN or infinite and is not kept; encode it again")
        new = dict(zip(keys, matrix, strict=True))
        if not new:
            return
        with self._open() as connection:
            with _writing(connection):
                encoder = _encoder_id(connection, fingerprint, matrix.shape[1])
                _insert(connection, encoder, new)
                if label:
                    connection.execute(_LABELS)
                    connection.execute(
                        "INSERT OR REPLACE INTO labels VALUES (?, ?)", (encoder, label)
                    )
                num_dropped = self._evict(connection, self.max_bytes)
            if num_dropped:
                connection.executescript("PRAGMA incremental_vacuum")  # give the space back
                logger.info(
                    "cache %s: %d vectors dropped to keep its limit", self.path, num_dropped
                )

    def erase(self, texts: Sequence[str]) -> int:
        """Remove these texts' vectors, of every encoder, and overwrite them on disk.

        Returns:
            How many vectors were removed.
        """
        keys = list(dict.fromkeys(_keys(texts)))
        if not keys or not self.path.exists():
            return 0
        with self._open() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            with _writing(connection):
                num_gone = 0
                for gone in _select(connection, keys, None, "e.encoder", "e.vector"):
                    _delete(connection, [(k, e) for k, _, e, _ in gone], [(v,) for *_, v in gone])
                    num_gone += len(gone)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return num_gone

    def clear(self) -> None:
        """Remove everything."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def prune(self, max_bytes: int) -> int:
        """Drop the vectors that lay unused the longest until the file has at most this size.

        Args:
            max_bytes: 0 or more; a tenth of it is left free, as when the cache fills up.

        Returns:
            How many vectors were dropped.
        """
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
        if not self.path.exists():
            return 0
        with self._open() as connection:
            with _writing(connection):
                num_dropped = self._evict(connection, max_bytes)
            connection.executescript("PRAGMA incremental_vacuum")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return num_dropped

    def stats(self) -> CacheStats:
        """What is here."""
        if not self.path.exists():
            return CacheStats(self.path, 0, 0)
        with self._open() as connection:
            labelled = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'labels'"
            ).fetchone() != (0,)
            label = "(SELECT label FROM labels WHERE encoder = id)" if labelled else "''"
            rows = connection.execute(
                f"SELECT fingerprint, ifnull({label}, ''), dim, count(*), min(used), max(used) "
                "FROM entries JOIN encoders ON encoder = id GROUP BY id ORDER BY max(used) DESC"
            ).fetchall()
            size = _size(connection)
        found = tuple(EncoderStats(*row) for row in rows)
        return CacheStats(self.path, sum(e.num_vectors for e in found), size, found)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call: then threads and forked processes never share one."""
        try:
            with closing(self._connect()) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                aside = self._set_aside(error)
                raise CacheError(f"cache {self.path} was damaged and is now {aside}") from error
            raise CacheError(
                f"cache {self.path}: {error}; free space, make the folder writable, or choose "
                f"another one with {CACHE_VARIABLE} or VectorCache(folder)"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"cache folder {self.folder} cannot be made ({error}); set {CACHE_VARIABLE} to "
                "a folder that can be written, or pass cache=None"
            ) from error
        try:
            return _connect(self.path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._set_aside(error)
            return _connect(self.path)

    def _set_aside(self, error: sqlite3.DatabaseError) -> str:
        """Move a damaged file away, so that the next call starts anew; its new name."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        with suppress(FileNotFoundError):  # another process was faster
            self.path.replace(aside)
            logger.warning("cache %s is damaged (%s): moved to %s", self.path, error, aside.name)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        return aside.name

    def _touch(self, connection: sqlite3.Connection, stale: list[tuple[int, bytes, int]]) -> None:
        try:
            with _writing(connection):
                connection.executemany(
                    "UPDATE entries SET used = ? WHERE text = ? AND encoder = ?", stale
                )
        except sqlite3.OperationalError as error:  # a cache that can only be read is still useful
            logger.info("cache %s: the time of use was not noted (%s)", self.path, error)

    def _evict(self, connection: sqlite3.Connection, max_bytes: int) -> int:
        """Drop the least recently used until a tenth of the limit is free again; how many."""
        size = _size(connection)
        if size <= max_bytes:
            return 0
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        surplus = int(np.ceil(count * (1 - 0.9 * max_bytes / size)))
        oldest = connection.execute(
            "SELECT text, encoder, vector FROM entries ORDER BY used, vector LIMIT ?", (surplus,)
        ).fetchall()
        _delete(connection, [(k, e) for k, e, _ in oldest], [(v,) for *_, v in oldest])
        return len(oldest)


def default_folder() -> Path:
    """``$KG_COLDSTART_CACHE``, else this system's cache folder of the user."""
    import platformdirs

    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("kg-coldstart", appauthor=False))


def _keys(texts: Sequence[str]) -> list[bytes]:
    """A 128-bit hash of each text."""
    return [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for text in checked_texts(texts)
    ]


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no database or a damaged one; locked, full or read-only is neither."""
    return type(error) is sqlite3.DatabaseError


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA schema_version").fetchone() == (0,):
            _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    give_up = time.monotonic() + _WAIT
    while True:  # SQLite does not wait here when another process is just doing the same
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    with _writing(connection):
        for statement in _TABLES.split(";"):
            connection.execute(statement)


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that has the right to write from its start, so that it never deadlocks."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _encoder_id(connection: sqlite3.Connection, fingerprint: str, dim: int) -> int:
    connection.execute(
        "INSERT INTO encoders (fingerprint, dim) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (fingerprint, dim),
    )
    number, known = connection.execute(
        "SELECT id, dim FROM encoders WHERE fingerprint = ?", (fingerprint,)
    ).fetchone()
    if known != dim:
        raise AlignmentError(
            f"encoder {fingerprint}: the cache has its vectors with {known} numbers, these have "
            f"{dim}; an encoder whose vectors change needs another fingerprint"
        )
    return number


def _insert(connection: sqlite3.Connection, encoder: int, new: dict[bytes, np.ndarray]) -> None:
    """Add vectors by hash of text, in place of those that are there."""
    now = int(time.time())
    for old in _select(connection, list(new), encoder, "e.vector"):
        _delete(connection, [(key, encoder) for key, _, _ in old], [(v,) for *_, v in old])
    (last,) = connection.execute("SELECT ifnull(max(id), 0) FROM vectors").fetchone()
    ids = range(last + 1, last + 1 + len(new))
    connection.executemany(
        "INSERT INTO vectors (id, vector) VALUES (?, ?)",
        ((i, vector.tobytes()) for i, vector in zip(ids, new.values(), strict=True)),
    )
    connection.executemany(
        "INSERT INTO entries (text, encoder, vector, used) VALUES (?, ?, ?, ?)",
        ((key, encoder, i, now) for i, key in zip(ids, new, strict=True)),
    )


def _select(
    connection: sqlite3.Connection, keys: list[bytes], encoder: int | None, *columns: str
) -> Iterator[list[tuple]]:
    """Hash, time of use and columns (default: the vector) of the entries here, part by part."""
    wanted = ", ".join(columns or ("v.vector",))
    source = "entries e" if columns else "entries e JOIN vectors v ON v.id = e.vector"
    whose = "" if encoder is None else f" AND e.encoder = {int(encoder)}"
    for start in range(0, len(keys), _PER_QUERY):
        part = keys[start : start + _PER_QUERY]
        marks = ",".join("?" * len(part))
        query = f"SELECT e.text, e.used, {wanted} FROM {source} WHERE e.text IN ({marks}){whose}"
        yield connection.execute(query, part).fetchall()


def _delete(
    connection: sqlite3.Connection, entries: list[tuple[bytes, int]], vectors: list[tuple[int]]
) -> None:
    connection.executemany("DELETE FROM entries WHERE text = ? AND encoder = ?", entries)
    connection.executemany("DELETE FROM vectors WHERE id = ?", vectors)


def _size(connection: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return (pages - free) * size
