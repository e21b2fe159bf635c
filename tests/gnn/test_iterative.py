import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from gnn import iterative as module
from gnn.groups import SparseRows
from gnn.iterative import IterativeRidge
from gnn.raws import select_rows
from gnn.ridge import DualRidge

SCALES, WEIGHTS = (1.0, 1.0, 1.0, 2.0), np.array([2.0, 0.3, 0.5, 0.7])


@pytest.fixture
def raws():
    """A constant, vectors, more words than rows, which no few directions stand for, and kinds."""
    rng = np.random.default_rng(0)
    rows, columns = np.repeat(np.arange(900), 12), rng.zipf(1.3, 900 * 12) % 2000
    words = csr_matrix((np.full(len(rows), 1 / 3, np.float32), (rows, columns)), (900, 2000))
    words.sum_duplicates()
    indptr, indices = (torch.from_numpy(x.astype(np.int64)) for x in (words.indptr, words.indices))
    vectors = rng.normal(size=(900, 20)) * np.linspace(1, 0.1, 20)
    return [
        torch.ones(900, 1),
        torch.from_numpy(vectors.astype(np.float32)),
        SparseRows(indptr, indices, torch.from_numpy(words.data), 2000),
        SparseRows(
            torch.arange(901).clamp(max=850), torch.arange(850) % 9, torch.full((850,), 1.5), 9
        ),
    ]


@pytest.fixture
def targets():
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.normal(size=(900, 6)).astype(np.float32))


@pytest.fixture(autouse=True)
def few_directions_and_small_errors(monkeypatch):
    monkeypatch.setattr(module, "RANK", 50)
    monkeypatch.setattr(module, "TOLERANCE", 1e-3)


def apart(found, wanted, scale=None):
    """Distance as a share of the size."""
    return float((found - wanted).norm() / (wanted if scale is None else scale).norm())


def test_it_comes_to_what_inversion_comes_to(raws, targets):
    exact, found = (kind(raws, SCALES, WEIGHTS) for kind in (DualRidge, IterativeRidge))
    for x, y in zip(found.tables(targets), exact.tables(targets), strict=True):
        assert apart(x, y) < 5e-3
    wanted = exact.left_out(targets)
    assert apart(found.left_out(targets), wanted, targets - wanted) < 0.05
    found.leverage = exact.leverage.float()
    assert apart(found.left_out(targets), wanted, targets - wanted) < 2e-3


def test_its_leverage_is_right_but_for_noise_that_more_probes_make_less(raws, monkeypatch):
    exact = 1 - DualRidge(raws, SCALES, WEIGHTS).leverage
    errors = []
    for probes in (16, 64, 256):
        monkeypatch.setattr(module, "PROBES", probes)
        ratio = (1 - IterativeRidge(raws, SCALES, WEIGHTS).leverage) / exact
        assert abs(ratio.mean() - 1) < 0.01
        errors.append(float(ratio.std()))
    assert errors[1] < 0.05
    assert errors[0] > 1.6 * errors[1] > 2.56 * errors[2]


def test_without_some_rows_it_is_as_if_they_had_never_been_there(raws, targets):
    gone = np.array([800, 3, 4, 11])
    kept = np.setdiff1d(np.arange(900), gone)
    found = IterativeRidge(raws, SCALES, WEIGHTS).without(gone)
    exact = DualRidge([select_rows(raw, kept) for raw in raws], SCALES, WEIGHTS)
    rest = targets[torch.from_numpy(kept)]
    for x, y in zip(found.tables(rest), exact.tables(rest), strict=True):
        assert apart(x, y) < 5e-3
    wanted = exact.left_out(rest)
    assert apart(found.left_out(rest), wanted, rest - wanted) < 0.05


def test_what_was_asked_before_is_not_worked_out_again(raws, targets, monkeypatch):
    ridge = IterativeRidge(raws, SCALES, WEIGHTS)
    products = []
    plain = IterativeRidge._product
    monkeypatch.setattr(
        IterativeRidge, "_product", lambda self, x: products.append(x) or plain(self, x)
    )
    first = ridge.left_out(targets)
    cold = len(products)
    again = ridge.left_out(targets)
    assert cold > 3
    assert len(products) == cold + 1  # which tells that nothing is left to do
    torch.testing.assert_close(again, first)
    ridge.left_out(targets + 0.01 * targets.roll(1, 0))
    assert cold + 1 < len(products) < 2 * cold


def test_it_is_the_same_by_a_few_columns_at_a_time_and_by_seed(raws, targets, monkeypatch):
    whole = IterativeRidge(raws, SCALES, WEIGHTS, seed=3)
    same = IterativeRidge(raws, SCALES, WEIGHTS, seed=3)
    assert torch.equal(whole.left_out(targets), same.left_out(targets))
    assert not torch.equal(whole.leverage, IterativeRidge(raws, SCALES, WEIGHTS).leverage)
    many = targets.repeat(1, 12)
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 1)  # 32 columns at a time
    by_columns = IterativeRidge(raws, SCALES, WEIGHTS, seed=3)
    torch.testing.assert_close(by_columns.leverage, whole.leverage, atol=2e-3, rtol=0)
    assert apart(by_columns.left_out(many), whole.left_out(many)) < 2e-3


def test_columns_of_zeros_and_features_of_zeros_are_no_harm(raws, targets):
    targets[:, 2] = 0
    raws[1].zero_()
    ridge = IterativeRidge(raws, SCALES, WEIGHTS)
    assert torch.equal(ridge.left_out(targets)[:, 2], torch.zeros(900))
    assert torch.isfinite(ridge.left_out(targets)).all()
    nothing = IterativeRidge([torch.zeros(900, 3)], (1.0,), np.ones(1))
    assert torch.equal(nothing.leverage, torch.zeros(900))
    none = torch.zeros_like(targets)
    torch.testing.assert_close(nothing.left_out(targets), none, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("weights", "bound"), [((60.0, 1e-3, 60.0, 1.0), 5e-3), ((0.05, 60.0, 0.05, 10.0), 2e-2)]
)
def test_weights_of_very_different_size_converge(raws, targets, weights, bound):
    """Such as learning them can come to; where leverage is high, more signs are drawn."""
    weights = np.array(weights)
    exact, found = (kind(raws, SCALES, weights) for kind in (DualRidge, IterativeRidge))
    kept, wanted = (1 - one.leverage for one in (found, exact))
    assert ((kept - wanted) / wanted).square().mean().sqrt() < 0.1
    left_out = exact.left_out(targets)
    assert apart(found.left_out(targets), left_out, targets - left_out) < 0.1
    dense = [*raws[:2], *(raw.to_dense() for raw in raws[2:])]
    predicted, wanted = (
        sum(x @ t for x, t in zip(dense, one.tables(targets), strict=True))
        for one in (found, exact)
    )
    assert apart(predicted, wanted) < bound


@pytest.mark.parametrize("weight", [1e3, 1e5, 1e7])
def test_a_direction_as_large_as_on_millions_of_rows_hides_no_other(raws, targets, weight):
    """Near K's top direction M^-1 takes away nearly all of a column."""
    weights = np.array([weight, 0.3, 0.5, 0.7])
    exact, found = (kind(raws, SCALES, weights) for kind in (DualRidge, IterativeRidge))
    left_out = exact.left_out(targets)
    assert apart(found.left_out(targets), left_out, targets - left_out) < 0.05


def test_targets_of_any_size_are_told_apart_from_their_predictions(raws, targets):
    ridge = IterativeRidge(raws, SCALES, WEIGHTS)
    plain = ridge.left_out(targets)
    sizes = torch.tensor([1e-30, 1e-20, 1e-9, 1.0, 1e9, 1e19])
    found = ridge.left_out(targets * sizes) / sizes
    assert apart(found, plain) < 5e-3


def test_what_is_no_number_is_an_error(raws, targets):
    ridge = IterativeRidge(raws, SCALES, WEIGHTS)
    targets[5, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="a feature or target no number"):
        ridge.left_out(targets)
    raws[1][5, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="a feature or weight is no number"):
        IterativeRidge(raws, SCALES, WEIGHTS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_does(raws, targets):
    cuda = torch.device("cuda")
    here = IterativeRidge(raws, SCALES, WEIGHTS)
    there = IterativeRidge([raw.to(cuda) for raw in raws], SCALES, WEIGHTS)
    torch.testing.assert_close(there.leverage.cpu(), here.leverage, atol=5e-3, rtol=0)
    assert apart(there.left_out(targets.to(cuda)).cpu(), here.left_out(targets)) < 5e-3
    gone = np.arange(50)
    rest = targets[50:]
    wanted = here.without(gone).left_out(rest)
    assert apart(there.without(gone).left_out(rest.to(cuda)).cpu(), wanted) < 5e-3
