"""A graph as arrays: adjacency by row, and everything the features of one side are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.delta import take_rows
from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType
from kg.tables import is_string, text_column

_NO_EDGES = Edges(np.empty((2, 0), np.int64))


@dataclass(frozen=True, eq=False)
class Adjacency:
    """For every node the distinct nodes it is linked to, in ascending order.

    Args:
        indptr: int64 ``[num_nodes + 1]``.
        indices: int64 ``[num_links]``.
        num_targets: how many nodes can be linked to.
        values: how strong every link is, float32 ``[num_links]``; ``None``: all are 1.
    """

    indptr: np.ndarray
    indices: np.ndarray
    num_targets: int
    values: np.ndarray | None = None

    @classmethod
    def from_pairs(
        cls,
        sources: np.ndarray,
        targets: np.ndarray,
        num_nodes: int,
        num_targets: int,
        values: np.ndarray | None = None,
    ) -> Adjacency:
        """The adjacency of pairs in any order; pairs that repeat count once, the strongest."""
        if not len(sources):
            empty = np.empty(0, np.int64)
            return cls(np.zeros(num_nodes + 1, np.int64), empty, num_targets)
        if values is not None:
            order = np.lexsort((values, targets, sources))
            some = cls.from_pairs(sources, targets, num_nodes, num_targets)
            last = np.ones(len(order), bool)  # of every pair, the strongest
            last[:-1] = np.diff(sources[order]).astype(bool) | np.diff(targets[order]).astype(bool)
            return replace(some, values=values[order[last]])
        if num_nodes == 1:
            targets = np.unique(targets)
            return cls(np.array([0, len(targets)]), targets, num_targets)
        ids = np.unique(sources.astype(np.int64) * max(num_targets, 1) + targets)
        sources, targets = np.divmod(ids, max(num_targets, 1))
        indptr = np.zeros(num_nodes + 1, np.int64)
        np.cumsum(np.bincount(sources, minlength=num_nodes), out=indptr[1:])
        return cls(indptr, targets, num_targets)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def degrees(self) -> np.ndarray:
        """Number of links of every node, int64 ``[num_nodes]``."""
        return np.diff(self.indptr)

    @property
    def sources(self) -> np.ndarray:
        """The node of every link, int64 ``[num_links]``."""
        return np.repeat(np.arange(len(self)), self.degrees)

    def take(self, rows: np.ndarray) -> Adjacency:
        """The links of some nodes, in the order given."""
        degrees = self.indptr[rows + 1] - self.indptr[rows]  # of these rows alone
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(degrees, out=indptr[1:])
        at = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], degrees)
        return Adjacency(indptr, self.indices[at], self.num_targets, self._values(at))

    def only(self, allowed: np.ndarray) -> Adjacency:
        """The links to nodes where the mask ``[num_targets]`` is true."""
        return self.select(allowed[self.indices])

    def select(self, keep: np.ndarray) -> Adjacency:
        """The links where the mask ``[num_links]`` is true."""
        indptr = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return Adjacency(indptr, self.indices[keep], self.num_targets, self._values(keep))

    def transpose(self) -> Adjacency:
        """The same links seen from the other end."""
        ends = self.indices, self.sources, self.num_targets, len(self)
        return Adjacency.from_pairs(*ends, self.values)

    def _values(self, which: np.ndarray) -> np.ndarray | None:
        return None if self.values is None else self.values[which]


@dataclass(frozen=True, eq=False)
class FarRelation:
    """What the entities of one relation are linked to, as the genres of a song's artist.

    Args:
        near: name of the relation between nodes and these entities.
        edge_type: of the edges.
        edges: of the entities.
        end: at which of their ends the entities are, 0 or 1.
        target: node type at the other end.
        num_targets: how many nodes of that type there are.
    """

    near: str
    edge_type: EdgeType
    edges: Edges
    end: int
    target: str
    num_targets: int

    def links(self, near: Adjacency) -> Adjacency:
        """What nodes are linked to by way of their entities.

        Args:
            near: links of the nodes to the entities.
        """
        if not len(near.indices):
            return Adjacency(near.indptr, near.indices, self.num_targets)
        entities, place = np.unique(near.indices, return_inverse=True)
        at, here = self.edges.touching(self.end, entities)
        there = self.edges.index[1 - self.end, at]
        onward = Adjacency.from_pairs(here, there, len(entities), self.num_targets).take(place)
        sources = np.repeat(near.sources, onward.degrees)
        return Adjacency.from_pairs(sources, onward.indices, len(near), self.num_targets)

    def onward(self, near: Adjacency) -> np.ndarray:
        """How many links the entity at the end of every link has, int64 ``[num_links]``."""
        degrees = np.bincount(self.edges.index[self.end], minlength=near.num_targets)
        return degrees[near.indices]


@dataclass(frozen=True, eq=False)
class NodeInputs:
    """What the features of some nodes of one type are made from.

    Args:
        rows: rows of these nodes in the graph, int64 ``[n]``; everything below is in this order.
        text: float32 ``[n, dim]``; a zero row is a node without text. ``None``: no texts.
        relations: links to entities by name of the relation.
        same_type: links to rows of nodes of the same type, both directions, by relation.
        numeric: float64 ``[n]`` by property, NaN where missing; dates and timestamps are
            microseconds since 1970.
        categorical: values (none, one or several) of every node by property.
        vectors: further ready-made vectors, float32 ``[n, dim]``, by name; a zero row is a node
            without one.
        peer_text: text of any rows of the same type, float32 ``[num_rows, dim]``.
        peer_history: mean text of the interactions of any rows of the same type, for users; a zero
            row is a node without any.
        entity_types: node type at the far end of every relation, those of ``far`` included.
        wording: the texts themselves, of the nodes at some positions among these; empty where a
            node has none. ``None``: no texts.
        far: what the entities of a relation are linked to, by name of the way there.
    """

    rows: np.ndarray
    text: np.ndarray | None = None
    relations: Mapping[str, Adjacency] = field(default_factory=dict)
    same_type: Mapping[str, Adjacency] = field(default_factory=dict)
    numeric: Mapping[str, np.ndarray] = field(default_factory=dict)
    categorical: Mapping[str, list[list[str]]] = field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    peer_text: Callable[[np.ndarray], np.ndarray] | None = None
    peer_history: Callable[[np.ndarray], np.ndarray] | None = None
    entity_types: Mapping[str, str] = field(default_factory=dict)
    wording: Callable[[np.ndarray], list[str]] | None = None
    far: Mapping[str, FarRelation] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def links(self, relation: str) -> Adjacency | None:
        """The links of a relation, near or far; ``None`` where these nodes do not have it."""
        if relation in self.far and relation not in self._followed:
            far = self.far[relation]
            if (near := self.relations.get(far.near)) is not None:
                self._followed[relation] = far.links(near)
        return self.relations.get(relation, self._followed.get(relation))

    @cached_property
    def _followed(self) -> dict[str, Adjacency]:
        """Links of far relations, each worked out when it is first asked for."""
        return {}


def node_inputs(
    graph: KnowledgeGraph,
    node_type: str,
    text: np.ndarray | None,
    *,
    rows: np.ndarray | None = None,
    edge_types: Collection[EdgeType] | None = None,
    vectors: Mapping[str, np.ndarray] | None = None,
    peer_history: Callable[[np.ndarray], np.ndarray] | None = None,
) -> NodeInputs:
    """The inputs of nodes of one type.

    Links between users and items other than the interaction (views beside purchases, say) are left
    out: they are interactions under another name, which a cold node does not have.

    Args:
        graph: the typed graph.
        node_type: users or items.
        text: float32 ``[num_nodes, dim]`` of all nodes, or ``None`` where the type has no texts.
        rows: of the nodes wanted; all by default.
        edge_types: what was there at training; all by default. Others contribute nothing.
        vectors: further ready-made vectors of all nodes, by name.
        peer_history: mean text of the interactions of any users.
    """
    num_nodes = graph.num_nodes(node_type)
    some = rows is not None
    if rows is None:
        rows = np.arange(num_nodes)
    known = set(graph.edge_types if edge_types is None else edge_types)
    relations: dict[str, Adjacency] = {}
    same_type: dict[str, Adjacency] = {}
    entity_types: dict[str, str] = {}
    names = feature_names(known, graph, node_type)
    for edge_type, name in names.items():
        source, _, target = edge_type
        edges = graph.edges.get(edge_type, _NO_EDGES)
        if source == target:
            pairs = [_pairs(edges, end, rows if some else None) for end in (0, 1)]
            here, there = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
            distinct = rows[here] != there
            here, there = here[distinct], there[distinct]
            same_type[name] = Adjacency.from_pairs(here, there, len(rows), num_nodes)
            continue
        entity = target if source == node_type else source
        here, there = _pairs(edges, int(target == node_type), rows if some else None)
        num_entities = graph.num_nodes(entity)
        relations[name] = Adjacency.from_pairs(here, there, len(rows), num_entities)
        entity_types[name] = entity
    far = far_relations(known, graph, node_type, names)
    table, schema = graph.attributes[node_type], graph.schema
    if some:
        table = take_rows(table, rows)
    return NodeInputs(
        rows,
        None if text is None else text[rows],
        relations,
        same_type,
        {p: numeric_values(table, p, node_type) for p in schema.numeric.get(node_type, ())},
        {p: category_values(table, p, node_type) for p in schema.categorical.get(node_type, ())},
        {name: matrix[rows] for name, matrix in (vectors or {}).items()},
        None if text is None else text.__getitem__,
        peer_history,
        entity_types | {name: relation.target for name, relation in far.items()},
        _wording(table, schema.text.get(node_type, ())),
        far,
    )


def far_relations(
    edge_types: Collection[EdgeType],
    graph: KnowledgeGraph,
    node_type: str,
    names: Mapping[EdgeType, str],
) -> dict[str, FarRelation]:
    """What the entities of nodes are linked to, users and items apart, by name of the way there.

    Args:
        edge_types: what was there at training.
        graph: the typed graph.
        node_type: users or items.
        names: of the edge types that say something about them, see :func:`feature_names`.
    """
    sides, known = (graph.schema.user, graph.schema.item), frozenset(edge_types)
    taken = set(names.values())
    out: dict[str, FarRelation] = {}
    for (source, _, other), near in names.items():
        if source == other:
            continue
        entity = other if source == node_type else source
        for edge_type, end, name in _onward(known, *sides, entity):
            way = f"{near} > {name}"
            while way in taken:
                way += "'"
            taken.add(way)
            target = edge_type[2 - 2 * end]
            edges = graph.edges.get(edge_type, _NO_EDGES)
            out[way] = FarRelation(near, edge_type, edges, end, target, graph.num_nodes(target))
    return out


@lru_cache(maxsize=256)
def _onward(
    edge_types: frozenset[EdgeType], user: str, item: str, entity: str
) -> tuple[tuple[EdgeType, int, str], ...]:
    """Edge types between an entity and others, the end that it is at, and what they are called."""
    found = [
        (edge_type, end, f"{'rev_' * end}{edge_type[1]}")
        for edge_type in sorted(edge_types)
        for end in (0, 1)
        if edge_type[2 * end] == entity and not {user, item} & {edge_type[0], edge_type[2]}
    ]
    counts = Counter(name for _, _, name in found)
    return tuple(
        (e, end, name if counts[name] == 1 else f"{name} {e[2 - 2 * end]}")
        for e, end, name in found
    )


def _wording(
    table: pa.Table, properties: Collection[str]
) -> Callable[[np.ndarray], list[str]] | None:
    table = table.select([name for name in properties if name in table.column_names])
    if not table.num_columns:
        return None

    def wording(positions: np.ndarray) -> list[str]:
        columns = [text_column(column) for column in take_rows(table, positions).columns]
        return [" ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]

    return wording


def _pairs(edges: Edges, end: int, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions among the rows, which may be all nodes, and the rows at the other end."""
    if rows is None:
        return edges.index[end], edges.index[1 - end]
    at, here = edges.touching(end, rows)
    return here, edges.index[1 - end, at]


def feature_edge_types(
    edge_types: Collection[EdgeType], graph: KnowledgeGraph, node_type: str
) -> list[EdgeType]:
    """The edge types that say something about nodes of this type, interactions apart, sorted."""
    roles = graph.schema.user, graph.schema.item
    return list(_feature_edge_types(frozenset(edge_types), *roles, node_type))


@lru_cache(maxsize=64)
def _feature_edge_types(
    edge_types: frozenset[EdgeType], user: str, item: str, node_type: str
) -> tuple[EdgeType, ...]:
    telling = (e for e in edge_types if node_type in (e[0], e[2]) and {e[0], e[2]} != {user, item})
    return tuple(sorted(telling))


def relation_name(
    edge_types: Collection[EdgeType], edge_type: EdgeType, graph: KnowledgeGraph, node_type: str
) -> str:
    """Name of an edge type as seen from one end.

    That is the relation, with ``rev_`` before it where it arrives, and with the other end's type
    behind it where the relation alone would be ambiguous.
    """
    source, relation, target = edge_type
    outgoing = source == node_type
    twins = [
        e
        for e in feature_edge_types(edge_types, graph, node_type)
        if e[1] == relation and (e[0] == node_type) == outgoing
    ]
    name = relation if outgoing else f"rev_{relation}"
    return name if len(twins) == 1 else f"{name} {target if outgoing else source}"


def feature_names(
    edge_types: Collection[EdgeType], graph: KnowledgeGraph, node_type: str
) -> dict[EdgeType, str]:
    """What the edge types that say something about nodes of a type are called in its features.

    No two are called the same: where ``rev_has`` is both a relation's own name and that of another
    followed backwards, the later one has its edge type behind it.
    """
    out: dict[EdgeType, str] = {}
    for edge_type in feature_edge_types(edge_types, graph, node_type):
        source, name, target = edge_type
        if source != target:
            name = relation_name(edge_types, edge_type, graph, node_type)
        while name in out.values():
            name += f" ({' '.join(edge_type)})"
        out[edge_type] = name
    return out


def to_hetero_data(graph: KnowledgeGraph, features: Mapping[str, np.ndarray] | None = None):
    """The graph as PyTorch Geometric ``HeteroData``, with reverse edges as ``rev_`` relations.

    Where the graph has a relation of that name itself, the reverse one is ``rev_rev_`` and so on.

    Args:
        graph: the typed graph.
        features: float32 ``[num_nodes, dim]`` by node type, as ``x``; types without get only
            ``num_nodes``.

    Raises:
        DependencyError: torch-geometric is not installed.
    """
    import torch

    from kg.errors import DependencyError, how_to_install

    try:
        from torch_geometric.data import HeteroData
    except ImportError as error:
        raise DependencyError(
            f"to_hetero_data needs torch-geometric: {how_to_install('pyg')}"
        ) from error
    data = HeteroData()
    for node_type in graph.node_types:
        data[node_type].num_nodes = graph.num_nodes(node_type)
        if features and node_type in features:
            data[node_type].x = torch.tensor(features[node_type])
    taken = set(graph.edges)
    for (source, relation, target), edges in graph.edges.items():
        reverse = f"rev_{relation}"
        while (target, reverse, source) in taken:
            reverse = f"rev_{reverse}"
        taken.add((target, reverse, source))
        index = torch.tensor(edges.index)  # copies, as the graph is frozen
        for edge_type, edge_index in (
            ((source, relation, target), index),
            ((target, reverse, source), index.flip(0)),
        ):
            data[edge_type].edge_index = edge_index
            if edges.weight is not None:
                data[edge_type].edge_weight = torch.tensor(edges.weight, dtype=torch.float32)
            if edges.time is not None:
                data[edge_type].time = torch.tensor(edges.time)
    return data


def numeric_values(table: pa.Table, name: str, node_type: str) -> np.ndarray:
    """A numeric property, float64 ``[n]``; NaN where missing, dates in microseconds since 1970."""
    if name not in table.column_names:
        raise _no_property(table, name, node_type)
    column = table[name]
    try:
        if pa.types.is_integer(column.type) and not column.null_count:
            return column.to_numpy().astype(np.float64)  # for one number much faster than a cast
        if _is_date(column.type):
            column = pc.cast(column, pa.timestamp("us"), safe=False).cast(pa.int64())
        # Integers are not exact from 2^53 on, dates from the year 2255.
        exact = not pa.types.is_integer(column.type)
        values = column.cast(pa.float64(), safe=exact).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{node_type}.{name}: the schema names it as numeric, so numbers, dates or timestamps "
            f"are expected, got {table[name].type} ({error}); convert the column, or name it as "
            "categorical or text"
        ) from error
    if np.isinf(values).any():
        at = np.flatnonzero(np.isinf(values))[:5].tolist()
        raise ValueError(f"{node_type}.{name} is infinite in rows {at}; leave it empty instead")
    return values


def number_of(value: Any, kind: pa.DataType, what: str) -> float:
    """A numeric property of one node, as :func:`numeric_values` has it.

    Args:
        value: a number or, where the others are dates, a date, datetime or a text that is one;
            ``None`` is missing.
        kind: type of the others' column.
        what: the property is called in errors.

    Raises:
        ValueError: the value is none of these.
    """
    if value is None:
        return float("nan")
    if not _is_date(kind):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: expected a number, got {value!r}") from error
    try:
        one = np.array([value]) if isinstance(value, np.generic) else [value]
        given = pa.chunked_array([pa.array(one, from_pandas=True)])
        if not (_is_date(given.type) or is_string(given.type) or pa.types.is_null(given.type)):
            raise pa.ArrowInvalid(f"{given.type} is no date")
        return float(numeric_values(pa.table({what: given.cast(kind, safe=False)}), what, what)[0])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise ValueError(
            f"{what}: expected a date, as the others are ({kind}), got {value!r} ({error})"
        ) from error


def _is_date(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def category_values(table: pa.Table, name: str, node_type: str) -> list[list[str]]:
    """The values (none, one or several) that every node has of a categorical property."""
    if name not in table.column_names:
        raise _no_property(table, name, node_type)
    kind = table[name].type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [
            [str(v) for v in values or () if v is not None] for values in table[name].to_pylist()
        ]
    return [[] if value is None else [value] for value in text_column(table[name])]


def _no_property(table: pa.Table, name: str, node_type: str) -> ValueError:
    return ValueError(
        f"the schema names {node_type}.{name}, the nodes only have {table.column_names}"
    )
