"""Sums and means over neighbours, without an array that has a row per edge."""

from __future__ import annotations

from typing import Literal

import torch

from gnn.typed import Incoming

Reduce = Literal["sum", "mean"]


def propagate(edges: Incoming, x: torch.Tensor, *, reduce: Reduce = "mean") -> torch.Tensor:
    """What arrives at every target: the sum or mean of its sources' rows.

    A fused embedding bag does the work: it reads the rows of a target's sources one after another
    and writes their sum once. benchmarks/propagate.py compares it with other ways.

    Args:
        edges: of one type, on the device of ``x``; an edge that is there twice counts twice.
        x: of the sources, floating ``[num_sources, dim]``; gradients flow into it.
        reduce: ``sum`` or ``mean``.

    Returns:
        ``[num_targets, dim]``, of the type of ``x``; zero for a target without edges.

    Raises:
        ValueError: ``reduce`` is another word, ``x`` is no matrix of floats, or an edge comes from
            a row that it lacks.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"there is no reduce {reduce!r}; choose 'sum' or 'mean'")
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(
            f"x must be floating [num_sources, dim]; got {x.dtype} {list(x.shape)}; convert it"
        )
    if not len(edges) or not x.shape[1]:
        return x.new_zeros(len(edges.indptr) - 1, x.shape[1]) + 0 * x.sum()
    low, high = (int(end) for end in edges.indices.aminmax())
    if low < 0 or high >= len(x):
        raise ValueError(
            f"x has {len(x)} rows, but edges come from rows {low} to {high}; give a row per source"
        )
    return torch.nn.functional.embedding_bag(
        edges.indices, x, edges.indptr, mode=reduce, include_last_offset=True
    )
