"""Profiles made from held-out interactions: what a node says that only its hidden partners tell.

Two kinds are told apart from honest properties by how exactly held-out interactions explain them.

*Claims*: a user's favourite genres, as category, text or relation; items that were liked together;
people alike in taste. A claim is a phrase in a text, a category, a linked entity or a neighbour.
The evidence for it is how many of the node's partners have that entity or category, or how many
partners it shares with the neighbour, as it is or over how frequent the thing is. Agreement is the
AUC of a node's claims, among all that could be claimed, by that evidence; and of c claims most must
be among the c things with most evidence, which sets what was counted apart from what goes together.
(On Last.fm, former members of a band reach an AUC of .99, but not a tenth of them come first.)

*Numbers*: how many interactions a node has, its mean rating, the first or last time, the mean year
of its films, the share of each genre. Agreement is the rank correlation over the nodes.

Held-out interactions are the source where the agreement with all interactions is nearly complete,
and higher than with those of training. What was blurred, clustered or learnt from held-out
interactions agrees less, and cannot be told from taste that is honestly known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.stats import rankdata

from coldstart.leaks import NUM_EXAMPLES, Leak, names_of, plain_words
from coldstart.metrics import auc
from coldstart.splits import Split
from gnn.data import category_values, numeric_values
from kg.graph import KnowledgeGraph
from kg.tables import text_column

COMPLETE = 0.93
"""From this agreement on held-out interactions explain a property nearly completely."""

EXACT = 0.7
"""At least this share of the claims are those with most evidence."""

EQUAL = 0.99
"""The same for the rank correlation of numbers."""

NUM_SHUFFLES = 999
"""So often a number is dealt out anew; it must never agree that well, which is p <= .001."""

LEAST_NODES = 10
"""Fewer nodes with claims or numbers prove nothing."""

DEVIATIONS = 6.0
"""So many standard errors better than by training interactions."""

_MOST_NODES, _MOST_THINGS = 400, 2000
_POWERS = (0.0, 0.5, 1.0)  # of the frequency that evidence is divided by
_BLOCK_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class _Known:
    """Interactions as matrices, a row per node that is judged and a column per partner."""

    everything: sparse.csr_matrix
    training: sparse.csr_matrix


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of the interactions: who is judged, and what their partners are like.

    Args:
        graph: with all interactions.
        node_type: of the nodes that are judged.
        other: type of their partners.
        nodes: rows of the nodes that are judged; all have held-out partners.
        known: interactions that a property could be made from, by what they are.
    """

    graph: KnowledgeGraph
    node_type: str
    other: str
    nodes: np.ndarray
    known: Mapping[str, _Known]


def profile_leaks(graph: KnowledgeGraph, split: Split) -> Iterator[Leak]:
    """Properties and relations that are made from held-out interactions."""
    relations: dict[str, tuple[float, Leak]] = {}
    for side in (_side(graph, split, here) for here in (0, 1)):
        if len(side.nodes) < LEAST_NODES:
            continue
        for _, leak in _claims_in_properties(side):
            yield leak
        yield from _numbers(side)
        for thing, found in _claims_in_relations(side):
            # What users claim of genres speaks for what films claim of them, and the other way
            # round: the one that follows more completely was made from the other.
            if thing not in relations or found[0] > relations[thing][0]:
                relations[thing] = found
    yield from (leak for _, leak in relations.values())


def _side(graph: KnowledgeGraph, split: Split, here: int) -> _Side:
    types = graph.schema.user, graph.schema.item
    rng = np.random.default_rng(0)
    nodes = np.unique(split.pairs[here, split.pair_part != "train"])
    if len(nodes) > _MOST_NODES:
        nodes = np.sort(rng.choice(nodes, _MOST_NODES, replace=False))
    shape = len(graph.vocabularies[types[here]]), len(graph.vocabularies[types[1 - here]])

    def matrix(pairs: np.ndarray) -> sparse.csr_matrix:
        return _ones(pairs[here], pairs[1 - here], shape)

    training = matrix(split.train)
    known = {
        "positives": split.pairs,
        "interactions": graph.interactions.index,
        "held-out positives": split.pairs[:, split.pair_part != "train"],
    }
    if known["positives"].shape == known["interactions"].shape:
        del known["interactions"]  # all are positive
    matrices = {kind: _Known(matrix(pairs), training) for kind, pairs in known.items()}
    return _Side(graph, types[here], types[1 - here], nodes, matrices)


def _claims_in_properties(side: _Side) -> Iterator[tuple[float, Leak]]:
    table, schema = side.graph.attributes[side.node_type], side.graph.schema
    for phrases, partners in _phrases(side.graph, side.other):
        place = {phrase: n for n, phrase in enumerate(phrases)}
        for role in (schema.text, schema.categorical):
            for name in role.get(side.node_type, ()):
                if name not in table.column_names:
                    continue
                here = table.select([name]).take(pa.array(side.nodes))
                if role is schema.text:
                    texts = [plain_words(text or "") for text in text_column(here[name])]
                    found = [[n for n, phrase in enumerate(phrases) if phrase in t] for t in texts]
                else:
                    values = category_values(here, name, side.node_type)
                    worded = [map(plain_words, own) for own in values]
                    found = [[place[w] for w in own if w in place] for own in worded]
                claims = _one_hot(found, len(phrases))
                words = [phrase.strip() for phrase in phrases]
                yield from _judged(side, f"{side.node_type}.{name}", claims, partners, words)


def _claims_in_relations(side: _Side) -> Iterator[tuple[str, tuple[float, Leak]]]:
    graph, here = side.graph, side.node_type
    for edge_type, edges in graph.edges.items():
        ends = edge_type[0], edge_type[2]
        if edge_type == graph.schema.interaction or here not in ends:
            continue
        thing = ends[1] if ends[0] == here else ends[0]
        where = "-".join(edge_type)
        things = graph.vocabularies[thing]
        rows = edges.index if ends[0] == here else edges.index[::-1]
        if thing == here:
            rows = np.hstack([edges.index, edges.index[::-1]])
            partners = None
        elif thing == side.other:
            continue
        else:
            partners = _linked(graph, side.other, thing)
            if partners is None:
                continue
        shape = graph.num_nodes(here), len(things)
        claims = _ones(rows[0], rows[1], shape)[side.nodes]
        for found in _judged(side, where, claims, partners, things):
            yield (where if thing == here else thing), found


def _judged(
    side: _Side,
    where: str,
    claims: sparse.csr_matrix,
    partners: sparse.csr_matrix | None,
    things: Any,
) -> Iterator[tuple[float, Leak]]:
    """A leak, and how far claims agree, where they do so with training interactions less.

    Args:
        side: whose claims they are.
        where: the property or relation.
        claims: ``[num_judged, num_things]``.
        partners: what partners have, ``[num_partners, num_things]``; ``None``: things are nodes of
            the same type, and have partners in common.
        things: what can be claimed, for examples.
    """
    some = np.flatnonzero(np.diff(claims.indptr))
    if len(some) < LEAST_NODES:
        return
    claims, nodes = claims[some], side.nodes[some]
    for kind, known in side.known.items():
        by_all, by_training = (
            _agreement(claims, matrix, partners, nodes)
            for matrix in (known.everything, known.training)
        )
        judged = np.flatnonzero(~np.isnan(by_all[0][:, 0]))
        if len(judged) < LEAST_NODES:
            return
        power = int(np.argmax(by_all[1][judged].mean(axis=0)))
        agreed, before = by_all[0][judged, power], by_training[0][judged, power]
        exact, gap = by_all[1][judged, power].mean(), agreed - before
        error = gap.std(ddof=1) / len(gap) ** 0.5
        if agreed.mean() < COMPLETE or exact < EXACT or gap.mean() <= max(DEVIATIONS * error, 0.0):
            continue
        leak = Leak(
            where,
            f"what it says of {len(judged)} {side.node_type} nodes with held-out interactions "
            f"follows from all their {kind} (AUC {agreed.mean():.3f}) and less from those of "
            f"training (AUC {before.mean():.3f})",
            tuple(
                {
                    side.node_type: side.graph.vocabularies[side.node_type][int(nodes[row])],
                    "says": [things[thing] for thing in claims[row].indices.tolist()],
                }
                for row in judged[np.argsort(-gap, kind="stable")][:NUM_EXAMPLES]
            ),
            len(judged),
            "leave it out, or make it anew from training interactions, for every split",
        )
        yield float(agreed.mean()), leak
        return


def _agreement(
    claims: sparse.csr_matrix,
    interactions: sparse.csr_matrix,
    partners: sparse.csr_matrix | None,
    nodes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """AUC of every node's claims by evidence over each power of frequency, and its first places.

    Returns:
        Both ``[num_nodes, num_powers]``: the AUC, NaN where nothing or all is claimed; and the
        share of a node's c claims that are among the c things with most evidence, ties included.
    """
    evidence = sparse.csr_matrix(interactions.T if partners is None else partners)
    frequency = np.maximum(np.asarray(evidence.sum(axis=0)).ravel(), 1.0)
    areas, first = np.empty((2, len(nodes), len(_POWERS)))
    step = max(1, _BLOCK_VALUES // len(frequency))
    for start in range(0, len(nodes), step):
        rows = slice(start, start + step)
        block = nodes[rows]
        counts = np.asarray((interactions[block] @ evidence).todense(), dtype=np.float64)
        told = np.asarray(claims[rows].todense()) > 0
        itself = np.zeros(told.shape, bool)
        if partners is None:
            itself[np.arange(len(block)), block] = True
            told &= ~itself
        number = told.sum(axis=1)
        for place, power in enumerate(_POWERS):
            worth = np.where(itself, -1.0, counts / frequency**power)
            areas[rows, place] = auc(worth, told, itself)
            ordered = -np.sort(-worth, axis=1)
            least = ordered[np.arange(len(block)), np.maximum(number, 1) - 1]
            among = told & (worth >= least[:, None]) & (worth > 0)
            first[rows, place] = among.sum(axis=1) / np.maximum(number, 1)
    return areas, first


def _numbers(side: _Side) -> Iterator[Leak]:
    table = side.graph.attributes[side.node_type]
    names = [
        name
        for name in side.graph.schema.numeric.get(side.node_type, ())
        if name in table.column_names
    ]
    if not names:
        return
    everything, training = _totals(side)
    for name in names:
        values = numeric_values(table, name, side.node_type)[side.nodes]
        known = np.flatnonzero(~np.isnan(values))
        if len(known) < LEAST_NODES or len(np.unique(values[known])) < 3:
            continue
        by_all = _rank_correlations(values[known], everything, known)
        by_training = _rank_correlations(values[known], training, known)
        what = max(by_all, key=lambda total: by_all[total])
        agreed, before = by_all[what], by_training[what]
        if agreed < EQUAL or 1 - agreed > (1 - before) / 2:
            continue
        if not _beyond_chance(values[known], everything, known, agreed):
            continue
        keys = side.graph.vocabularies[side.node_type]
        change = np.abs(everything[what] - training[what])[known]
        rows = tuple(
            {
                side.node_type: keys[int(side.nodes[row])],
                name: float(values[row]),
                f"{what}, all": round(float(everything[what][row]), 4),
                f"{what}, training": round(float(training[what][row]), 4),
            }
            for row in known[np.argsort(-change, kind="stable")][:NUM_EXAMPLES]
        )
        yield Leak(
            f"{side.node_type}.{name}",
            f"it follows from the {what} of all interactions (rank correlation {agreed:.3f} over "
            f"{len(known)} nodes with held-out ones) and less from training (before: {before:.3f})",
            rows,
            len(known),
            "leave it out, or make it anew from training interactions, for every split",
        )


def _totals(side: _Side) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Numbers that interactions give a node: from all of them, and from training alone."""
    out: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    graph, nodes = side.graph, side.nodes
    sources = list(_phrases(graph, side.other, most=50))
    numbers = {
        name: numeric_values(graph.attributes[side.other], name, side.other)
        for name in graph.schema.numeric.get(side.other, ())
        if name in graph.attributes[side.other].column_names
    }
    for kind, known in side.known.items():
        for totals, matrix in zip(out, (known.everything, known.training), strict=True):
            rows = matrix[nodes]
            count = np.asarray(rows.sum(axis=1)).ravel()
            totals[f"number of {kind}"] = count
            for name, values in numbers.items():
                there = sparse.csr_matrix((~np.isnan(values)).astype(np.float64)[:, None])
                total = rows @ np.nan_to_num(values)
                totals[f"mean {name} of {kind}"] = _over(total, (rows @ there).toarray()[:, 0])
            for phrases, partners in sources:
                shares = np.asarray((rows @ partners).todense())
                for column, phrase in enumerate(phrases):
                    totals[f"share of {phrase.strip()} in {kind}"] = _over(shares[:, column], count)
    for name, values in _of_edges(side).items():
        for totals, one in zip(out, values, strict=True):
            totals[name] = one
    return out


def _of_edges(side: _Side) -> dict[str, list[np.ndarray]]:
    """Mean weight, first and last time of all interactions and of those of training."""
    graph, edges = side.graph, side.graph.interactions
    here = 0 if side.node_type == graph.schema.user else 1
    trained = np.asarray(
        side.known["positives"].training[edges.index[here], edges.index[1 - here]], dtype=bool
    ).ravel()
    found: dict[str, list[np.ndarray]] = {}
    for known in (np.ones(len(edges), bool), trained):
        rows, size = edges.index[here, known], graph.num_nodes(side.node_type)
        count = np.bincount(rows, minlength=size)[side.nodes]
        if edges.weight is not None:
            total = np.bincount(rows, edges.weight[known], size)[side.nodes]
            found.setdefault("mean weight of interactions", []).append(_over(total, count))
        if edges.time is not None:
            first, last = np.full(size, np.inf), np.full(size, -np.inf)
            np.minimum.at(first, rows, edges.time[known])
            np.maximum.at(last, rows, edges.time[known])
            for name, time in (("first time", first), ("last time", last)):
                some = np.where(count > 0, time[side.nodes], 0.0)
                found.setdefault(name, []).append(_over(some, np.minimum(count, 1)))
    return found


def _over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Means; that of nothing is the mean of the others."""
    known = count > 0
    mean = np.where(known, total / np.where(known, count, 1), np.nan)
    return np.where(known, mean, np.nanmean(mean) if known.any() else 0.0)


def _rank_correlations(
    values: np.ndarray, totals: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    """Spearman's correlation, without its sign, of values with each total; 0 with a constant."""

    def centred(x: np.ndarray) -> np.ndarray:
        ranks = rankdata(x)
        return ranks - ranks.mean()

    mine, out = centred(values), {}
    for name, total in totals.items():
        theirs = centred(total[rows])
        length = float(np.linalg.norm(mine) * np.linalg.norm(theirs))
        out[name] = abs(float(mine @ theirs)) / length if length else 0.0
    return out


def _beyond_chance(
    values: np.ndarray, totals: Mapping[str, np.ndarray], rows: np.ndarray, agreed: float
) -> bool:
    """Whether shuffled values never agree as well with any of the totals.

    A number that is the same for nearly all of a few nodes fits one of many totals by chance.
    """
    rng, mine = np.random.default_rng(0), rankdata(values)
    shuffled = rng.permuted(np.tile(mine - mine.mean(), (NUM_SHUFFLES, 1)), axis=1)
    theirs = np.stack([rankdata(total[rows]) for total in totals.values()], axis=1)
    theirs -= theirs.mean(axis=0)
    length = np.linalg.norm(shuffled[0]) * np.linalg.norm(theirs, axis=0)
    found = np.abs(shuffled @ theirs) / np.where(length > 0, length, np.inf)
    return bool(found.max() < min(agreed, EQUAL) - 1e-9)


def _phrases(
    graph: KnowledgeGraph, node_type: str, most: int = _MOST_THINGS
) -> Iterator[tuple[list[str], sparse.csr_matrix]]:
    """What nodes of a type are linked to or have as category, in plain words, and who has what.

    Yields:
        For each relation and category the phrases that at least two nodes have, the most frequent
        ones, and a matrix ``[num_nodes, num_phrases]`` of zeros and ones.
    """
    for edge_type, edges in graph.edges.items():
        ends = edge_type[0], edge_type[2]
        thing = ends[1] if ends[0] == node_type else ends[0]
        if node_type not in ends or thing in (graph.schema.user, graph.schema.item):
            continue
        rows = edges.index if ends[0] == node_type else edges.index[::-1]
        shape = graph.num_nodes(node_type), graph.num_nodes(thing)
        found = _frequent(_ones(rows[0], rows[1], shape), most)
        names = names_of(graph, thing, found.things)
        if (phrased := found.by_phrase(names)) is not None:
            yield phrased
    table = graph.attributes[node_type]
    for name in graph.schema.categorical.get(node_type, ()):
        if name in table.column_names:
            values = category_values(table, name, node_type)
            worded = [[plain_words(v) for v in own] for own in values]
            known = sorted({w for own in worded for w in own})
            place = {w: n for n, w in enumerate(known)}
            matrix = _one_hot([[place[w] for w in own] for own in worded], len(known))
            found = _frequent(matrix, most)
            phrases = (known[thing] for thing in found.things.tolist())
            names = [(phrase,) if phrase.strip() else () for phrase in phrases]
            if (phrased := found.by_phrase(names)) is not None:
                yield phrased


@dataclass(frozen=True, eq=False)
class _Frequent:
    """Things that at least two nodes have, the most frequent ones.

    Args:
        things: their rows, int64 ``[num_things]``.
        matrix: who has what, ``[num_nodes, num_things]``.
    """

    things: np.ndarray
    matrix: sparse.csr_matrix

    def by_phrase(
        self, names: Sequence[Sequence[str]]
    ) -> tuple[list[str], sparse.csr_matrix] | None:
        """Phrases and who has them, as a thing may have two names and two things the same one."""
        pairs = [(thing, name) for thing, some in enumerate(names) for name in some]
        phrases = list(dict.fromkeys(name for _, name in pairs))
        if len(phrases) < 2:
            return None
        place = {phrase: column for column, phrase in enumerate(phrases)}
        columns = np.array([place[name] for _, name in pairs])
        things = np.array([thing for thing, _ in pairs])
        named = _ones(things, columns, (len(self.things), len(phrases)))
        found = sparse.csr_matrix(self.matrix @ named)
        found.data = np.ones_like(found.data)
        return phrases, found


def _frequent(matrix: sparse.csr_matrix, most: int) -> _Frequent:
    number = np.asarray(matrix.sum(axis=0)).ravel()
    things = np.argsort(-number, kind="stable")[:most]
    things = np.sort(things[number[things] > 1])
    return _Frequent(things, sparse.csr_matrix(matrix[:, things]))


def _linked(graph: KnowledgeGraph, node_type: str, thing: str) -> sparse.csr_matrix | None:
    """Which nodes of a type are linked to which of another, by any relation."""
    index = [
        edges.index if edge_type[0] == node_type else edges.index[::-1]
        for edge_type, edges in graph.edges.items()
        if {edge_type[0], edge_type[2]} == {node_type, thing}
    ]
    if not index:
        return None
    pairs = np.hstack(index)
    return _ones(pairs[0], pairs[1], (graph.num_nodes(node_type), graph.num_nodes(thing)))


def _one_hot(rows: Sequence[Sequence[int]], width: int) -> sparse.csr_matrix:
    """Ones in these columns of each row."""
    sources = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    return _ones(sources, columns, (len(rows), width))


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Ones at these places; those that repeat are one as well."""
    found = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    found.data = np.ones_like(found.data)
    return found
