"""Scorers put to the test: one task at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from coldstart.measures import Background, Lists, Metric, means, named_metrics
from coldstart.metrics import auc, ndcg, recall, top_k
from coldstart.scorer import Scorer
from coldstart.splits import Task
from coldstart.training_data import Settings

K = 20
"""Length of the lists that are judged."""

SHORTLIST = 8
"""So many settings of a grid are calibrated for the mixed segment."""

_BLOCK_SCORES = 2**23
_BOOSTS = np.concatenate([-np.geomspace(8, 0.02, 24), [0.0], np.geomspace(0.02, 8, 24)])


@dataclass(frozen=True, eq=False)
class Result:
    """Metrics of every user of a task.

    Args:
        ndcg: ``[num_users]``.
        recall: ``[num_users]``.
        metrics: means of the metrics that were asked for.
    """

    ndcg: np.ndarray
    recall: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)

    def mean(self) -> dict[str, float]:
        """Mean over the users, NaN where there are none."""
        if not len(self.ndcg):
            return {"ndcg": float("nan"), "recall": float("nan")}
        return {"ndcg": float(self.ndcg.mean()), "recall": float(self.recall.mean())}


def evaluate_task(
    scorer: Scorer,
    task: Task,
    *,
    k: int = K,
    cold_boost: float = 0.0,
    metrics: Sequence[str | Metric] = (),
    background: Background | None = None,
) -> Result:
    """NDCG and recall of every user of a task, and the means of further metrics.

    Args:
        scorer: what ranks.
        task: users, candidates and right answers.
        k: list length.
        cold_boost: added to the score of every cold candidate.
        metrics: names out of :data:`coldstart.measures.METRICS`, or functions of its ``Lists``.
        background: for metrics that look at what was known at training.
    """
    wanted = named_metrics(metrics)
    lists = ranked_lists(scorer, task, k=k, cold_boost=cold_boost, with_auc="auc" in wanted)
    lists = replace(lists, background=background)
    found = ndcg(lists.hits, lists.num_relevant), recall(lists.hits, lists.num_relevant)
    return Result(*found, means(lists, wanted))


def ranked_lists(
    scorer: Scorer, task: Task, *, k: int = K, cold_boost: float = 0.0, with_auc: bool = False
) -> Lists:
    """The lists that a scorer puts before the users of a task; scores are kept for a block only.

    Args:
        scorer: what ranks.
        task: users, candidates and right answers.
        k: list length.
        cold_boost: added to the score of every cold candidate.
        with_auc: also work out every user's AUC, which takes the ranks of all candidates.
    """
    width = min(k, len(task.candidates))
    items, hits = [np.empty((0, width), np.int32)], [np.empty((0, width), bool)]
    areas = [np.empty(0)]
    order = _order(task)
    candidates, cold = task.candidates[order], task.cold[order]
    for scores, truth, excluded in _blocks(scorer, task, order):
        if cold_boost:
            scores = scores + np.float32(cold_boost) * cold
        best = top_k(scores, k)
        filled = ~np.take_along_axis(excluded, best, axis=1)
        items.append(np.where(filled, candidates[best], -1).astype(np.int32))
        hits.append(np.take_along_axis(truth, best, axis=1))
        if with_auc:
            areas.append(auc(scores, truth, excluded))
    together = np.concatenate(items), np.concatenate(hits)
    degrees, number = task.relevant.degrees, len(task.candidates)
    return Lists(task.users, *together, degrees, number, np.concatenate(areas))


def calibrate_cold_boost(scorer: Scorer, task: Task, *, k: int = K) -> float:
    """The lift of cold items with the best NDCG@k on a (validation) task of mixed candidates.

    Tried are 49 lifts from -8 to 8 standard deviations of the scores.

    Args:
        scorer: what ranks.
        task: of mixed candidates.
        k: list length.

    Raises:
        ValueError: the task has no users.
    """
    return calibrate_on_several([(scorer, task)], k=k)


def calibrate_on_several(
    simulations: Sequence[tuple[Scorer, Task]],
    *,
    k: int = K,
    shares: Sequence[np.ndarray] | None = None,
) -> float:
    """The lift with the best NDCG@k over the users of several tasks, each with its scorer.

    See :func:`calibrate_cold_boost`; the scores of the first tell how far lifts go.

    Args:
        simulations: scorers and tasks of mixed candidates.
        k: list length.
        shares: how much of a lift every user of a task gets, float32 ``[num_users]`` per task; all
            of it by default.

    Raises:
        ValueError: there is no task, or one has no users.
    """
    return _calibrated(simulations, k, shares)[0]


def _calibrated(
    simulations: Sequence[tuple[Scorer, Task]],
    k: int,
    shares: Sequence[np.ndarray] | None = None,
) -> tuple[float, float]:
    """The best lift and its NDCG."""
    if not simulations:
        raise ValueError("expected at least one scorer with a task, got none")
    for _, task in simulations:
        _require_users(task)
    scorer, task = simulations[0]
    spread = float(np.std(scorer.score(task.users[:200], task.candidates))) or 1.0
    boosts = _BOOSTS * spread
    total, num_users = np.zeros(len(boosts)), 0
    for at, (scorer, task) in enumerate(simulations):
        share = None if shares is None else shares[at]
        total += [r.ndcg.sum() for r in evaluate_boosts(scorer, task, k, boosts, share)]
        num_users += len(task.users)
    best = int(np.argmax(total))
    return float(boosts[best]), float(total[best]) / num_users


def _require_users(task: Task) -> None:
    if not len(task.users):
        raise ValueError(f"the {task.part} part of {task.segment} has no users to judge by")


def evaluate_boosts(
    scorer: Scorer, task: Task, k: int, boosts: np.ndarray, share: np.ndarray | None = None
) -> list[Result]:
    """NDCG and recall under each of several lifts, every pair being scored once.

    A lift keeps the order of the cold and that of the others, so that only the best of both matter.

    Args:
        scorer: what ranks.
        task: of mixed candidates.
        k: list length.
        boosts: lifts of cold candidates.
        share: how much of it every user gets, float32 ``[num_users]``; all of it by default.
    """
    share = np.ones(len(task.users), np.float32) if share is None else share
    order, start = _order(task), 0
    is_cold = task.cold[order]
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in boosts]
    sides = np.flatnonzero(is_cold), np.flatnonzero(~is_cold)
    for scores, truth, _ in _blocks(scorer, task, order):
        degrees = truth.sum(axis=1)
        best = [side[top_k(scores[:, side], k)] for side in sides if len(side)]
        some = np.sort(np.concatenate(best, axis=1), axis=1)  # equal scores keep their order
        scores, truth = (np.take_along_axis(x, some, axis=1) for x in (scores, truth))
        cold, mine = is_cold[some], share[start : start + len(scores)]
        start += len(scores)
        for boost, found in zip(boosts, parts, strict=True):
            lifted = scores
            if boost:
                lifted = scores + np.float32(boost) * mine[:, None] * cold
            hits = np.take_along_axis(truth, top_k(lifted, k), axis=1)
            found.append((ndcg(hits, degrees), recall(hits, degrees)))
    empty = [(np.empty(0), np.empty(0))]
    by_boost = (zip(*(found or empty), strict=True) for found in parts)
    return [Result(np.concatenate(gains), np.concatenate(shares)) for gains, shares in by_boost]


def _order(task: Task) -> np.ndarray:
    """An order of the candidates that tells nothing, the same in every run.

    Equal scores keep it. Rows often come by popularity, since nodes of a type without a table come
    from the interactions, and those held out are among these: in such an order a scorer that tells
    nothing of new items would be found better than chance.
    """
    return np.random.default_rng(0).permutation(len(task.candidates))


def _blocks(
    scorer: Scorer, task: Task, order: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores, what is relevant and what is excluded, for some users and all candidates at a time.

    The candidates come in the order that is given. Excluded candidates score minus infinity.
    """
    step = max(1, _BLOCK_SCORES // max(len(task.candidates), 1))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    for start in range(0, len(task.users), step):
        rows = np.arange(start, min(start + step, len(task.users)))
        scores = scorer.score(task.users[rows], task.candidates)
        scores = np.asarray(scores, dtype=np.float32)[:, order]
        masks = []
        for positions in (task.relevant.take(rows), task.excluded.take(rows)):
            mask = np.zeros(scores.shape, bool)
            mask[positions.sources, place[positions.indices]] = True
            masks.append(mask)
        scores[masks[1]] = -np.inf
        yield scores, masks[0], masks[1]


def choose(
    settings: Settings, task: Task, *, lifted: Task | None = None, k: int = K
) -> tuple[str, Scorer, float]:
    """The setting that is best on validation: its name, scorer and lift of cold items.

    Args:
        settings: a grid.
        task: ranks the settings by NDCG@k.
        lifted: a task of mixed candidates; the best by its NDCG under the lift that is calibrated
            there, among the ``SHORTLIST`` best of ``task``.
        k: list length.

    Raises:
        ValueError: there is no setting, or a task has no users.
    """
    _require_users(task)
    if not settings:
        raise ValueError("there is no setting to choose from")
    quality = {n: evaluate_task(make(), task, k=k).mean()["ndcg"] for n, make in settings.items()}
    best = sorted(settings, key=lambda name: -quality[name])
    if lifted is None:
        return best[0], settings[best[0]](), 0.0
    short = {name: _calibrated([(settings[name](), lifted)], k) for name in best[:SHORTLIST]}
    name = max(short, key=lambda name: short[name][1])
    return name, settings[name](), short[name][0]
