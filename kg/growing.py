"""Values that get a few rows behind, again and again, without being copied each time.

Whoever holds an array keeps it as it is: a longer one begins in the same memory, with room for more
behind it, and only the longest may be continued in place. The next one who continues a shorter one
gets memory of its own. Columns of Arrow share their chunks instead; small chunks are joined.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass
class _Room:
    """Memory for more rows than are used."""

    memory: Any
    used: int


_rooms: dict[int, tuple[weakref.ref, _Room]] = {}
_growing = threading.Lock()
_SPARE_ROWS = 64
_MOST_CHUNKS = 16


def grown(matrix: np.ndarray, rows: np.ndarray, axis: int = 0) -> np.ndarray:
    """An array followed by further rows; what is there is shared, not copied.

    Args:
        matrix: ``n`` rows along the axis; it does not change.
        rows: ``m`` further ones of the same type.
        axis: 0 for rows, 1 for columns; an array with columns behind is contiguous by row only.

    Returns:
        ``n + m`` rows along the axis.
    """
    before = matrix.shape[axis]
    total = before + rows.shape[axis]
    whole = (slice(None),) * axis
    with _growing:
        known = _rooms.get(id(matrix))
        room = known[1] if known is not None and known[0]() is matrix else None
        if room is None or room.used != before or room.memory.shape[axis] < total:
            shape = list(matrix.shape)
            shape[axis] = total + total // 8 + _SPARE_ROWS
            room = _Room(np.empty(shape, matrix.dtype), before)
            room.memory[(*whole, slice(before))] = matrix
        room.memory[(*whole, slice(before, total))] = rows
        room.used = total
        view = room.memory[(*whole, slice(total))]
        key = id(view)
        _rooms[key] = weakref.ref(view, lambda _: _rooms.pop(key, None)), room
    return view


def followed_by(column: pa.ChunkedArray, more: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """A column followed by further values of its type, in few chunks.

    Large chunks are shared. Of many, the small ones at the end are joined, so that each is twice as
    long as the next, and a value is copied a few times at most.
    """
    added = more.chunks if isinstance(more, pa.ChunkedArray) else [more]
    chunks = [chunk for chunk in (*column.chunks, *added) if len(chunk)]
    if len(chunks) > _MOST_CHUNKS:
        at, behind = len(chunks) - 1, len(chunks[-1])
        while at and len(chunks[at - 1]) < 2 * behind:
            at -= 1
            behind += len(chunks[at])
        chunks[at:] = [pa.concat_arrays(chunks[at:])]
    return pa.chunked_array(chunks, column.type)


def taken(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """The values in some rows, in the order given; reads only the chunks that they are in.

    Arrow's own ``take`` first joins all chunks of a column, which is the whole of it.
    """
    if (first := first_of_run(rows)) is not None:
        return column.slice(first, len(rows))
    if column.num_chunks < 2:
        return column.take(pa.array(rows))
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    where = np.searchsorted(ends, rows, side="right")
    order = np.argsort(where, kind="stable")
    parts = []
    for at in np.unique(where).tolist():
        chunk = column.chunk(at)
        parts.append(chunk.take(pa.array(rows[where == at] - (ends[at] - len(chunk)))))
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.chunked_array([pa.concat_arrays(parts).take(pa.array(back))], column.type)


def first_of_run(rows: np.ndarray) -> int | None:
    """The first of rows that follow one another, 0 where there are none; ``None`` for others."""
    if not len(rows):
        return 0
    first = int(rows[0])
    if len(rows) == 1:
        return first
    is_run = rows[-1] - first == len(rows) - 1 and bool((np.diff(rows) == 1).all())
    return first if is_run else None


@dataclass(frozen=True, eq=False)
class Lookup:
    """Where a value stands in a long array, without reading all of it; the array may grow.

    Args:
        order: positions of the first values, by value and then position, int64 ``[num_sorted]``.
        indptr: where the positions of each value start, int64 ``[largest value + 2]``.
    """

    order: np.ndarray
    indptr: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Lookup:
        """Of an array of whole numbers from 0."""
        kind = np.int32 if len(values) < 2**31 else np.int64
        indptr = np.zeros(int(values.max(initial=-1)) + 2, np.int64)
        np.cumsum(np.bincount(values, minlength=len(indptr) - 1), out=indptr[1:])
        return cls(np.argsort(values, kind="stable").astype(kind), indptr)

    def find(self, values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the array, as it is now, of the values wanted, and which one each is.

        Args:
            values: the array, at whose end values may have come since, which are all read.
            wanted: distinct values, int64 ``[n]``.
        """
        late = values[len(self.order) :]
        if len(wanted) == 1:
            one = int(wanted[0])
            first, last = self.indptr[one : one + 2] if one < len(self.indptr) - 1 else (0, 0)
            at = self.order[first:last].astype(np.int64)
            if len(late):
                at = np.concatenate([at, np.flatnonzero(late == one) + len(self.order)])
            return at, np.zeros(len(at), np.int64)
        inside = np.flatnonzero(wanted < len(self.indptr) - 1)
        starts = self.indptr[wanted[inside]]
        counts = self.indptr[wanted[inside] + 1] - starts
        which = np.repeat(inside, counts)
        steps = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = self.order[np.repeat(starts, counts) + steps].astype(np.int64)
        if not len(late) or not len(wanted):
            return at, which
        order = np.argsort(wanted)
        place = np.searchsorted(wanted, late, sorter=order)
        place = order[np.minimum(place, len(wanted) - 1)]
        here = np.flatnonzero(wanted[place] == late)
        at = np.concatenate([at, here + len(self.order)])
        return at, np.concatenate([which, place[here]])

    def is_stale(self, length: int) -> bool:
        """Whether so much came behind that it is worth making anew."""
        return length - len(self.order) > min(65_536, 1024 + len(self.order) // 8)
