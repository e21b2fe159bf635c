"""Metrics as pure functions of hits, or of ratings: no model in sight."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

_BLOCK_VALUES = 2**22


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the ``k`` best scores of each row, best first; NaN last.

    Args:
        scores: float ``[num_users, num_items]``; higher is better.
        k: list length, at least 1; capped at ``num_items``.

    Returns:
        int64 ``[num_users, min(k, num_items)]``. Equal scores keep item order, so runs repeat.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    k = min(k, scores.shape[1])
    keys = np.where(np.isnan(scores), -np.inf, scores)
    if k < scores.shape[1]:
        # Everything at least as good as the k-th best, so that ties are cut in item order.
        least = np.partition(keys, -k, axis=1)[:, -k]
        surplus = (keys >= least[:, None]).sum(axis=1) > k
        candidates = np.argpartition(-keys, k - 1, axis=1)[:, :k]
        for row in np.flatnonzero(surplus):
            better = np.flatnonzero(keys[row] > least[row])
            equal = np.flatnonzero(keys[row] == least[row])[: k - len(better)]
            candidates[row] = np.concatenate([better, equal])
        candidates.sort(axis=1)
    else:
        candidates = np.broadcast_to(np.arange(k), (len(scores), k))
    best = np.take_along_axis(keys, candidates, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1).astype(np.int64)


def ndcg(hits: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain of each list with binary relevance, ``[num_users]``.

    Args:
        hits: bool ``[num_users, k]``, whether the item at each place is relevant, best first.
        num_relevant: int ``[num_users]``, relevant items among the candidates, at least 1.

    Source: Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques, with
    the discount log2(rank + 1).
    """
    discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[0], np.cumsum(discount)])
    return (hits @ discount) / ideal[np.minimum(num_relevant, hits.shape[1])]


def recall(hits: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """Share of the relevant items that are in each list, ``[num_users]``, between 0 and 1."""
    return hits.sum(axis=1) / num_relevant


def precision(hits: np.ndarray) -> np.ndarray:
    """Share of the places of each list that hold a relevant item, ``[num_users]``.

    A place that could not be filled counts as a miss.
    """
    return hits.sum(axis=1) / max(hits.shape[1], 1)


def hit_rate(hits: np.ndarray) -> np.ndarray:
    """1 for each list with a relevant item, else 0, ``[num_users]``."""
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def mrr(hits: np.ndarray) -> np.ndarray:
    """1 / rank of the first relevant item of each list, 0 where there is none, ``[num_users]``."""
    worth = hits / np.arange(1, hits.shape[1] + 1)
    return np.asarray(worth.max(axis=1, initial=0.0))


def auc(scores: np.ndarray, relevant: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Chance that a relevant candidate scores above one that is not, ties half, ``[num_users]``.

    Args:
        scores: float ``[num_users, num_candidates]``; NaN is as bad as minus infinity.
        relevant: bool of the same shape.
        excluded: bool of the same shape, candidates that are not ranked; none of them relevant.

    Returns:
        Between 0 and 1; NaN for a user all of whose candidates are relevant, or none.
    """
    worst = np.finfo(scores.dtype).min
    keys = np.maximum(np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf, posinf=np.inf), worst)
    # Below all others, where they take the lowest ranks together.
    ranks = rankdata(np.where(excluded, -np.inf, keys), axis=1) - excluded.sum(axis=1)[:, None]
    num_relevant = relevant.sum(axis=1)
    num_others = (~relevant & ~excluded).sum(axis=1)
    above = np.where(relevant, ranks, 0).sum(axis=1) - num_relevant * (num_relevant + 1) / 2
    return _ratio(above, num_relevant * num_others)


def coverage(items: np.ndarray, num_candidates: int) -> float:
    """Share of the candidates that are in anyone's list, between 0 and 1; NaN without candidates.

    Args:
        items: int ``[num_users, k]``; -1 in places that could not be filled.
        num_candidates: distinct items that could have been recommended.
    """
    return len(np.unique(items[items >= 0])) / num_candidates if num_candidates else float("nan")


def novelty(items: np.ndarray, popularity: np.ndarray, num_users: int) -> np.ndarray:
    """Mean self-information -log2 p(i) of the items of each list, in bits, ``[num_users]``.

    Args:
        items: int ``[num_users, k]``; -1 in places that could not be filled.
        popularity: users with a training interaction with each item, ``[num_items]``.
        num_users: all users with a training interaction.

    Returns:
        NaN for an empty list.

    Source: Zhou et al. (2010), Solving the apparent diversity-accuracy dilemma of recommender
    systems. Ours counts one user more, who knows every item: p(i) = (popularity + 1) / (num_users +
    1), as an item that nobody knows would be infinitely novel.
    """
    bits = -np.log2((popularity + 1) / (num_users + 1))
    return _mean_over_lists(bits, items)


def intra_list_diversity(items: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """1 - mean cosine of all pairs of different items of each list, ``[num_users]``.

    Args:
        items: int ``[num_users, k]``; -1 in places that could not be filled.
        vectors: ``[num_items, dim]``, rows of any length; the cosine with a zero row is 0.

    Returns:
        Between 0 and 2; NaN for a list with fewer than two items.

    Source: Ziegler et al. (2005), Improving recommendation lists through topic diversification.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    out = np.empty(len(items))
    step = max(1, _BLOCK_VALUES // max(items.shape[1] * vectors.shape[1], 1))
    for start in range(0, len(items), step):
        some = items[start : start + step]
        rows = np.where((some >= 0)[..., None], unit[some], 0).astype(np.float64)
        # All pairs, an item with itself among them, are the squared length of the sum.
        same = np.square(rows).sum(axis=(1, 2))
        pairs = np.square(rows.sum(axis=1)).sum(axis=1) - same
        filled = (some >= 0).sum(axis=1)
        out[start : start + step] = 1 - _ratio(pairs, filled * (filled - 1))
    return out


def popularity_bias(
    items: np.ndarray, popularity: np.ndarray, history_popularity: np.ndarray
) -> float:
    """How much more popular what is recommended is than what the users had; 1 is neither.

    Args:
        items: int ``[num_users, k]``; -1 in places that could not be filled.
        popularity: training interactions of each item, ``[num_items]``.
        history_popularity: mean ``popularity`` of each user's own training items, ``[num_users]``;
            NaN for users without any, who do not take part.

    Returns:
        Mean popularity of recommended items over that of histories, both per user first; NaN where
        nobody has a history and a list.

    Source: Abdollahpouri et al. (2019), The unfairness of popularity bias in recommendation, whose
    group average popularity of both sides we divide; they give the ratio less 1.
    """
    recommended = _mean_over_lists(popularity.astype(np.float64), items)
    both = ~(np.isnan(recommended) | np.isnan(history_popularity))
    if not both.any():
        return float("nan")
    return float(recommended[both].mean() / history_popularity[both].mean())


def _mean_over_lists(values: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Mean of a value of items over each list, NaN for an empty one."""
    filled = items >= 0
    found = np.where(filled, values[items], 0) if len(values) else np.zeros(items.shape)
    return _ratio(found.sum(axis=1), filled.sum(axis=1))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """NaN where it is not defined."""
    return np.where(under > 0, over / np.where(under > 0, under, 1), np.nan)


def rmse(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Root mean squared error of ratings, in their own scale; 0 is best.

    Raises:
        ValueError: the shapes differ, or there are no ratings.
    """
    return float(np.sqrt(np.mean(_errors(predicted, actual) ** 2)))


def mae(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Mean absolute error of ratings, in their own scale; 0 is best.

    Raises:
        ValueError: the shapes differ, or there are no ratings.
    """
    return float(np.mean(np.abs(_errors(predicted, actual))))


def _errors(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    if predicted.shape != actual.shape or not actual.size:
        raise ValueError(
            f"expected as many predictions as ratings, at least one, got {list(predicted.shape)} "
            f"and {list(actual.shape)}; give one prediction per rating"
        )
    return predicted.astype(np.float64) - actual.astype(np.float64)
