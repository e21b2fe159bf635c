"""Splits of the positives into training, validation and test, with cold users and cold items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.segments import CLASSES, NINE, WARM_UP_MOST, class_of
from gnn.data import Adjacency
from kg.graph import KnowledgeGraph, require_positives
from kg.tables import require_columns
from kg.vectors import Vocabulary

WARM, VAL, TEST = "warm", "val", "test"
MIXED = ("mixed", "cold_users_mixed")
"""Segments where warm and cold items are ranked together, under a lift of the cold ones."""

SEGMENTS = ("cold_items", "cold_users", "cold_both", "warm", *MIXED)
"""What can be asked of a split: which items are candidates, and whether the users are warm; the
nine segments of :data:`coldstart.segments.NINE` besides."""

_COLUMNS = ("seed", "user_id", "item_id", "user_part", "item_part", "warm_part")


def require_segment(name: str) -> None:
    """Raise unless there is a segment of this name.

    Raises:
        ValueError: there is none, and which there are.
    """
    if name not in (*SEGMENTS, *NINE):
        raise ValueError(f"no segment is named {name!r}; known: {', '.join((*SEGMENTS, *NINE))}")


@dataclass(frozen=True, eq=False)
class Task:
    """Users to rank candidates for, and the right answers.

    Args:
        segment: one of :data:`SEGMENTS` or of :data:`coldstart.segments.NINE`.
        part: ``val`` or ``test``.
        users: rows of the users with a positive among the candidates, int64 ``[num_users]``.
        candidates: rows of the items to rank, ascending, int64 ``[num_candidates]``.
        relevant: positions among the candidates of every user's positives.
        excluded: positions of the candidates that a user has in training and that are not ranked.
        cold: bool ``[num_candidates]``, whether a candidate has no training interaction.
    """

    segment: str
    part: str
    users: np.ndarray
    candidates: np.ndarray
    relevant: Adjacency
    excluded: Adjacency
    cold: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Which positives are known, and which nodes are kept cold for validation and test.

    Args:
        name: for reports.
        pairs: all positives, int64 ``[2, num_pairs]``.
        pair_part: ``train``, ``val`` or ``test`` for pairs of warm nodes, empty for others.
        user_part: part of every user: ``warm``, ``val``, ``test``, or empty for those left out.
        item_part: part of every item.
        before: what comes at this time or later is not trained on, in a split by time: neither are
            later interactions of a pair that is. ``None``: the split is not by time, and what is
            trained on has no times.
    """

    name: str
    pairs: np.ndarray
    pair_part: np.ndarray
    user_part: np.ndarray
    item_part: np.ndarray
    before: int | None = None

    def __post_init__(self) -> None:
        user, item = self.pairs
        if len(np.unique(user * len(self.item_part) + item)) < len(user):
            raise ValueError(
                f"split {self.name}: a pair comes twice, so that it could be trained on and tested "
                "with; keep one of each"
            )
        cold = (self.user_part[user] != WARM) | (self.item_part[item] != WARM)
        if (leak := cold & (self.pair_part == "train")).any():
            first = self.pairs[:, np.argmax(leak)].tolist()
            raise ValueError(
                f"split {self.name}: {int(leak.sum())} training pairs touch a node that is to be "
                f"cold, for example user row {first[0]}, item row {first[1]}; remove them"
            )

    @property
    def train(self) -> np.ndarray:
        """The pairs to train on, int64 ``[2, num_train]``."""
        return self.pairs[:, self.pair_part == "train"]

    def training_graph(self, graph: KnowledgeGraph) -> KnowledgeGraph:
        """The graph whose only interactions are the training pairs.

        In a split by time they have their times, in another one none: there pairs are held out at
        all times alike, whereas a scorer that is told times asks what comes next.
        """
        edges = graph.interactions
        width = graph.num_nodes(graph.schema.item)
        known = self.train[0] * width + self.train[1]
        keep = np.isin(edges.index[0] * width + edges.index[1], known)
        if self.before is not None and edges.time is not None:
            keep &= edges.time < self.before
        kept = edges.select(keep)
        if self.before is None:
            kept = replace(kept, time=None)
        return graph.with_edges(graph.schema.interaction, kept)

    def task(self, segment: str, part: str = TEST) -> Task:
        """One segment of this split.

        Args:
            segment: ``cold_items``: warm users rank the cold items of this part; ``cold_users``:
                cold users of this part rank warm items; ``cold_both``: both cold; ``warm``: warm
                users rank warm items without those known; ``mixed``: warm users with both kinds
                of positive rank warm and cold items together; ``cold_users_mixed``: cold users of
                this part rank the same, as new users are shown all there is. Or one of the nine,
                such as
                ``cold_users_warm_up_items``: users of a class by training interactions rank the
                items of a class; the nodes kept cold for the other part take no part.
            part: ``val`` or ``test``.
        """
        require_segment(segment)
        if part not in (VAL, TEST):
            raise ValueError(f"part must be {VAL!r} or {TEST!r}, got {part!r}")
        if segment in NINE:
            return self._nine_task(segment, part)
        user, item = self.pairs
        item_part = self.item_part[item]
        item_is_cold, warm_user = item_part == part, self.user_part[user] == WARM
        held_out_warm = warm_user & (item_part == WARM) & (self.pair_part == part)
        users_are_cold = segment.startswith(("cold_users", "cold_both"))
        cold_user = self.user_part[user] == part
        mask = {
            "cold_items": warm_user & item_is_cold,
            "cold_users": cold_user & (item_part == WARM),
            "cold_both": cold_user & item_is_cold,
            "cold_users_mixed": cold_user & (item_is_cold | (item_part == WARM)),
            "warm": held_out_warm,
            "mixed": held_out_warm | (warm_user & item_is_cold),
        }[segment]
        cold_items, warm_items = self.item_part == part, self.item_part == WARM
        pool = {
            "cold_items": cold_items,
            "cold_both": cold_items,
            **dict.fromkeys(MIXED, cold_items | warm_items),
        }.get(segment, warm_items)
        users = np.unique(user[mask])
        if segment == "mixed":
            users = np.intersect1d(user[mask & item_is_cold], user[mask & ~item_is_cold])
        candidates = np.flatnonzero(pool)
        known = (self.pair_part == "train") | ((self.pair_part == VAL) & (part == TEST))
        known &= not users_are_cold
        relevant = positions_of(self.pairs[:, mask], users, candidates)
        excluded = positions_of(self.pairs[:, known], users, candidates)
        return Task(segment, part, users, candidates, relevant, excluded, cold_items[candidates])

    def _nine_task(self, segment: str, part: str) -> Task:
        wanted = divmod(NINE.index(segment), len(CLASSES))
        here, held_out = [], self.pair_part == part
        in_play = np.ones(self.pairs.shape[1], bool)
        for rows, trained, parts, number in zip(
            self.pairs, self.train, (self.user_part, self.item_part), wanted, strict=True
        ):
            takes_part = (parts == WARM) | (parts == part)
            count = np.bincount(trained, minlength=len(parts))
            here.append(takes_part & (class_of(count) == number))
            in_play &= takes_part[rows]
            held_out = held_out | (parts == part)[rows]
        user, item = self.pairs
        mask = held_out & in_play & here[0][user] & here[1][item]
        users, candidates = np.unique(user[mask]), np.flatnonzero(here[1])
        known = (self.pair_part == "train") | ((self.pair_part == VAL) & (part == TEST))
        relevant = positions_of(self.pairs[:, mask], users, candidates)
        excluded = positions_of(self.pairs[:, known], users, candidates)
        cold = np.full(len(candidates), CLASSES[wanted[1]] == "cold")
        return Task(segment, part, users, candidates, relevant, excluded, cold)


def positions_of(pairs: np.ndarray, users: np.ndarray, candidates: np.ndarray) -> Adjacency:
    """Pairs as positions among the users and candidates; those outside are left out."""
    pairs = pairs[:, np.isin(pairs[0], users) & np.isin(pairs[1], candidates)]
    at = np.searchsorted(users, pairs[0]), np.searchsorted(candidates, pairs[1])
    return Adjacency.from_pairs(*at, len(users), len(candidates))


def read_splits(path: str | Path, graph: KnowledgeGraph) -> list[Split]:
    """The splits in a Parquet file, one per ``seed``.

    Nodes that the file does not name take no part: they are neither trained on nor candidates.

    Args:
        path: a file with columns seed, user_id, item_id, user_part, item_part, warm_part.
        graph: the graph whose rows the splits name.

    Raises:
        MissingColumnError: the file lacks a column.
        UnknownNodeError: the file names a node that the graph lacks.
        ValueError: a split leaks, or gives one node two parts.
    """
    table = pq.read_table(path)
    require_columns(table, _COLUMNS, f"splits in {path}")
    seeds = table["seed"].to_numpy()
    splits = []
    for seed in np.unique(seeds).tolist():
        some, name = table.filter(pa.array(seeds == seed)), f"seed {seed}"
        users, items = graph.users.rows(some["user_id"]), graph.items.rows(some["item_id"])
        splits.append(
            Split(
                name,
                np.stack([users, items]),
                _parts(some["warm_part"]),
                _part_of_nodes(users, _parts(some["user_part"]), graph.users, name),
                _part_of_nodes(items, _parts(some["item_part"]), graph.items, name),
            )
        )
    return splits


def _parts(column: pa.ChunkedArray) -> np.ndarray:
    named = [part or "" for part in column.cast(pa.string()).to_pylist()]
    return np.array(named, dtype="<U5")


def _part_of_nodes(rows: np.ndarray, parts: np.ndarray, nodes: Vocabulary, name: str) -> np.ndarray:
    out = np.full(len(nodes), "", dtype="<U5")
    out[rows] = parts
    if (two := out[rows] != parts).any():
        row = int(rows[np.argmax(two)])
        raise ValueError(
            f"split {name}: {nodes.node_type} {nodes[row]!r} is in two parts, "
            f"{sorted(np.unique(parts[rows == row]).tolist())}; give it one"
        )
    return out


def random_split(
    graph: KnowledgeGraph,
    *,
    cold_users: float = 0.0,
    cold_items: float = 0.1,
    held_out: float = 0.1,
    warm_up_users: float = 0.0,
    warm_up_items: float = 0.0,
    rng: int | np.random.Generator = 0,
    name: str = "random",
) -> Split:
    """A random split of the same kind: shares of nodes cold for validation and for test each.

    Nodes that are to warm up keep 1 to 5 of their pairs with warm nodes in training, those with
    partners that do not warm up themselves before others; the rest of their pairs is held out,
    half for validation and half for test. One whose partners all warm up may end with none.

    Args:
        graph: its positives are split.
        cold_users: share of the users with a positive kept cold for validation, and again for test.
        cold_items: the same of the items.
        held_out: share of the pairs of warm nodes held out for validation, and again for test.
        warm_up_users: share of the users with a positive, out of the warm ones, that warm up.
        warm_up_items: the same of the items.
        rng: seed or generator.
        name: for reports.

    Raises:
        GraphError: the graph has no positives.
        ValueError: a share is negative, or so large that two of them leave nothing to train on.
    """
    shares = {"cold_users": cold_users, "cold_items": cold_items, "held_out": held_out}
    for what, share in shares.items():
        if not 0 <= share < 0.5:
            raise ValueError(f"{what} must be at least 0 and below 0.5, got {share}")
    warming = {"warm_up_users": warm_up_users, "warm_up_items": warm_up_items}
    for (what, share), cold in zip(warming.items(), (cold_users, cold_items), strict=True):
        if not 0 <= share < 1 - 2 * cold:
            raise ValueError(
                f"{what} must be at least 0 and below {1 - 2 * cold:g}, the share of nodes that "
                f"are not kept cold, got {share}"
            )
    rng = np.random.default_rng(rng)
    pairs = require_positives(graph)
    parts, warm_up = [], []
    for rows, num_nodes, share, warming_share in (
        (pairs[0], len(graph.users), cold_users, warm_up_users),
        (pairs[1], len(graph.items), cold_items, warm_up_items),
    ):
        part = np.full(num_nodes, "", dtype="<U5")
        active = rng.permutation(np.unique(rows))
        part[active] = WARM
        count = round(share * len(active))
        part[active[:count]], part[active[count : 2 * count]] = VAL, TEST
        parts.append(part)
        few = np.zeros(num_nodes, bool)
        few[active[2 * count : 2 * count + round(warming_share * len(active))]] = True
        warm_up.append(few)
    both_warm = (parts[0][pairs[0]] == WARM) & (parts[1][pairs[1]] == WARM)
    drawn = rng.random(pairs.shape[1])
    pair_part = np.where(drawn < held_out, VAL, np.where(drawn < 2 * held_out, TEST, "train"))
    if warm_up_users or warm_up_items:
        few = warm_up[0][pairs[0]], warm_up[1][pairs[1]]
        kept = np.ones(pairs.shape[1], bool)
        for rows, here, there in ((pairs[0], *few), (pairs[1], *reversed(few))):
            kept[both_warm] &= _few_kept(rows[both_warm], there[both_warm], rng) | ~here[both_warm]
        held = np.where(rng.random(len(kept)) < 0.5, VAL, TEST)
        pair_part = np.where(few[0] | few[1], np.where(kept, "train", held), pair_part)
    pair_part = np.where(both_warm, pair_part, "").astype("<U5")
    return Split(name, pairs, pair_part, *parts)


def _few_kept(rows: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 to 5 pairs of every node, drawn at random, those marked ``last`` only where others lack."""
    order = np.lexsort([rng.random(len(rows)), last, rows])
    _, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(first, counts)
    limit = np.repeat(rng.integers(1, WARM_UP_MOST + 1, len(counts)), counts)
    kept = np.empty(len(rows), bool)
    kept[order] = place < limit
    return kept
