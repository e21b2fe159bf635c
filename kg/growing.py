"""Values that get a few rows behind, again and again, without being copied each time.

Whoever holds an array keeps it as it is: a longer one begins in the same memory, with room for more
behind it, and only the longest may be continued in place. The next one who continues a shorter one
gets memory of its own. Columns of Arrow share their chunks instead; small chunks are joined.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


class Holders:
    """Who holds something of which each has a beginning; what is behind the longest is free.

    The longest is the longest that is left: one whose rows were only asked for, and that is gone,
    is in nobody's way. A holder is let go of at any moment, also while others are counted, so that
    this only notes it.
    """

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}
        self._gone: deque[int] = deque()

    def add(self, holder: Any, length: int) -> None:
        """Count one more, as long as it lives."""
        if (others := self.of(holder)) is not None:
            others._gone.append(length)
        key = id(holder)

        def let_go(_: Any) -> None:
            _held.pop(key, None)
            self._gone.append(length)

        self._lengths[length] = self._lengths.get(length, 0) + 1
        _held[key] = weakref.ref(holder, let_go), self

    def longest(self) -> int:
        """How much is in use."""
        while self._gone:
            length = self._gone.popleft()
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]
        return max(self._lengths, default=0)

    @staticmethod
    def of(holder: Any) -> Holders | None:
        """Those that it was counted among at last."""
        known = _held.get(id(holder))
        return known[1] if known is not None and known[0]() is holder else None


class _Room(Holders):
    """Memory for more rows than are used."""

    def __init__(self, memory: np.ndarray) -> None:
        super().__init__()
        self.memory = memory
        self.interface = {**memory.__array_interface__, "strides": memory.strides}


class _Beginning:
    """The beginning of a room's memory, as an array that stays as long as any part of it does.

    Parts of an array refer to the first one behind it that has memory of its own; behind what is no
    array they do not look.
    """

    def __init__(self, room: _Room, shape: tuple[int, ...]) -> None:
        self.memory = room.memory
        self.__array_interface__ = {**room.interface, "shape": shape}


_held: dict[int, tuple[weakref.ref, Holders]] = {}
growing = threading.Lock()
"""Held by who continues what others may continue, too."""
_SPARE_ROWS = 64
_MOST_CHUNKS = 16


def grown(matrix: np.ndarray, rows: np.ndarray, axis: int = 0) -> np.ndarray:
    """An array followed by further rows; what is there is shared, not copied.

    Args:
        matrix: ``n`` rows along the axis; it does not change. As long as it is there, the memory of
            the first that continued it is kept for others.
        rows: ``m`` further ones of the same type.
        axis: 0 for rows, 1 for columns; an array with columns behind is contiguous by row only.

    Returns:
        ``n + m`` rows along the axis.
    """
    before = matrix.shape[axis]
    total = before + rows.shape[axis]
    whole = (slice(None),) * axis
    with growing:
        room = Holders.of(matrix)
        if (
            not isinstance(room, _Room)
            or room.longest() != before
            or room.memory.shape[axis] < total
        ):
            shape = list(matrix.shape)
            shape[axis] = total + total // 8 + _SPARE_ROWS
            room = _Room(np.empty(shape, matrix.dtype))
            room.memory[(*whole, slice(before))] = matrix
            room.add(matrix, before)
        room.memory[(*whole, slice(before, total))] = rows
        shape = *matrix.shape[:axis], total, *matrix.shape[axis + 1 :]
        view = np.asarray(_Beginning(room, shape))
        room.add(view, total)
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
