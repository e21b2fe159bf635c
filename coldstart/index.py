"""Exact search: the scorer as an inner product in d + 1 dimensions, in blocks of queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from kg.growing import grown

_BLOCK_ITEMS = 65_536
_BLOCK_SCORES, _MOST_SCORES = 2**22, 2**24
"""Scores that are held at once: so many fit a cache; more, where long rows are to be read less
often."""

_BLOCK_FLOATS = 2**18
_MADE_OF = "kg_coldstart_array"

_SPARE = 32
"""So many more than k are looked at twice, for those whose order float32 cannot tell."""


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Items as ``x_i = [a_i i/|i|, b_i]``, which any inner-product index can serve.

    With a query ``q_u = [a_u u/|u|, c_u]`` it is ``q_u . x_i = r_ui - b_u``.

    The last digit of a float32 product depends on how many rows are multiplied at once. So those
    that might be among the best are worked out again in float64 and rounded: then lists do not
    depend on the batch, and items that are equal are ranked as equal.

    Args:
        rows: float32 ``[num_items, dim + 1]``.
    """

    rows: torch.Tensor

    @classmethod
    def of(
        cls, vectors: torch.Tensor, bias: torch.Tensor, gain: torch.Tensor | None = None
    ) -> ExactIndex:
        """The index of embeddings, whose length is their gain, and their biases.

        Args:
            vectors: ``[num_items, dim]``.
            bias: ``[num_items]``.
            gain: a further factor of each, ``[num_items]``; ``None``: 1.
        """
        if gain is None:
            return cls(torch.cat([vectors, bias[:, None]], dim=1))
        rows = vectors.new_empty(len(vectors), vectors.shape[1] + 1)
        torch.mul(vectors, gain[:, None], out=rows[:, :-1])
        rows[:, -1] = bias
        return cls(rows)

    def with_rows(
        self, at: slice | torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor
    ) -> ExactIndex:
        """This index with other values in some rows, or further rows behind.

        Args:
            at: rows that are there, or a slice of new ones that starts at its end. Of these, on a
                CPU, nothing else is copied.
            vectors: their embeddings.
            bias: their biases.
        """
        more = torch.cat([vectors, bias[:, None]], dim=1)
        if isinstance(at, slice) and at.start == len(self.rows):
            rows = grown_tensor(self.rows, more)
        else:
            rows = self.rows.clone()
            rows[at] = more
        return self._limiting(ExactIndex(rows), more)

    def after_removal(self, out: ExactIndex, changed: np.ndarray) -> ExactIndex:
        """The index of what is left, which holds nothing of what is gone.

        Args:
            out: of all embeddings as they are now.
            changed: rows of those that are not among the rows here.
        """
        return self._limiting(out, out.rows[torch.from_numpy(changed).to(out.rows.device)])

    def _limiting(self, other: ExactIndex, more: torch.Tensor) -> ExactIndex:
        """Another index, of some of these rows and more, with a limit to length if this has one."""
        if "longest" in self.__dict__:  # what was longest may be shorter now: as good for a limit
            lengths = torch.linalg.vector_norm(more, dim=1)
            other.__dict__["longest"] = torch.cat([self.longest[None], lengths]).max()
        return other

    @cached_property
    def longest(self) -> torch.Tensor:
        """No row is longer than this."""
        return torch.linalg.vector_norm(self.rows, dim=1).max()

    def search(
        self,
        queries: torch.Tensor,
        k: int,
        *,
        candidates: np.ndarray | None = None,
        excluded: list[np.ndarray] | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best items of every query, best first; equal scores keep item order.

        Args:
            queries: user embeddings, float32 ``[num_queries, dim]``.
            k: at least 1.
            candidates: ascending rows to choose from; all by default.
            excluded: rows that a query must not get, ascending, an array per query.
            weights: what the rows' last column counts for each query, float32 ``[num_queries]``;
                1 by default. It is c_u, or b_i where items look for users.

        Returns:
            Rows, int64 ``[num_queries, k]``, and scores, float32 ``[num_queries, k]``. A query
            with fewer than ``k`` items to choose from is filled up with row -1 and score -inf.
        """
        pool = None if candidates is None else np.asarray(candidates)
        num = len(self.rows) if pool is None else len(pool)
        k_out, k = k, min(k, num)
        rows = np.full((len(queries), k_out), -1, np.int64)
        scores = np.full((len(queries), k_out), -np.inf, np.float32)
        if weights is None:
            weights = queries.new_ones(len(queries))
        queries = torch.cat([queries, weights[:, None]], dim=1)
        together = min(self.rows.shape[1] // 2, _MOST_SCORES // max(num, 1))
        step = max(1, together, _BLOCK_SCORES // max(num, 1))
        for start in range(0, len(queries) if k else 0, step):
            some = slice(start, min(start + step, len(queries)))
            approximate = self._products(queries[some], pool)
            if excluded is not None:
                _exclude(approximate, pool, excluded[some])
            columns, found = self._best(queries[some], pool, approximate, k)
            rows[some, :k] = columns if pool is None else pool[columns]
            scores[some, :k] = found
        rows[np.isneginf(scores)] = -1
        return rows, scores

    def _products(self, queries: torch.Tensor, pool: np.ndarray | None) -> torch.Tensor:
        """Scores as float32 products have them, ``[n, num_candidates]``."""
        if pool is None:
            return (self.rows @ queries[0])[None] if len(queries) == 1 else queries @ self.rows.T
        out = queries.new_empty(len(queries), len(pool))
        for start in range(0, len(pool), _BLOCK_ITEMS):
            at = torch.from_numpy(pool[start : start + _BLOCK_ITEMS]).to(self.rows.device)
            out[:, start : start + len(at)] = queries @ self.rows[at].T
        return out

    def _best(
        self,
        queries: torch.Tensor,
        pool: np.ndarray | None,
        scores: torch.Tensor,
        k: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Columns and exact scores of the ``k`` best of each row, earlier columns first if equal.

        Args:
            queries: ``[n, dim + 1]``.
            pool: rows of the index that the columns stand for; ``None``: all.
            scores: their products to float32, -inf where excluded, ``[n, m]``.
            k: at most ``m``.
        """
        width = min(k + _SPARE, scores.shape[1])
        top, columns = _largest(scores, width)
        largest = torch.linalg.vector_norm(queries, dim=1) * self.longest
        # Twice what float32 can be wrong by: no better one is further down.
        slack = 2 * self.rows.shape[1] * torch.finfo(self.rows.dtype).eps * largest
        unsure = top[:, k - 1] - slack
        columns = columns.sort(dim=1).values
        exact = self.pair_scores(queries, pool, columns)
        exact = torch.where(scores.gather(1, columns).isneginf(), -torch.inf, exact)
        order = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
        columns, exact = columns.gather(1, order), exact.gather(1, order)
        many = (top[:, -1] >= unsure) & ~top[:, -1].isneginf() & (width < scores.shape[1])
        for row in torch.nonzero(many).flatten().tolist():
            near = torch.nonzero(scores[row] >= unsure[row]).flatten()
            again = self.pair_scores(queries[row, None], pool, near[None])[0]
            order = again.argsort(descending=True, stable=True)[:k]
            columns[row], exact[row] = near[order], again[order]
        return columns.cpu().numpy(), exact.cpu().numpy()

    def pair_scores(
        self,
        queries: torch.Tensor,
        pool: np.ndarray | None,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        """Scores of every query with rows of its own, float32 ``[n, num_columns]``.

        Args:
            queries: with the weight of the rows' last column behind, float32 ``[n, dim + 1]``.
            pool: what the columns stand for; ``None``: rows of the index.
            columns: int64 ``[n, num_columns]``.
        """
        out = torch.empty(columns.shape, dtype=self.rows.dtype, device=columns.device)
        at = columns if pool is None else torch.from_numpy(pool).to(columns.device)[columns]
        step = max(1, _BLOCK_FLOATS // max(columns.shape[1] * self.rows.shape[1], 1))
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            out[some] = exact_scores(queries[some], self.rows[at[some]])
        return out


def _largest(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and columns of the ``width`` largest of each row, largest first, ``[n, width]``.

    Of many columns, those that many lie apart form a group; the groups with the largest maxima hold
    all the largest values, since no other group can have one. A row is then read once, to find the
    maxima, which takes much less than selecting from it.
    """
    n, num = scores.shape
    size = 1 << max(int((num / width) ** 0.5).bit_length() - 1, 0)
    groups = num // size
    if size < 4 or groups < 2 * width:
        top = scores.topk(width, dim=1)
        return top.values, top.indices
    whole = groups * size
    maxima = scores[:, :whole].view(n, size, groups).amax(dim=1)
    chosen = _largest(maxima, width)[1]  # [n, width]
    steps = torch.arange(size, device=scores.device) * groups
    places = (chosen[:, :, None] + steps).flatten(1)  # [n, width * size]
    if whole < num:
        rest = torch.arange(whole, num, device=scores.device).expand(n, -1)
        places = torch.cat([places, rest], dim=1)
    values, at = _largest(scores.gather(1, places), width)
    return values, places.gather(1, at)


def grown_tensor(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A tensor on a CPU followed by further rows; see :func:`kg.growing.grown`."""
    array = getattr(tensor, _MADE_OF, None)  # of which it is a view, and which can be continued
    if array is None:
        array = tensor.detach().numpy()  # which holds its memory, and not the tensor itself
        setattr(tensor, _MADE_OF, array)
    array = grown(array, rows.numpy())
    out = torch.from_numpy(array)
    setattr(out, _MADE_OF, array)
    return out


def _exclude(scores: torch.Tensor, pool: np.ndarray | None, excluded: list[np.ndarray]) -> None:
    query, column = [], []
    for i, rows in enumerate(excluded):
        at = rows
        if pool is not None:
            at = places_of(rows, pool)
        column.append(at)
        query.append(np.full(len(at), i))
    where = (torch.from_numpy(np.concatenate(x)).to(scores.device) for x in (query, column))
    scores[tuple(where)] = -torch.inf


def places_of(rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Where in an ascending pool those of some rows stand that are in it."""
    at = np.searchsorted(pool, rows)
    inside = at < len(pool)
    return at[inside][pool[at[inside]] == rows[inside]]


def exact_scores(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The products summed in float64 and rounded once, so that company does not change them.

    Args:
        queries: float32 ``[n, dim + 1]``.
        rows: of an index, float32 ``[m, dim + 1]``, or for each query its own, ``[n, m, dim + 1]``.

    Returns:
        float32 ``[n, m]``.
    """
    rows = rows.double()
    longer = queries.double()
    product = longer[:, None, :-1] @ rows[..., :-1].mT  # [n, 1, m]
    return (product[:, 0] + longer[:, -1:] * rows[..., -1]).to(queries.dtype)
