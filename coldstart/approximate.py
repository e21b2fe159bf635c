"""Search in very large catalogues by faiss: a share of the items is looked at, chosen by clusters.

What is given up is measured when the index is made: the recall against exact search. Scores are
those of exact search, bit for bit; lists of candidates or by properties are exact. The clusters
never change: items that came or changed since are looked at beside them, and those that are gone
are passed over, though their vectors stay in memory until the clusters are made anew.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from coldstart.index import ExactIndex, places_of
from kg.errors import DependencyError, how_to_install

log = logging.getLogger(__name__)

LEAST_RECALL = 0.95
"""So many clusters are looked at that the recall is at least this."""

_K, _SAMPLE, _SPARE = 100, 256, 32
_MOST_EXCLUDED = 2000
"""Users who have seen more are searched for exactly."""

_MOST_LATE = 0.02
"""When a larger share of the items is new or changed, the clusters are made anew.

Looking at so many takes about a millisecond for 100,000 items of 64 floats, a sixth of exact search
(``benchmarks.search --faiss``).
"""

_MOST_GONE = 0.25
"""When a larger share of what is in the clusters is gone, they are made anew."""


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """Items in clusters, and those that came or changed since beside them.

    Args:
        exact: all items.
        clusters: a faiss index of them as they were, which never changes.
        places: where the first items are in the clusters, ascending, int64 ``[num_left]``; items
            behind them came later.
        live: a bit for every place, 1 where the item is there and as it was, uint8.
        late: ascending rows of items that the clusters do not know as they are; all are looked at.
        recall: share of lists of a hundred that is as good as the exact best, which items of equal
            score all are, over some users, at the making.
        probed: clusters that are looked at.
        num_clusters: out of so many.
    """

    exact: ExactIndex
    clusters: Any
    places: np.ndarray
    live: np.ndarray
    late: np.ndarray
    recall: float
    probed: int
    num_clusters: int

    @classmethod
    def of(
        cls, exact: ExactIndex, queries: torch.Tensor, least_recall: float = LEAST_RECALL
    ) -> ApproximateIndex | ExactIndex:
        """The index of these items; seconds to minutes.

        Args:
            exact: the items, on a CPU, at least one.
            queries: user embeddings to measure the recall with, ``[n, dim]``; some of them are.
            least_recall: up to 1.

        Returns:
            ``exact`` itself, with a line in the log, where such a recall takes nearly all clusters.

        Raises:
            DependencyError: faiss is not installed.
        """
        try:
            import faiss
        except ImportError as error:
            raise DependencyError(
                f"approximate search needs faiss: {how_to_install('faiss')}, or leave "
                "approximate_from out of the EngineConfig"
            ) from error
        start = time.perf_counter()
        rows = exact.rows.numpy()
        num_items, width = rows.shape
        num_clusters = max(1, min(round(num_items**0.5), num_items // 39 or 1))
        clusters: Any = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, num_clusters, faiss.METRIC_INNER_PRODUCT
        )
        clusters.cp.max_points_per_centroid = 64
        clusters.train(rows)  # pyright: ignore[reportCallIssue]
        clusters.add(rows)  # pyright: ignore[reportCallIssue]
        some = queries[:: max(1, len(queries) // _SAMPLE)][:_SAMPLE]
        k = min(_K, num_items)
        _, best = exact.search(some, k)
        probed, recall = 1, 0.0
        beside = np.arange(num_items), np.packbits(np.ones(num_items, bool), bitorder="little")
        while True:
            none = np.empty(0, np.int64)
            out = cls(exact, clusters, *beside, none, recall, probed, num_clusters)
            _, found = out._found(some, k, None, None, k + _SPARE)  # short as they are
            recall = float((found >= best[:, -1:]).mean()) if len(some) else 1.0
            if recall >= least_recall or 2 * probed >= num_clusters:
                break
            probed *= 2
        if recall < least_recall or probed == num_clusters:
            log.warning(
                "search of %d items stays exact: a recall@%d of %.2f would take nearly all %d "
                "clusters, which is slower (found out in %.1f s); leave approximate_from out",
                *(num_items, k, least_recall, num_clusters, time.perf_counter() - start),
            )
            return exact
        log.warning(
            "approximate search of %d items: recall@%d %.4f against exact search for %d users, "
            "with %d of %d clusters looked at (made in %.1f s)",
            *(num_items, k, recall, len(some), probed, num_clusters, time.perf_counter() - start),
        )
        return replace(out, recall=recall)

    @property
    def rows(self) -> torch.Tensor:
        """All items, float32 ``[num_items, dim + 1]``."""
        return self.exact.rows

    def followed(
        self, exact: ExactIndex, changed: np.ndarray, kept: np.ndarray | None = None
    ) -> ApproximateIndex:
        """The index after rows were removed, and then some changed or came.

        Args:
            exact: all items as they are now.
            changed: their rows that changed or came, int64.
            kept: ascending rows of before that stay; ``None``: all.
        """
        places, late, live = self.places, self.late, self.live.copy()
        if kept is not None:
            there = np.zeros(len(self.exact.rows), bool)
            there[kept] = True
            _clear(live, places[~there[: len(places)]])
            places = places[there[: len(places)]]
            late = (np.cumsum(there) - 1)[late[there[late]]]
        late = np.union1d(late, changed)
        _clear(live, places[changed[changed < len(places)]])
        return replace(self, exact=exact, places=places, live=live, late=late)

    @property
    def is_stale(self) -> bool:
        """Whether so many items came, changed or went that it is worth making anew."""
        return (
            len(self.late) > _MOST_LATE * len(self.rows)
            or len(self.places) < (1 - _MOST_GONE) * self.clusters.ntotal
        )

    def search(
        self,
        queries: torch.Tensor,
        k: int,
        *,
        candidates: np.ndarray | None = None,
        excluded: list[np.ndarray] | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`coldstart.index.ExactIndex.search`; exact where candidates are given."""
        most = max((len(rows) for rows in excluded), default=0) if excluded else 0
        wanted = min(k, len(self.rows)) + _SPARE + most
        if candidates is not None or most > _MOST_EXCLUDED or wanted >= len(self.rows):
            options = {"candidates": candidates, "excluded": excluded, "weights": weights}
            return self.exact.search(queries, k, **options)
        rows, scores = self._found(queries, k, excluded, weights, wanted)
        for at in np.flatnonzero((rows < 0).any(axis=1)).tolist():  # too few in these clusters
            one, out = slice(at, at + 1), None if excluded is None else excluded[at : at + 1]
            weight = None if weights is None else weights[one]
            rows[one], scores[one] = self.exact.search(
                queries[one], k, excluded=out, weights=weight
            )
        return rows, scores

    def _found(
        self,
        queries: torch.Tensor,
        k: int,
        excluded: list[np.ndarray] | None,
        weights: torch.Tensor | None,
        wanted: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of the clusters nearest to each query and of the late items."""
        ones = queries.new_ones(len(queries))
        longer = torch.cat([queries, (ones if weights is None else weights)[:, None]], dim=1)
        near = self._near(longer, wanted)
        there = torch.from_numpy(np.maximum(near, 0))
        scores = self.exact.pair_scores(longer, None, there).numpy()
        scores[near < 0] = -np.inf
        for at, gone in enumerate(excluded or ()):
            scores[at, np.isin(near[at], gone)] = -np.inf
        of_late = None if excluded is None else [places_of(rows, self.late) for rows in excluded]
        places, late_scores = self._beside.search(queries, k, excluded=of_late, weights=weights)
        late = np.append(self.late, -1)[places]  # -1 stays -1
        rows = np.concatenate([near, late], axis=1)
        scores = np.concatenate([scores, late_scores], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        rows, scores = (np.take_along_axis(x, order, axis=1) for x in (rows, scores))
        rows[np.isneginf(scores)] = -1
        return rows, scores

    def _near(self, queries: torch.Tensor, wanted: int) -> np.ndarray:
        """Rows of the best in the clusters nearest to a query, -1 where none, ``[n, wanted]``."""
        import faiss

        known = {}
        if len(self.late) or len(self.places) < self.clusters.ntotal:
            known["sel"] = faiss.IDSelectorBitmap(self.live)  # pyright: ignore[reportCallIssue]
        looked: Any = faiss.SearchParametersIVF(nprobe=self.probed, **known)  # pyright: ignore[reportCallIssue]
        _, found = self.clusters.search(queries.numpy(), wanted, params=looked)
        return np.where(found >= 0, np.searchsorted(self.places, found), -1)

    @cached_property
    def _beside(self) -> ExactIndex:
        """The late items."""
        out = ExactIndex(self.rows[torch.from_numpy(self.late)])
        out.__dict__["longest"] = self.exact.longest
        return out


def _clear(bits: np.ndarray, places: np.ndarray) -> None:
    """Set some bits to 0, in place."""
    np.bitwise_and.at(bits, places >> 3, ~(1 << (places & 7)).astype(np.uint8))
