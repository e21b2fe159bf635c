from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.precision import FURTHEST, STEP, Side, learn_precisions

NUM_USERS, NUM_ITEMS, DIM = 400, 300, 8


@pytest.fixture(scope="module")
def tastes():
    """Planted tastes, and the eight things of the thirty nearest that each user chose."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(NUM_USERS, DIM)), rng.normal(size=(NUM_ITEMS, DIM))
    near = np.argsort(-users @ items.T, axis=1)[:, :30]
    chosen = np.take_along_axis(near, rng.random(near.shape).argsort(axis=1)[:, :8], axis=1)
    source = np.repeat(np.arange(NUM_USERS), 8)
    links = Adjacency.from_pairs(source, chosen.ravel(), NUM_USERS, NUM_ITEMS)
    return links, torch.from_numpy(users).float(), torch.from_numpy(items).float()


def knowing(features):
    """The prior of one whose features are these: the best guess that is linear in them."""
    return lambda factors: features @ torch.linalg.lstsq(features, factors).solution


def sides(user_prior, item_prior):
    users = Side(user_prior, torch.ones(NUM_USERS), 10.0, fixed=False)
    return users, Side(item_prior, torch.ones(NUM_ITEMS), 100.0, fixed=False)


def search(tastes, users, items, seed=0):
    return learn_precisions(tastes[0], users, items, 16, 10.0, np.random.default_rng(seed))


def test_priors_that_know_tastes_are_held_on_to_and_empty_ones_let_go(tastes):
    _, users, items = tastes
    empty = search(tastes, *sides(torch.zeros_like, torch.zeros_like))
    knowing_items = search(tastes, *sides(torch.zeros_like, knowing(items)))
    knowing_users = search(tastes, *sides(knowing(users), torch.zeros_like))
    assert knowing_items[1] > 3 * empty[1]
    assert knowing_users[0] > 3 * empty[0]


def test_what_is_given_stays_and_the_other_side_is_still_searched(tastes):
    users, items = sides(torch.zeros_like, knowing(tastes[2]))
    user, item = search(tastes, replace(users, fixed=True), items)
    assert user == 10.0
    assert item > 100.0
    both = search(tastes, replace(users, fixed=True), replace(items, fixed=True))
    assert both == (10.0, 100.0)


def test_the_search_repeats_and_ends(tastes):
    users, items = sides(torch.zeros_like, torch.zeros_like)
    one, other = search(tastes, users, items), search(tastes, users, items)
    assert one == other
    furthest = np.abs(np.log(np.array(one) / [10.0, 100.0]) / np.log(STEP)).max()
    assert furthest <= FURTHEST + 1e-9


def test_with_nobody_to_judge_the_start_is_kept():
    links = Adjacency.from_pairs(np.arange(3), np.arange(3), 3, 3)
    side = Side(torch.zeros_like, torch.ones(3), 7.0, fixed=False)
    assert learn_precisions(links, side, side, 2, 1.0, np.random.default_rng(0)) == (7.0, 7.0)
