"""Scorers put to the test: one task at a time, in bounded memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from coldstart.metrics import ndcg, recall, top_k
from coldstart.report import Report, Row
from coldstart.scorer import Scorer
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
    return _evaluate_boosts(scorer, task, k, np.array([cold_boost]))[0]


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
    """The metrics under each of several lifts, every pair being scored once."""
    step = max(1, _BLOCK_SCORES // max(len(task.candidates), 1))
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in boosts]
    for start in range(0, len(task.users), step):
        rows = np.arange(start, min(start + step, len(task.users)))
        scores = np.array(scorer.score(task.users[rows], task.candidates), dtype=np.float32)
        excluded, relevant = task.excluded.take(rows), task.relevant.take(rows)
        scores[excluded.sources, excluded.indices] = -np.inf
        truth = np.zeros(scores.shape, bool)
        truth[relevant.sources, relevant.indices] = True
        for boost, found in zip(boosts, parts, strict=True):
            lifted = scores + np.float32(boost) * task.cold if boost else scores
            hits = np.take_along_axis(truth, top_k(lifted, k), axis=1)
            found.append((ndcg(hits, relevant.degrees), recall(hits, relevant.degrees)))
    empty = [(np.empty(0), np.empty(0))]
    return [
        Result(*(np.concatenate(p) for p in zip(*(found or empty), strict=True))) for found in parts
    ]


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
    uncalibrated: Collection[str] = (),
    k: int = K,
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
        segments: which segments to judge; a mapping says which scorers take part in each.
        uncalibrated: scorers that bring a lift of their own, which is judged as it is.
        k: list length.
        progress: called with a sentence after every fit.

    Raises:
        TypeError: a maker is not a function.
        ValueError: a segment has no users to judge by.
    """
    if not isinstance(segments, Mapping):
        segments = {segment: tuple(scorers) for segment in segments}
    if texts is None:
        from encoders.embed import embed_nodes

        types = [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]
        texts = embed_nodes(graph, None, types)
    rows: list[Row] = []
    for split in splits:
        data = TrainingData(split.training_graph(graph), texts)
        fitted: dict[str, Scorer | Settings] = {}
        for segment, names in segments.items():
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
                    rows.append(_judged(name, fitted[name], split, segment, k, calibrated))
            found = {
                r.scorer: f"{r.ndcg:.4f}"
                for r in rows
                if (r.split, r.segment) == (split.name, segment)
            }
            progress(f"{split.name}, {segment}: {found}")
    return Report(tuple(rows), k)


def _judged(
    name: str, fitted: Scorer | Settings, split: Split, segment: str, k: int, calibrated: bool
) -> Row:
    validation, test = split.task(segment, VAL), split.task(segment, TEST)
    for task in (validation, test):
        if not len(task.users):
            raise ValueError(
                f"{split.name}: no user has a positive in the {task.part} part of {segment}; "
                "choose other segments, or a split with more cold nodes or held-out pairs"
            )
    if not isinstance(fitted, Mapping):
        setting, scorer = "", fitted
        boost = calibrate_cold_boost(scorer, validation, k=k) if calibrated else 0.0
    elif calibrated:
        setting, scorer, boost = choose(
            fitted, split.task("cold_items", VAL), lifted=validation, k=k
        )
    else:
        setting, scorer, boost = choose(fitted, validation, k=k)
    on_validation = evaluate_task(scorer, validation, k=k, cold_boost=boost).mean()
    on_test = evaluate_task(scorer, test, k=k, cold_boost=boost).mean()
    return Row(
        name,
        segment,
        split.name,
        on_test["ndcg"],
        on_test["recall"],
        on_validation["ndcg"],
        len(test.users),
        setting,
        boost,
    )
