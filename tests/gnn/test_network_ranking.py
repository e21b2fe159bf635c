from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.network_infer import Vectors
from gnn.network_ranking import HeldOut, hard_items, ranked_ndcg

VECTORS = Vectors(
    torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 3.0]]),
    torch.tensor([0.0, 0.0, 5.0, 0.0]),
)


def test_ndcg_is_that_of_the_lists_of_vectors_and_biases():
    # User 0 ranks items 2, 0, 1, 3 and chose 0; user 1 ranks 2, 3, 1, 0 and chose 2.
    pairs = np.array([[0, 1], [0, 2]])
    assert ranked_ndcg(VECTORS, pairs, np.arange(4)) == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert ranked_ndcg(VECTORS, pairs, np.array([0, 1])) == 1.0  # user 1 has none of these
    assert math.isnan(ranked_ndcg(VECTORS, pairs, np.array([3])))


def test_ndcg_of_many_users_is_taken_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    parts = (torch.from_numpy(rng.normal(size=s).astype("f")) for s in ((9, 3), (12, 3), (12,)))
    vectors = Vectors(*parts)
    pairs = np.unique(rng.integers(0, [[9], [12]], (2, 30)), axis=1)[:, ::-1]
    whole = ranked_ndcg(vectors, pairs, np.arange(2, 12))
    hard = hard_items(vectors, Adjacency.from_pairs(*pairs, 9, 12))
    for name, most in (("_BLOCK_USERS", 4), ("_BLOCK_SCORES", 25), ("_BLOCK_SCORES", 1)):
        monkeypatch.setattr(f"gnn.network_ranking.{name}", most)
        assert ranked_ndcg(vectors, pairs, np.arange(2, 12)) == pytest.approx(whole, abs=1e-6)
        assert hard_items(vectors, Adjacency.from_pairs(*pairs, 9, 12)).tolist() == hard.tolist()


def test_hard_negatives_are_ranked_high_and_no_positives():
    links = Adjacency.from_pairs(np.array([0, 0, 1]), np.array([2, 1, 3]), 2, 4)
    assert hard_items(VECTORS, links)[:, 0].tolist() == [3, 2]


def test_held_out_nodes_are_in_no_pair_that_is_taught():
    pairs = np.stack(np.nonzero(np.random.default_rng(0).random((60, 60)) < 0.3))
    found = HeldOut.draw(pairs, 0.1, seed=0)
    assert len(found.users) == len(found.items) == 6
    assert not np.isin(found.taught[0], found.users).any()
    assert not np.isin(found.taught[1], found.items).any()
    assert HeldOut.draw(pairs, 0.05, seed=0).taught.shape == pairs.shape  # too few to judge by
