import threading

import numpy as np
import pytest
import torch

from encoders.batches import Batches

LENGTHS = np.array([3, 9, 1, 4, 4, 2, 7, 1])


def batches(forward, most_texts=3, most_tokens=9):
    return Batches(forward, LENGTHS, most_texts, most_tokens, torch.device("cpu"), "a model")


def doubled(rows):
    return np.stack([LENGTHS[rows], 2 * LENGTHS[rows]], axis=1).astype(np.float32)


def test_batches_keep_to_their_limits_longest_first():
    got = [LENGTHS[rows].tolist() for rows, _ in batches(doubled).one_by_one()]
    assert got == [[9], [7], [4, 4], [3, 2, 1], [1]]


@pytest.mark.usefixtures("two_threads")
def test_side_by_side_gives_the_same_batches_in_the_same_order():
    both = zip(batches(doubled).one_by_one(), batches(doubled).side_by_side(), strict=True)
    for (rows, vectors), (again, same) in both:
        np.testing.assert_array_equal(rows, again)
        np.testing.assert_array_equal(vectors, same)


@pytest.mark.usefixtures("two_threads")
def test_batches_side_by_side_run_at_the_same_time_on_one_thread_each():
    together, seen = threading.Barrier(2), []

    def forward(rows):
        if LENGTHS[rows].max() >= 7:
            together.wait(timeout=20)  # the two longest batches wait for each other
        seen.append(torch.get_num_threads())
        return doubled(rows)

    assert len(list(batches(forward).side_by_side())) == 5
    assert seen == [1] * 5


@pytest.mark.usefixtures("two_threads")
def test_a_thread_started_meanwhile_gets_the_usual_number_of_threads():
    running, seen = batches(doubled).side_by_side(), []
    next(running)
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert [*seen, torch.get_num_threads()] == [2, 2]
    running.close()


@pytest.mark.usefixtures("two_threads")
def test_a_single_batch_runs_on_all_threads():
    seen = []

    def forward(rows):
        seen.append(torch.get_num_threads())
        return doubled(rows)

    list(batches(forward, most_texts=8, most_tokens=100).side_by_side())
    assert seen == [2]


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_one_batch_is_raised():
    def forward(rows):
        if len(rows) == 2:
            raise ArithmeticError("no")
        return doubled(rows)

    with pytest.raises(ArithmeticError, match="no"):
        list(batches(forward).side_by_side())


@pytest.mark.usefixtures("two_threads")
def test_batches_shrink_side_by_side_when_memory_runs_out():
    def forward(rows):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return doubled(rows)

    expected = list(batches(doubled).one_by_one())
    for (rows, vectors), (wanted, same) in zip(
        batches(forward).side_by_side(), expected, strict=True
    ):
        np.testing.assert_array_equal(rows, wanted)
        np.testing.assert_array_equal(vectors, same)


def test_no_texts_make_no_batch():
    none = Batches(doubled, LENGTHS[:0], 3, 9, torch.device("cpu"), "a model")
    assert list(none.one_by_one()) == list(none.side_by_side()) == []
