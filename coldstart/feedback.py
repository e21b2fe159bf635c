"""What people do with recommendations: it counts at once, fades, and cannot be made to flood.

Every pair of a user and an item has one state, which follows from its events: a rating, like or
dislike counts until another one or an undo; clicks count for it and showings without a click count
against it, both fading by half in a month. A state that is positive is an interaction in the
graph, one that is negative an interaction below what counts as positive; when it fades, the pair is
again what it was before the first event. So however often one user says the same, an item gets one
interaction from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coldstart.journal import Journal, read_journal
from coldstart.temporal import is_date, require_dates
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import KnowledgeGraph
from kg.settings import check_above, check_at_least
from kg.vectors import Key

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

EXPLICIT = ("rating", "like", "dislike")
IMPLICIT = ("click", "impression")
KINDS = (*EXPLICIT, *IMPLICIT, "undo")

_LARGEST = 1e9
"""Ratings are worked with in single precision, squared."""

Edge = tuple[float | None, int | None]
"""Weight and time of an interaction."""


_SECONDS = 86_400.0  # of a day


@dataclass(frozen=True)
class FeedbackConfig:
    """How events count.

    Args:
        half_life: days after which a click or showing counts half.
        click: strength of a click.
        impression: strength of a showing without a click.
        positive_from: a pair of this strength is a positive interaction.
        negative_from: one of this strength is unwanted.
        most_per_hour: further events of one user within an hour are ignored.
        day: length of a day in the unit of the graph's times; 86,400 for seconds. Where these are
            dates, which a graph holds in microseconds, an engine that is fitted with 86,400 has as
            many microseconds for a day.

    Raises:
        ValueError: a value is out of range, or has the wrong sign.
    """

    half_life: float = 30.0
    click: float = 1.0
    impression: float = -0.25
    positive_from: float = 0.5
    negative_from: float = -1.0
    most_per_hour: int = 120
    day: float = _SECONDS

    def __post_init__(self) -> None:
        check_above(
            0,
            half_life=self.half_life,
            click=self.click,
            positive_from=self.positive_from,
            day=self.day,
        )
        check_at_least(1, most_per_hour=self.most_per_hour)
        for name in ("impression", "negative_from"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value <= 0):
                raise ValueError(f"{name} must be at most 0, got {value!r}")


def in_unit_of(config: FeedbackConfig, graph: KnowledgeGraph) -> FeedbackConfig:
    """With a day as it is in the graph's times where these are dates and the day is in seconds."""
    times = graph.interactions.time
    if config.day != _SECONDS or times is None or not len(times) or not is_date(int(times.max())):
        return config
    return replace(config, day=_SECONDS * 1e6)


@dataclass(frozen=True)
class FeedbackEvent:
    """Something a user did with an item.

    Args:
        user: key of the user.
        item: key of the item.
        kind: ``"rating"`` (with ``value``), ``"like"``, ``"dislike"``, ``"click"``,
            ``"impression"`` (shown and not clicked) or ``"undo"`` (of the last other one).
        time: in the unit of the graph's times; seconds where it has none, microseconds since 1970
            where these are dates.
        value: the rating.

    Raises:
        TypeError: the time is no number.
        ValueError: the kind is unknown, a number is not finite, or a value comes without a rating
            or a rating without one.
    """

    user: Key
    item: Key
    kind: str
    time: float
    value: float | None = None

    def __post_init__(self) -> None:
        what = f"feedback of {self.user!r} on {self.item!r}"
        if self.kind not in KINDS:
            raise ValueError(f"{what}: expected one of {list(KINDS)}, got {self.kind!r}")
        if not isinstance(self.time, Real):
            raise TypeError(
                f"{what}: time must be a number in the unit of the graph's times, got "
                f"{self.time!r}; of a datetime that is .timestamp() in seconds, and 1,000,000 "
                "times that where the graph's times are dates"
            )
        if not math.isfinite(self.time) or abs(self.time) > 2**62:
            raise ValueError(f"{what}: time must be a finite number, got {self.time!r}")
        if (self.kind == "rating") != (self.value is not None):
            raise ValueError(f"{what}: a rating, and nothing else, has a value; got {self.value!r}")
        if self.value is not None and not abs(self.value) <= _LARGEST:
            raise ValueError(
                f"{what}: a rating must be a finite number between -{_LARGEST:g} and {_LARGEST:g}, "
                f"got {self.value!r}"
            )


@dataclass(frozen=True)
class Pair:
    """Events of one user with one item, by time, and the interaction there was before them."""

    events: tuple[FeedbackEvent, ...] = ()
    before: Edge | None = None

    def live(self) -> list[FeedbackEvent]:
        """The events that were not undone."""
        out: list[FeedbackEvent] = []
        for event in self.events:
            if event.kind != "undo":
                out.append(event)
            elif out:
                out.pop()
        return out


@dataclass(frozen=True)
class Heard:
    """All feedback since the engine was fitted; a change makes a new one that shares the rest.

    Args:
        users: pairs by user and item.
        unwanted: items by user that have a negative state, which graphs without a limit between
            positive and negative interactions cannot tell.
    """

    users: Mapping[Key, Mapping[Key, Pair]] = field(default_factory=dict)
    unwanted: Mapping[Key, frozenset[Key]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.users)

    def events(self) -> Iterator[FeedbackEvent]:
        """All events, by user and item."""
        for pairs in self.users.values():
            for pair in pairs.values():
                yield from pair.events

    def after(self, graph: KnowledgeGraph, delta: GraphDelta) -> Heard:
        """What remains after a change: nothing of removed nodes or of pairs told anew."""
        schema = graph.schema
        gone_users = set(delta.removed_nodes.get(schema.user, ()))
        gone_items = set(delta.removed_nodes.get(schema.item, ()))
        told = set()
        for tables in (delta.edges, delta.removed_edges):
            if schema.interaction in tables:
                table = tables[schema.interaction]
                told |= set(
                    zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)
                )
        if not self.users or not (gone_users or gone_items or told):
            return self
        users = {
            user: {
                item: pair
                for item, pair in pairs.items()
                if item not in gone_items and (user, item) not in told
            }
            for user, pairs in self.users.items()
            if user not in gone_users
        }
        users = {user: pairs for user, pairs in users.items() if pairs}
        unwanted = {u: i & users[u].keys() for u, i in self.unwanted.items() if u in users}
        return Heard(users, unwanted)

    def to_json(self) -> list[Any]:
        """Plain values for a file."""
        return [
            [user, item, pair.before, [[e.kind, e.time, e.value] for e in pair.events]]
            for user, pairs in self.users.items()
            for item, pair in pairs.items()
        ] + [[user, sorted(items, key=str)] for user, items in self.unwanted.items() if items]

    @classmethod
    def from_json(cls, values: Iterable[Any]) -> Heard:
        """What :meth:`to_json` wrote."""
        users: dict[Key, dict[Key, Pair]] = {}
        unwanted: dict[Key, frozenset[Key]] = {}
        for value in values:
            if len(value) == 2:
                unwanted[value[0]] = frozenset(value[1])
                continue
            user, item, before, events = value
            known = tuple(FeedbackEvent(user, item, *event) for event in events)
            edge = None if before is None else (before[0], before[1])
            users.setdefault(user, {})[item] = Pair(known, edge)
        return cls(users, unwanted)


@dataclass(frozen=True, eq=False)
class FeedbackReport:
    """What feedback came to.

    Args:
        engine: after it.
        counted: how many events count.
        ignored: the others, each with the reason.
        added: interactions that are new or have another weight.
        removed: interactions that are gone.
    """

    engine: ColdStartEngine
    counted: int
    ignored: tuple[tuple[FeedbackEvent, str], ...]
    added: int
    removed: int

    def __repr__(self) -> str:
        return (
            f"FeedbackReport(counted: {self.counted}, ignored: {len(self.ignored)}, "
            f"added: {self.added}, removed: {self.removed})"
        )


class EventLog:
    """An append-only log of feedback, for :func:`coldstart.refitting.refit` and for the record.

    Args:
        path: of the file; see :class:`coldstart.journal.Journal`.
    """

    def __init__(self, path: str | Path) -> None:
        self.journal = Journal(path)

    def append(self, events: Iterable[FeedbackEvent]) -> None:
        """Write events; they are on disk when this returns."""
        self.journal.append([asdict(event) for event in events])

    def __iter__(self) -> Iterator[FeedbackEvent]:
        for record in read_journal(self.journal.path):
            yield FeedbackEvent(**record)


def fed_back(
    engine: ColdStartEngine, events: Iterable[FeedbackEvent], now: float | None
) -> FeedbackReport:
    """See :meth:`coldstart.engine.ColdStartEngine.feedback`."""
    events = list(events)
    graph, config = engine.graph, engine.config.feedback
    graph.users.rows([event.user for event in events])  # unknown ones are errors, before anything
    graph.items.rows([event.item for event in events])
    require_dates(graph.schema.interaction, graph.interactions.time, [e.time for e in events])
    if graph.interactions.weight is None and any(e.kind == "rating" for e in events):
        raise GraphError(
            f"the interactions {graph.schema.interaction} have no weights, so that there is no "
            "scale to rate in; send likes and dislikes"
        )
    current = _Current(graph, {event.user for event in events} or set(engine.heard.users))
    users = dict(engine.heard.users)
    touched: set[tuple[Key, Key]] = set()
    ignored: list[tuple[FeedbackEvent, str]] = []
    for event in sorted(events, key=lambda e: e.time):
        own = dict(users.get(event.user, {}))
        pair = own.get(event.item) or Pair(before=current.edge(event.user, event.item))
        if reason := _refused(event, own, pair, config):
            ignored.append((event, reason))
            continue
        told = tuple(sorted((*pair.events, event), key=lambda e: e.time))
        own[event.item] = replace(pair, events=told)
        users[event.user] = own
        touched.add((event.user, event.item))
    if not events:  # time passes
        touched = {(user, item) for user, pairs in users.items() for item in pairs}
    latest = max((e.time for e in events), default=None)
    at = now if now is not None else latest
    if at is None:
        at = max((e.time for e in engine.heard.events()), default=0.0)
    unwanted = dict(engine.heard.unwanted)
    added, removed = [], []
    for user, item in sorted(touched, key=str):
        pair = users[user][item]
        edge, is_unwanted = _state(pair, at, config, current)
        others = unwanted.get(user, frozenset()) - {item}
        unwanted[user] = others | {item} if is_unwanted else others
        if edge != current.edge(user, item):
            (added if edge is not None else removed).append((user, item, edge))
        users[user] = {**users[user], item: _pruned(pair, at, config)}
    delta = _delta(graph, added, removed)
    heard = Heard(users, {user: items for user, items in unwanted.items() if items})
    after = replace(engine.update(delta), heard=heard)
    counted = len(events) - len(ignored)
    return FeedbackReport(after, counted, tuple(ignored), len(added), len(removed))


def strength(events: Iterable[FeedbackEvent], now: float, config: FeedbackConfig) -> float:
    """What clicks and showings come to at a time, each halved with every half life."""
    worth = {"click": config.click, "impression": config.impression}
    life = config.half_life * config.day
    return sum(
        worth[e.kind] * 0.5 ** (max(now - e.time, 0.0) / life) for e in events if e.kind in worth
    )


class _Current:
    """The interactions of some users as they are in the graph."""

    def __init__(self, graph: KnowledgeGraph, users: set[Key]) -> None:
        self.graph, edges = graph, graph.interactions
        rows = graph.users.rows(list(users))
        at = np.flatnonzero(np.isin(edges.index[0], rows))
        self.edges: dict[tuple[int, int], Edge] = {}
        for place in at.tolist():
            pair = int(edges.index[0, place]), int(edges.index[1, place])
            weight = None if edges.weight is None else float(edges.weight[place])
            time = None if edges.time is None else int(edges.time[place])
            self.edges[pair] = weight, time

    def edge(self, user: Key, item: Key) -> Edge | None:
        return self.edges.get((self.graph.users.row(user), self.graph.items.row(item)))

    def made(self, kind: str, time: float, value: float | None) -> Edge | None:
        """The interaction that an event makes; ``None`` where the graph has no negative ones."""
        edges, least = self.graph.interactions, self.graph.schema.positive_weight
        stamp = None if edges.time is None and len(edges) else int(time)
        if edges.weight is None:
            return None if kind == "dislike" else (None, stamp)
        if value is not None:
            return value, stamp
        weights = edges.weight
        if kind == "like":
            return float(weights.max(initial=least or 1.0)), stamp
        if kind == "dislike":
            if least is None:
                return None
            return float(min(weights.min(initial=least - 1), least - 1)), stamp
        usual = float(np.median(weights)) if len(weights) else 1.0
        return (usual if least is None else float(least)), stamp


def _state(
    pair: Pair, now: float, config: FeedbackConfig, current: _Current
) -> tuple[Edge | None, bool]:
    """The interaction that the events of a pair come to, and whether the item is unwanted."""
    live, least = pair.live(), current.graph.schema.positive_weight
    explicit = next((e for e in reversed(live) if e.kind in EXPLICIT), None)
    if explicit is not None:
        edge = current.made(explicit.kind, explicit.time, explicit.value)
        low = explicit.value is not None and least is not None and explicit.value < least
        return edge, explicit.kind == "dislike" or low
    total = strength(live, now, config)
    if pair.before is not None:
        return pair.before, False  # what the graph says outranks clicks and showings
    if total >= config.positive_from:
        return current.made("click", max(e.time for e in live), None), False
    if total <= config.negative_from:
        return current.made("dislike", max(e.time for e in live), None), True
    return None, False


def _refused(
    event: FeedbackEvent, own: Mapping[Key, Pair], pair: Pair, config: FeedbackConfig
) -> str | None:
    """Why an event does not count; ``None`` if it does."""
    if event in pair.events:
        return "it came before"
    earlier = tuple(e for e in pair.events if e.time <= event.time)
    if event.kind == "undo" and not Pair(earlier).live():
        return "there is nothing to undo"
    hour = config.day / 24
    lately = sum(
        event.time - hour < e.time <= event.time for other in own.values() for e in other.events
    )
    if lately >= config.most_per_hour:
        return f"{lately} events of this user within an hour count already"
    return None


def _pruned(pair: Pair, now: float, config: FeedbackConfig) -> Pair:
    """Without clicks and showings that have faded to nothing."""
    if any(e.kind == "undo" for e in pair.events):
        return pair  # which event each of them means would no longer be known
    oldest = now - 10 * config.half_life * config.day
    kept = tuple(e for e in pair.events if e.time >= oldest or e.kind in EXPLICIT)
    return pair if len(kept) == len(pair.events) else replace(pair, events=kept)


def _delta(graph: KnowledgeGraph, added: list, removed: list) -> GraphDelta:
    interaction, schema, known = graph.schema.interaction, graph.schema, graph.interactions
    edges: dict[Any, Any] = {}
    if added:
        columns: dict[str, list] = {
            "source": [user for user, _, _ in added],
            "target": [item for _, item, _ in added],
        }
        if known.weight is not None:
            columns[schema.weight] = [edge[0] for _, _, edge in added]
        if known.time is not None:
            columns[schema.time] = [edge[1] for _, _, edge in added]
        edges[interaction] = columns
    gone: dict[Any, Any] = {}
    if removed:
        ends = [[user for user, _, _ in removed], [item for _, item, _ in removed]]
        gone[interaction] = {"source": ends[0], "target": ends[1]}
    return GraphDelta(edges=edges, removed_edges=gone)
