"""Edges that come part by part, in memory that is made beforehand."""

from __future__ import annotations

import numpy as np

from kg.graph import Edges, row_order


class EdgeArrays:
    """Room for the edges of one type: no part is there twice, neither to join nor to order them.

    Args:
        room: how many edges are expected; what they do not fill takes no memory.
        has_weight: whether every part has weights.
        has_time: whether every part has times.
    """

    def __init__(self, room: int, has_weight: bool, has_time: bool) -> None:
        self.size = 0
        self._index = np.empty((2, room), np.int64)
        self._weight = np.empty(room) if has_weight else None
        self._time = np.empty(room, np.int64) if has_time else None

    def add(self, part: Edges) -> None:
        """Put further edges behind those that are here."""
        size = self.size + len(part)
        if size > self._index.shape[1]:
            self._make_room(size + size // 8)
        for ours, theirs in zip(self._arrays(), _arrays_of(part), strict=True):
            ours[self.size : size] = theirs
        self.size = size

    def edges(self) -> Edges:
        """What came, by source row, target row and time; nothing can be added afterwards."""
        index = self._index[:, : self.size]
        weight = None if self._weight is None else self._weight[: self.size]
        time = None if self._time is None else self._time[: self.size]
        edges = Edges(index, weight, time)
        if (order := row_order(edges)) is not None:
            for array in _arrays_of(edges):
                array[:] = array[order]
        return edges

    def _arrays(self) -> list[np.ndarray]:
        return [a for a in (*self._index, self._weight, self._time) if a is not None]

    def _make_room(self, room: int) -> None:
        """Copy what is here: the store got more edges since they were counted."""
        longer = EdgeArrays(room, self._weight is not None, self._time is not None)
        for ours, theirs in zip(longer._arrays(), self._arrays(), strict=True):
            ours[: self.size] = theirs[: self.size]
        self._index, self._weight, self._time = longer._index, longer._weight, longer._time


def _arrays_of(edges: Edges) -> list[np.ndarray]:
    return [a for a in (*edges.index, edges.weight, edges.time) if a is not None]
