from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.precision import FURTHEST, STEP, Side, Worth, _Search, learn_worth

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


@dataclass(frozen=True, eq=False)
class Guess:
    """A prior that some function of the factors makes, no node counting in its own."""

    of: Callable[[torch.Tensor], torch.Tensor]

    @property
    def leverage(self):
        return torch.zeros(1)

    def left_out(self, targets):
        return self.of(targets)

    def tables(self, targets):
        raise AssertionError("the search needs no tables")


NOTHING = Guess(torch.zeros_like)


def knowing(features):
    """The prior of one whose features are these: the best guess that is linear in them."""
    return Guess(lambda factors: features @ torch.linalg.lstsq(features, factors).solution)


def sides(user_prior, item_prior):
    users = Side(user_prior, torch.ones(NUM_USERS), 10.0, fixed=False)
    return users, Side(item_prior, torch.ones(NUM_ITEMS), 100.0, fixed=False)


def search(tastes, users, items, seed=0, item_scale: float | None = 1.0):
    rng = np.random.default_rng(seed)
    return learn_worth(tastes[0], users, items, 16, 10.0, rng, item_scale)


def test_priors_that_know_tastes_are_held_on_to_and_empty_ones_let_go(tastes):
    _, users, items = tastes

    def precisions(user_prior, item_prior):
        found = [search(tastes, *sides(user_prior, item_prior), seed) for seed in range(4)]
        return np.exp(np.mean(np.log([worth[:2] for worth in found]), axis=0))

    empty = precisions(NOTHING, NOTHING)
    assert precisions(NOTHING, knowing(items))[1] > 3 * empty[1]
    assert precisions(knowing(users), NOTHING)[0] > 2 * empty[0]


def test_what_is_given_stays_and_the_other_side_is_still_searched(tastes):
    users, items = sides(NOTHING, knowing(tastes[2]))
    low = replace(items, precision=10.0)
    found = search(tastes, replace(users, fixed=True), low, item_scale=0.5)
    assert found.users == 10.0
    assert found.items > 10.0
    assert found.item_scale == 0.5
    both = search(tastes, replace(users, fixed=True), replace(items, fixed=True))
    assert both == Worth(10.0, 100.0, 1.0)


def test_predictions_that_lie_too_far_apart_are_drawn_together_and_good_ones_are_not(tastes):
    good = knowing(tastes[2])
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(NUM_ITEMS, 16))).float()

    def far_apart(factors):
        return good.left_out(factors) + 2 * factors.std() * noise

    users, items = sides(NOTHING, Guess(far_apart))
    users, items = replace(users, fixed=True), replace(items, fixed=True)
    assert search(tastes, users, items, item_scale=None).item_scale <= 0.25
    items = replace(items, ridge=good)
    assert search(tastes, users, items, item_scale=None).item_scale == 1.0


def test_the_search_repeats_and_ends(tastes):
    users, items = sides(NOTHING, NOTHING)
    one, other = (search(tastes, users, items, item_scale=None) for _ in range(2))
    assert one == other
    furthest = np.abs(np.log(np.array(one[:2]) / [10.0, 100.0]) / np.log(STEP)).max()
    assert furthest <= FURTHEST + 1e-9


@pytest.mark.parametrize(
    ("means", "steps"),
    [
        ({(1, 0): 0.002, (1, -1): 0.1}, (1, -1)),
        ({(1, 0): 0.002, (1, -1): 0.01}, (0, 0)),  # not even together
        ({(1, 0): 0.002, (1, -1): 0.1, (1, -2): 0.2}, (1, -2)),
        ({(1, 0): 0.005, (1, -1): 0.05, (0, -1): 0.0049}, (1, -1)),
        ({(1, -1): 0.1, (2, -2): 0.2}, (2, -2)),  # every single step leads down
        ({(-1, 1): 0.1}, (-1, 1)),
        ({(1, -1): 0.02}, (0, 0)),  # within two errors
        ({(0, -1): 0.0, (1, 0): 0.005, (1, -1): 0.05, (1, -2): 0.1, (0, -2): 0.099}, (0, -2)),
    ],
)
def test_steps_that_are_worth_it_together_are_taken_as_far_as_each_is(
    tastes, monkeypatch, means, steps
):
    class Surface:
        """Gains of a hundred judges, whose mean has a standard error of some .01."""

        def gains(self, worth):
            at = tuple(np.round(np.log(np.array(worth[:2]) / [10, 100]) / np.log(STEP)).astype(int))
            noise = np.random.default_rng(at[0] + 10 * at[1] + 100).normal(size=100) / 10
            mean = means.get(at, 0.0 if at == (0, 0) else -0.5)
            return torch.from_numpy(noise - noise.mean() + mean)

        def exposed_gains(self, worth, few_shares):
            return [torch.zeros(100) for _ in few_shares]

    monkeypatch.setattr(_Search, "prepare", lambda *_: Surface())
    found = search(tastes, *sides(NOTHING, NOTHING))
    assert found[:2] == pytest.approx((10 * STEP ** steps[0], 100 * STEP ** steps[1]))


def test_with_nobody_to_judge_the_start_is_kept():
    links = Adjacency.from_pairs(np.arange(3), np.arange(3), 3, 3)
    side = Side(NOTHING, torch.ones(3), 7.0, fixed=False)
    found = learn_worth(links, side, side, 2, 1.0, np.random.default_rng(0))
    assert found == Worth(7.0, 7.0, 1.0)


def test_items_that_stay_at_few_have_the_benefit_of_the_doubt_only_where_it_costs_nothing(tastes):
    _, users, items = tastes
    of_users, of_items = (
        replace(side, precision=10.0, fixed=True) for side in sides(NOTHING, NOTHING)
    )
    assert search(tastes, of_users, of_items).few_share == 0.4  # all are chosen about equally often

    def skewed(seed, few_share=None):
        rng = np.random.default_rng(seed)
        popularity = 1.5 * np.log(1 + np.arange(NUM_ITEMS))  # half of the items: five times at most
        noise = rng.gumbel(size=(NUM_USERS, NUM_ITEMS))
        chosen = np.argsort(popularity - 0.7 * (users @ items.T).numpy() - noise)[:, :12]
        source = np.repeat(np.arange(NUM_USERS), 12)
        links = Adjacency.from_pairs(source, chosen.ravel(), NUM_USERS, NUM_ITEMS)
        return learn_worth(links, of_users, of_items, 16, 10.0, rng, 1.0, few_share).few_share

    assert np.median([skewed(seed) for seed in range(5)]) < 0.4
    assert skewed(0, few_share=0.3) == 0.3
