from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn import heads
from gnn.data import Adjacency
from gnn.heads import ALPHA, Spectrum, half_step, implicit_als, warm_half_step

DIM, OTHERS = 5, 40


def naive(links, other, prior, rho, omega, alpha=ALPHA):
    """DESIGN's formula, one node at a time in float64."""
    f, p, rho, omega = (np.asarray(x, np.float64) for x in (other, prior, rho, omega))
    out = []
    for row in range(len(links)):
        own = slice(links.indptr[row], links.indptr[row + 1])
        z = f[links.indices[own]]
        t = np.ones(len(z)) if links.values is None else links.values[own].astype(np.float64)
        a = omega[row] * f.T @ f + rho[row] * np.eye(f.shape[1]) + alpha * z.T @ z
        out.append(np.linalg.solve(a, (omega[row] + alpha) * t @ z + rho[row] * p[row]))
    return np.array(out)


def made(degrees, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(len(degrees)), degrees)
    target = np.concatenate([rng.choice(OTHERS, d, replace=False) for d in degrees])
    links = Adjacency.from_pairs(source, target.astype(np.int64), len(degrees), OTHERS)
    other, prior = rng.normal(size=(OTHERS, DIM)), rng.normal(size=(len(degrees), DIM))
    rho, omega = rng.uniform(0.1, 200, len(degrees)), rng.uniform(0, 1, len(degrees))
    return links, *(torch.from_numpy(x).to(dtype) for x in (other, prior, rho, omega))


def solved(links, other, prior, rho, omega, **more):
    return half_step(links, other, Spectrum.of(other), prior, rho, omega, **more)


@pytest.mark.parametrize("degrees", [[0, 1, 3], [30, 0, 7, 40], [DIM, DIM + 1, DIM - 1], [0, 0]])
def test_a_half_step_is_the_formula_below_and_above_the_dimension(degrees):
    problem = made(degrees)
    np.testing.assert_allclose(solved(*problem), naive(*problem), rtol=1e-6, atol=1e-8)


def test_a_half_step_of_many_nodes_of_all_degrees_is_the_formula(monkeypatch):
    monkeypatch.setattr(heads, "_CPU_BATCH_FLOATS", 600)
    problem = made(np.random.default_rng(3).integers(0, OTHERS, 60).tolist())
    np.testing.assert_allclose(solved(*problem), naive(*problem), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("degrees", [[0, 1, 3], [30, 0, 7, 40], [DIM, DIM + 1, DIM - 1], [0, 0]])
def test_strong_positives_are_taken_for_more(degrees):
    links, *others = made(degrees)
    strong = np.random.default_rng(1).uniform(0.5, 1.5, len(links.indices)).astype(np.float32)
    links = replace(links, values=strong)
    found = solved(links, *others)
    np.testing.assert_allclose(found, naive(links, *others), rtol=1e-6, atol=1e-8)
    alike = solved(replace(links, values=np.ones_like(strong)), *others)
    np.testing.assert_allclose(alike, solved(replace(links, values=None), *others), rtol=1e-9)


@pytest.mark.parametrize("degree", [0, 2, 30])
def test_one_node_alone_is_the_formula_and_agrees_with_the_batch(degree):
    links, other, prior, rho, omega = made([degree, 4, 11])
    together = solved(links, other, prior, rho, omega)
    one = links.take(np.array([0]))
    alone = solved(one, other, prior[:1], rho[:1], omega[:1])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-8)
    np.testing.assert_allclose(alone, naive(one, other, prior, rho, omega), rtol=1e-6)


def test_float32_is_the_formula_to_five_digits():
    problem = made([0, 2, 5, 9, 33], dtype=torch.float32)
    np.testing.assert_allclose(solved(*problem), naive(*problem), rtol=1e-4, atol=1e-5)


def test_no_interactions_and_no_exposure_give_the_prior():
    links, other, prior, rho, omega = made([0, 0, 0])
    np.testing.assert_allclose(solved(links, other, prior, rho, 0 * omega), prior, rtol=1e-12)


def test_another_weight_of_a_positive_and_no_prior_are_the_formula():
    links, other, prior, rho, omega = made([0, 3, 20])
    found = solved(links, other, None, rho, omega, alpha=40.0)
    expected = naive(links, other, 0 * prior, rho, omega, alpha=40.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


def test_the_order_of_nodes_does_not_matter():
    links, other, prior, rho, omega = made([9, 0, 2, 31])
    turned = [3, 2, 1, 0]
    back = solved(links.take(np.array(turned)), other, prior[turned], rho[turned], omega[turned])
    np.testing.assert_allclose(back[turned], solved(links, other, prior, rho, omega), rtol=1e-8)


def test_the_spectrum_rebuilds_the_gram_matrix_and_is_never_negative():
    other = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    spectrum = Spectrum.of(other)
    rebuilt = spectrum.vectors @ torch.diag(spectrum.values) @ spectrum.vectors.T
    np.testing.assert_allclose(rebuilt, other.T @ other, atol=1e-5)
    assert (spectrum.values >= 0).all()


def weighted_loss(links, users, items, precision):
    """What implicit ALS minimises."""
    seen = np.zeros((len(users), len(items)))
    seen[links.sources, links.indices] = 1
    error = (seen - users @ items.T) ** 2 * (1 + ALPHA * seen)
    return error.sum() + precision * ((users**2).sum() + (items**2).sum())


def test_warm_half_steps_lower_the_weighted_loss_and_end_in_its_minimum():
    links, other, prior, *_ = made([6, 2, 9, 4])
    before = weighted_loss(links, prior.numpy(), other.numpy(), 3.0)
    found = warm_half_step(links, other, None, 3.0).numpy()
    best = weighted_loss(links, found, other.numpy(), 3.0)
    assert best < before
    for nudge in np.random.default_rng(0).normal(0, 1e-3, (20, *found.shape)):
        assert weighted_loss(links, found + nudge, other.numpy(), 3.0) > best


def test_als_finds_two_blocks_of_taste_and_repeats():
    pairs = [(u, i) for u in range(20) for i in range(20) if u % 2 == i % 2 and (u + i) % 3]
    links = Adjacency.from_pairs(*np.array(pairs).T, 20, 20)
    runs = [
        implicit_als(links, 4, 1.0, np.random.default_rng(5), torch.device("cpu")) for _ in range(2)
    ]
    users, items = runs[0]
    scores = (users @ items.T).numpy()
    alike = np.arange(20)[:, None] % 2 == np.arange(20) % 2
    assert scores[alike].mean() > scores[~alike].mean() + 0.5
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
