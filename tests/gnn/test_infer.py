from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn import infer
from gnn.data import Adjacency, node_inputs
from gnn.heads import ALPHA
from gnn.infer import (
    embedding_parts,
    posteriors,
    precisions,
    priors,
    rotated_rows,
    warm_positions,
)
from gnn.train import TrainConfig, train, warm_precision
from kg.toy import toy_graph

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made():
    """A trained toy graph: its two sides, the inputs of items, and everybody's priors."""
    graph = toy_graph(num_cold_items=8, num_cold_users=6)
    text = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    items, users = node_inputs(graph, "Movie", text), node_inputs(graph, "User", None)
    rng = np.random.default_rng(0)
    trained = train(users, items, graph.positives(), TrainConfig(), rng=rng, device=CPU)
    return trained, items, priors(trained.items, items, items.rows, CPU)


def links_of(lists, num_targets):
    source = np.repeat(np.arange(len(lists)), [len(x) for x in lists])
    target = np.array([t for x in lists for t in x], np.int64)
    return Adjacency.from_pairs(source, target, len(lists), num_targets)


def test_a_prior_is_the_features_times_the_tables_in_blocks_of_any_size(made, monkeypatch):
    trained, items, found = made
    raws = trained.items.propagation.raw(items, items.rows, CPU)
    dense = [raw if isinstance(raw, torch.Tensor) else raw.to_dense() for raw in raws]
    expected = sum(x @ t for x, t in zip(dense, trained.items.tables, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(infer, "_CPU_BLOCK_ROWS", 7)
    np.testing.assert_allclose(priors(trained.items, items, items.rows, CPU), found, atol=1e-6)
    assert priors(trained.items, items, items.rows[:0], CPU).shape == (0, found.shape[1])


def test_warm_positions_find_warm_rows_also_after_some_are_gone(made):
    side = made[0].items
    np.testing.assert_array_equal(side.warm[warm_positions(side, side.warm)], side.warm)
    cold = np.setdiff1d(np.arange(100), side.warm)
    assert set(warm_positions(side, cold)) == {-1}
    shuffled = replace(side, warm=np.array([5, -1, 2, -1]))
    assert warm_positions(shuffled, np.array([2, 3, 5, 0, 6])).tolist() == [2, -1, 0, -1, -1]


def test_a_warm_item_is_exposed_by_what_it_has_now_and_a_new_one_much_more_slowly(made):
    side = made[0].items
    cold = int(np.setdiff1d(np.arange(80), side.warm)[0])
    rows = np.array([side.warm[3], side.warm[3], cold, cold, cold])
    rho, omega = precisions(side, rows, np.array([1, 100, 0, 5, 100]))
    few, many = (1 / (1 + (side.few / n) ** 3) for n in (1, 100))
    new = side.precision
    np.testing.assert_allclose(omega, [few, many, 0, 5 / (5 + new), 100 / (100 + new)], rtol=1e-6)
    assert few < 0.1 < 0.9 < many
    warm_rho = float(warm_precision(side.precision, side.leverage[3]))
    np.testing.assert_allclose(rho, [warm_rho, warm_rho, new, new, new], rtol=1e-6)


def test_without_interactions_the_prior_comes_back_bit_for_bit(made):
    trained, _, prior = made
    rows, side = np.arange(70, 80), trained.items
    one = links_of([[0, 3], *[[]] * 9], 54)
    found = posteriors(side, rows, prior[70:], one, trained.users.rotated, trained.users.spectrum)
    assert torch.equal(found[1:], prior[71:])
    assert not torch.equal(found[0], prior[70])
    none = links_of([[]] * 10, 54)
    found = posteriors(side, rows, prior[70:], none, prior[:0], trained.users.spectrum)
    assert torch.equal(found, prior[70:])


def test_a_posterior_is_the_formula_of_a_node_that_came_later(made):
    trained, _, prior = made
    f = trained.users.reference.double().numpy()
    found = posteriors(
        trained.items,
        np.array([75]),
        prior[75:76],
        links_of([[1, 7, 20]], len(f)),
        trained.users.rotated,
        trained.users.spectrum,
    )
    rho, z = trained.items.precision, f[[1, 7, 20]]
    omega = 3 / (3 + rho)
    a = omega * f.T @ f + rho * np.eye(f.shape[1]) + ALPHA * z.T @ z
    right = (omega + ALPHA) * z.sum(axis=0) + rho * prior[75].double().numpy()
    np.testing.assert_allclose(found[0], np.linalg.solve(a, right), atol=1e-5)


def test_the_other_side_sees_training_vectors_of_warm_nodes_and_current_ones_of_others(made):
    side = made[0].items
    vectors = torch.randn(80, side.reference.shape[1])
    cold = int(np.setdiff1d(np.arange(80), side.warm)[0])
    seen = rotated_rows(side, vectors, np.array([cold, side.warm[4]]))
    expected = torch.stack([vectors[cold], side.reference[4]])
    np.testing.assert_allclose(seen @ side.spectrum.vectors.T, expected, atol=1e-5)


@pytest.mark.parametrize("positives", [[], [2], list(range(30))])
def test_parts_add_up_to_the_embedding_of_warm_and_new_nodes(made, positives):
    trained, items, prior = made
    side, other, spectrum = trained.items, trained.users.rotated, trained.users.spectrum
    rows = np.array([int(side.warm[0]), 78])
    links = links_of([positives, positives], len(other))
    raws = side.propagation.raw(items, rows, CPU)
    parts = embedding_parts(side, rows, raws, links, other, spectrum)
    whole = posteriors(side, rows, prior[rows], links, other, spectrum)
    assert parts.shape == (2, len(side.tables) + 1, prior.shape[1])
    np.testing.assert_allclose(parts.sum(dim=1), whole, atol=1e-5)
    assert bool(parts[:, -1].any()) == bool(positives)
