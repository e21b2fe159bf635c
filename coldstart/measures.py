"""What an evaluation can report of a scorer's lists, by name or by a function of yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from coldstart import metrics
from coldstart.report import Row
from coldstart.training_data import TrainingData


@dataclass(frozen=True, eq=False)
class Background:
    """What was known at training, for metrics that are not about hits.

    Args:
        popularity: users with a training interaction with each item, int64 ``[num_items]``.
        num_users: users with a training interaction.
        history_popularity: mean popularity of every user's training items, ``[num_users]``; NaN
            where there are none.
        vectors: text vectors of all items, or ``None`` where items have no texts.
    """

    popularity: np.ndarray
    num_users: int
    history_popularity: np.ndarray
    vectors: np.ndarray | None

    @classmethod
    def of(cls, data: TrainingData) -> Background:
        """What a training graph and its texts tell."""
        popularity = np.asarray(data.matrix.sum(axis=0), dtype=np.int64).ravel()
        degree = np.asarray(data.matrix.sum(axis=1), dtype=np.float64).ravel()
        total = data.matrix @ popularity.astype(np.float64)
        history = np.where(degree > 0, total / np.maximum(degree, 1), np.nan)
        text = data.texts.get(data.graph.schema.item)
        vectors = None if text is None else text.matrix
        return cls(popularity, len(data.warm_users), history, vectors)


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of a task and the answers: all that a metric may look at.

    Args:
        users: rows of the users, int64 ``[num_users]``.
        items: rows of the items in each user's list, best first, int32 ``[num_users, k]``; -1 in
            places that could not be filled.
        hits: bool ``[num_users, k]``, whether the item at each place is relevant.
        num_relevant: int64 ``[num_users]``, relevant items among the candidates, at least 1.
        num_candidates: items that could be in a list.
        auc: of each user over all candidates, ``[num_users]``; empty where it was not asked for.
        background: what was known at training.
    """

    users: np.ndarray
    items: np.ndarray
    hits: np.ndarray
    num_relevant: np.ndarray
    num_candidates: int
    auc: np.ndarray = field(default_factory=lambda: np.empty(0))
    background: Background | None = None


Metric = Callable[[Lists], np.ndarray | float]
"""A value per user, NaN where it has none, or one value for all lists together."""


def _known(lists: Lists) -> Background:
    if lists.background is None:
        raise ValueError(
            "novelty, diversity and popularity_bias compare with what was known at training; pass "
            "background=Background.of(TrainingData(training_graph, texts))"
        )
    return lists.background


def _novelty(lists: Lists) -> np.ndarray:
    known = _known(lists)
    return metrics.novelty(lists.items, known.popularity, known.num_users)


def _diversity(lists: Lists) -> np.ndarray:
    vectors = _known(lists).vectors
    if vectors is None:
        return np.full(len(lists.items), np.nan)
    return metrics.intra_list_diversity(lists.items, vectors)


def _popularity_bias(lists: Lists) -> float:
    known = _known(lists)
    histories = known.history_popularity[lists.users]
    return metrics.popularity_bias(lists.items, known.popularity, histories)


METRICS: Mapping[str, Metric] = {
    "ndcg": lambda lists: metrics.ndcg(lists.hits, lists.num_relevant),
    "recall": lambda lists: metrics.recall(lists.hits, lists.num_relevant),
    "precision": lambda lists: metrics.precision(lists.hits),
    "hit_rate": lambda lists: metrics.hit_rate(lists.hits),
    "mrr": lambda lists: metrics.mrr(lists.hits),
    "auc": lambda lists: lists.auc,
    "coverage": lambda lists: metrics.coverage(lists.items, lists.num_candidates),
    "novelty": _novelty,
    "diversity": _diversity,
    "popularity_bias": _popularity_bias,
}
"""All metrics by name. All but ``auc`` are of the first k places."""


def named_metrics(wanted: Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by name, in the order given; a function goes by its own name.

    Raises:
        TypeError: a metric is neither a name nor a function.
        ValueError: a name is unknown, comes twice, or is that of another column of a report.
    """
    if isinstance(wanted, str):
        raise TypeError(f"metrics must be a list of names or functions, got {wanted!r}")
    taken = set(Row._fields) - set(METRICS)
    found: dict[str, Metric] = {}
    for one in wanted:
        if not isinstance(one, str) and not callable(one):
            raise TypeError(f"a metric is a name or a function of Lists, got {one!r}")
        name = one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__)
        if isinstance(one, str) and one not in METRICS:
            raise ValueError(f"no metric is named {one!r}; known: {', '.join(METRICS)}")
        if name in found or name in taken:
            why = "comes twice" if name in found else "is a column of every report"
            raise ValueError(f"the metric {name!r} {why}; give a function another __name__")
        found[name] = METRICS[one] if isinstance(one, str) else one
    return found


def means(lists: Lists, wanted: Mapping[str, Metric]) -> dict[str, float]:
    """Each metric, its mean over the users who have a value; NaN where nobody has one.

    Raises:
        ValueError: a metric returns neither one number nor one per user.
    """
    out = {}
    for name, metric in wanted.items():
        values = np.asarray(metric(lists), dtype=np.float64)
        if values.shape not in ((), lists.users.shape):
            raise ValueError(
                f"metric {name!r} must return one number, or one for each of the "
                f"{len(lists.users)} users, got the shape {list(values.shape)}"
            )
        values = values[~np.isnan(values)]
        out[name] = float(values.mean()) if values.size else float("nan")
    return out
