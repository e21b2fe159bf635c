"""Matrices that get rows behind, one or two at a time, without being copied each time.

Whoever holds a matrix keeps it as it is: a longer one begins in the same memory, with room for more
behind it, and only the longest may be continued in place. The next one who continues a shorter one
gets memory of its own.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class _Room:
    """Memory for more rows than are used."""

    memory: Any
    used: int


_rooms: dict[int, tuple[weakref.ref, _Room]] = {}
_growing = threading.Lock()
_SPARE_ROWS = 64


def grown(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A matrix followed by further rows, ``[n + m, ...]``; what is there is shared, not copied.

    Args:
        matrix: ``[n, ...]``; it does not change.
        rows: ``[m, ...]`` of the same type.
    """
    total = len(matrix) + len(rows)
    with _growing:
        known = _rooms.get(id(matrix))
        room = known[1] if known is not None and known[0]() is matrix else None
        if room is None or room.used != len(matrix) or len(room.memory) < total:
            shape = (total + total // 8 + _SPARE_ROWS, *matrix.shape[1:])
            room = _Room(np.empty(shape, matrix.dtype), len(matrix))
            room.memory[: len(matrix)] = matrix
        room.memory[len(matrix) : total] = rows
        room.used = total
        view = room.memory[:total]
        key = id(view)
        _rooms[key] = weakref.ref(view, lambda _: _rooms.pop(key, None)), room
    return view
