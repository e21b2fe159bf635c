"""Arithmetic on raw features, a block per group, dense or sparse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gnn.groups import Raw, SparseRows

_BLOCK_ROWS, _BLOCK_FLOATS = 512, 2**24
"""Of the largest dense block that inner products of sparse rows are made with."""


def apply(raws: list[Raw], tables: list[torch.Tensor]) -> torch.Tensor:
    """Priors from raw features, ``[n, k]``."""
    n = len(raws[0])
    out = tables[0].new_zeros(n, tables[0].shape[1])
    for raw, table in zip(raws, tables, strict=True):
        if isinstance(raw, torch.Tensor):
            out.addmm_(raw, table)
        elif len(raw.columns):
            out += raw.matmul(table)
    return out


def product(raw: Raw, table: torch.Tensor) -> torch.Tensor:
    """``raw @ table``, ``[n, k]``."""
    return raw @ table if isinstance(raw, torch.Tensor) else raw.matmul(table)


def transposed(raw: Raw) -> Raw:
    """The columns as rows."""
    return raw.T if isinstance(raw, torch.Tensor) else raw.transpose()


def square_norms(raw: Raw) -> torch.Tensor:
    """Squared length of every row, ``[n]``."""
    return raw.square().sum(dim=1) if isinstance(raw, torch.Tensor) else raw.square_norms()


def gram(raw: Raw) -> torch.Tensor:
    """Inner products of all pairs of rows, float32 ``[n, n]``."""
    if not isinstance(raw, SparseRows):
        return raw @ raw.T
    raw = _narrowed(raw)
    n = len(raw)
    out = raw.values.new_zeros(n, n)
    if len(raw.columns):
        step = max(1, min(_BLOCK_ROWS, _BLOCK_FLOATS // raw.width))
        for start in range(0, n, step):
            some = slice(start, min(start + step, n))
            later = rows_of(raw, slice(start, n))
            part = later.matmul(rows_of(raw, some).to_dense().T.contiguous())
            out[start:, some], out[some, start:] = part, part.T
    return out


def _narrowed(raw: SparseRows) -> SparseRows:
    """Without the columns that no row has an entry in."""
    used, columns = raw.columns.unique(return_inverse=True)
    return SparseRows(raw.indptr, columns, raw.values, len(used))


class Block(NamedTuple):
    """Groups whose columns stand side by side.

    Args:
        raw: their features.
        factor: what its inner products count.
        groups: whose columns these are, in that order.
        parts: of every group, what columns times duals count in its table.
    """

    raw: Raw
    factor: float
    groups: tuple[int, ...]
    parts: tuple[float, ...]


def side_by_side(raws: list[Raw], factors: list[float]) -> list[Block]:
    """Fewer blocks with the same weighted sum of inner products: sparse ones have become one.

    A product with one wide block takes half as long as with dozens of narrow ones.

    Args:
        raws: a block per group.
        factors: what its inner products count, at least 0.
    """
    numbered = list(enumerate(zip(raws, factors, strict=True)))
    out = [Block(raw, f, (g,), (f,)) for g, (raw, f) in numbered if isinstance(raw, torch.Tensor)]
    some = [(g, raw, f**0.5) for g, (raw, f) in numbered if isinstance(raw, SparseRows)]
    if some:
        groups, sparse, roots = zip(*some, strict=True)
        out.append(Block(_joined(sparse, roots), 1.0, groups, roots))
    return out


def _joined(raws: tuple[SparseRows, ...], factors: tuple[float, ...]) -> SparseRows:
    """The columns of all, one block's after the other's, entries times the factors."""
    counts = torch.stack([raw.indptr.diff() for raw in raws])  # [num_blocks, n]
    indptr = raws[0].indptr.new_zeros(counts.shape[1] + 1)
    torch.cumsum(counts.sum(dim=0), 0, out=indptr[1:])
    starts = indptr[:-1] + counts.cumsum(dim=0) - counts
    columns = raws[0].columns.new_empty(int(indptr[-1]))
    values = raws[0].values.new_empty(len(columns))
    width = 0
    for raw, factor, count, start in zip(raws, factors, counts, starts, strict=True):
        shift = torch.repeat_interleave(start - raw.indptr[:-1], count)
        at = torch.arange(len(shift), device=shift.device) + shift
        columns[at] = raw.columns + width
        values[at] = factor * raw.values
        width += raw.width
    return SparseRows(indptr, columns, values, width)


def select_rows(raw: Raw, rows: np.ndarray) -> Raw:
    """Some rows of a block of raw features."""
    at = torch.from_numpy(rows).to(device_of([raw]))
    return raw.take(at) if isinstance(raw, SparseRows) else raw[at]


def rows_of(raw: Raw, block: slice) -> Raw:
    """Some adjacent rows, which share memory with the others."""
    if not isinstance(raw, SparseRows):
        return raw[block]
    start, stop = int(raw.indptr[block.start]), int(raw.indptr[block.stop])
    indptr = raw.indptr[block.start : block.stop + 1] - start
    return SparseRows(indptr, raw.columns[start:stop], raw.values[start:stop], raw.width)


def width_of(raw: Raw) -> int:
    """Columns of a block."""
    return raw.width if isinstance(raw, SparseRows) else raw.shape[1]


def device_of(raws: list[Raw]) -> torch.device:
    """Where the features are."""
    return (raws[0].values if isinstance(raws[0], SparseRows) else raws[0]).device
