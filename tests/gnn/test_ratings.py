import numpy as np
import pytest
import torch

from gnn.data import NodeInputs
from gnn.rating_head import RatingRows
from gnn.ratings import (
    RatingConfig,
    first_factors,
    left_out_error,
    mean_residual,
    train_ratings,
)

CPU = torch.device("cpu")


def planted(num_users=60, num_items=40, noise=0.1, seed=0):
    """Ratings 3 + b_u + b_i + noise of half of all pairs."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.7, num_users), rng.normal(0, 0.7, num_items)
    pairs = np.stack(np.nonzero(rng.random((num_users, num_items)) < 0.5))
    ratings = 3 + bias[0][pairs[0]] + bias[1][pairs[1]] + rng.normal(0, noise, pairs.shape[1])
    return pairs, ratings, bias


def trained(pairs, ratings, num_users=60, num_items=40, **config):
    inputs = NodeInputs(np.arange(num_users)), NodeInputs(np.arange(num_items))
    return train_ratings(*inputs, pairs, ratings, RatingConfig(**config), device=CPU)


def test_planted_biases_are_recovered():
    pairs, ratings, bias = planted()
    head = trained(pairs, ratings)
    for side, planted_ in ((head.users, bias[0]), (head.items, bias[1])):
        found = head.scale * side.reference.mean[:, 0].numpy()
        error = (found - found.mean()) - (planted_ - planted_.mean())
        assert np.abs(error).max() < 0.2
        assert np.corrcoef(found, planted_)[0, 1] > 0.99


def test_the_noise_that_is_found_is_the_noise_that_was_planted():
    pairs, ratings, _ = planted(noise=0.5)
    head = trained(pairs, ratings)
    assert head.scale * head.noise**0.5 == pytest.approx(0.5, rel=0.1)


def test_ratings_twice_as_wide_give_predictions_twice_as_wide():
    pairs, ratings, _ = planted()
    one, two = trained(pairs, ratings), trained(pairs, 2 * ratings + 1)
    assert two.mean == pytest.approx(2 * one.mean + 1)
    assert two.scale == pytest.approx(2 * one.scale)
    torch.testing.assert_close(
        two.users.reference.mean, one.users.reference.mean, atol=1e-4, rtol=1e-3
    )


def test_a_single_rating_and_equal_ratings_can_be_trained_on():
    one = trained(np.array([[0], [0]]), np.array([4.0]))
    assert float(one.rate(one.users.reference.mean, one.items.reference.mean)) == 4.0
    pairs, ratings, _ = planted()
    same = trained(pairs, np.full_like(ratings, 3.0))
    assert same.rate(same.users.reference.mean, same.items.reference.mean).eq(3.0).all()


def test_no_ratings_are_an_error():
    with pytest.raises(ValueError, match="no ratings to train on; add interactions with weights"):
        trained(np.empty((2, 0), np.int64), np.empty(0))


def test_the_first_factors_find_a_planted_checkerboard():
    taste = np.arange(40) % 2 * 2.0 - 1
    pairs = np.stack(np.nonzero(np.ones((40, 40), bool)))
    ratings = RatingRows.of(*pairs, np.outer(taste, taste)[tuple(pairs)], 40, 40)
    factors = first_factors(ratings, 1)
    assert factors[:, 0].tolist() == [0] * 40
    assert abs(np.corrcoef(factors[:, 1], taste)[0, 1]) > 0.99


def test_left_out_errors_are_those_of_fitting_again_without_the_node():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    error, _ = left_out_error(
        torch.zeros(1), torch.from_numpy(x @ x.T)[None].float(), torch.from_numpy(y).float()
    )
    errors = []
    for i in range(12):
        rest = np.arange(12) != i
        beta = np.linalg.solve(x[rest].T @ x[rest] + np.eye(3), x[rest].T @ y[rest])
        errors.append(y[i] - x[i] @ beta)
    assert error == pytest.approx(np.mean(np.square(errors)), rel=1e-4)


def test_the_gradient_of_the_left_out_error_is_that_of_autograd():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 12, 4, generator=rng, dtype=torch.float64)
    y = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    grams = x @ x.transpose(1, 2)
    log_weights = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    inverse = torch.linalg.inv(torch.tensordot(log_weights.exp(), grams, 1) + torch.eye(12))
    loss = ((inverse @ y / inverse.diagonal()[:, None]) ** 2).mean()
    loss.backward()
    error, gradient = left_out_error(log_weights.detach(), grams, y)
    assert error == pytest.approx(float(loss.detach()))
    assert log_weights.grad is not None
    torch.testing.assert_close(gradient, log_weights.grad)


def test_the_mean_residual_is_over_pairs():
    ratings = RatingRows.of(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1.0, 2, 3]), 2, 2)
    zero = torch.zeros(2, 3)
    assert mean_residual(ratings, zero, zero) == pytest.approx(2.0)
    biased = zero.clone()
    biased[0, 0] = 3.0
    assert mean_residual(ratings, biased, zero) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"half_history": 0.0}, "half_history must be above 0, got 0.0"),
        ({"weight_steps": -1}, "weight_steps must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RatingConfig(**options)
