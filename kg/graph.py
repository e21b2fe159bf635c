"""The typed graph: nodes with keys and properties, edges with weights and times."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kg.errors import (
    AlignmentError,
    DanglingEdgeError,
    GraphError,
    MissingColumnError,
    SchemaError,
)
from kg.growing import Lookup, grown, taken
from kg.schema import PROPERTY_ROLES, EdgeType, Schema
from kg.tables import (
    MAX_ROWS_SHOWN,
    are_keys,
    finite_array,
    key_array,
    one_row_each,
    require_columns,
    require_mapping,
    time_array,
    to_table,
)
from kg.vectors import Vocabulary

if TYPE_CHECKING:
    from kg.delta import GraphDelta

_log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one type.

    Args:
        index: int64 ``[2, num_edges]``, source rows above target rows.
        weight: float64 ``[num_edges]``, finite, or ``None``.
        time: int64 ``[num_edges]`` in the user's own unit, or ``None``.

    Raises:
        AlignmentError: the arrays differ in length.
    """

    index: np.ndarray
    weight: np.ndarray | None = None
    time: np.ndarray | None = None

    def __post_init__(self) -> None:
        index = np.asarray(self.index, dtype=np.int64)
        if index.ndim == 2 and index.strides[1] != index.itemsize:
            index = np.ascontiguousarray(index)  # each end at least; see kg.growing
        if index.ndim != 2 or len(index) != 2:
            raise AlignmentError(f"edge index: expected [2, num_edges], got {list(index.shape)}")
        object.__setattr__(self, "index", index)
        for name in ("weight", "time"):
            values = getattr(self, name)
            if values is not None and values.shape != (index.shape[1],):
                expected, got = [index.shape[1]], list(values.shape)
                raise AlignmentError(f"edge {name}: expected {expected}, got {got}")

    def __repr__(self) -> str:
        has = {"weight": self.weight is not None, "time": self.time is not None}
        named = [name for name, is_there in has.items() if is_there]
        return f"Edges({', '.join([f'{len(self):,}', *named])})"

    def __len__(self) -> int:
        return self.index.shape[1]

    def select(self, which: np.ndarray) -> Edges:
        """The edges at these positions, or where a mask is true."""
        return Edges(
            self.index[:, which],
            None if self.weight is None else self.weight[which],
            None if self.time is None else self.time[which],
        )

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest row of the sources and of the targets; (0, -1) without edges."""
        if not len(self):
            return (0, -1), (0, -1)
        low, high = self.index.min(axis=1).tolist(), self.index.max(axis=1).tolist()
        return (low[0], high[0]), (low[1], high[1])

    def touching(self, end: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which edges touch some nodes, in any order, and which of the nodes each touches.

        The first call for a few nodes puts the edges in order by that end; later ones, also of
        edges that came of these by :meth:`followed_by`, read only what they need.

        Args:
            end: 0 for nodes that are sources, 1 for targets.
            rows: of the nodes, distinct, int64 ``[n]``.

        Returns:
            Positions of edges and, for each, a position in ``rows``, int64 ``[num_found]``.
        """
        ends, lookup = self.index[end], self._lookups.get(end)
        if lookup is None or lookup.is_stale(len(ends)):
            num_nodes = self.bounds[end][1] + 1
            if 4 * len(rows) > num_nodes:  # read all edges once
                place = np.full(num_nodes, -1, np.int64)
                inside = np.flatnonzero(rows < num_nodes)
                place[rows[inside]] = inside
                here = place[ends]
                at = np.flatnonzero(here >= 0)
                return at, here[at]
            lookup = self._lookups[end] = Lookup.of(ends)
        return lookup.find(ends, rows)

    @cached_property
    def _lookups(self) -> dict[int, Lookup]:
        return {}

    def followed_by(self, more: Edges) -> Edges:
        """These edges followed by others, which have weights and times if these have."""
        if not len(self):
            return more
        weight = time = None
        if self.weight is not None and more.weight is not None:
            weight = grown(self.weight, more.weight)
        if self.time is not None and more.time is not None:
            time = grown(self.time, more.time)
        out = Edges(grown(self.index, more.index, axis=1), weight, time)
        if len(more):
            ends = zip(self.bounds, more.bounds, strict=True)
            both = tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in ends)
            out.__dict__["bounds"] = both  # a cached property, as the next
        out.__dict__["_lookups"] = dict(self._lookups)
        return out


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """A typed graph with one vocabulary and one property table per node type.

    A graph never changes; :meth:`apply` makes a new one that shares what did not change.

    Args:
        schema: the roles of types and properties; completed with every edge type of ``edges``.
        vocabularies: keys of every node type.
        attributes: Arrow table of every node type, one row per key, without the key column.
        edges: edges of every edge type.
        skipped: edges that :meth:`from_tables` left out because an end was missing, by edge type.

    Raises:
        AlignmentError: a table has not one row per key.
        DanglingEdgeError: a row number of an edge is out of range.
        SchemaError: an edge type leads to a node type that does not exist.
    """

    schema: Schema
    vocabularies: Mapping[str, Vocabulary]
    attributes: Mapping[str, pa.Table]
    edges: Mapping[EdgeType, Edges]
    skipped: Mapping[EdgeType, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "schema", self.schema.completed(self.edges))
        for name in ("vocabularies", "attributes", "edges", "skipped"):
            set_(self, name, MappingProxyType(dict(getattr(self, name))))
        for role in (self.schema.user, self.schema.item):
            if role not in self.vocabularies:
                have = sorted(self.vocabularies)
                raise SchemaError(f"no nodes of type {role!r} came, only {have}")
        for node_type, nodes in self.vocabularies.items():
            table = self.attributes.get(node_type)
            if table is None or table.num_rows != len(nodes):
                got = "none" if table is None else table.num_rows
                raise AlignmentError(f"{node_type}: {len(nodes)} keys and {got} rows of properties")
        for edge_type, edges in self.edges.items():
            bounds = zip((edge_type[0], edge_type[2]), edges.bounds, strict=True)
            for end, (low, high) in bounds:
                if end not in self.vocabularies:
                    have = sorted(self.vocabularies)
                    raise SchemaError(f"{edge_type}: no nodes of type {end!r}, only {have}")
                if low < 0 or high >= len(self.vocabularies[end]):
                    raise DanglingEdgeError(f"{edge_type}: a row of {end} is out of range")

    @classmethod
    def from_tables(
        cls,
        nodes: Mapping[str, Any],
        edges: Mapping[EdgeType, Any],
        schema: Schema,
        *,
        on_dangling: str = "error",
    ) -> KnowledgeGraph:
        """The graph in a set of tables.

        Args:
            nodes: a table per node type with its key column (``id`` unless the schema names
                another). A type that only occurs in ``edges`` gets its nodes from there.
            edges: a table per edge type with columns ``source`` and ``target`` and, optional,
                the weight and time columns that the schema names. A list in place of a key stands
                for an edge to each. The log tells which columns of the interactions are not used.
            schema: the roles of types and properties.
            on_dangling: ``"error"``, or ``"skip"`` to leave out edges with a missing end and count
                them in ``skipped``.

        Raises:
            DuplicateKeyError: two nodes of one type have the same key.
            DanglingEdgeError: an end of an edge is not among the nodes.
            GraphError: a key or weight is null, NaN or infinite.
            MissingColumnError: a table lacks its key, source or target column, or the interactions
                a weight or time that the schema names.
            SchemaError: the schema names properties of a type that did not come, or that its table
                lacks.
        """
        if on_dangling not in ("error", "skip"):
            raise ValueError(f"on_dangling must be 'error' or 'skip', got {on_dangling!r}")
        if not isinstance(schema, Schema):
            raise TypeError(
                f"schema must be a kg.Schema, got {type(schema).__name__}; Schema.from_dict makes "
                "one of a mapping, Schema.read of a TOML file"
            )
        require_mapping(nodes, "nodes must map node types to tables")
        require_mapping(edges, "edges must map (source, relation, target) to tables")
        vocabularies: dict[str, Vocabulary] = {}
        attributes: dict[str, pa.Table] = {}
        for node_type, value in nodes.items():
            table = to_table(value, f"{node_type} nodes")
            require_properties(table, node_type, schema)
            _require_key(table, node_type, schema)
            vocabularies[node_type], attributes[node_type] = split_key(table, node_type, schema)
        tables = {as_edge_type(e): to_table(t, f"{e} edges") for e, t in edges.items()}
        for edge_type, table in tables.items():
            require_ends(table, f"{edge_type} edges")
            _require_named(table, edge_type, schema)
            tell_unused(table, edge_type, schema)
            tables[edge_type] = one_row_each(one_row_each(table, "source"), "target")
        _add_nodes_of_edges(tables, vocabularies, attributes)
        if strangers := schema.described_types - vocabularies.keys():
            raise SchemaError(
                f"the schema names properties of {min(strangers)!r}, and no such nodes came, only "
                f"{sorted(vocabularies)}; correct the schema or give the nodes"
            )
        skipped: dict[EdgeType, int] = {}
        read: dict[EdgeType, Edges] = {}
        for edge_type, table in tables.items():
            read[edge_type], skipped[edge_type] = read_edges(
                table, edge_type, schema, vocabularies.__getitem__, on_dangling
            )
        skipped = {e: n for e, n in skipped.items() if n}
        return cls(schema, vocabularies, attributes, read, skipped)

    @property
    def node_types(self) -> tuple[str, ...]:
        """All node types, in the order of their tables."""
        return tuple(self.vocabularies)

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        """All edge types, in the order of their tables."""
        return tuple(self.edges)

    @property
    def users(self) -> Vocabulary:
        """Keys of the users."""
        return self.vocabularies[self.schema.user]

    @property
    def items(self) -> Vocabulary:
        """Keys of the items."""
        return self.vocabularies[self.schema.item]

    @property
    def interactions(self) -> Edges:
        """All interactions, positive or not; empty where there are none."""
        return self.edges.get(self.schema.interaction, Edges(np.empty((2, 0), np.int64)))

    def num_nodes(self, node_type: str | None = None) -> int:
        """Number of nodes of one type, or of all."""
        if node_type is not None:
            return len(self.vocabularies[node_type])
        return sum(map(len, self.vocabularies.values()))

    def num_edges(self, edge_type: EdgeType | None = None) -> int:
        """Number of edges of one type, or of all."""
        if edge_type is not None:
            return len(self.edges[edge_type])
        return sum(map(len, self.edges.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of keys, properties and edges in memory."""
        arrays = [a for e in self.edges.values() for a in (e.index, e.weight, e.time)]
        edges = sum(a.nbytes for a in arrays if a is not None)
        keys = sum(v.keys.nbytes for v in self.vocabularies.values())
        return edges + keys + sum(t.nbytes for t in self.attributes.values())

    def positives(self) -> np.ndarray:
        """Distinct positive pairs, int64 ``[2, num_pairs]``, by user row and then item row.

        Raises:
            GraphError: the schema has a ``positive_weight`` and the interactions no weights.
        """
        index, _ = self._positive_edges()
        width = max(len(self.items), 1)
        return np.stack(np.divmod(np.unique(index[0] * width + index[1]), width))

    def positive_weights(self) -> np.ndarray | None:
        """The highest weight of every pair of :meth:`positives`, float64 ``[num_pairs]``.

        ``None`` where interactions have no weights, or those of all pairs are alike.

        Raises:
            GraphError: as :meth:`positives`.
        """
        index, weight = self._positive_edges()
        if weight is None:
            return None
        ids, place = np.unique(index[0] * len(self.items) + index[1], return_inverse=True)
        out = np.full(len(ids), -np.inf)
        np.maximum.at(out, place, weight)
        return out if (out != out[:1]).any() else None

    def _positive_edges(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Ends, ``[2, num_edges]``, and weights of the interactions that are positive."""
        edges, least = self.interactions, self.schema.positive_weight
        if least is None or not len(edges):
            return edges.index, edges.weight
        if edges.weight is None:
            raise GraphError(
                f"positive_weight is {least}, and the interactions have no weights; "
                f"give the column {self.schema.weight!r} or set positive_weight=None"
            )
        positive = edges.weight >= least
        return edges.index[:, positive], edges.weight[positive]

    def with_interactions_counted(self) -> KnowledgeGraph:
        """This graph with one interaction per pair, whose weight is how many there were.

        For events, of which one pair has many: without, a pair with ten is worth what one with a
        single event is. The time of the last of them is kept. Not for splits by time, as the counts
        tell of what comes later.

        Raises:
            GraphError: interactions have weights that differ, which counts would replace.
        """
        edges = self.interactions
        if edges.weight is not None and (edges.weight != edges.weight[:1]).any():
            raise GraphError(
                f"{self.schema.interaction} edges have weights, from {edges.weight.min():g} to "
                f"{edges.weight.max():g}, which counts would replace; leave the weights out to "
                "count, or add them up by pair before the graph is made"
            )
        ids = edges.index[0] * max(len(self.items), 1) + edges.index[1]
        _, first, place, counts = np.unique(
            ids, return_index=True, return_inverse=True, return_counts=True
        )
        time = None
        if edges.time is not None:
            time = np.full(len(counts), edges.time.min(initial=0), edges.time.dtype)
            np.maximum.at(time, place, edges.time)
        order = np.argsort(first)
        one_each = Edges(edges.index[:, first], counts.astype(np.float64), time).select(order)
        return self.with_edges(self.schema.interaction, one_each)

    def node_table(self, node_type: str) -> pa.Table:
        """The key column, named as in the schema, followed by the properties."""
        keys = self.vocabularies[node_type].keys
        return self.attributes[node_type].add_column(0, self.schema.key_of(node_type), keys)

    def edge_table(self, edge_type: EdgeType) -> pa.Table:
        """Columns ``source``, ``target`` (keys) and, where there are any, weight and time."""
        edges = self.edges[edge_type]
        columns: dict[str, Any] = {}
        for name, end, rows in zip(
            ("source", "target"), (edge_type[0], edge_type[2]), edges.index, strict=True
        ):
            columns[name] = taken(self.vocabularies[end].keys, rows)
        if edges.weight is not None:
            columns[self.schema.weight] = edges.weight
        if edges.time is not None:
            columns[self.schema.time] = edges.time
        return pa.table(columns)

    def with_edges(self, edge_type: EdgeType, edges: Edges) -> KnowledgeGraph:
        """This graph with the edges of one type replaced."""
        return replace(self, edges={**self.edges, edge_type: edges})

    def apply(self, delta: GraphDelta) -> KnowledgeGraph:
        """This graph after a change; see :class:`kg.delta.GraphDelta` for its meaning."""
        from kg.delta import apply_delta

        return apply_delta(self, delta)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{t}: {len(v):,}" for t, v in self.vocabularies.items())
        edges = ", ".join(f"{'-'.join(e)}: {len(v):,}" for e, v in self.edges.items())
        return f"KnowledgeGraph(nodes {{{nodes}}}, edges {{{edges}}})"


def require_graph(value: Any, what: str) -> None:
    """Raise unless the value is a graph; ``what`` is who wants it.

    Raises:
        TypeError: it is something else, a folder say.
    """
    if not isinstance(value, KnowledgeGraph):
        raise TypeError(
            f"{what}: expected a KnowledgeGraph, got {type(value).__name__} {str(value)[:80]!r}; "
            "read_graph(folder) of kg.files reads one from a folder, KnowledgeGraph.from_tables "
            "makes one of tables"
        )


def require_positives(graph: KnowledgeGraph) -> np.ndarray:
    """The positives of a graph as :meth:`KnowledgeGraph.positives` has them, at least one.

    Raises:
        GraphError: there are none, and why.
    """
    positives = graph.positives()
    if positives.shape[1]:
        return positives
    schema, edges = graph.schema, graph.interactions
    if len(edges) and edges.weight is not None:
        raise GraphError(
            f"none of the {len(edges)} {schema.interaction} edges is positive: positive_weight is "
            f"{schema.positive_weight}, the highest weight {edges.weight.max():g}; lower "
            "positive_weight in the schema, or add positive interactions"
        )
    ends = schema.user, schema.item
    others = [e for e, some in graph.edges.items() if (e[0], e[2]) == ends and len(some)]
    if others:
        raise GraphError(
            f"the schema names {schema.interaction} as interaction, and the graph has no such "
            f"edges, but {', '.join(map(str, others))} from {ends[0]} to {ends[1]}; if "
            f"{'that is' if len(others) == 1 else 'one of them is'} meant, name it in the schema "
            "(interaction=...), else add the interactions"
        )
    there = [str(edge) for edge, some in graph.edges.items() if len(some)]
    raise GraphError(
        f"the graph has no {schema.interaction} edges, which the schema names as interaction, only "
        f"{', '.join(there) or 'nodes'}; add some"
    )


def split_key(table: pa.Table, node_type: str, schema: Schema) -> tuple[Vocabulary, pa.Table]:
    """A node table as vocabulary and properties."""
    key = schema.key_of(node_type)
    require_columns(table, [key], f"{node_type} nodes")
    return Vocabulary(node_type, table[key]), table.drop_columns([key])


def require_properties(table: pa.Table, node_type: str, schema: Schema) -> None:
    """Raise if the schema gives a role to a property that no node of a non-empty type has."""
    if table.num_rows == 0:
        return
    for role in PROPERTY_ROLES:
        for name in getattr(schema, role).get(node_type, ()):
            if name not in table.column_names:
                raise SchemaError(
                    f"the schema names {node_type}.{name} as {role}, and no {node_type} has this "
                    f"property; there are {table.column_names}"
                )


def _require_key(table: pa.Table, node_type: str, schema: Schema) -> None:
    """Raise if nodes lack their key, with what the schema would say for the first column."""
    example = table.column_names[0] if table.num_columns else "its name"
    advice = f"name the column of keys by Schema(key={{{node_type!r}: {example!r}}}), or rename it"
    require_columns(table, [schema.key_of(node_type)], f"{node_type} nodes", advice)


def require_ends(table: pa.Table, what: str) -> None:
    """Raise unless a table of edges has both ends.

    Raises:
        MissingColumnError: naming what is absent and what came.
    """
    advice = "rename the columns that hold the keys of the two nodes to 'source' and 'target'"
    require_columns(table, ("source", "target"), what, advice)


def _require_named(table: pa.Table, edge_type: EdgeType, schema: Schema) -> None:
    """Raise if interactions lack a weight or time that the schema gives a name of its own."""
    if edge_type != schema.interaction or not table.num_rows:
        return
    for role, name in schema.named_columns.items():
        if name not in table.column_names:
            raise MissingColumnError(
                f"{edge_type} edges: the schema names {name!r} as {role}, and the columns are "
                f"{table.column_names}; correct the schema, or leave {role}= out if there is none"
            )


def tell_unused(table: pa.Table, edge_type: EdgeType, schema: Schema) -> None:
    """Say in the log which columns of interactions nothing looks at: ratings are easily lost."""
    used = {"source", "target", schema.weight, schema.time}
    unused = [name for name in table.column_names if name not in used]
    if edge_type == schema.interaction and unused:
        _log.warning(
            "%s edges: the columns %s are not used; if one is a rating or a time, name it in the "
            "schema (weight=%r, say), else drop it",
            edge_type,
            unused,
            unused[0],
        )


def read_edges(
    table: pa.Table,
    edge_type: EdgeType,
    schema: Schema,
    vocabulary: Callable[[str], Vocabulary],
    on_dangling: str = "error",
    *,
    advice: str = "add the nodes or pass on_dangling='skip'",
) -> tuple[Edges, int]:
    """An edge table in rows, and how many edges were left out.

    ``advice`` says what to do where an end is missing.
    """
    what = f"{edge_type} edges"
    require_ends(table, what)
    ends = {"source": vocabulary(edge_type[0]), "target": vocabulary(edge_type[2])}
    keys = {
        c: table[c] if are_keys(table[c]) else key_array(table[c], f"{what}, {c}") for c in ends
    }
    index = np.stack([ends[c].rows(keys[c], missing="mark") for c in ends])
    dangling = np.any(index < 0, axis=0)
    if dangling.any() and on_dangling == "error":
        at = np.flatnonzero(dangling)[:MAX_ROWS_SHOWN].tolist()
        column = "source" if index[0, at[0]] < 0 else "target"
        nodes, key = ends[column], keys[column][at[0]].as_py()
        if len(nodes) and not isinstance(key, int if nodes.is_int else str):
            kind, other = ("int", "str") if nodes.is_int else ("str", "int")
            advice = f"keys of {nodes.node_type} are {kind}, these are {other}; convert them first"
        raise DanglingEdgeError(
            f"{what}: {int(dangling.sum())} name a node that does not exist, in rows {at} "
            f"(for example {nodes.node_type} {key!r}); {advice}"
        )
    weight = time = None
    if schema.weight in table.column_names:
        weight = finite_array(table[schema.weight], f"{what}, {schema.weight}")
    if schema.time in table.column_names:
        time = time_array(table[schema.time], f"{what}, {schema.time}")
    edges = Edges(index, weight, time)
    return (edges.select(~dangling), int(dangling.sum())) if dangling.any() else (edges, 0)


def in_row_order(edges: Edges) -> Edges:
    """Edges by source row, target row and time."""
    order = row_order(edges)
    return edges if order is None else edges.select(order)


def row_order(edges: Edges) -> np.ndarray | None:
    """Positions by source row, target row and time; ``None`` where edges are in this order."""
    index, time = edges.index, edges.time
    if len(edges) < 2:
        return None
    pairs = index[0] * (int(index[1].max()) + 1)
    pairs += index[1]
    if _is_ordered(pairs, time):
        return None
    order = np.argsort(pairs, kind="stable")
    if time is None or not _has_parallels(pairs, order):
        return order
    del pairs, order
    return np.lexsort((time, index[1], index[0]))


def _has_parallels(pairs: np.ndarray, order: np.ndarray) -> bool:
    """Whether a pair comes twice, by blocks, as a copy of all pairs would be the most memory."""
    for start in range(0, len(order) - 1, ROWS_PER_BLOCK):
        block = pairs[order[start : start + ROWS_PER_BLOCK + 1]]
        if bool((block[1:] == block[:-1]).any()):
            return True
    return False


def _is_ordered(pairs: np.ndarray, time: np.ndarray | None) -> bool:
    if bool((pairs[1:] < pairs[:-1]).any()):
        return False
    if time is None:
        return True
    parallel = np.flatnonzero(pairs[1:] == pairs[:-1])
    return bool((time[parallel] <= time[parallel + 1]).all())


def _add_nodes_of_edges(
    tables: Mapping[EdgeType, pa.Table],
    vocabularies: dict[str, Vocabulary],
    attributes: dict[str, pa.Table],
) -> None:
    """Types without a node table get the keys that edges name, in order of appearance."""
    named: dict[str, list[pa.ChunkedArray]] = {}
    for (source, _, target), table in tables.items():
        for end, column in ((source, "source"), (target, "target")):
            if end not in vocabularies:
                named.setdefault(end, []).append(table[column])
    for node_type, columns in named.items():
        columns = [key_array(column.drop_null(), f"{node_type} keys") for column in columns]
        if len({column.type for column in columns if len(column)}) > 1:
            raise GraphError(
                f"{node_type} keys are whole numbers in some edges and text in others; make them "
                "one of these in all"
            )
        keys = pa.chunked_array([c for column in columns for c in column.chunks if len(c)] or [[]])
        vocabularies[node_type] = Vocabulary(node_type, keys.unique())
        attributes[node_type] = empty_properties(len(vocabularies[node_type]))


def empty_properties(num_rows: int) -> pa.Table:
    """A table of ``num_rows`` rows without columns, which Arrow only makes by a detour."""
    return pa.table({"_": pa.nulls(num_rows)}).select([])


def as_edge_type(value: Any) -> EdgeType:
    """The value, which must be a tuple of three."""
    if not isinstance(value, tuple) or len(value) != 3:
        raise SchemaError(f"edges are named (source, relation, target), got {value!r}")
    return value
