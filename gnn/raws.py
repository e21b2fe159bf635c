"""Arithmetic on raw features, a block per group, dense or sparse."""

from __future__ import annotations

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
    out = raw.values.new_zeros(len(raw), len(raw))
    if len(raw.columns):
        rows = max(1, min(_BLOCK_ROWS, _BLOCK_FLOATS // raw.width))
        for start in range(0, len(raw), rows):
            block = rows_of(raw, slice(start, min(start + rows, len(raw))))
            out[:, start : start + len(block)] = raw.matmul(block.to_dense().T.contiguous())
    return out


def _narrowed(raw: SparseRows) -> SparseRows:
    """Without the columns that no row has an entry in."""
    used, columns = raw.columns.unique(return_inverse=True)
    return SparseRows(raw.indptr, columns, raw.values, len(used))


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
