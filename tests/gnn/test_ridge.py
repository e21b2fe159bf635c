import numpy as np
import pytest
import torch

from gnn import ridge as module
from gnn.groups import SparseRows
from gnn.iterative import IterativeRidge
from gnn.raws import gram, select_rows
from gnn.ridge import DualRidge, PrimalRidge, Shrunk, ridge

KINDS = [DualRidge, PrimalRidge, IterativeRidge]
WEIGHTS, SCALES = np.array([0.7, 2.0, 0.1]), (1.5, 0.8, 2.0)


def sparse(dense):
    source, column = np.nonzero(dense)
    indptr = np.searchsorted(source, np.arange(len(dense) + 1))
    values = dense[source, column].astype(np.float32)
    return SparseRows(*(torch.from_numpy(x) for x in (indptr, column, values)), dense.shape[1])


def made(num_rows=30, seed=0):
    """Two dense groups and a sparse one, with their dense form, weights and scales in."""
    rng = np.random.default_rng(seed)
    dense = [rng.normal(size=(num_rows, width)) for width in (1, 6, 9)]
    dense[2] *= rng.random((num_rows, 9)) < 0.3
    raws = [torch.from_numpy(x.astype(np.float32)) for x in dense[:2]] + [sparse(dense[2])]
    phi = [w**0.5 / s * x for w, s, x in zip(WEIGHTS, SCALES, dense, strict=True)]
    targets = torch.from_numpy(rng.normal(size=(num_rows, 4)).astype(np.float32))
    return raws, np.concatenate(phi, axis=1), targets


def naive_prediction(phi, targets, at):
    """Ridge with penalty 1 in the features, float64."""
    weights = np.linalg.solve(np.eye(phi.shape[1]) + phi.T @ phi, phi.T @ targets)
    return at @ weights


@pytest.mark.parametrize("kind", KINDS)
def test_left_out_predictions_equal_fitting_again_without_the_row(kind):
    raws, phi, targets = made()
    left_out = kind(raws, SCALES, WEIGHTS).left_out(targets)
    for row in range(len(phi)):
        others = np.arange(len(phi)) != row
        again = naive_prediction(phi[others], targets.numpy()[others], phi[row])
        np.testing.assert_allclose(left_out[row], again, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_turn_raw_features_into_predictions(kind):
    raws, phi, targets = made()
    tables = kind(raws, SCALES, WEIGHTS).tables(targets)
    assert [t.shape[0] for t in tables] == [1, 6, 9]
    dense = [raws[0], raws[1], raws[2].to_dense()]
    found = sum(x @ t for x, t in zip(dense, tables, strict=True))
    np.testing.assert_allclose(found, naive_prediction(phi, targets.numpy(), phi), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_leverage_is_the_diagonal_of_the_hat_matrix(kind):
    raws, phi, _ = made()
    hat = phi @ np.linalg.solve(np.eye(phi.shape[1]) + phi.T @ phi, phi.T)
    np.testing.assert_allclose(kind(raws, SCALES, WEIGHTS).leverage, np.diag(hat), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_some_rows_it_is_as_if_they_had_never_been_there(kind, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    raws, _, targets = made()
    gone = np.array([28, 3, 4, 11])
    kept = np.setdiff1d(np.arange(30), gone)
    again = kind([select_rows(raw, kept) for raw in raws], SCALES, WEIGHTS)
    found, rest = kind(raws, SCALES, WEIGHTS).without(gone), targets[torch.from_numpy(kept)]
    exact = kind is not IterativeRidge  # which is float32 throughout
    np.testing.assert_allclose(found.leverage, again.leverage, atol=1e-6 if exact else 1e-5)
    np.testing.assert_allclose(found.left_out(rest), again.left_out(rest), atol=1e-4)
    for x, y in zip(found.tables(rest), again.tables(rest), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 if exact else 1e-4)
    close = {} if exact else {"atol": 1e-4, "rtol": 0}
    scaled = Shrunk(kind(raws, SCALES, WEIGHTS), 0.5).without(gone)
    wanted = Shrunk(again, 0.5).left_out(rest)
    torch.testing.assert_close(scaled.left_out(rest), wanted, **close)
    nobody = kind(raws, SCALES, WEIGHTS).without(np.empty(0, np.int64))
    wanted = kind(raws, SCALES, WEIGHTS).left_out(targets)
    torch.testing.assert_close(nobody.left_out(targets), wanted, **close)


def test_both_ways_agree_also_in_small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    raws, _, targets = made()
    dual, primal = (kind(raws, SCALES, WEIGHTS) for kind in (DualRidge, PrimalRidge))
    np.testing.assert_allclose(dual.leverage, primal.leverage, atol=1e-5)
    np.testing.assert_allclose(dual.left_out(targets), primal.left_out(targets), atol=1e-4)
    for x, y in zip(dual.tables(targets), primal.tables(targets), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_the_way_is_chosen_by_the_number_of_rows_and_columns(monkeypatch):
    raws, _, _ = made()
    assert isinstance(ridge(raws, SCALES, WEIGHTS), DualRidge)
    monkeypatch.setattr(module, "FEW_ROWS", 29)
    assert isinstance(ridge(raws, SCALES, WEIGHTS), PrimalRidge)
    monkeypatch.setattr(module, "MAX_WIDTH", 15)
    assert isinstance(ridge(raws, SCALES, WEIGHTS), DualRidge)
    monkeypatch.setattr(module, "MAX_DUAL", 29)
    assert isinstance(ridge(raws, SCALES, WEIGHTS), IterativeRidge)


def test_gram_and_row_selection_are_the_same_sparse_or_dense():
    dense = made()[0][2].to_dense()
    rows = np.array([4, 0, 29, 4])
    some = select_rows(sparse(dense.numpy()), rows)
    assert torch.equal(some.to_dense(), dense[rows])
    assert torch.equal(select_rows(dense, rows), dense[rows])
    np.testing.assert_allclose(gram(some), dense[rows] @ dense[rows].T, atol=1e-5)
    none = sparse(np.zeros((3, 4)))
    assert gram(none).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_a_shrunk_ridge_is_a_smoother_drawn_to_the_mean(kind, scale):
    raws, _, targets = made()
    raws[0] = torch.ones_like(raws[0])
    plain = kind(raws, SCALES, WEIGHTS)
    shrunk = Shrunk(plain, scale)
    dense = [raws[0], raws[1], raws[2].to_dense()]
    before, after = (
        sum(x @ t for x, t in zip(dense, one.tables(targets), strict=True))
        for one in (plain, shrunk)
    )
    mean = targets.mean(dim=0)
    np.testing.assert_allclose(after, mean + scale * (before - mean), atol=1e-5)
    h = shrunk.leverage.float()[:, None]
    left_out = (after - h * targets) / (1 - h)
    np.testing.assert_allclose(shrunk.left_out(targets), left_out, atol=1e-4)
