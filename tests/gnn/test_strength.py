import numpy as np
import pytest
import torch

from gnn import strength
from gnn.data import Adjacency
from gnn.strength import Strengths, may_count

CPU = torch.device("cpu")


def test_a_positive_counts_by_the_mean_rank_of_its_weight():
    weights = np.array([4.0, 5, 4, 5, 5, 4, 5, 1000])
    strengths = Strengths.of(weights, 0.25)
    rank = np.array([1.5 / 8, 5 / 8, 7.5 / 8])  # of 4, 5 and 1000
    np.testing.assert_allclose(strengths(np.array([4, 5, 1000])), 0.75 + 0.5 * rank, rtol=1e-6)
    assert strengths(weights).mean() == pytest.approx(1)
    assert strengths(weights).dtype == np.float32
    # What was not there lies between, and beyond the ends as at them.
    between, beyond, below = strengths(np.array([4.5, 1e9, -1]))
    assert between == pytest.approx(0.75 + 0.5 * rank[:2].mean())
    assert (below, beyond) == tuple(strengths(np.array([4, 1000])))


def test_more_different_weights_than_are_told_apart_keep_their_order_and_mean(monkeypatch):
    monkeypatch.setattr(strength, "MOST_KNOTS", 20)
    weights = np.random.default_rng(0).lognormal(0, 2, 5000)
    few, found = Strengths.of(weights, 0.25), None
    assert len(few.weights) == 20
    found = few(np.sort(weights))
    assert (np.diff(found) >= 0).all()
    assert found.min() == pytest.approx(0.75, abs=1e-3)
    assert found.max() == pytest.approx(1.25, abs=1e-3)
    assert found.mean() == pytest.approx(1, abs=0.01)


def tastes(seed, told):
    """Positives of 400 people with a planted taste; how much they like them is told, or noise."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(400, 6)), rng.normal(size=(120, 6))
    liked = users @ items.T + rng.normal(size=(400, 120)) * 2
    source, target = np.nonzero(liked > np.quantile(liked, 0.88))
    weights = (users @ items.T)[source, target] if told else rng.normal(size=len(source))
    values = Strengths.of(weights, 0.25)(weights)
    return Adjacency.from_pairs(source, target, 400, 120, values)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strengths_are_used_where_hidden_interactions_are_not_found_worse(seed):
    assert may_count(tastes(seed, told=True), 30, 30.0, np.random.default_rng(seed), CPU)


def test_strengths_that_mislead_are_not_used():
    for seed in range(3):
        links = tastes(seed, told=True)
        values = 2 - links.values
        wrong = Adjacency(links.indptr, links.indices, links.num_targets, values)
        assert not may_count(wrong, 30, 30.0, np.random.default_rng(seed), CPU)


def test_where_nothing_can_be_hidden_strengths_are_used():
    one = np.zeros(1, np.int64)
    links = Adjacency.from_pairs(one, one, 1, 1, np.ones(1, np.float32))
    assert may_count(links, 1, 1.0, np.random.default_rng(0), CPU)


def test_links_keep_their_strengths_through_everything_done_to_them():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 9, 60), rng.integers(0, 7, 60)
    values = rng.uniform(0, 1, 60).astype(np.float32)
    strongest: dict[tuple[int, int], float] = {}
    for s, t, v in zip(source.tolist(), target.tolist(), values.tolist(), strict=True):
        strongest[s, t] = max(v, strongest.get((s, t), 0))

    def of(links, rows=None):
        rows = np.arange(len(links)) if rows is None else rows
        ends = zip(rows[links.sources].tolist(), links.indices.tolist(), strict=True)
        return dict(zip(ends, links.values.tolist(), strict=True))

    links = Adjacency.from_pairs(source, target, 9, 7, values)
    assert of(links) == strongest
    assert {(t, s): v for (s, t), v in of(links.transpose()).items()} == strongest
    some = np.array([5, 2])
    assert of(links.take(some), some) == {e: v for e, v in strongest.items() if e[0] in some}
    even = np.arange(7) % 2 == 0
    assert of(links.only(even)) == {e: v for e, v in strongest.items() if even[e[1]]}
