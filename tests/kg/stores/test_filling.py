from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from kg.graph import Edges, in_row_order
from kg.stores.filling import EdgeArrays


def some(num_edges: int, rng: np.random.Generator) -> Edges:
    """Random edges among few nodes, some of them parallel."""
    index = rng.integers(0, 30, (2, num_edges))
    return Edges(index, rng.random(num_edges), rng.integers(0, 5, num_edges))


@pytest.mark.parametrize("room", [0, 7, 1_000])
def test_parts_come_back_as_one_in_order_whatever_room_was_made(room):
    parts = [some(n, np.random.default_rng(n)) for n in (5, 0, 100)]
    arrays = EdgeArrays(room, has_weight=True, has_time=True)
    for part in parts:
        arrays.add(part)
    whole = Edges(
        np.concatenate([p.index for p in parts], axis=1),
        np.concatenate([p.weight for p in parts]),
        np.concatenate([p.time for p in parts]),
    )
    found, expected = arrays.edges(), in_row_order(whole)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.weight, expected.weight)
    np.testing.assert_array_equal(found.time, expected.time)


def test_without_weights_and_times_there_are_none():
    arrays = EdgeArrays(3, has_weight=False, has_time=False)
    arrays.add(Edges(np.array([[2, 1], [0, 0]])))
    assert arrays.edges().index.tolist() == [[1, 2], [0, 0]]
    assert arrays.edges().weight is None
    assert arrays.edges().time is None


def test_joining_and_ordering_take_less_than_the_edges_do():
    part = Edges(np.stack([np.arange(10_000)[::-1]] * 2), np.ones(10_000), np.ones(10_000, int))
    arrays = EdgeArrays(200_000, has_weight=True, has_time=True)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            arrays.add(part)
        edges = arrays.edges()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 0.75 * (edges.index.nbytes + edges.weight.nbytes + edges.time.nbytes)
