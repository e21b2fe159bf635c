import gc

import numpy as np

from kg import growing
from kg.growing import grown

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
    before = len(growing._rooms)
    del matrix
    gc.collect()
    assert len(growing._rooms) == before - 1
