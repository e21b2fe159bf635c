"""Metrics as pure functions of hits, or of ratings: no model in sight."""

from __future__ import annotations

import numpy as np


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
