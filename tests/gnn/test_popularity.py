import numpy as np
import pytest
import torch

from gnn import popularity as module
from gnn.data import Adjacency
from gnn.popularity import SCALES, learn_popularity_scale, with_popularity

NUM_USERS, NUM_ITEMS, DIM = 300, 200, 5


def world(*, foretold: bool, seed=0):
    """What everybody chose by taste and popularity, and items as features foretell them.

    The first direction is popularity, the others are tastes, which are foretold well.
    """
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(NUM_USERS, DIM))
    popularity, places = rng.normal(size=NUM_ITEMS), rng.normal(size=(NUM_ITEMS, DIM))
    score = popularity + tastes @ places.T + rng.gumbel(size=(NUM_USERS, NUM_ITEMS))
    chosen = np.argsort(-score, axis=1)[:, :6]
    source = np.repeat(np.arange(NUM_USERS), 6)
    links = Adjacency.from_pairs(source, chosen.ravel(), NUM_USERS, NUM_ITEMS)
    items = np.column_stack([popularity, places])
    guess = popularity if foretold else rng.permutation(popularity)
    left_out = np.column_stack([guess, places + 0.3 * rng.normal(size=places.shape)])
    return links, *(torch.from_numpy(x).float() for x in (items, left_out))


def learn(links, items, left_out, seed=0):
    common = torch.eye(DIM + 1)[0]
    prior = common.expand(NUM_USERS, -1)
    rng = np.random.default_rng(seed)
    return learn_popularity_scale(links, items, left_out, prior, common, 5.0, rng)


def test_popularity_that_is_foretold_is_believed_and_a_mere_guess_is_not():
    assert [learn(*world(foretold=True, seed=s)) for s in range(3)] == [1.0] * 3
    assert all(learn(*world(foretold=False, seed=s)) <= 0.25 for s in range(3))


def test_the_choice_repeats():
    found = {learn(*world(foretold=False), seed=7) for _ in range(3)}
    assert len(found) == 1
    assert found < set(SCALES)


def test_a_single_user_of_one_item_is_enough():
    links = Adjacency.from_pairs(np.zeros(1, int), np.zeros(1, int), 1, 1)
    ones = torch.ones(1, 2)
    rng = np.random.default_rng(0)
    assert learn_popularity_scale(links, ones, ones, ones, ones[0], 1.0, rng) in SCALES


def test_users_judge_as_if_they_had_not_seen_what_plays_cold(monkeypatch):
    judging = {}

    def spy(users, left_out, common, wanted, cold):
        judging.setdefault(tuple(cold), []).append(users)
        return module_gains(users, left_out, common, wanted, cold)

    module_gains = module._gains
    monkeypatch.setattr(module, "_gains", spy)
    monkeypatch.setattr(module, "DRAWS", 1)
    links, items, left_out = world(foretold=True)
    learn(links, items, left_out)
    assert sum(len(cold) for cold in judging) == NUM_ITEMS
    for cold in list(judging):
        changed = items.clone()
        changed[list(cold)] *= 3
        learn(links, changed, left_out)
        before, after = judging[cold]
        torch.testing.assert_close(after, before)
        judging.update({other: found[:1] for other, found in judging.items()})


def test_many_users_and_items_are_sampled_and_judged_in_blocks(monkeypatch):
    every = [learn(*world(foretold=told)) for told in (True, False)]
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 400)
    assert [learn(*world(foretold=told)) for told in (True, False)] == every
    monkeypatch.setattr(module, "MAX_JUDGES", 150)
    monkeypatch.setattr(module, "MAX_ITEMS", 25)
    assert [learn(*world(foretold=told)) for told in (True, False)] == every


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0])
def test_predictions_are_drawn_to_the_mean_in_one_direction_only(scale):
    generator = torch.Generator().manual_seed(0)
    features, table, mean, common = (
        torch.randn(size, generator=generator) for size in ((9, 3), (4, 6), (6,), (6,))
    )
    phi = torch.cat([torch.ones(9, 1), features], dim=1)
    tables = with_popularity([table[:1], table[1:]], mean, common, scale)
    before = phi @ table - mean
    after = tables[0] + features @ tables[1] - mean
    torch.testing.assert_close(after @ common, scale * (before @ common), atol=1e-5, rtol=1e-5)
    across = torch.linalg.svd(common[None])[2][1:].T
    torch.testing.assert_close(after @ across, before @ across, atol=1e-5, rtol=1e-5)
    if scale == 1:
        torch.testing.assert_close(after, before)
