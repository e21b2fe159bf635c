"""Scorers put to the test: one task at a time, in bounded memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from coldstart.leaks import refuse_leaks
from coldstart.measures import Background, Lists, Metric, means, named_metrics
from coldstart.metrics import auc, ndcg, recall, top_k
from coldstart.report import Report, Row
from coldstart.scorer import Scorer
from coldstart.segments import NINE, spoken
from coldstart.splits import TEST, VAL, Split, Task
from coldstart.training_data import Settings, TrainingData
from kg.graph import KnowledgeGraph
from kg.vectors import NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.engine import EngineConfig

log = logging.getLogger(__name__)

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
    for scores, truth, excluded in _blocks(scorer, task):
        if cold_boost:
            scores = scores + np.float32(cold_boost) * task.cold
        best = top_k(scores, k)
        filled = ~np.take_along_axis(excluded, best, axis=1)
        items.append(np.where(filled, task.candidates[best], -1).astype(np.int32))
        hits.append(np.take_along_axis(truth, best, axis=1))
        if with_auc:
            areas.append(auc(scores, truth, excluded))
    together = np.concatenate(items), np.concatenate(hits)
    degrees, number = task.relevant.degrees, len(task.candidates)
    return Lists(task.users, *together, degrees, number, np.concatenate(areas))


def calibrate_cold_boost(scorer: Scorer, task: Task, *, k: int = K) -> float:
    """The lift of cold items with the best NDCG@k on a (validation) task of mixed candidates.

    Tried are 49 lifts from -8 to 8 standard deviations of the scores.

    Raises:
        ValueError: the task has no users.
    """
    return _calibrated(scorer, task, k)[0]


def _calibrated(scorer: Scorer, task: Task, k: int) -> tuple[float, float]:
    """The best lift and its NDCG."""
    _require_users(task)
    spread = float(np.std(scorer.score(task.users[:200], task.candidates))) or 1.0
    boosts = _BOOSTS * spread
    quality = [r.mean()["ndcg"] for r in _evaluate_boosts(scorer, task, k, boosts)]
    best = int(np.argmax(quality))
    return float(boosts[best]), quality[best]


def _require_users(task: Task) -> None:
    if not len(task.users):
        raise ValueError(f"the {task.part} part of {task.segment} has no users to judge by")


def _evaluate_boosts(scorer: Scorer, task: Task, k: int, boosts: np.ndarray) -> list[Result]:
    """NDCG and recall under each of several lifts, every pair being scored once."""
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in boosts]
    for scores, truth, _ in _blocks(scorer, task):
        degrees = truth.sum(axis=1)
        for boost, found in zip(boosts, parts, strict=True):
            lifted = scores + np.float32(boost) * task.cold if boost else scores
            hits = np.take_along_axis(truth, top_k(lifted, k), axis=1)
            found.append((ndcg(hits, degrees), recall(hits, degrees)))
    empty = [(np.empty(0), np.empty(0))]
    by_boost = (zip(*(found or empty), strict=True) for found in parts)
    return [Result(np.concatenate(gains), np.concatenate(shares)) for gains, shares in by_boost]


def _blocks(scorer: Scorer, task: Task) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores, what is relevant and what is excluded, for some users and all candidates at a time.

    Excluded candidates score minus infinity.
    """
    step = max(1, _BLOCK_SCORES // max(len(task.candidates), 1))
    for start in range(0, len(task.users), step):
        rows = np.arange(start, min(start + step, len(task.users)))
        scores = np.array(scorer.score(task.users[rows], task.candidates), dtype=np.float32)
        masks = []
        for positions in (task.relevant.take(rows), task.excluded.take(rows)):
            mask = np.zeros(scores.shape, bool)
            mask[positions.sources, positions.indices] = True
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
    short = {name: _calibrated(settings[name](), lifted, k) for name in best[:SHORTLIST]}
    name = max(short, key=lambda name: short[name][1])
    return name, settings[name](), short[name][0]


Maker = Callable[[TrainingData], Scorer | Settings]
"""Fits a scorer, or a grid of them, on the training part of a split."""


def engine_maker(config: EngineConfig | None = None, rng: int = 0) -> Maker:
    """The engine as :func:`evaluate` takes it; its one configuration serves all segments.

    The lift of cold items is left to :func:`evaluate`, which calibrates it for every scorer alike.
    """

    def fit(data: TrainingData) -> Scorer:
        from coldstart.engine import ColdStartEngine

        scorer = ColdStartEngine.fit(data.graph, config, texts=data.texts, rng=rng).scorer
        return replace(scorer, item_bias=np.zeros_like(scorer.item_bias))

    return fit


def evaluate(
    graph: KnowledgeGraph,
    scorers: Mapping[str, Maker],
    splits: Sequence[Split],
    *,
    texts: Mapping[str, NodeEmbeddings] | None = None,
    segments: Mapping[str, Collection[str]] | Collection[str] = ("cold_items", "warm", "mixed"),
    metrics: Sequence[str | Metric] = ("ndcg", "recall"),
    uncalibrated: Collection[str] = (),
    k: int = K,
    check_leaks: bool = True,
    progress: Callable[[str], None] = log.info,
) -> Report:
    """Test quality of several scorers on several splits.

    Everything is fitted on the training part of a split. A maker that returns a grid of settings
    is represented by the one with the best NDCG on the validation part of the segment at hand. In
    the mixed segment the lift of cold items is calibrated on its validation part, for every scorer
    alike, and for a grid on the eight settings that are best on the validation part's cold items.

    Args:
        graph: with all interactions; a scorer only sees the training graph.
        scorers: makers by name.
        splits: from :func:`coldstart.splits.random_split` or ``read_splits``.
        texts: text vectors by node type, made from node texts only, never from interactions; the
            default encoder's where they are not given.
        segments: which segments to judge; a mapping says which scorers take part in each. Of the
            nine (``segments=NINE`` of :mod:`coldstart.segments`) those that a split cannot judge,
            for want of users, are left out; of the others that is an error.
        metrics: what to report: names out of :data:`coldstart.measures.METRICS` (ndcg, recall,
            precision, hit_rate, mrr, auc, coverage, novelty, diversity, popularity_bias), or
            functions of :class:`coldstart.measures.Lists`. NDCG and recall always are.
        uncalibrated: scorers that bring a lift of their own, which is judged as it is.
        k: list length.
        check_leaks: refuse a graph whose edges or texts tell held-out pairs; the rules are those of
            :func:`coldstart.leaks.find_leaks`. What ``texts`` were made from cannot be seen.
        progress: called with a sentence after every fit.

    Raises:
        LeakError: the graph tells held-out pairs, with the offending rows.
        TypeError: a maker is not a function, a metric neither a name nor a function.
        ValueError: a metric is unknown, or a segment has no users to judge by.
    """
    if not isinstance(segments, Mapping):
        segments = {segment: tuple(scorers) for segment in segments}
    named_metrics(metrics)  # mistakes are told before anything is encoded or trained
    for split in splits if check_leaks else ():
        refuse_leaks(graph, split)
    if texts is None:
        from encoders.embed import embed_nodes

        types = [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]
        texts = embed_nodes(graph, None, types)
    rows: list[Row] = []
    for split in splits:
        data = TrainingData(split.training_graph(graph), texts)
        judge = Judge(split, k, tuple(metrics), Background.of(data))
        fitted: dict[str, Scorer | Settings] = {}
        for segment, names in segments.items():
            if segment in NINE and (lacking := judge.nobody_in(segment)):
                progress(f"{split.name}, {spoken(segment)}: left out, nobody to {lacking} with")
                continue
            for name in names:
                if not callable(scorers[name]):
                    raise TypeError(
                        f"scorer {name!r} must be a function from TrainingData to a scorer, fitted "
                        f"anew on every split, got {type(scorers[name]).__name__}; a scorer that "
                        "needs no training is lambda data: scorer"
                    )
                if name not in fitted:
                    start = time.perf_counter()
                    fitted[name] = scorers[name](data)
                    progress(f"{split.name}: {name} in {time.perf_counter() - start:.1f} s")
                if fitted[name] or not isinstance(fitted[name], Mapping):
                    calibrated = segment == "mixed" and name not in uncalibrated
                    rows.append(judge.row(name, fitted[name], segment, calibrated))
            found = {
                r.scorer: f"{r.ndcg:.4f}"
                for r in rows
                if (r.split, r.segment) == (split.name, segment)
            }
            progress(f"{split.name}, {segment}: {found}")
    return Report(tuple(rows), k)


@dataclass(frozen=True, eq=False)
class Judge:
    """Puts scorers that were fitted on one split to the test.

    Args:
        split: has the tasks.
        k: list length.
        metrics: what to report besides NDCG and recall.
        background: what was known at training.
    """

    split: Split
    k: int
    metrics: Sequence[str | Metric]
    background: Background

    def nobody_in(self, segment: str) -> str:
        """``validate`` or ``test`` where a segment has no users for it, else empty."""
        for part, verb in ((VAL, "validate"), (TEST, "test")):
            if not len(self.split.task(segment, part).users):
                return verb
        return ""

    def row(
        self, name: str, fitted: Scorer | Settings, segment: str, calibrated: bool = False
    ) -> Row:
        """What a scorer, or the setting of a grid that validation chooses, does on a segment.

        Args:
            name: of the scorer.
            fitted: on the training part of the split.
            segment: see :meth:`coldstart.splits.Split.task`.
            calibrated: whether the lift of cold items is chosen on the validation part.

        Raises:
            ValueError: the validation or the test part has no users.
        """
        validation, test = self.split.task(segment, VAL), self.split.task(segment, TEST)
        for task in (validation, test):
            if not len(task.users):
                raise ValueError(
                    f"{self.split.name}: no user has a positive in the {task.part} part of "
                    f"{segment}; choose other segments, or a split with more cold nodes or "
                    "held-out pairs"
                )
        k = self.k
        if not isinstance(fitted, Mapping):
            setting, scorer = "", fitted
            boost = calibrate_cold_boost(scorer, validation, k=k) if calibrated else 0.0
        elif calibrated:
            setting, scorer, boost = choose(
                fitted, self.split.task("cold_items", VAL), lifted=validation, k=k
            )
        else:
            setting, scorer, boost = choose(fitted, validation, k=k)
        on_validation = evaluate_task(scorer, validation, k=k, cold_boost=boost).mean()
        on_test = evaluate_task(
            scorer,
            test,
            k=k,
            cold_boost=boost,
            metrics=self.metrics,
            background=self.background,
        )
        return Row(
            name,
            segment,
            self.split.name,
            **on_test.mean(),
            validation=on_validation["ndcg"],
            users=len(test.users),
            setting=setting,
            cold_boost=boost,
            metrics=on_test.metrics,
        )
