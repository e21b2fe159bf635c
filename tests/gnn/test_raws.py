import numpy as np
import pytest
import torch

from gnn import raws as module
from gnn.groups import SparseRows
from gnn.raws import gram, side_by_side


def sparse(n: int, width: int, entries: int, seed: int) -> SparseRows:
    """Random rows, some of them without an entry."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(entries, rng.dirichlet(np.full(n, 0.5)))
    indptr = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    columns = torch.from_numpy(rng.integers(0, width, entries))
    values = torch.from_numpy(rng.normal(size=entries).astype(np.float32))
    return SparseRows(indptr, columns, values, width)


def dense_of(raw: torch.Tensor | SparseRows) -> torch.Tensor:
    return raw.to_dense() if isinstance(raw, SparseRows) else raw


@pytest.fixture
def raws():
    some = torch.from_numpy(np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32))
    return [
        torch.ones(30, 1),
        sparse(30, 12, 90, 0),
        some,
        sparse(30, 7, 40, 1),
        sparse(30, 5, 0, 2),
    ]


@pytest.mark.parametrize("rows", [4, 7, 512])
def test_inner_products_of_sparse_rows_are_those_of_dense_ones(rows, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", rows)
    raw = sparse(30, 12, 90, 0)
    torch.testing.assert_close(gram(raw), raw.to_dense() @ raw.to_dense().T)


def test_side_by_side_groups_have_the_same_inner_products_and_the_sparse_ones_are_one(raws):
    factors = [2.0, 0.5, 0.1, 3.0, 1.0]
    blocks = side_by_side(raws, factors)
    assert [block.groups for block in blocks] == [(0,), (2,), (1, 3, 4)]
    found = sum(block.factor * gram(block.raw) for block in blocks)
    wanted = sum(f * dense_of(raw) @ dense_of(raw).T for f, raw in zip(factors, raws, strict=True))
    torch.testing.assert_close(found, wanted)


def test_columns_of_side_by_side_groups_times_duals_are_their_tables(raws):
    factors, dual = [2.0, 0.5, 0.1, 3.0, 1.0], torch.randn(30, 2, generator=torch.manual_seed(0))
    seen = []
    for block in side_by_side(raws, factors):
        widths = [dense_of(raws[group]).shape[1] for group in block.groups]
        tables = (dense_of(block.raw).T @ dual).split(widths)
        for group, part, table in zip(block.groups, block.parts, tables, strict=True):
            torch.testing.assert_close(
                part * table, factors[group] * dense_of(raws[group]).T @ dual
            )
            seen.append(group)
    assert sorted(seen) == list(range(5))


def test_without_sparse_groups_there_are_as_many_blocks_as_groups(raws):
    assert [block.groups for block in side_by_side([raws[0], raws[2]], [1.0, 2.0])] == [(0,), (1,)]
