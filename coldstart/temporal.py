"""Splits by time: what was known at one moment, judged by what came after."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np

from coldstart.splits import TEST, VAL, WARM, Split
from kg.errors import GraphError
from kg.graph import KnowledgeGraph, require_positives
from kg.schema import EdgeType

_DATES = (10**14, 41 * 10**14)
"""Microseconds of 1973 and of 2099."""

_LOOKED_AT = 1000


def temporal_split(
    graph: KnowledgeGraph,
    *,
    validation_from: int | None = None,
    test_from: int | None = None,
    until: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    name: str = "temporal",
) -> Split:
    """A split at two points in time, the same for everybody.

    Positives before ``validation_from`` are trained on, from there to ``test_from`` they are for
    validation, later ones for test. A node whose first positive comes after training is cold: in
    validation or in test, wherever that first one is. A positive of a node that was new in
    validation, and that comes in the time of the test, is left out: no later label may choose a
    setting, and for test the node is no longer new. Of a pair with several positive interactions
    the first counts.

    Args:
        graph: its positives are split by their times.
        validation_from: first time of validation, in the graph's own unit; from the share
            ``validation`` where it is not given.
        test_from: first time of the test; from the share ``test`` where it is not given.
        until: what comes at this time or later is left out; nothing is, where it is not given.
        validation: share of the positives just before the test.
        test: share of the positives at the end.
        name: for reports.

    Raises:
        ValueError: interactions have no times, the points are not in order, or one of the three
            spans has no positive.
    """
    pairs, times = _first_times(graph)
    if until is not None:
        pairs, times = pairs[:, times < until], times[times < until]
    if validation_from is None or test_from is None:
        after = 0.0 if test_from is None else float((times >= test_from).mean())
        chosen = _points(times, validation, test if test_from is None else 0.0, after)
        validation_from = chosen[0] if validation_from is None else validation_from
        test_from = chosen[1] if test_from is None else test_from
    span = np.digitize(times, [validation_from, test_from]) if validation_from < test_from else None
    if span is None or len(np.unique(span)) < 3:
        found = (
            f"{time_in_words(times.min())} to {time_in_words(times.max())}"
            if len(times)
            else "none"
        )
        points = time_in_words(validation_from), time_in_words(test_from)
        raise ValueError(
            f"split {name}: expected positives before {points[0]} (training), from there to "
            f"{points[1]} (validation) and later (test), got times {found}; choose other points or "
            "shares"
        )
    parts = [
        _part_of_nodes(rows, span, number)
        for rows, number in zip(pairs, (len(graph.users), len(graph.items)), strict=True)
    ]
    user_part, item_part = parts[0][pairs[0]], parts[1][pairs[1]]
    both_warm = (user_part == WARM) & (item_part == WARM)
    pair_part = np.where(both_warm, np.array(["train", VAL, TEST])[span], "").astype("<U5")
    late = ((user_part == VAL) | (item_part == VAL)) & (span == 2)
    return Split(name, pairs[:, ~late], pair_part[~late], *parts, before=validation_from)


def temporal_splits(
    graph: KnowledgeGraph, number: int, *, validation: float = 0.1, test: float = 0.1
) -> list[Split]:
    """Several splits whose tests lie one after another; the last one tests the end.

    Each ends where the test of the next one begins, so that no positive is tested twice.

    Args:
        graph: its positives are split by their times.
        number: of splits.
        validation: share of all positives that is for validation in each split.
        test: share of all positives that is for test in each split.

    Raises:
        ValueError: as :func:`temporal_split`, or nothing is left to train on in the first split.
    """
    if number < 1:
        raise ValueError(f"expected at least 1 split, got {number}")
    if number * test + validation >= 1:
        raise ValueError(
            f"{number} tests of {test:g} and a validation of {validation:g} leave nothing to train "
            "on; ask for fewer splits or smaller shares"
        )
    _, times = _first_times(graph)
    splits = []
    for later in reversed(range(number)):
        validation_from, test_from = _points(times, validation, test, after=later * test)
        until = _points(times, 0.0, 0.0, after=later * test)[1] if later else None
        name = f"until {time_in_words(until)}" if until is not None else "until the end"
        splits.append(
            temporal_split(
                graph,
                validation_from=validation_from,
                test_from=test_from,
                until=until,
                name=name,
            )
        )
    return splits


def time_in_words(time: int) -> str:
    """A time as a date, or date and time of day, where it came from an Arrow date, else as it is.

    A graph holds those in microseconds since 1970, and does not tell where its times came from; so
    what would be a date from 1973 to 2099 is taken for one. Seconds and milliseconds are not.
    """
    if not is_date(time):
        return str(time)
    at = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=int(time))
    return str(at.date() if at.time() == dt.time() else at)


def is_date(time: int) -> bool:
    """Whether a time is taken for a date in microseconds; see :func:`time_in_words`."""
    return _DATES[0] <= time < _DATES[1]


def are_dates(times: np.ndarray) -> bool:
    """Whether times are taken for dates, by a look at some, the same in a graph of any size."""
    return len(times) > 0 and is_date(int(times[:_LOOKED_AT].max()))


def require_dates(edge_type: EdgeType, known: np.ndarray | None, times: Iterable[float]) -> None:
    """Raise where edges of a type are dated in microseconds and a new time cannot be such a date.

    Most are seconds, and the interaction would be of January 1970.

    Args:
        edge_type: of the edges.
        known: times of those there are.
        times: new ones.

    Raises:
        GraphError: a time is outside of what :func:`is_date` takes.
    """
    if known is None or not are_dates(known):
        return
    if wrong := [time for time in times if not is_date(int(time))]:
        raise GraphError(
            f"times of {'-'.join(edge_type)} are dates, in microseconds since 1970, and "
            f"{int(wrong[0])} is none between 1973 and 2099; give dates, or seconds times 1,000,000"
        )


def _first_times(graph: KnowledgeGraph) -> tuple[np.ndarray, np.ndarray]:
    """Positive pairs as :meth:`KnowledgeGraph.positives` gives them, and when each came first."""
    pairs, edges = require_positives(graph), graph.interactions
    if edges.time is None:
        raise ValueError(
            f"a split by time needs times, and {'-'.join(graph.schema.interaction)} has none; give "
            f"its table the column {graph.schema.time!r}, or use random_split"
        )
    width, least = max(len(graph.items), 1), graph.schema.positive_weight
    keep = np.ones(len(edges), bool)
    if least is not None and edges.weight is not None:
        keep = edges.weight >= least
    codes = edges.index[0, keep] * width + edges.index[1, keep]
    times = np.full(pairs.shape[1], np.iinfo(np.int64).max)
    np.minimum.at(times, np.searchsorted(pairs[0] * width + pairs[1], codes), edges.time[keep])
    return pairs, times


def _points(
    times: np.ndarray, validation: float, test: float, after: float = 0.0
) -> tuple[int, int]:
    """First times of validation and test, shares of the positives before the last ``after``."""
    for what, share in {"validation": validation, "test": test}.items():
        if not 0 <= share < 1:
            raise ValueError(f"{what} must be a share of at least 0 and below 1, got {share}")
    if not len(times):
        raise ValueError("there is no positive before the time `until`; choose a later one")
    ordered = np.sort(times)

    def point(share: float) -> int:
        return int(ordered[min(round(len(ordered) * (1 - share)), len(ordered) - 1)])

    return point(after + test + validation), point(after + test)


def _part_of_nodes(rows: np.ndarray, span: np.ndarray, number: int) -> np.ndarray:
    """Where every node's first positive is, empty where it has none."""
    names = np.array([WARM, VAL, TEST, ""], dtype="<U5")
    first = np.full(number, len(names) - 1)
    np.minimum.at(first, rows, span)
    return names[first]
