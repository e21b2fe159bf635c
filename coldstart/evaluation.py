"""Scorers compared: fitted on the training part of every split, judged on its test part."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coldstart.curves import SIDES, Point, Transposed, points_of, side_task
from coldstart.judging import K, calibrate_cold_boost, choose, evaluate_task
from coldstart.leaks import refuse_leaks
from coldstart.measures import Background, Metric, named_metrics
from coldstart.ready_vectors import Ready, aligned
from coldstart.report import Report, Row
from coldstart.scorer import CosineBiasScorer, Scorer
from coldstart.segments import NINE, spoken
from coldstart.splits import MIXED, TEST, VAL, Split, require_segment
from coldstart.training_data import Settings, TrainingData
from kg.graph import KnowledgeGraph, require_graph
from kg.vectors import NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.engine import EngineConfig

log = logging.getLogger(__name__)

Maker = Callable[[TrainingData], Scorer | Settings]
"""Fits a scorer, or a grid of them, on the training part of a split."""

Who = Mapping[str, Collection[str]] | Collection[str]
"""What is judged: names, of which all scorers take part in each, or the scorers of each name."""

LONG = 1.0
"""Seconds from which it is told how long one scorer took."""

ENGINE, OWN_LIFT = "engine", "engine, own lift"
"""The engine with its lift of cold items calibrated as everybody's is, and with the lift that its
training found ("auto")."""


def engine_maker(
    config: EngineConfig | None = None, rng: int = 0, *, own_lift: bool = False
) -> Maker:
    """The engine as :func:`evaluate` takes it; its one configuration serves all segments.

    Several makers of one configuration and seed train once per split.

    Args:
        config: of the engine.
        rng: seed of its training.
        own_lift: whether the lift of cold items is the one that its training found
            (``cold_boost="auto"``). Otherwise there is none, and :func:`evaluate` calibrates it for
            every scorer alike.
    """

    def fit(data: TrainingData) -> Scorer:
        from coldstart.engine import ColdStartEngine

        key = "engine", repr(config), rng
        if key not in data.shared:
            fitted = ColdStartEngine.fit(
                data.graph, config, texts=data.texts, vectors=data.vectors, rng=rng
            )
            data.shared[key] = fitted.scorer, replace(fitted, cold_boost=0.0).scorer
        scorers: tuple[CosineBiasScorer, CosineBiasScorer] = data.shared[key]
        return scorers[0 if own_lift else 1]

    return fit


def makers_named(names: Iterable[str], rng: int = 0) -> dict[str, Maker]:
    """Scorers by name: ``engine``, ``engine, own lift`` and all of ``BASELINES``.

    Case is ignored, and ``_``, ``-`` and commas are spaces: ``item_knn`` is ``item kNN``.

    Args:
        names: of scorers.
        rng: seed of the engine.

    Raises:
        ValueError: a name is unknown.
    """
    from coldstart.baselines import BASELINES

    known: dict[str, Maker] = {
        ENGINE: engine_maker(rng=rng),
        OWN_LIFT: engine_maker(rng=rng, own_lift=True),
        **BASELINES,
    }
    plain = {_plain(name): name for name in known}
    found = {}
    for name in names:
        if _plain(name) not in plain:
            raise ValueError(f"no scorer is named {name!r}; known: {', '.join(map(repr, known))}")
        full = plain[_plain(name)]
        found[full] = known[full]
    return found


def _plain(name: str) -> str:
    return " ".join(re.sub("[-_,]", " ", name.casefold()).split())


def evaluate(
    graph: KnowledgeGraph,
    scorers: Mapping[str, Maker] | Iterable[str],
    splits: Sequence[Split],
    *,
    texts: Mapping[str, NodeEmbeddings] | None = None,
    vectors: Ready | None = None,
    segments: Who = NINE,
    metrics: Sequence[str | Metric] = ("ndcg", "recall"),
    curves: Who = (),
    uncalibrated: Collection[str] = (OWN_LIFT,),
    k: int = K,
    check_leaks: bool = True,
    progress: Callable[[str], None] = log.info,
) -> Report:
    """Test quality of several scorers on several splits.

    Everything is fitted on the training part of a split. A maker that returns a grid of settings
    is represented by the one with the best NDCG on the validation part of the segment at hand. In
    mixed segments the lift of cold items is calibrated on their validation part, for every scorer
    alike, and for a grid on the eight settings that are best on the validation part's cold items.

    Args:
        graph: with all interactions; a scorer only sees the training graph.
        scorers: makers by name; or names alone, see :func:`makers_named`.
        splits: from :func:`coldstart.splits.random_split`, ``read_splits`` or
            :func:`coldstart.temporal.temporal_splits`.
        texts: text vectors by node type, made from node texts only, never from interactions; the
            default encoder's where they are not given.
        vectors: ready-made ones by node type and name, as in
            :meth:`coldstart.engine.ColdStartEngine.fit`; the baselines' kernels have them, too.
        segments: which segments to judge, of :data:`coldstart.splits.SEGMENTS` and of the nine,
            which is what is judged where nothing is said; a mapping says which scorers take part
            in each. Those that a split cannot judge, for want of users, are left out, which
            ``progress`` is told.
        metrics: what to report: names out of :data:`coldstart.measures.METRICS` (ndcg, recall,
            precision, hit_rate, mrr, auc, coverage, novelty, diversity, popularity_bias), or
            functions of :class:`coldstart.measures.Lists`. NDCG and recall always are.
        curves: ``users``, ``items`` or both: also NDCG by the number of training interactions of a
            node (:mod:`coldstart.curves`); a mapping says which scorers take part in each.
        uncalibrated: scorers that bring a lift of their own, which is judged as it is.
        k: list length.
        check_leaks: refuse a graph whose edges, texts or properties tell held-out pairs; the rules
            are those of :mod:`coldstart.leaks`. What ``texts`` and ``vectors`` were made from
            cannot be seen.
        progress: called with a sentence after every fit.

    Raises:
        LeakError: the graph tells held-out pairs, with the offending rows.
        AlignmentError: ``vectors`` are of another type of node than they are named by.
        TypeError: ``graph`` is none, a maker is not a function, a metric neither a name nor a
            function, or a text or a split comes in place of a list.
        ValueError: a scorer, segment, metric or curve is unknown, ``k`` is below 1, or no split
            has users to judge any segment by.
    """
    require_graph(graph, "evaluate")
    if k < 1:
        raise ValueError(f"k, the length of the lists, must be at least 1, got {k}")
    for what, given in {"scorers": scorers, "segments": segments, "curves": curves}.items():
        if isinstance(given, str):
            raise TypeError(f"{what} must be a list of names or a mapping, got the text {given!r}")
    if isinstance(splits, Split):
        raise TypeError("splits must be a list of splits, got one Split; pass [split]")
    if not isinstance(scorers, Mapping):
        scorers = makers_named(scorers)
    segments, curves = (_by_name(who, scorers) for who in (segments, curves))
    named_metrics(metrics)  # mistakes are told before anything is encoded or trained
    for segment in segments:
        require_segment(segment)
    if unknown := set(curves) - set(SIDES):
        raise ValueError(f"there is no curve by {sorted(unknown)[0]!r}; known: {', '.join(SIDES)}")
    for split in splits if check_leaks else ():
        refuse_leaks(graph, split)
    if texts is None:
        from encoders.embed import embed_nodes

        types = [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]
        texts = embed_nodes(graph, None, types)
    ready = aligned(graph, vectors or {})
    rows: list[Row] = []
    points: list[Point] = []
    left_out: list[str] = []
    for split in splits:
        data = TrainingData(split.training_graph(graph), texts, ready)
        judge = Judge(split, k, tuple(metrics), Background.of(data))
        fits = _Fits(scorers, data, split.name, progress)
        for segment, names in segments.items():
            if lacking := judge.nobody_in(segment):
                left_out.append(
                    f"{split.name}, {spoken(segment)}: left out, nobody to {lacking} with"
                )
                progress(left_out[-1])
                continue
            found = [
                judge.row(name, fitted, segment, segment in MIXED and name not in uncalibrated)
                for name, fitted in fits.of(names)
            ]
            rows += found
            quality = ", ".join(f"{row.scorer} {row.ndcg:.4f}" for row in found)
            progress(f"{split.name}, {spoken(segment)}: {quality}")
        for side, names in curves.items():
            for name, fitted in fits.of(names):
                points += judge.curve(name, fitted, side)
    if left_out and not rows:
        raise ValueError(
            f"{'; '.join(left_out)}; choose other segments, or splits with more cold nodes "
            "(random_split(cold_users=..., cold_items=...)) or held-out pairs"
        )
    return Report(tuple(rows), k, tuple(points))


def _by_name(who: Who, everybody: Iterable[str]) -> dict[str, tuple[str, ...]]:
    if isinstance(who, Mapping):
        return {name: tuple(some) for name, some in who.items()}
    return {name: tuple(everybody) for name in who}


class _Fits:
    """Scorers fitted on one split, each when it is first asked for."""

    def __init__(
        self,
        makers: Mapping[str, Maker],
        data: TrainingData,
        split: str,
        progress: Callable[[str], None],
    ) -> None:
        self.makers, self.data, self.split, self.progress = makers, data, split, progress
        self.fitted: dict[str, Scorer | Settings] = {}

    def of(self, names: Iterable[str]) -> list[tuple[str, Scorer | Settings]]:
        """The scorers with these names; a grid without a setting has nothing to say."""
        found = [(name, self._fit(name)) for name in names]
        return [(name, one) for name, one in found if one or not isinstance(one, Mapping)]

    def _fit(self, name: str) -> Scorer | Settings:
        if name not in self.makers:
            raise ValueError(
                f"no scorer is named {name!r}; given: {', '.join(map(repr, self.makers))}"
            )
        if not callable(maker := self.makers[name]):
            raise TypeError(
                f"scorer {name!r} must be a function from TrainingData to a scorer, fitted "
                f"anew on every split, got {type(maker).__name__}; a scorer that "
                "needs no training is lambda data: scorer"
            )
        if name not in self.fitted:
            start = time.perf_counter()
            self.fitted[name] = maker(self.data)
            if (seconds := time.perf_counter() - start) >= LONG:
                self.progress(f"{self.split}: {name} in {seconds:.1f} s")
        return self.fitted[name]


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

    def curve(self, name: str, fitted: Scorer | Settings, side: str) -> list[Point]:
        """NDCG of a scorer by training interactions of the nodes of a side.

        Args:
            name: of the scorer.
            fitted: on the training part of the split; a grid is represented by the setting that is
                best on validation, over all nodes of the side.
            side: ``users`` or ``items``.

        Raises:
            ValueError: the validation part has no nodes.
        """

        def turned(scorer: Scorer) -> Scorer:
            return scorer if side == "users" else Transposed(scorer)

        if isinstance(fitted, Mapping):
            makers = {name: lambda make=make: turned(make()) for name, make in fitted.items()}
            scorer = choose(makers, side_task(self.split, side, VAL), k=self.k)[1]
        else:
            scorer = turned(fitted)
        task = side_task(self.split, side)
        quality = evaluate_task(scorer, task, k=self.k).ndcg
        found = points_of(quality, task.users, self.split, side)
        return [Point(name, side, self.split.name, binned) for binned in found]
