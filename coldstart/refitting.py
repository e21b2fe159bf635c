"""A new engine from everything heard since, and the gate it must pass to replace the old one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from coldstart.feedback import FeedbackEvent
from coldstart.metrics import ndcg
from kg.delta import GraphDelta
from kg.graph import KnowledgeGraph
from kg.vectors import Key
from kg.wording import counted

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

LEAST_HELD_OUT = 10
"""With fewer held-out interactions nothing can be said, and the old engine stays."""

_MOST_COMPARED = 500


@dataclass(frozen=True, eq=False)
class Refit:
    """What a refit came to.

    Args:
        engine: the new one where it was promoted, else the old one as it was.
        promoted: whether it is the new one.
        reason: why or why not, in a sentence.
        held_out: positives of the last days that came by feedback, which both were tested on.
        users: who gave them.
        old_ndcg: of the old engine without them, mean over these users.
        new_ndcg: of a new engine trained without them.
        difference: new less old, mean over these users; NaN where nothing was compared.
        error: its standard error.
        changes: what is new, by name: numbers of warm users and items and of positives before and
            after, and the share of the first ten recommendations that stay.
    """

    engine: ColdStartEngine
    promoted: bool
    reason: str
    held_out: int
    users: int
    old_ndcg: float
    new_ndcg: float
    difference: float
    error: float
    changes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(replace(self, engine=None))  # pyright: ignore

    def __str__(self) -> str:
        lines = [self.reason, *(f"  {name}: {value}" for name, value in self.changes.items())]
        return "\n".join(lines)


def refit(
    engine: ColdStartEngine,
    events: Iterable[FeedbackEvent] = (),
    *,
    days: float = 7.0,
    tolerance: float = 0.0,
    k: int = 20,
    rng: int = 0,
    device: str = "auto",
) -> Refit:
    """Train on the graph as it is now, unless that is worse on the last days.

    Both are tested on the positives that feedback brought in the last ``days``: the old engine
    after they are taken away from it, a new one trained without them. The winner is then trained on
    all there is. An old engine that was fitted after these days began has an advantage, since its
    weights saw some of them; so the gate errs on its side. What was heard is kept, so that clicks
    go on fading and can be undone.

    Args:
        engine: the one in use.
        events: of the log, those the engine has not heard yet; what it heard is not counted twice.
        days: that are held out, counted back from the last event.
        tolerance: NDCG that a new engine may lose and still be promoted.
        k: length of the lists.
        rng: seed of the training.
        device: as for :meth:`ColdStartEngine.fit`.

    Raises:
        ValueError: ``days`` is no positive number.
    """
    from coldstart.engine import ColdStartEngine

    if not (isinstance(days, Real) and days > 0):
        raise ValueError(f"days must be a positive number, got {days!r}")
    if events := list(events):
        engine = engine.feedback(events).engine
    held_out, last = _held_out(engine, days)
    num_users = len({user for user, _ in held_out})

    def decided(
        promoted: bool, reason: str, old: float, new: float, difference: float, error: float
    ) -> Refit:
        found, changes = engine, _changes(engine, engine)
        if promoted:
            found = replace(fitted(engine.graph), heard=engine.heard)
            changes = _changes(engine, found)
        return Refit(
            found, promoted, reason, len(held_out), num_users, old, new, difference, error, changes
        )

    def fitted(graph: KnowledgeGraph) -> ColdStartEngine:
        return ColdStartEngine.fit(
            graph,
            engine.config,
            encoder=engine.encoder,
            texts=engine.texts,
            graph_encoders=engine.graph_encoders,
            vectors=engine.vectors,
            cache=engine.cache,
            rng=rng,
            device=device,
        )

    nan, tested = float("nan"), counted(len(held_out), "positive")
    if len(held_out) < LEAST_HELD_OUT:
        came = "no feedback was heard"
        if last is not None:
            came = f"{tested} came in the {days:g} days before {last:.0f}"
        reason = f"kept the old engine: {came}, at least {LEAST_HELD_OUT} are needed to compare"
        return decided(False, reason, nan, nan, nan, nan)
    past = engine.update(_without(engine, held_out))
    old, new = (_ndcg(e, held_out, k) for e in (past, fitted(past.graph)))
    gains = new - old
    mean, error = float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5)
    if len(gains) == 1:
        error = nan
    promoted = mean >= -tolerance
    compared = f"NDCG@{k} {new.mean():.4f} after {old.mean():.4f} ({mean:+.4f} ± {error:.4f})"
    verdict = "promoted the new engine" if promoted else "kept the old engine"
    reason = f"{verdict}: {compared} on {tested} of the last {days:g} days"
    return decided(promoted, reason, float(old.mean()), float(new.mean()), mean, error)


def _held_out(engine: ColdStartEngine, days: float) -> tuple[list[tuple[Key, Key]], float | None]:
    """Positive pairs that feedback brought in the last days, and when the last event was."""
    last = max((e.time for e in engine.heard.events()), default=None)
    if last is None:
        return [], None
    start = last - days * engine.config.feedback.day
    graph = engine.graph
    positive = set(zip(*graph.positives().tolist(), strict=True))
    found = []
    for user, pairs in engine.heard.users.items():
        for item, pair in pairs.items():
            newest = max((e.time for e in pair.live()), default=-np.inf)
            rows = graph.users.row(user), graph.items.row(item)
            if pair.before is None and newest >= start and rows in positive:
                found.append((user, item))
    return found, last


def _without(engine: ColdStartEngine, pairs: list[tuple[Key, Key]]) -> GraphDelta:
    users, items = zip(*pairs, strict=True)
    ends = {"source": list(users), "target": list(items)}
    return GraphDelta(removed_edges={engine.graph.schema.interaction: ends})


def _ndcg(engine: ColdStartEngine, held_out: list[tuple[Key, Key]], k: int) -> np.ndarray:
    """NDCG of each user with a held-out positive, by key, ``[num_users]``."""
    wanted: dict[Key, set[Key]] = {}
    for user, item in held_out:
        wanted.setdefault(user, set()).add(item)
    users = sorted(wanted, key=str)
    found = engine.recommend(users, k, evidence=False)
    places = {engine.graph.users.row(user): at for at, user in enumerate(users)}
    hits = np.zeros((len(users), k), bool)
    for user, item, rank in zip(
        found.user_rows.tolist(), found.item_rows.tolist(), found.ranks.tolist(), strict=True
    ):
        at = places[user]
        hits[at, rank - 1] = engine.graph.items[item] in wanted[users[at]]
    return ndcg(hits, np.array([len(wanted[user]) for user in users]))


def _changes(old: ColdStartEngine, new: ColdStartEngine) -> dict[str, Any]:
    users = list(old.graph.users)[:_MOST_COMPARED]
    lists = []
    for engine in (old, new):
        found = engine.recommend(users, 10, evidence=False)
        lists.append(set(zip(found.user_rows.tolist(), found.item_rows.tolist(), strict=True)))
    before, after = lists
    return {
        "warm users": [len(old.users.warm), len(new.users.warm)],
        "warm items": [len(old.items.warm), len(new.items.warm)],
        "positives": int(new.graph.positives().shape[1]),
        "dimensions": [old.dim, new.dim],
        "cold boost": [round(old.cold_boost, 4), round(new.cold_boost, 4)],
        "first ten that stay": round(len(before & after) / max(len(before), 1), 4),
    }
