import numpy as np
import pytest
import torch

from gnn.spmm import propagate
from gnn.typed import Incoming


def some_edges(num_sources=7, num_targets=9, num_edges=30, seed=0):
    """With edges that are there twice; the last targets have none."""
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(num_sources, size=num_edges), rng.integers(6, size=num_edges)
    return Incoming.from_edges(sources, targets, num_targets)


def dense(edges, num_sources):
    matrix = torch.zeros(len(edges.indptr) - 1, num_sources, dtype=torch.float64)
    for target, count in enumerate(edges.indptr.diff().tolist()):
        for at in range(int(edges.indptr[target]), int(edges.indptr[target]) + count):
            matrix[target, edges.indices[at]] += 1
    return matrix


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 5, 128])
def test_it_is_the_product_with_the_dense_matrix(dim, dtype):
    edges, x = some_edges(), torch.randn(7, dim, dtype=torch.float64).to(dtype)
    matrix, loose = dense(edges, 7), {"rtol": 0.02, "atol": 0.05} if dtype == torch.bfloat16 else {}
    expected = matrix @ x.double()
    torch.testing.assert_close(propagate(edges, x, reduce="sum"), expected.to(dtype), **loose)
    expected /= matrix.sum(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(propagate(edges, x), expected.to(dtype), **loose)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_gradients_flow_into_the_sources(reduce):
    edges, x = some_edges(), torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(edges, x, reduce=reduce), (x,))
    weight = torch.randn(9, 3, dtype=torch.float64)
    (propagate(edges, x, reduce=reduce) * weight).sum().backward()
    matrix = dense(edges, 7)
    if reduce == "mean":
        matrix /= matrix.sum(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(x.grad, matrix.T @ weight)


def test_targets_without_edges_are_zero_and_there_may_be_no_edges_at_all():
    assert not propagate(some_edges(), torch.ones(7, 2))[6:].any()
    none = Incoming.from_edges(*np.empty((2, 0), np.int64), 4)
    for x in (torch.ones(3, 2), torch.ones(0, 2)):
        assert propagate(none, x).tolist() == [[0, 0]] * 4
    assert propagate(some_edges(), torch.ones(7, 0)).shape == (9, 0)


def test_an_edge_that_is_there_twice_counts_twice():
    edges = Incoming.from_edges(np.array([0, 0, 1]), np.array([0, 0, 0]), 1)
    x = torch.tensor([[3.0], [6.0]])
    assert propagate(edges, x).tolist() == [[4.0]]
    assert propagate(edges, x, reduce="sum").tolist() == [[12.0]]


@pytest.mark.parametrize(
    ("x", "reduce", "text"),
    [
        (torch.ones(7, 2), "max", "there is no reduce 'max'; choose 'sum' or 'mean'"),
        (torch.ones(7), "sum", r"x must be floating \[num_sources, dim\]; got torch.float32 \[7\]"),
        (torch.ones(7, 2).long(), "sum", r"got torch.int64 \[7, 2\]; convert it"),
        (torch.ones(3, 2), "sum", "x has 3 rows, but edges come from rows 0 to 6"),
    ],
)
def test_what_cannot_be_passed_along_is_refused(x, reduce, text):
    with pytest.raises(ValueError, match=text):
        propagate(some_edges(), x, reduce=reduce)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_a_gpu_gives_what_the_cpu_does(reduce):
    edges, x, cuda = some_edges(), torch.randn(7, 128), torch.device("cuda")
    there = propagate(edges.to(cuda), x.to(cuda), reduce=reduce).cpu()
    torch.testing.assert_close(there, propagate(edges, x, reduce=reduce))
