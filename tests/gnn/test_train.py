import numpy as np
import pytest
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.heads import Spectrum, half_step
from gnn.raws import apply
from gnn.ridge import DualRidge
from gnn.train import (
    TrainConfig,
    embed_warm,
    explained,
    train,
    warm_precision,
)

CPU = torch.device("cpu")


USERS, ITEMS, KINDS = 60, 90, 6


def kinds(num_nodes):
    """One-hot of the kind of every node; users like items of their own kind."""
    return np.eye(KINDS, dtype=np.float32)[np.arange(num_nodes) % KINDS]


def planted():
    """Positives, features of items that tell their kind, and features that are noise."""
    rng = np.random.default_rng(0)
    chance = np.where(kinds(USERS) @ kinds(ITEMS).T > 0, 0.5, 0.01)
    pairs = np.stack(np.nonzero(rng.random((USERS, ITEMS)) < chance))
    informative = kinds(ITEMS) + rng.normal(0, 0.05, (ITEMS, KINDS))
    noise = rng.normal(size=(ITEMS, 40))
    return pairs, informative.astype(np.float32), noise.astype(np.float32)


def inputs(num_nodes, **vectors):
    return NodeInputs(np.arange(num_nodes), vectors=vectors)


def trained(seed=0, **config):
    pairs, informative, noise = planted()
    items = inputs(ITEMS, informative=informative, noise=noise)
    rng = np.random.default_rng(seed)
    return train(inputs(USERS), items, pairs, TrainConfig(**config), rng=rng, device=CPU)


def test_embed_warm_is_the_fixed_point_of_the_explicit_leave_one_out_prior():
    rng = np.random.default_rng(0)
    raws = [torch.from_numpy(rng.normal(size=(20, 3)).astype(np.float32))]
    other = torch.from_numpy(rng.normal(size=(15, 4)).astype(np.float32))
    links = Adjacency.from_pairs(*np.stack(np.nonzero(rng.random((20, 15)) < 0.3)), 20, 15)
    start = torch.from_numpy(rng.normal(size=(20, 4)).astype(np.float32))
    ridge = DualRidge(raws, (1.0,), np.array([0.5]))
    tables, h = ridge.tables(start), ridge.leverage.float()
    omega = torch.linspace(0.1, 1, 20)
    x = embed_warm(raws, tables, h, 7.0, omega, links, other)
    # The leave-one-out prediction of a node from these tables, written out with its own embedding.
    left_out = (apply(raws, tables) - h[:, None] * x) / (1 - h[:, None])
    ones = torch.ones(20)
    again = half_step(links, other, Spectrum.of(other), left_out, 7.0 * ones, omega)
    np.testing.assert_allclose(x, again, atol=1e-5)
    assert (left_out - apply(raws, tables)).abs().max() > 0.01


def test_the_embeddings_of_warm_nodes_follow_from_features_edges_and_the_other_side():
    result, (pairs, informative, noise) = trained(), planted()
    users, items = result.users, result.items
    links = Adjacency.from_pairs(
        np.searchsorted(items.warm, pairs[1]),
        np.searchsorted(users.warm, pairs[0]),
        len(items.warm),
        len(users.warm),
    )
    every = inputs(ITEMS, informative=informative, noise=noise)
    raws = items.propagation.raw(every, items.warm, CPU)
    omega = items.exposed(torch.from_numpy(links.degrees).float())
    again = embed_warm(
        raws, items.tables, items.leverage, items.precision, omega, links, users.reference
    )
    np.testing.assert_allclose(again, result.item_embeddings, atol=1e-5)
    raws = users.propagation.raw(inputs(USERS), users.warm, CPU)
    omega = users.exposed(torch.from_numpy(links.transpose().degrees).float())
    again = embed_warm(
        raws,
        users.tables,
        users.leverage,
        users.precision,
        omega,
        links.transpose(),
        items.reference,
    )
    np.testing.assert_allclose(again, result.user_embeddings, atol=1e-5)


def test_the_dimension_is_a_quarter_of_the_warm_items_at_most():
    assert trained().item_embeddings.shape[1] == ITEMS // 4
    assert trained(max_dim=6).user_embeddings.shape[1] == 6


def test_the_same_seed_gives_the_same_training_and_another_seed_another():
    one, same, other = trained(seed=3), trained(seed=3), trained(seed=4)
    assert torch.equal(one.item_embeddings, same.item_embeddings)
    assert torch.equal(one.user_embeddings, same.user_embeddings)
    np.testing.assert_array_equal(one.items.weights, same.items.weights)
    assert not torch.equal(one.item_embeddings, other.item_embeddings)


def test_weights_are_learnt_from_the_leading_directions_of_embeddings():
    dims = (ITEMS, ITEMS // 4, KINDS, 1)
    all_, every, few, one = (trained(weight_dim=dim).items.weights for dim in dims)
    np.testing.assert_array_equal(all_, every)
    assert few[1] > 10 * few[2]  # there are as many tastes as kinds
    assert one[1] < one[2]


def test_features_that_tell_taste_explain_embeddings_and_noise_does_not():
    pairs, informative, noise = planted()
    rng = np.random.default_rng(0)
    told = train(
        inputs(USERS), inputs(ITEMS, x=informative), pairs, TrainConfig(), rng=rng, device=CPU
    ).items.reliability
    nothing = train(
        inputs(USERS), inputs(ITEMS, x=noise), pairs, TrainConfig(), rng=rng, device=CPU
    ).items.reliability
    assert told > 0.3
    assert nothing < 0.05


def test_explained_variance_is_between_none_and_all():
    targets = torch.tensor([[0.0], [1.0], [2.0]])
    assert explained(targets, targets) == 1
    assert explained(targets, -targets) == 0
    assert explained(torch.ones(3, 2), torch.ones(3, 2)) == 0


def test_a_leverage_of_one_keeps_the_precision_finite():
    found = warm_precision(2.0, torch.tensor([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, [2, 4, 2e4], rtol=1e-3)


def test_training_without_positives_is_an_error():
    none = np.empty((2, 0), np.int64)
    with pytest.raises(ValueError, match="no positive interactions to train on; add some, or low"):
        train(inputs(2), inputs(2), none, TrainConfig(), rng=np.random.default_rng(0), device=CPU)


def test_a_single_interaction_is_enough_to_train():
    pair, rng = np.array([[0], [1]]), np.random.default_rng(0)
    result = train(inputs(2), inputs(3), pair, TrainConfig(), rng=rng, device=CPU)
    assert result.item_embeddings.shape == (1, 1)
    assert torch.isfinite(result.user_embeddings).all()


def test_progress_names_the_steps():
    steps = []
    pairs, informative, _ = planted()
    rng = np.random.default_rng(0)
    items = inputs(ITEMS, x=informative)
    train(inputs(USERS), items, pairs, TrainConfig(), rng=rng, device=CPU, progress=steps.append)
    assert steps[:2] == ["features", "alternating least squares"]
    assert "joint sweep 3 of 3" in steps


def test_one_who_looks_and_one_who_plays_cold_are_enough():
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, (USERS, ITEMS), (150, 2)), axis=0).T
    config = TrainConfig(weight_nodes=1, weight_contexts=1)
    trained = train(inputs(USERS), inputs(ITEMS), pairs, config, rng=rng, device=CPU)
    assert trained.user_embeddings.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dim": 0}, "max_dim must be at least 1, got 0"),
        ({"sweeps": 0}, "sweeps must be at least 1, got 0"),
        ({"item_weight_steps": -1}, "item_weight_steps must be at least 0, got -1"),
        ({"item_precision": 0.0}, "item_precision must be above 0, got 0.0"),
        ({"weight_rate": float("nan")}, "weight_rate must be above 0, got nan"),
        ({"item_few_share": 0.0}, "item_few_share must be above 0, got 0.0"),
        ({"item_prior_scale": 1.5}, "item_prior_scale must be between 0 and 1, got 1.5"),
        ({"item_popularity_scale": -1}, "item_popularity_scale must be between 0 and 1, got -1"),
        ({"item_prior_scale": float("nan")}, "item_prior_scale must be between 0 and 1, got nan"),
        ({"weight_nodes": 0}, "weight_nodes must be at least 1, got 0"),
        ({"weight_dim": 0}, "weight_dim must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
