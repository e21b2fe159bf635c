"""Scorers put to the test: one task at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coldstart.metrics import ndcg, recall, top_k
from coldstart.scorer import Scorer
from coldstart.splits import Task

K = 20
"""Length of the lists that are judged."""

_BLOCK_SCORES = 2**23
_BOOSTS = np.concatenate([-np.geomspace(8, 0.02, 24), [0.0], np.geomspace(0.02, 8, 24)])


@dataclass(frozen=True, eq=False)
class Result:
    """Metrics of every user of a task.

    Args:
        ndcg: ``[num_users]``.
        recall: ``[num_users]``.
    """

    ndcg: np.ndarray
    recall: np.ndarray

    def mean(self) -> dict[str, float]:
        """Mean over the users, NaN where there are none."""
        if not len(self.ndcg):
            return {"ndcg": float("nan"), "recall": float("nan")}
        return {"ndcg": float(self.ndcg.mean()), "recall": float(self.recall.mean())}


def evaluate_task(scorer: Scorer, task: Task, *, k: int = K, cold_boost: float = 0.0) -> Result:
    """NDCG and recall of every user of a task.

    Args:
        scorer: what ranks.
        task: users, candidates and right answers.
        k: list length.
        cold_boost: added to the score of every cold candidate.
    """
    step = max(1, _BLOCK_SCORES // max(len(task.candidates), 1))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(task.users), step):
        rows = np.arange(start, min(start + step, len(task.users)))
        scores = np.array(scorer.score(task.users[rows], task.candidates), dtype=np.float32)
        if cold_boost:
            scores[:, task.cold] += cold_boost
        excluded, relevant = task.excluded.take(rows), task.relevant.take(rows)
        scores[excluded.sources, excluded.indices] = -np.inf
        truth = np.zeros(scores.shape, bool)
        truth[relevant.sources, relevant.indices] = True
        hits = np.take_along_axis(truth, top_k(scores, k), axis=1)
        parts.append((ndcg(hits, relevant.degrees), recall(hits, relevant.degrees)))
    if not parts:
        return Result(np.empty(0), np.empty(0))
    return Result(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def calibrate_cold_boost(scorer: Scorer, task: Task) -> float:
    """The lift of cold items with the best NDCG on a (validation) task of mixed candidates.

    Tried are 49 lifts from -8 to 8 standard deviations of the scores.
    """
    sample = scorer.score(task.users[:200], task.candidates)
    spread = float(np.std(sample)) or 1.0
    boosts = _BOOSTS * spread
    quality = [evaluate_task(scorer, task, cold_boost=float(b)).mean()["ndcg"] for b in boosts]
    return float(boosts[int(np.argmax(quality))])


def choose(settings: Mapping[str, Callable[[], Scorer]], task: Task) -> tuple[str, Scorer, float]:
    """The setting with the best NDCG on a validation task: its name, scorer and NDCG there."""
    best: tuple[str, Scorer, float] | None = None
    for name, make in settings.items():
        scorer = make()
        quality = evaluate_task(scorer, task).mean()["ndcg"]
        if best is None or quality > best[2]:
            best = name, scorer, quality
    if best is None:
        raise ValueError("there is no setting to choose from")
    return best
