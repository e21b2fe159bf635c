"""Exact search: the scorer as an inner product in d + 1 dimensions, ranked block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_BLOCK_ITEMS = 65_536
_BLOCK_SCORES = 2**24


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Items as ``x_i = [a_i i/|i|, b_i]``, so that ``q_u . x_i = r_ui - b_u`` with a query
    ``q_u = [a_u u/|u|, 1]``; any inner-product index can serve these rows.

    Args:
        rows: float32 ``[num_items, dim + 1]``.
    """

    rows: torch.Tensor

    @classmethod
    def of(cls, vectors: torch.Tensor, bias: torch.Tensor) -> ExactIndex:
        """The index of embeddings whose length is their gain, and their biases."""
        return cls(torch.cat([vectors, bias[:, None]], dim=1))

    def search(
        self,
        queries: torch.Tensor,
        k: int,
        *,
        candidates: np.ndarray | None = None,
        excluded: list[np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best items of every query, best first; equal scores keep item order.

        Args:
            queries: user embeddings, float32 ``[num_queries, dim]``.
            k: at least 1.
            candidates: ascending rows to choose from; all by default.
            excluded: rows that a query must not get, ascending, an array per query.

        Returns:
            Rows, int64 ``[num_queries, k]``, and scores, float32 ``[num_queries, k]``. A query
            with fewer than ``k`` items to choose from is filled up with row -1 and score -inf.
        """
        pool = np.arange(len(self.rows)) if candidates is None else np.asarray(candidates)
        k_out, k = k, min(k, len(pool))
        rows = np.full((len(queries), k_out), -1, np.int64)
        scores = np.full((len(queries), k_out), -np.inf, np.float32)
        step = max(1, _BLOCK_SCORES // max(min(len(pool), _BLOCK_ITEMS), 1))
        for start in range(0, len(queries) if k else 0, step):
            some = slice(start, min(start + step, len(queries)))
            left_out = None if excluded is None else excluded[some]
            found = self._search_block(queries[some], k, pool, candidates is None, left_out)
            rows[some, :k], scores[some, :k] = found
        rows[np.isneginf(scores)] = -1
        return rows, scores

    def _search_block(
        self,
        queries: torch.Tensor,
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
            scores = queries @ x[:, :-1].T + x[:, -1]
            if excluded is not None:
                _exclude(scores, some, excluded)
            merged = torch.cat([best_scores, scores], dim=1)
            merged_rows = torch.cat([best_rows, at.expand(len(queries), -1)], dim=1)
            # Earlier columns are earlier items, so that a stable cut keeps item order among equals.
            order = _stable_top(merged, min(k, merged.shape[1]))
            best_scores, best_rows = merged.gather(1, order), merged_rows.gather(1, order)
            if start + len(some) < len(pool):
                by_row = best_rows.argsort(dim=1)
                best_scores, best_rows = best_scores.gather(1, by_row), best_rows.gather(1, by_row)
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


def _stable_top(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the ``k`` largest of each row, largest first, earlier columns first among equals."""
    top, at = scores.topk(k, dim=1)
    least = top[:, -1:]
    tied = (scores == least).sum(dim=1) > (top == least).sum(dim=1)
    for row in torch.nonzero(tied).flatten().tolist():
        better = torch.nonzero(scores[row] > least[row]).flatten()
        equal = torch.nonzero(scores[row] == least[row]).flatten()[: k - len(better)]
        at[row] = torch.cat([better, equal])
    at = at.sort(dim=1).values
    order = scores.gather(1, at).argsort(dim=1, descending=True, stable=True)
    return at.gather(1, order)
