"""Exact search: the scorer as an inner product in d + 1 dimensions, ranked block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

_BLOCK_ITEMS = 65_536
_BLOCK_SCORES = 2**24
_BLOCK_FLOATS = 2**22
_SPARE = 32
"""So many more than k are looked at twice, for those whose order float32 cannot tell."""


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Items as ``x_i = [a_i i/|i|, b_i]``, which any inner-product index can serve.

    With a query ``q_u = [a_u u/|u|, 1]`` it is ``q_u . x_i = r_ui - b_u``.

    The last digit of a float32 product depends on how many rows are multiplied at once. So those
    that might be among the best are worked out again in float64 and rounded: then lists do not
    depend on the batch, and items that are equal are ranked as equal.

    Args:
        rows: float32 ``[num_items, dim + 1]``.
    """

    rows: torch.Tensor

    @classmethod
    def of(cls, vectors: torch.Tensor, bias: torch.Tensor) -> ExactIndex:
        """The index of embeddings whose length is their gain, and their biases."""
        return cls(torch.cat([vectors, bias[:, None]], dim=1))

    @cached_property
    def longest(self) -> torch.Tensor:
        """Length of the longest row."""
        return torch.linalg.vector_norm(self.rows, dim=1).max()

    def search(
        self,
        queries: torch.Tensor,
        k: int,
        *,
        candidates: np.ndarray | None = None,
        excluded: list[np.ndarray] | None = None,
        offsets: torch.Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best items of every query, best first; equal scores keep item order.

        Args:
            queries: user embeddings, float32 ``[num_queries, dim]``.
            k: at least 1.
            candidates: ascending rows to choose from; all by default.
            excluded: rows that a query must not get, ascending, an array per query.
            offsets: float32 ``[num_queries]``, added to all scores of a query: b_i, where items
                look for users.

        Returns:
            Rows, int64 ``[num_queries, k]``, and scores, float32 ``[num_queries, k]``. A query
            with fewer than ``k`` items to choose from is filled up with row -1 and score -inf.
        """
        pool = np.arange(len(self.rows)) if candidates is None else np.asarray(candidates)
        k_out, k = k, min(k, len(pool))
        rows = np.full((len(queries), k_out), -1, np.int64)
        scores = np.full((len(queries), k_out), -np.inf, np.float32)
        if offsets is None:
            offsets = queries.new_zeros(len(queries))
        step = max(1, _BLOCK_SCORES // max(min(len(pool), _BLOCK_ITEMS), 1))
        for start in range(0, len(queries) if k else 0, step):
            some = slice(start, min(start + step, len(queries)))
            left_out = None if excluded is None else excluded[some]
            found = self._search_block(
                queries[some], offsets[some], k, pool, candidates is None, left_out
            )
            rows[some, :k], scores[some, :k] = found
        rows[np.isneginf(scores)] = -1
        return rows, scores

    def _search_block(
        self,
        queries: torch.Tensor,
        offsets: torch.Tensor,
        k: int,
        pool: np.ndarray,
        whole: bool,
        excluded: list[np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        best_scores = queries.new_empty(len(queries), 0)
        best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(pool), _BLOCK_ITEMS):
            some = pool[start : start + _BLOCK_ITEMS]
            at = torch.from_numpy(some).to(self.rows.device)
            x = self.rows[start : start + len(some)] if whole else self.rows[at]
            scores = torch.addmm(x[:, -1], queries, x[:, :-1].T) + offsets[:, None]
            if excluded is not None:
                _exclude(scores, some, excluded)
            columns, scores = _best(queries, offsets, x, self.longest, scores, min(k, len(some)))
            # Earlier columns are earlier items, so that a stable cut keeps item order among equals.
            merged = torch.cat([best_scores, scores], dim=1)
            merged_rows = torch.cat([best_rows, at[columns]], dim=1)
            order = merged.argsort(dim=1, descending=True, stable=True)[:, :k]
            best_scores, best_rows = merged.gather(1, order), merged_rows.gather(1, order)
        return best_rows.cpu().numpy(), best_scores.cpu().numpy()


def _exclude(scores: torch.Tensor, pool: np.ndarray, excluded: list[np.ndarray]) -> None:
    query, column = [], []
    for i, rows in enumerate(excluded):
        at = np.searchsorted(pool, rows)
        inside = at < len(pool)
        at = at[inside][pool[at[inside]] == rows[inside]]
        column.append(at)
        query.append(np.full(len(at), i))
    where = (torch.from_numpy(np.concatenate(x)).to(scores.device) for x in (query, column))
    scores[tuple(where)] = -torch.inf


def _best(
    queries: torch.Tensor,
    offsets: torch.Tensor,
    x: torch.Tensor,
    longest: torch.Tensor,
    scores: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and exact scores of the ``k`` best of each row, earlier columns first among equals.

    Args:
        queries: ``[n, dim]``.
        offsets: ``[n]``.
        x: rows of the index, ``[m, dim + 1]``.
        longest: length of the longest row.
        scores: their products to float32, -inf where excluded, ``[n, m]``.
        k: at most ``m``.
    """
    width = min(k + _SPARE, len(x))
    top, columns = scores.topk(width, dim=1)
    lengths = (torch.linalg.vector_norm(queries, dim=1) ** 2 + 1) ** 0.5
    largest = lengths * longest + offsets.abs()
    # Twice what float32 can be wrong by: no better one is further down.
    unsure = top[:, k - 1] - 2 * x.shape[1] * torch.finfo(x.dtype).eps * largest
    columns = columns.sort(dim=1).values
    exact = _exact(queries, offsets, x, columns)
    exact = torch.where(scores.gather(1, columns).isneginf(), -torch.inf, exact)
    order = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
    columns, exact = columns.gather(1, order), exact.gather(1, order)
    many = (top[:, -1] >= unsure) & ~top[:, -1].isneginf() & (width < len(x))
    for row in torch.nonzero(many).flatten().tolist():
        near = torch.nonzero(scores[row] >= unsure[row]).flatten()
        again = _exact(queries[row, None], offsets[row, None], x, near[None])[0]
        order = again.argsort(descending=True, stable=True)[:k]
        columns[row], exact[row] = near[order], again[order]
    return columns, exact


def _exact(
    queries: torch.Tensor, offsets: torch.Tensor, x: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Scores of every query with some rows, float32 ``[n, num_columns]``."""
    out = torch.empty(columns.shape, dtype=x.dtype, device=x.device)
    step = max(1, _BLOCK_FLOATS // max(columns.shape[1] * x.shape[1], 1))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        out[some] = exact_scores(queries[some], x[columns[some]], offsets[some])
    return out


def exact_scores(
    queries: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor | None = None
) -> torch.Tensor:
    """The products summed in float64 and rounded once, so that company does not change them.

    Args:
        queries: float32 ``[n, dim]``.
        rows: of an index, float32 ``[m, dim + 1]``, or for each query its own, ``[n, m, dim + 1]``.
        offsets: float32 ``[n]``, added to all scores of a query.

    Returns:
        float32 ``[n, m]``.
    """
    rows = rows.double()
    product = queries.double()[:, None, :] @ rows[..., :-1].mT  # [n, 1, m]
    out = product[:, 0] + rows[..., -1]
    out = out if offsets is None else out + offsets.double()[:, None]
    return out.to(queries.dtype)
