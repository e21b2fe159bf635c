import gc
import weakref

import numpy as np
import pyarrow as pa
import pytest
import torch

from coldstart.index import grown_tensor
from kg import growing
from kg.growing import Lookup, followed_by, grown, taken

FIRST = np.arange(6.0).reshape(3, 2)


def test_rows_are_added_behind_and_the_shorter_matrix_stays_as_it_is():
    once = grown(FIRST, np.full((1, 2), 7.0))
    twice = grown(once, np.full((2, 2), 8.0))
    assert once.tolist() == [*FIRST.tolist(), [7, 7]]
    assert twice.tolist() == [*once.tolist(), [8, 8], [8, 8]]
    assert np.shares_memory(once, twice)


def test_a_second_one_who_continues_the_same_matrix_gets_memory_of_its_own():
    once = grown(FIRST, np.full((1, 2), 7.0))
    one, other = grown(once, np.full((1, 2), 1.0)), grown(once, np.full((1, 2), 2.0))
    assert (one[-1].tolist(), other[-1].tolist()) == ([1, 1], [2, 2])
    assert not np.shares_memory(one, other)


def test_it_grows_past_any_room_and_forgets_what_nobody_holds():
    matrix = np.empty((0,), np.int64)
    for n in range(1000):
        matrix = grown(matrix, np.array([n]))
    assert matrix.tolist() == list(range(1000))
    before = len(growing._held)
    del matrix
    gc.collect()
    assert len(growing._held) == before - 1


@pytest.mark.parametrize("axis", [0, 1])
def test_what_nobody_holds_any_more_is_in_nobodys_way(axis):
    first = FIRST.copy()
    row = np.ones_like(np.take(first, [0], axis))
    address = None
    for number in range(50):
        tried = grown(first, number * row, axis)
        assert np.take(tried, [-1], axis).tolist() == (number * row).tolist()
        assert address in (None, tried.ctypes.data)  # nothing was copied again
        address = tried.ctypes.data
        del tried
    longer = grown(grown(first, row, axis), 2 * row, axis)
    assert longer.ctypes.data == address
    other = grown(first, 3 * row, axis)  # the longer one is still there
    assert not np.shares_memory(other, longer)
    assert np.take(longer, [-2, -1], axis).tolist() == np.concatenate([row, 2 * row], axis).tolist()


def part_of(matrix):
    return matrix[3:]


def torch_part_of(matrix):
    return torch.from_numpy(matrix)[3:].numpy()


@pytest.mark.parametrize("part", [part_of, torch_part_of, lambda matrix: matrix.T[:, 3:].T])
def test_a_part_of_an_array_stays_as_it_is_when_the_array_is_gone(part):
    first = FIRST.copy()
    kept = part(grown(first, np.full((2, 2), 7.0)))
    gc.collect()
    other = grown(first, np.full((2, 2), 8.0))
    assert kept.tolist() == [[7, 7], [7, 7]]
    assert other[3:].tolist() == [[8, 8], [8, 8]]


def test_a_tensor_is_continued_in_the_memory_of_one_that_is_gone():
    first = torch.arange(6.0).reshape(3, 2)
    address = grown_tensor(first, torch.ones(1, 2)).data_ptr()
    tried = grown_tensor(first, torch.full((2, 2), 5.0))
    assert tried.data_ptr() == address
    assert tried.tolist() == [[0, 1], [2, 3], [4, 5], [5, 5], [5, 5]]
    gone = weakref.ref(first)
    del first, tried
    assert gone() is None


def test_columns_are_added_behind_and_share_memory():
    once = grown(FIRST, np.full((3, 1), 7.0), axis=1)
    twice = grown(once, np.full((3, 2), 8.0), axis=1)
    assert twice.tolist() == [[*row, 7, 8, 8] for row in FIRST.tolist()]
    assert once.tolist() == [[*row, 7] for row in FIRST.tolist()]
    assert np.shares_memory(once, twice)


def test_a_column_that_grows_by_one_stays_in_few_chunks_and_shares_the_large_one():
    large = pa.chunked_array([pa.array([str(n) for n in range(10_000)])])
    column = large
    for n in range(10_000, 11_000):
        column = followed_by(column, pa.array([str(n)]))
        assert column.num_chunks < 30
    assert column.to_pylist() == [str(n) for n in range(11_000)]
    assert column.chunk(0).buffers()[2].address == large.chunk(0).buffers()[2].address


@pytest.mark.parametrize("rows", [[], [4], [2, 3, 4, 5], [9, 0, 5, 5, 2], [5, 4, 3]])
def test_values_are_taken_from_many_chunks_as_from_one(rows):
    column = pa.chunked_array([["a", "b", "c"], [], ["d"], ["e", None, "g", "h", "i", "j"]])
    found = taken(column, np.array(rows, np.int64))
    assert found.to_pylist() == [column.to_pylist()[row] for row in rows]
    assert found.type == column.type


@pytest.mark.parametrize("seed", range(5))
def test_a_lookup_finds_what_reading_everything_finds_also_behind(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 30, 200)
    lookup = Lookup.of(values[:120])
    for size in (0, 1, 7):
        wanted = rng.choice(40, size, replace=False)
        at, which = lookup.find(values, wanted)
        assert sorted(at.tolist()) == np.flatnonzero(np.isin(values, wanted)).tolist()
        assert (wanted[which] == values[at]).all()
