import numpy as np
import torch

from gnn.exposure import CONFIDENCE, ENOUGH, FEW, exposure_by_count, exposure_by_time


def test_an_item_that_was_there_all_along_has_exposure_one():
    nodes, times = np.array([0, 1, 0, 1]), np.array([10, 11, 12, 13])
    np.testing.assert_allclose(exposure_by_time(nodes, times, 2), [1, 1])


def test_an_item_with_many_interactions_that_all_came_late_is_young():
    nodes = np.repeat([0, 1], [90, 10])
    found = exposure_by_time(nodes, np.arange(100), 2)
    np.testing.assert_allclose(found, [1, 0.1 * (1 - CONFIDENCE) ** -0.1 / ENOUGH])


def test_a_single_interaction_says_less_than_many():
    times = np.arange(1000)
    one = exposure_by_time(np.where(times == 900, 1, 0), times, 2)[1]
    many = exposure_by_time(np.where(times >= 900, 1, 0), times, 2)[1]
    assert 0.2 < many < 0.21 < one
    assert one == 1


def test_equal_times_tell_nothing_and_no_interactions_are_no_exposure():
    found = exposure_by_time(np.array([0, 1]), np.array([7, 7]), 3)
    np.testing.assert_array_equal(found, [1, 1, 0])


def test_the_limit_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        mine = np.sort(rng.uniform(0.8, 1.0, 3))  # there for the last fifth
        times = np.concatenate([rng.random(1000), mine])
        nodes = np.concatenate([np.zeros(1000, np.int64), np.ones(3, np.int64)])
        held += exposure_by_time(nodes, (times * 1e9).astype(np.int64), 2)[1] >= 0.2 / ENOUGH
    assert abs(held / 400 - CONFIDENCE) < 0.03


def test_a_user_with_a_first_interaction_is_hardly_exposed_and_an_active_one_in_full():
    found = exposure_by_count(torch.tensor([0, 1, FEW, 10, 100]), FEW)
    assert found[0] == 0
    assert found[1] < 0.04
    assert found[2] == 0.5
    assert 0.97 < found[3] < found[4] <= 1
