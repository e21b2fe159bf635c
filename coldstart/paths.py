"""Paths through the graph between a user and an item, and how much of a score each carries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gnn.data import NodeInputs
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.stores.names import quoted
from kg.tables import text_column
from kg.vectors import Key

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from coldstart.explanation import Side

MOST_ROWS = 100
"""A Cypher query shows at most so many paths."""

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Place:
    """A node on a path, or several that stand in the same place.

    Args:
        node_type: their type.
        keys: theirs, those that carry most first; empty for whoever is there.
        names: what they are called.
    """

    node_type: str
    keys: tuple[Key, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Hop:
    """From one place to the next.

    Args:
        edge_type: of the edges.
        direction: ``"out"`` along them, ``"in"`` against them, or ``"both"``.
    """

    edge_type: EdgeType
    direction: str


@dataclass(frozen=True)
class CypherQuery:
    """A query and its parameters; no value stands in the query itself."""

    cypher: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class GraphPath:
    """A path from the user to the item.

    Args:
        kind: ``"shared"`` (the item shares an entity with items the user liked), ``"linked"`` (it
            is linked to one), ``"audience"`` (liked by those who liked one), ``"peers"`` (liked by
            people who share an entity with the user, or are linked to them), ``"taste"`` (people
            who share an entity with the user like items that share one with the item).
        places: the user first, the item last.
        hops: between them.
        share: of the score.
        strength: weights of the user's own interactions on it, lowest and highest, if any.
        count: how many people, interactions or items are behind it.
        schema: of the graph, for :meth:`cypher`.
    """

    kind: str
    places: tuple[Place, ...]
    hops: tuple[Hop, ...]
    share: float
    strength: tuple[float, float] | None
    count: int
    schema: Schema

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        out = {k: v for k, v in vars(self).items() if k != "schema"}
        return out | {
            "places": [asdict(place) for place in self.places],
            "hops": [asdict(hop) for hop in self.hops],
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """What the path says, in words."""
        does = _spoken(self.schema.interaction[1])
        do = _of_many(does)
        things = f"{self.schema.item.lower()}{'' if self.count == 1 else 's'}"
        people, verb = ("person", does) if self.count == 1 else ("people", do)
        also = "did" if do == does else "do"  # rated, or likes
        said = "" if self.strength is None else " " + _range(*self.strength)
        if self.kind == "shared":
            shared, some = self._last_entity(), self.places[1]
            return f"it shares {shared} with {self.count} {things} you {do}{said} ({_few(some)})"
        if self.kind == "linked":
            link = _spoken(self.hops[-1].edge_type[1])
            return f"{link} links it to {self.places[1].names[0]}, which you {do}{said}"
        if self.kind == "audience":
            near = self.places[1].names[0]
            return f"{self.count} {people} who {verb} {near}, as you {also}{said}, {verb} it, too"
        if self.kind == "peers" and len(self.places) == 3:
            return f"{self.places[1].names[0]}, to whom {_spoken(self.hops[0].edge_type[1])} " + (
                f"links you, {does} it"
            )
        if self.kind == "peers":
            share = "shares" if self.count == 1 else "share"
            return f"{self.count} {people} who {share} {self._first_entity()} with you {verb} it"
        shares = f"{do} {self.count} times what shares {self._last_entity()}"
        return f"people who share {self._first_entity()} with you {shares}"

    def _first_entity(self) -> str:
        """What the user shares with people: half of the way to their interactions."""
        hops = self.hops[: self._interaction // 2]
        return _named(hops, self.places[len(hops)].names[0])

    def _last_entity(self) -> str:
        """What the item shares with others: half of the way back to interactions with these."""
        number = (len(self.hops) - 1 - self._interaction) // 2
        return _named(self.hops[: -number - 1 : -1], self.places[-1 - number].names[0])

    @property
    def _interaction(self) -> int:
        """Which hop is the first interaction."""
        return next(
            at for at, hop in enumerate(self.hops) if hop.edge_type == self.schema.interaction
        )

    def cypher(self) -> CypherQuery:
        """The query that shows this path in the store that the graph came from.

        One ``MATCH`` goes over an edge once at most, and two songs may be by one artist: where a
        path comes back over nodes that stand for whoever is there, it is matched in parts.
        """
        parts, conditions, parameters = ["(n0"], [], {}
        for at, place in enumerate(self.places):
            if at:
                hop = self.hops[at - 1]
                left, right = {"out": ("-", "->"), "in": ("<-", "-"), "both": ("-", "-")}[
                    hop.direction
                ]
                parts[-1] += f"{left}[r{at}:{quoted(hop.edge_type[1])}]{right}(n{at}"
                least = self.schema.positive_weight
                if hop.edge_type == self.schema.interaction and least is not None:
                    conditions.append(f"r{at}.{quoted(self.schema.weight)} >= $least")
                    parameters["least"] = least
            parts[-1] += f":{quoted(place.node_type)})"
            if place.keys:
                key = quoted(self.schema.key_of(place.node_type))
                conditions.append(f"n{at}.{key} IN $n{at}")
                parameters[f"n{at}"] = list(place.keys)
            if self._turns(at):
                parts.append(f"(n{at})")
        names = ["p", *(f"p{number}" for number in range(2, len(parts) + 1))]
        matches = [f"MATCH {name} = {part}" for name, part in zip(names, parts, strict=True)]
        return CypherQuery(
            "\n".join(matches)
            + f"\nWHERE {' AND '.join(conditions)}\nRETURN {', '.join(names)} LIMIT {MOST_ROWS}",
            parameters,
        )

    def _turns(self, at: int) -> bool:
        """Whether the path comes back from here the way it came, over whoever is there."""
        if not 0 < at < len(self.hops) or self.hops[at - 1].edge_type != self.hops[at].edge_type:
            return False
        return not self.places[at - 1].keys and not self.places[at + 1].keys


_Found = tuple[float, Callable[[], GraphPath]]
"""What a path carries, and how it is made once it is known to be among those that carry most."""


def paths_between(
    engine: ColdStartEngine, user: Side, item: Side, shares: np.ndarray, most: int
) -> tuple[GraphPath, ...]:
    """The paths that carry most of the score of a pair, largest share first.

    Args:
        engine: the engine.
        user: the user, taken apart.
        item: the item, taken apart.
        shares: of the score, by atom of the user and atom of the item.
        most: so many paths at most.
    """
    finder = _Finder(engine, user, item, shares)
    found = [*finder.through_liked(), *finder.through_fans(), *finder.through_peers()]
    if not found:
        found = [*finder.through_tastes()]
    found.sort(key=lambda path: -abs(path[0]))
    return tuple(make() for _, make in found[:most])


class _Link(NamedTuple):
    """An atom that comes from a link of a node to an entity or to another node of its type.

    Args:
        at: position of the atom.
        relation: name of the link.
        way: from the node to the entity.
        between: node types on the way.
        end: node type of the entity.
        row: of the entity.
    """

    at: int
    relation: str
    way: tuple[Hop, ...]
    between: tuple[str, ...]
    end: str
    row: int

    @property
    def within(self) -> bool:
        """Whether it links nodes of one type."""
        return self.way[0].direction == "both"

    @property
    def back(self) -> tuple[Hop, ...]:
        """From the entity to a node."""
        return tuple(Hop(hop.edge_type, _back(hop.direction)) for hop in reversed(self.way))


class _Finder:
    """What the finders of the different kinds of path share."""

    def __init__(self, engine: ColdStartEngine, user: Side, item: Side, shares: np.ndarray) -> None:
        self.engine, self.user, self.item, self.shares = engine, user, item, shares
        self.graph, self.schema = engine.graph, engine.graph.schema
        self.liked = _partner_atoms(user, item.row)
        self.fans = _partner_atoms(item, user.row)

    def through_liked(self) -> Iterator[_Found]:
        """From an item the user liked, over what it shares with the item, or straight to it."""
        rows = np.array(list(self.liked), np.int64)
        inputs = self.engine._inputs_of(self.schema.item, rows)
        for link in self._links_of(self.item):
            some, direct = rows[_have(inputs, link)].tolist(), False
            if link.within and link.row in self.liked:
                some, direct = [link.row], True
            if some:
                shares = self.shares[[self.liked[row] for row in some], link.at]
                some = _by_size(some, shares)
                make = partial(self._liked, some, link, direct, shares)
                yield float(shares.sum()), make

    def through_fans(self) -> Iterator[_Found]:
        """From an item the user liked to the item, over people who liked both."""
        is_fan = np.zeros(len(self.graph.users), bool)
        is_fan[list(self.fans)] = True
        rows = np.array(list(self.liked), np.int64)
        audience = self.engine._links(self.schema.item, rows)
        for number, row in enumerate(rows.tolist()):
            theirs = audience.indices[audience.indptr[number] : audience.indptr[number + 1]]
            both = is_fan[theirs]
            if both.any():
                people = theirs[both].tolist()
                shares = self.shares[self.liked[row], [self.fans[person] for person in people]]
                people = _by_size(people, shares)
                yield float(shares.sum()), partial(self._audience, row, people, shares)

    def through_peers(self) -> Iterator[_Found]:
        """From what the user shares with people who liked the item, or straight from one."""
        fans = np.array(list(self.fans), np.int64)
        inputs = self.engine._inputs_of(self.schema.user, fans)
        for link in self._links_of(self.user):
            people, direct = fans[_have(inputs, link)].tolist(), False
            if link.within and link.row in self.fans:
                people, direct = [link.row], True
            if people:
                shares = self.shares[link.at, [self.fans[row] for row in people]]
                people = _by_size(people, shares)
                yield float(shares.sum()), partial(self._peers, people, link, direct, shares)

    def through_tastes(self) -> Iterator[_Found]:
        """From what the user shares with people, over what they liked, to what the item shares.

        For two nodes without interactions, which no shorter path connects.
        """
        positives = self.graph.positives()
        people, things = self._links_of(self.user), self._links_of(self.item)
        theirs = [self._all_with(self.user, link)[positives[0]] for link in people]
        those = [self._all_with(self.item, link)[positives[1]] for link in things]
        for own, by_user in zip(people, theirs, strict=True):
            for other, of_item in zip(things, those, strict=True):
                if count := int((by_user & of_item).sum()):
                    share = float(self.shares[own.at, other.at])
                    yield share, partial(self._taste, own, other, share, count)

    def _liked(self, rows: list[int], link: _Link, direct: bool, shares: np.ndarray) -> GraphPath:
        places = [self._place(self.schema.item, rows)]
        hops = [Hop(self.schema.interaction, "out"), *link.way]
        if not direct:
            places += self._through(link)
            hops += link.back
        kind = "linked" if direct else "shared"
        return self._path(kind, places, hops, shares.sum(), len(rows), rows)

    def _audience(self, row: int, people: list[int], shares: np.ndarray) -> GraphPath:
        places = [self._place(self.schema.item, [row]), self._place(self.schema.user, people)]
        hops = [Hop(self.schema.interaction, way) for way in ("out", "in", "out")]
        return self._path("audience", places, hops, shares.sum(), len(people), [row])

    def _peers(self, people: list[int], link: _Link, direct: bool, shares: np.ndarray) -> GraphPath:
        places, hops = [], [*link.way]
        if not direct:
            places += self._through(link)
            hops += link.back
        places.append(self._place(self.schema.user, people))
        hops.append(Hop(self.schema.interaction, "out"))
        return self._path("peers", places, hops, shares.sum(), len(people))

    def _taste(self, own: _Link, other: _Link, share: float, count: int) -> GraphPath:
        people, things = (Place(t, (), ()) for t in (self.schema.user, self.schema.item))
        places = [*self._through(own), people, things, *self._through(other)]
        interaction = Hop(self.schema.interaction, "out")
        hops = [*own.way, *own.back, interaction, *other.way, *other.back]
        return self._path("taste", places, hops, share, count)

    def _through(self, link: _Link) -> list[Place]:
        """The places between two nodes that have the same link."""
        there = [Place(node_type, (), ()) for node_type in link.between]
        return [*there, self._place(link.end, [link.row]), *reversed(there)]

    def _path(
        self,
        kind: str,
        places: list[Place],
        hops: list[Hop],
        share: float,
        count: int,
        liked: list[int] | None = None,
    ) -> GraphPath:
        between = (self._end(self.user), *places, self._end(self.item))
        strength = None if liked is None else self._strength(liked)
        return GraphPath(kind, between, tuple(hops), float(share), strength, count, self.schema)

    def _links_of(self, side: Side) -> list[_Link]:
        """The atoms of a side that come from links."""
        own = side.node_type
        edge_types = {name: e for e, name in self.engine.relation_names[own].items()}
        far = self.engine.far_relations[own]
        found = []
        for at, source in enumerate(side.atoms.sources):
            name, row = source.relation, source.row
            if name is None or row is None:
                continue
            edge_type = edge_types[far[name].near if name in far else name]
            way = (Hop(edge_type, _direction(edge_type, own)),)
            end = _other_end(edge_type, own)
            if name in far:
                onward = Hop(far[name].edge_type, "in" if far[name].end else "out")
                link = _Link(at, name, (*way, onward), (end,), far[name].target, row)
            else:
                link = _Link(at, name, way, (), end, row)
            if not (link.within and row == side.row):
                found.append(link)
        return found

    def _all_with(self, side: Side, link: _Link) -> np.ndarray:
        """Which nodes of a side's type have the same link, bool ``[num_nodes]``."""
        rows = np.array([link.row])
        for hop in reversed(link.way):
            edges = self.graph.edges[hop.edge_type]
            ends = {"out": (1,), "in": (0,), "both": (0, 1)}[hop.direction]
            found = [edges.index[1 - end, edges.touching(end, rows)[0]] for end in ends]
            rows = np.unique(np.concatenate(found))
        own = np.zeros(self.graph.num_nodes(side.node_type), bool)
        own[rows] = True
        return own

    def _end(self, side: Side) -> Place:
        return self._place(side.node_type, [side.row])

    def _place(self, node_type: str, rows: list[int]) -> Place:
        nodes = self.graph.vocabularies[node_type]
        names = tuple(name_of(self.graph, node_type, row) for row in rows)
        return Place(node_type, tuple(nodes[row] for row in rows), names)

    def _strength(self, rows: list[int]) -> tuple[float, float] | None:
        edges = self.graph.interactions
        if edges.weight is None:
            return None
        mine = (edges.index[0] == self.user.row) & np.isin(edges.index[1], rows)
        weights = edges.weight[mine]
        return float(weights.min()), float(weights.max())


def naming_properties(graph: KnowledgeGraph, node_type: str) -> list[str]:
    """Properties that nodes are called by, the first one that a node has: titles, names, texts.

    What people write of themselves is no name of theirs, and nothing to be shown to others.
    """
    texts = graph.schema.text.get(node_type, ()) if node_type != graph.schema.user else ()
    known = graph.attributes[node_type].column_names
    return [name for name in ("title", "name", *texts) if name in known]


def name_of(graph: KnowledgeGraph, node_type: str, row: int) -> str:
    """What a node is called: its title or name, or its first text, or else its key."""
    table = graph.attributes[node_type]
    for name in naming_properties(graph, node_type):
        if text := text_column(table[name].slice(row, 1))[0]:
            return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
    return str(graph.vocabularies[node_type][row])


def _partner_atoms(side: Side, but: int) -> dict[int, int]:
    """Position of the atom of every interaction by the row at its other end, but one."""
    return {
        source.row: at
        for at, source in enumerate(side.atoms.sources)
        if source.relation is None and source.row is not None and source.row != but
    }


def _have(inputs: NodeInputs, link: _Link) -> np.ndarray:
    """Which of these nodes have the link, bool ``[n]``."""
    found = np.zeros(len(inputs), bool)
    of = inputs.same_type.get if link.within else inputs.links
    if (links := of(link.relation)) is not None:
        found[links.sources[links.indices == link.row]] = True
    return found


def _by_size(rows: list[int], shares: np.ndarray) -> list[int]:
    return [rows[at] for at in np.argsort(-np.abs(shares), kind="stable")]


def _within(edge_type: EdgeType) -> bool:
    """Whether the edges link nodes of one type."""
    return edge_type[0] == edge_type[2]


def _other_end(edge_type: EdgeType, own: str) -> str:
    return edge_type[2] if edge_type[0] == own else edge_type[0]


def _direction(edge_type: EdgeType, own: str) -> str:
    if _within(edge_type):
        return "both"
    return "out" if edge_type[0] == own else "in"


def _back(direction: str) -> str:
    return {"out": "in", "in": "out", "both": "both"}[direction]


def _named(way: Sequence[Hop], entity: str) -> str:
    """An entity and how it is linked: ``genre Jazz`` by ``HAS_GENRE``, else ``Jazz (about)``.

    Args:
        way: to the entity.
        entity: its name.
    """
    relations = [hop.edge_type[1] for hop in way]
    noun = len(way) == 1 and relations[0].lower().startswith("has")
    spoken = ", ".join(_spoken(relation) for relation in relations)
    return f"{spoken} {entity}" if noun else f"{entity} ({spoken})"


def _spoken(relation: str) -> str:
    """A relation as people write it: ``HAS_GENRE`` is genre."""
    words = relation.replace("_", " ").strip().lower()
    return words.removeprefix("has ").strip() or relation


def _of_many(verb: str) -> str:
    """As ``you`` and ``people`` have it: likes a film, like a film; what is past stays."""
    first, *rest = verb.split(" ")
    if first in (irregular := {"has": "have", "is": "are", "does": "do", "goes": "go"}):
        first = irregular[first]
    elif re.search(r"(ss|sh|ch|x|zz)es$", first):
        first = first[:-2]
    elif re.search(r"[^aeiou]ies$", first):
        first = first[:-3] + "y"
    elif re.search(r"[^s]s$", first):
        first = first[:-1]
    return " ".join([first, *rest])


def _range(lowest: float, highest: float) -> str:
    return f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"


def _few(place: Place, most: int = 3) -> str:
    named = ", ".join(place.names[:most])
    more = len(place.names) - most
    return named + (f" and {more} more" if more > 0 else "")
