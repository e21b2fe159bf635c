"""Why a user gets an item: parts of the score that add up, and the paths that carry them.

Both embeddings are sums of atoms (:mod:`gnn.atoms`): what every linked entity, word, property and
interaction adds. So the score is the sum over all pairs of an atom of the user and one of the item,
plus b_i. Summed over the user's atoms it is told by what is known of the item, summed over the
item's by what is known of the user, and a path through the graph carries the pairs at its two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from coldstart.paths import GraphPath, name_of, paths_between
from gnn.atoms import INTERACTIONS, POPULARITY, PROMINENCE, Atoms, Source, embedding_atoms
from gnn.groups import Text
from gnn.infer import rotated_rows
from gnn.words import Words, words_of
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.vectors import Key

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

MOST_CHECKED = 10
"""So many edges are taken away by ``removal=True``, those with the largest parts."""

_MOST_NEAR, _MOST_WORDS = 5, 6
_SPOKEN = {POPULARITY: "what any item gets", PROMINENCE: "how well connected it is"}
"""Names of parts in sentences; an item that nobody has had has popularity, too."""

_NEAR = 0.3
"""From this cosine on a text counts as near in a sentence."""

_COMMON = 0.2
"""Words in more than this share of the texts are not named as what two texts have in common."""


@dataclass(frozen=True)
class Edge:
    """An edge of the graph by its keys."""

    edge_type: EdgeType
    source: Key
    target: Key


@dataclass(frozen=True)
class Contribution:
    """One thing within a part of the score.

    Args:
        name: of the entity, user or item, or the word or category itself.
        share: of the score, positive or negative.
        node_type: of what is linked; ``None`` for words and properties.
        key: of what is linked.
        edge: that links it; :meth:`Explanation.without` takes it away.
        change: what the score really loses without that edge, where it was asked for.
    """

    name: str
    share: float
    node_type: str | None = None
    key: Key | None = None
    edge: Edge | None = None
    change: float | None = None


@dataclass(frozen=True)
class Part:
    """A part of the score: a relation, a property, text, words, interactions, popularity, a bias.

    Args:
        name: what it comes from.
        share: of the score; the shares of all parts add up to it.
        contributions: what it is made of, largest first; they add up to ``share``. Empty where
            there is nothing smaller to name.
    """

    name: str
    share: float
    contributions: tuple[Contribution, ...] = ()


@dataclass(frozen=True)
class NearItem:
    """An item that the user liked and whose text is near.

    Args:
        item: its key.
        name: its name.
        cosine: of the two texts, less what all texts have in common, -1 to 1.
        words: rare words in both.
    """

    item: Key
    name: str
    cosine: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """What the score was, is without an edge, and what that changes.

    Args:
        edge: that was taken away, in both directions where it is there in both.
        before: score with it.
        after: score without it, everything recomputed.
    """

    edge: Edge
    before: float
    after: float

    @property
    def change(self) -> float:
        """What the edge is really worth: ``before - after``."""
        return self.before - self.after


@dataclass(frozen=True)
class Explanation:
    """Why a user would get an item.

    Args:
        user: key of the user.
        item: key of the item.
        user_name: what the user is called; the key where there is no name.
        item_name: what the item is called.
        score: r_ui.
        parts: by what is known of the item, largest first; they add up to ``score``.
        user_parts: the same score by what is known of the user; they add up, too.
        paths: through the graph, those that carry most first.
        nearest: items the user liked with the nearest texts.
        confidence: 0 to 1, as in recommendations.
    """

    user: Key
    item: Key
    user_name: str
    item_name: str
    score: float
    parts: tuple[Part, ...]
    user_parts: tuple[Part, ...]
    paths: tuple[GraphPath, ...]
    nearest: tuple[NearItem, ...]
    confidence: float
    _engine: ColdStartEngine | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return (
            f"Explanation(user: {self.user!r}, item: {self.item!r}, score: {self.score:+.3f}, "
            f"confidence: {self.confidence:.2f}, parts: {len(self.parts)}, "
            f"paths: {len(self.paths)})"
        )

    def without(self, edge: Edge) -> Removal:
        """What the score is without an edge: it is taken away and everything recomputed.

        Raises:
            GraphError: there is no such edge.
        """
        if self._engine is None:
            raise ValueError(
                "this explanation was read from data; ask engine.explain for a new one"
            )
        return without(self._engine, self.user, self.item, edge)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        out = {k: v for k, v in vars(self).items() if k not in ("_engine", "paths")}
        for name in ("parts", "user_parts", "nearest"):
            out[name] = [asdict(value) for value in out[name]]
        return out | {"paths": [path.to_dict() for path in self.paths]}

    def sentence(self, most: int = 3) -> str:
        """The strongest reasons in one sentence.

        Args:
            most: so many reasons at most.
        """
        reasons = [path.sentence() for path in self.paths if path.share > 0][:most]
        if not reasons and self.nearest and (near := self.nearest[0]).cosine > _NEAR:
            reasons = [f"its text is near that of {near.name}, which you liked"]
        if not reasons:
            best = _largest_first([part for part in self.parts if part.share > 0])[:most]
            told = [_SPOKEN.get(part.name, part.name) for part in best]
            reasons = ["what speaks for it is " + ", ".join(told)] if told else []
        if not reasons:
            return f"Nothing speaks for {self.item_name}."
        return f"{self.item_name}: " + "; ".join(reasons) + "."

    def to_text(self) -> str:
        """Several lines for people: sentence, parts, paths, nearest items."""
        lines = [self.sentence(), f"score {self.score:+.3f}, confidence {self.confidence:.2f}"]
        for title, parts in (("the item", self.parts), ("the user", self.user_parts)):
            lines.append(f"by what is known of {title}:")
            for part in parts:
                some = (
                    f"{c.name} {c.share:+.3f}"
                    + (f" (really {c.change:+.3f})" if c.change is not None else "")
                    for c in part.contributions[:4]
                )
                lines.append(f"  {part.share:+.3f} {part.name}: {', '.join(some)}".rstrip(": "))
        lines += ["paths:"] if self.paths else []
        lines += [f"  {path.share:+.3f} {path.sentence()}" for path in self.paths]
        lines += ["nearest by text:"] if self.nearest else []
        for near in self.nearest:
            words = f", both have {', '.join(near.words)}" if near.words else ""
            lines.append(f"  cosine {near.cosine:.2f} {near.name}{words}")
        return "\n".join(lines)

    def plot(self, path: str | FilePath) -> None:
        """Draw parts and paths as a PNG.

        Raises:
            DependencyError: matplotlib is not installed.
        """
        from coldstart.plots import plot_explanation

        plot_explanation(self, FilePath(path))


@dataclass(frozen=True, eq=False)
class Side:
    """One end of the pair, taken apart."""

    node_type: str
    key: Key
    row: int
    atoms: Atoms
    partners: np.ndarray


def explained(
    engine: ColdStartEngine, user: Key, item: Key, num_paths: int, removal: bool
) -> Explanation:
    """See :meth:`coldstart.engine.ColdStartEngine.explain`."""
    from coldstart.evidence import evidence_of

    graph, schema = engine.graph, engine.graph.schema
    sides = [taken_apart(engine, t, k) for t, k in ((schema.user, user), (schema.item, item))]
    of_user, of_item = sides
    shares = (of_user.atoms.vectors.double() @ of_item.atoms.vectors.double().T).cpu().numpy()
    lift = engine.cold_boost * float(engine.newness[of_item.row])
    biases = (
        Part("item bias", lift * float(engine.familiarity[of_user.row])),
        Part("user bias", 0.0),
    )
    parts = _parts(engine, of_item, shares.sum(axis=0)) + biases
    user_parts = _parts(engine, of_user, shares.sum(axis=1)) + biases
    pair = np.array([of_user.row]), np.array([of_item.row])
    score = float(engine.score([user], [item])[0, 0])
    found = Explanation(
        user,
        item,
        name_of(graph, schema.user, of_user.row),
        name_of(graph, schema.item, of_item.row),
        score,
        _largest_first(parts),
        _largest_first(user_parts),
        paths_between(engine, of_user, of_item, shares, num_paths),
        _nearest(engine, of_user.partners, of_item.row),
        float(evidence_of(engine, *pair)["confidence"][0]),
        engine,
    )
    return _checked(found) if removal else found


def taken_apart(engine: ColdStartEngine, node_type: str, key: Key) -> Side:
    """A user or item with the atoms that its embedding is the sum of."""
    graph = engine.graph
    row = graph.vocabularies[node_type].row(key)
    rows = np.array([row])
    is_user = node_type == graph.schema.user
    side, vectors = engine._side(node_type)
    other = engine.items if is_user else engine.users
    against = engine.item_vectors if is_user else engine.user_vectors
    links = engine._links(node_type, rows)
    partners = links.indices
    atoms = embedding_atoms(
        side,
        engine._inputs_of(node_type, rows),
        partners,
        links.values,
        rotated_rows(other, against, partners),
        other,
        vectors[row],
    )
    atoms = replace(atoms, vectors=atoms.vectors * engine.gain_of(node_type, rows)[:, None])
    return Side(node_type, key, row, atoms, partners)


def without(engine: ColdStartEngine, user: Key, item: Key, edge: Edge) -> Removal:
    """The score of a pair before and after an edge is taken away.

    Raises:
        GraphError: there is no such edge.
    """
    ends = [(edge.source, edge.target)]
    if edge.edge_type[0] == edge.edge_type[2]:
        ends.append((edge.target, edge.source))  # links within a type count in both directions
    there = [pair for pair in dict.fromkeys(ends) if _is_there(engine.graph, edge.edge_type, *pair)]
    if not there:
        raise GraphError(f"there is no edge {edge} to take away; use one of an explanation's parts")
    columns = {"source": [s for s, _ in there], "target": [t for _, t in there]}
    after = engine.update(GraphDelta(removed_edges={edge.edge_type: columns}))
    before, now = (float(e.score([user], [item])[0, 0]) for e in (engine, after))
    return Removal(edge, before, now)


def edge_of(engine: ColdStartEngine, side: Side, source: Source) -> Edge | None:
    """The edge that an atom comes from, as it is in the graph."""
    graph = engine.graph
    if source.row is None:
        return None
    if source.part == INTERACTIONS and source.relation is None:
        edge_type = graph.schema.interaction
    else:
        names = engine.relation_names[side.node_type]
        edge_type = next(e for e, name in names.items() if name == source.relation)
    same = edge_type[0] == edge_type[2]
    if same and source.row == side.row:
        return None  # a node counts among its own neighbours without an edge
    outgoing = edge_type[0] == side.node_type
    other = edge_type[2] if outgoing else edge_type[0]
    there = graph.vocabularies[other][source.row]
    ends = (side.key, there) if outgoing else (there, side.key)
    if same and not _is_there(graph, edge_type, *ends):
        ends = ends[::-1]
    return Edge(edge_type, *ends)


def _is_there(graph: KnowledgeGraph, edge_type: EdgeType, source: Key, target: Key) -> bool:
    if edge_type not in graph.edges:
        return False
    ends = (edge_type[0], source), (edge_type[2], target)
    rows = [graph.vocabularies[t].rows([k], missing="mark")[0] for t, k in ends]
    here, there = graph.edges[edge_type].index
    return bool(((here == rows[0]) & (there == rows[1])).any())


def _parts(engine: ColdStartEngine, side: Side, shares: np.ndarray) -> tuple[Part, ...]:
    grouped: dict[str, list[Contribution]] = {}
    for source, share in zip(side.atoms.sources, shares.tolist(), strict=True):
        grouped.setdefault(source.part, []).append(_contribution(engine, side, source, share))
    return tuple(
        Part(
            name,
            sum(c.share for c in found),
            () if len(found) == 1 and not found[0].name else _largest_first(found),
        )
        for name, found in grouped.items()
    )


def _contribution(
    engine: ColdStartEngine, side: Side, source: Source, share: float
) -> Contribution:
    if source.row is None:
        return Contribution(source.value or "", share)
    if far := engine.far_relations[side.node_type].get(source.relation or ""):
        key = engine.graph.vocabularies[far.target][source.row]
        return Contribution(name_of(engine.graph, far.target, source.row), share, far.target, key)
    edge, schema = edge_of(engine, side, source), engine.graph.schema
    if edge is None:
        return Contribution("itself", share, side.node_type, side.key)
    if source.relation is None:
        end = schema.item if side.node_type == schema.user else schema.user
    else:
        end = edge.edge_type[2] if edge.edge_type[0] == side.node_type else edge.edge_type[0]
    key = engine.graph.vocabularies[end][source.row]
    return Contribution(name_of(engine.graph, end, source.row), share, end, key, edge)


_P = TypeVar("_P", Part, Contribution)


def _largest_first(parts: Sequence[_P]) -> tuple[_P, ...]:
    return tuple(sorted(parts, key=lambda part: -abs(part.share)))


def _nearest(engine: ColdStartEngine, liked: np.ndarray, row: int) -> tuple[NearItem, ...]:
    """Liked items with the nearest texts, and the rare words they share."""
    graph, item = engine.graph, engine.graph.schema.item
    groups = engine.items.propagation.groups
    text = next((g for g in groups if isinstance(g, Text) and g.source == "text"), None)
    liked = liked[liked != row]
    if text is None or not len(liked):
        return ()
    inputs = engine._inputs_of(item, np.concatenate([[row], liked]))
    vectors = text.raw(inputs, np.arange(len(liked) + 1), torch.device("cpu")).numpy()
    cosines = vectors[1:] @ vectors[0]
    best = np.argsort(-cosines, kind="stable")[:_MOST_NEAR]
    rare = next((g for g in groups if isinstance(g, Words)), None)
    wording = inputs.wording(np.concatenate([[0], best + 1])) if inputs.wording else []
    own, *others = [_rare_words(rare, text) for text in wording] or [{}]
    out = []
    for place, at in enumerate(best.tolist()):
        shared = others[place].keys() & own.keys() if others else ()
        words = sorted(shared, key=lambda w: (-own[w], w))[:_MOST_WORDS]
        near = int(liked[at])
        out.append(
            NearItem(
                graph.items[near], name_of(graph, item, near), float(cosines[at]), tuple(words)
            )
        )
    return tuple(out)


def _rare_words(group: Words | None, text: str) -> dict[str, float]:
    """The words of a text that few texts have, with a weight that is high where they are rare."""
    if group is None:
        return {word: float(len(word)) for word in words_of(text)}
    columns, _ = group.weighted(text)
    common = 1 - np.log(_COMMON)  # idf of a word in that share of all texts
    return {group.vocabulary[c]: float(group.idf[c]) for c in columns if group.idf[c] > common}


def _checked(found: Explanation) -> Explanation:
    """The explanation with the true change of the largest parts that come from an edge."""
    every = [c for part in (*found.parts, *found.user_parts) for c in part.contributions if c.edge]
    edges = [c.edge for c in _largest_first(every)[:MOST_CHECKED] if c.edge]
    changes: dict[Edge | None, float] = {e: found.without(e).change for e in edges}

    def told(part: Part) -> Part:
        some = (replace(c, change=changes.get(c.edge)) for c in part.contributions)
        return replace(part, contributions=tuple(some))

    return replace(
        found,
        parts=tuple(map(told, found.parts)),
        user_parts=tuple(map(told, found.user_parts)),
    )
