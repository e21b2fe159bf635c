import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.rating_head import Beliefs, RatingRows, posterior


def beliefs(mean, spread=0.0):
    mean = torch.tensor(mean)
    return Beliefs(mean, torch.diag_embed(torch.full_like(mean, spread)))


def test_a_pair_that_is_rated_twice_counts_with_its_mean():
    rows = RatingRows.of(np.array([1, 0, 1]), np.array([2, 0, 2]), np.array([5.0, 3.0, 1.0]), 2, 3)
    assert rows.links.sources.tolist() == [0, 1]
    assert rows.links.indices.tolist() == [0, 2]
    assert rows.values.tolist() == [3.0, 3.0]


def test_transposed_twice_is_the_same():
    own, other = np.array([0, 0, 1, 2]), np.array([1, 2, 0, 2])
    rows = RatingRows.of(own, other, np.array([1.0, 2, 3, 4]), 3, 3)
    again = rows.transpose().transpose()
    assert again.links.indices.tolist() == rows.links.indices.tolist()
    assert again.values.tolist() == rows.values.tolist()


def test_with_certain_factors_the_half_step_is_ridge_regression():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(6, 3)).astype(np.float32)
    others = np.concatenate([rng.normal(size=(6, 1)).astype(np.float32), factors], axis=1)
    r, p, v, s2 = rng.normal(size=6), rng.normal(size=4).astype(np.float32), 0.3, 0.5
    rows = RatingRows(Adjacency(np.array([0, 6]), np.arange(6), 6), r)
    rho = torch.full((1, 4), 1 / v)
    found = posterior(rows, beliefs(others), torch.from_numpy(p[None]), rho, s2)
    z = np.concatenate([np.ones((6, 1)), factors], axis=1)
    system = np.eye(4) / v + z.T @ z / s2
    expected = np.linalg.solve(system, p / v + z.T @ (r - others[:, 0]) / s2)
    np.testing.assert_allclose(found.mean[0], expected, atol=1e-5)
    np.testing.assert_allclose(found.covariance[0], np.linalg.inv(system), atol=1e-5)


def test_a_node_without_ratings_keeps_its_prior_exactly():
    rows = RatingRows(Adjacency(np.array([0, 1, 1]), np.array([0]), 1), np.array([1.0]))
    prior = torch.tensor([[0.1, 0.2], [0.3, 0.7]])
    found = posterior(rows, beliefs([[0.0, 1.0]]), prior, torch.full((2, 2), 3.0), 0.5)
    assert torch.equal(found.mean[1], prior[1])
    assert not torch.equal(found.mean[0], prior[0])
    torch.testing.assert_close(found.covariance[1], torch.eye(2) / 3)


def test_a_neighbour_about_whom_little_is_known_says_little():
    rows = RatingRows(Adjacency(np.array([0, 1]), np.array([0]), 1), np.array([1.0]))
    args = torch.zeros(1, 2), torch.ones(1, 2), 0.5
    factor = [
        abs(float(posterior(rows, beliefs([[0.0, 1.0]], s), *args).mean[0, 1]))
        for s in (0.0, 1.0, 9.0)
    ]
    assert factor[0] > 2 * factor[1] > 4 * factor[2] > 0


@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_row_does_not_depend_on_its_company(num_rows, monkeypatch):
    rng = np.random.default_rng(1)
    own, other = np.divmod(rng.choice(50, 30, replace=False), 5)
    rows = RatingRows.of(own, other, rng.normal(size=30), 10, 5)
    others = beliefs(rng.normal(size=(5, 3)).astype(np.float32), 0.1)
    args = torch.zeros(10, 3), torch.ones(10, 3), 0.5
    whole = posterior(rows, others, *args)
    monkeypatch.setattr("gnn.rating_head._BLOCK_ROWS", num_rows)
    parts = posterior(rows, others, *args)
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.covariance, whole.covariance)
