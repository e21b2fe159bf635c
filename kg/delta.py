"""What an import, a request or an erasure adds up to, and the graph that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from kg.errors import GraphError
from kg.graph import (
    Edges,
    KnowledgeGraph,
    as_edge_type,
    empty_properties,
    read_edges,
    require_ends,
    split_key,
    tell_unused,
)
from kg.growing import first_of_run, followed_by, taken
from kg.schema import EdgeType, Schema
from kg.tables import key_array, require_list, require_mapping, to_table
from kg.vectors import Key, Vocabulary
from kg.wording import counted


@dataclass(frozen=True, eq=False)
class GraphDelta:
    """Nodes and edges added, changed and removed.

    A node is identified by its key, an edge by its two ends. Removals come first. A node that is
    there gets the properties given and keeps the others; an edge that is there gets the new weight
    and time. So adding the same twice is the same graph; removing what is not there is an error.
    Numbers of the schema that were whole so far are fractions as soon as one comes.

    Args:
        nodes: a table per node type, as in :meth:`KnowledgeGraph.from_tables`.
        edges: a table per edge type with ``source``, ``target`` and optional weight and time.
        removed_nodes: keys per node type; their edges go with them.
        removed_edges: a table per edge type with ``source`` and ``target``.
        new_properties: whether an engine takes properties of nodes that its graph does not have.
            Without, they are errors there, as most are misspelt.
    """

    nodes: Mapping[str, Any] = field(default_factory=dict)
    edges: Mapping[EdgeType, Any] = field(default_factory=dict)
    removed_nodes: Mapping[str, Any] = field(default_factory=dict)
    removed_edges: Mapping[EdgeType, Any] = field(default_factory=dict)
    new_properties: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for name in ("nodes", "edges", "removed_nodes", "removed_edges"):
            require_mapping(getattr(self, name), f"delta {name} must map types to tables or keys")
        for name in ("nodes", "edges", "removed_edges"):
            given = getattr(self, name).items()
            if name != "nodes":
                given = [(as_edge_type(k), v) for k, v in given]
            tables = {k: to_table(v, f"delta {name} {k}") for k, v in given}
            set_(self, name, MappingProxyType({k: t for k, t in tables.items() if t.num_rows}))
        removed = {t: _listed(t, keys) for t, keys in self.removed_nodes.items()}
        set_(self, "removed_nodes", MappingProxyType({t: k for t, k in removed.items() if k}))

    def __repr__(self) -> str:
        counts: dict[str, Mapping[Any, int]] = {
            "nodes": {t: table.num_rows for t, table in self.nodes.items()},
            "edges": {"-".join(e): table.num_rows for e, table in self.edges.items()},
            "removed nodes": {t: len(keys) for t, keys in self.removed_nodes.items()},
            "removed edges": {"-".join(e): t.num_rows for e, t in self.removed_edges.items()},
        }
        told = (
            f"{what} {{{', '.join(f'{name}: {n:,}' for name, n in some.items())}}}"
            for what, some in counts.items()
            if some
        )
        return f"GraphDelta({', '.join(told)})"

    def __bool__(self) -> bool:
        return bool(self.nodes or self.edges or self.removed_nodes or self.removed_edges)


def _listed(node_type: str, keys: Any) -> list[Key]:
    require_list(keys, f"expected a list of {node_type} keys to remove")
    return key_array(keys, f"{node_type} to remove").to_pylist()


def apply_delta(graph: KnowledgeGraph, delta: GraphDelta) -> KnowledgeGraph:
    """The graph after the change; what did not change is shared with the old one.

    Raises:
        UnknownNodeError: a node to remove does not exist.
        DanglingEdgeError: an edge to add or remove names a node that does not exist.
        GraphError: an edge to remove does not exist, or a property changes its type.
    """
    vocabularies, attributes = dict(graph.vocabularies), dict(graph.attributes)
    edges = dict(graph.edges)
    _remove_nodes(graph, delta, vocabularies, attributes, edges)
    for edge_type, table in delta.removed_edges.items():
        if edge_type not in edges:
            raise GraphError(f"no edges {edge_type} to remove; there are {list(edges)}")
        edges[edge_type] = _without(edges[edge_type], table, edge_type, graph, vocabularies)
    for node_type, table in delta.nodes.items():
        nodes, properties = split_key(table, node_type, graph.schema)
        if node_type not in vocabularies:
            vocabularies[node_type], attributes[node_type] = nodes, properties
            continue
        vocabularies[node_type], attributes[node_type] = _upsert_nodes(
            vocabularies[node_type],
            _wide_enough(attributes[node_type], properties, node_type, graph.schema),
            nodes,
            properties,
        )
    for edge_type, table in delta.edges.items():
        require_ends(table, f"{edge_type} edges")
        for end, column in ((edge_type[0], "source"), (edge_type[2], "target")):
            _add_bare_nodes(graph, delta, end, table[column], vocabularies, attributes)
        tell_unused(table, edge_type, graph.schema)
        new, _ = read_edges(
            table,
            edge_type,
            graph.schema,
            vocabularies.__getitem__,
            advice="add them to the nodes of the same change",
        )
        old = edges.get(edge_type)
        edges[edge_type] = _upsert_edges(old, new, edge_type) if old is not None else new
    return KnowledgeGraph(graph.schema, vocabularies, attributes, edges, graph.skipped)


def _remove_nodes(
    graph: KnowledgeGraph,
    delta: GraphDelta,
    vocabularies: dict[str, Vocabulary],
    attributes: dict[str, pa.Table],
    edges: dict[EdgeType, Edges],
) -> None:
    new_rows: dict[str, np.ndarray] = {}
    for node_type, keys in delta.removed_nodes.items():
        if node_type not in vocabularies:
            raise GraphError(f"no nodes of type {node_type!r}; there are {sorted(vocabularies)}")
        keep = np.ones(len(vocabularies[node_type]), bool)
        keep[vocabularies[node_type].rows(keys, advice="only what is there can be removed")] = False
        new_rows[node_type] = np.where(keep, np.cumsum(keep) - 1, -1)
        kept = np.flatnonzero(keep)
        vocabularies[node_type] = vocabularies[node_type].take(kept)
        attributes[node_type] = take_rows(attributes[node_type], kept)
    for edge_type, old in graph.edges.items():
        index = old.index
        for axis, end in enumerate((edge_type[0], edge_type[2])):
            if end in new_rows:
                index = index if index is not old.index else index.copy()
                index[axis] = new_rows[end][old.index[axis]]
        if index is not old.index:
            keep = np.all(index >= 0, axis=0)
            edges[edge_type] = Edges(index, old.weight, old.time).select(keep)


def take_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table, which may have no columns."""
    if not table.num_columns:
        return empty_properties(len(rows))
    if (first := first_of_run(rows)) is not None:
        return table.slice(first, len(rows))
    return pa.table({name: taken(table[name], rows) for name in table.column_names})


def _wide_enough(properties: pa.Table, given: pa.Table, node_type: str, schema: Schema) -> pa.Table:
    """The properties, numbers that were all whole as floats where fractions come to them."""
    numeric = set(schema.numeric.get(node_type, ())) - set(schema.text.get(node_type, ()))
    for name in numeric & {*properties.column_names} & {*given.column_names}:
        whole, comes = properties.schema.field(name).type, given.schema.field(name).type
        if not pa.types.is_integer(whole) or not pa.types.is_floating(comes):
            continue
        values = given[name].drop_null().to_numpy()
        if not np.any(np.isfinite(values) & (values != np.round(values))):
            continue
        try:
            wide = properties[name].cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise GraphError(
                f"{node_type}.{name} holds whole numbers that are too large to stand beside "
                f"fractions ({error}); give whole ones, or build the graph anew with smaller ones"
            ) from error
        properties = properties.set_column(properties.column_names.index(name), name, wide)
    return properties


def _upsert_nodes(
    nodes: Vocabulary, properties: pa.Table, new: Vocabulary, given: pa.Table
) -> tuple[Vocabulary, pa.Table]:
    at = nodes.rows(new.keys, missing="mark")
    fresh = np.flatnonzero(at < 0)
    grown = nodes.extend(new if len(fresh) == len(new) else taken(new.keys, fresh))
    columns: dict[str, pa.ChunkedArray] = {}
    for name in dict.fromkeys((*properties.column_names, *given.column_names)):
        kind = properties.schema.field(name).type if name in properties.column_names else None
        if kind is not None and pa.types.is_null(kind) and name in given.column_names:
            kind = None  # nobody has a value yet, so the change says what it is
        if name not in given.column_names:
            columns[name] = followed_by(properties[name], pa.nulls(len(fresh), kind))
            continue
        try:
            same = kind is None or given[name].type == kind
            values = given[name] if same else given[name].cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise GraphError(
                f"{nodes.node_type}.{name} holds {kind}, the change has {given[name].type} "
                f"({error}); convert it first"
            ) from error
        known = kind is not None
        old = properties[name] if known else pa.chunked_array([pa.nulls(len(nodes), values.type)])
        changed = np.flatnonzero(at >= 0)
        if len(changed):
            choice = np.arange(len(nodes))
            choice[at[changed]] = len(nodes) + np.arange(len(changed))
            old = taken(followed_by(old, taken(values, changed)), choice)
        columns[name] = followed_by(old, taken(values, fresh))
    return grown, pa.table(columns) if columns else empty_properties(len(grown))


def _add_bare_nodes(
    graph: KnowledgeGraph,
    delta: GraphDelta,
    node_type: str,
    keys: pa.ChunkedArray,
    vocabularies: dict[str, Vocabulary],
    attributes: dict[str, pa.Table],
) -> None:
    """A type that is new with this delta and has no table gets its nodes from the edges."""
    if node_type in graph.vocabularies or node_type in delta.nodes:
        return
    old = vocabularies.get(node_type)
    named = Vocabulary(node_type, keys.drop_null().unique())
    if old is not None:
        named = old.extend(named.keys.filter(pa.array(old.rows(named.keys, missing="mark") < 0)))
    vocabularies[node_type] = named
    attributes[node_type] = empty_properties(len(named))


def _pair_ids(index: np.ndarray, num_targets: int) -> np.ndarray:
    return index[0] * num_targets + index[1]


def _without(
    old: Edges,
    table: pa.Table,
    edge_type: EdgeType,
    graph: KnowledgeGraph,
    vocabularies: Mapping[str, Vocabulary],
) -> Edges:
    ends = table.select(["source", "target"]) if table.num_columns > 2 else table
    gone, _ = read_edges(
        ends,
        edge_type,
        graph.schema,
        vocabularies.__getitem__,
        advice="only what is there can be removed",
    )
    num_targets = len(vocabularies[edge_type[2]])
    old_ids, gone_ids = _pair_ids(old.index, num_targets), _pair_ids(gone.index, num_targets)
    if absent := np.flatnonzero(~np.isin(gone_ids, old_ids)).tolist():
        first = ends.slice(absent[0], 1).to_pylist()[0]
        raise GraphError(
            f"{edge_type}: {counted(len(absent), 'edge')} to remove cannot be found, e.g. {first}"
        )
    return old.select(~np.isin(old_ids, gone_ids))


def _upsert_edges(old: Edges, new: Edges, edge_type: EdgeType) -> Edges:
    for name in ("weight", "time"):
        was, comes = getattr(old, name) is not None, getattr(new, name) is not None
        if len(old) and was != comes:
            raise GraphError(
                f"{edge_type}: edges in the graph have {'a' if was else 'no'} {name}, those of the "
                f"change have {'one' if comes else 'none'}; "
                + (f"give a {name} for every edge" if was else "leave it out")
            )
    num_targets = 1 + max(old.bounds[1][1], new.bounds[1][1])
    new_ids = _pair_ids(new.index, num_targets)
    if len(set(new_ids.tolist())) < len(new):  # the last of equals holds
        last = len(new) - 1 - np.unique(new_ids[::-1], return_index=True)[1]
        new = new.select(np.sort(last))
    ends = [set(rows.tolist()) for rows in new.index]
    end = int(len(ends[1]) < len(ends[0]))
    near, _ = old.touching(end, np.array(sorted(ends[end]), np.int64))
    if len(near):
        near = near[np.isin(_pair_ids(old.index[:, near], num_targets), new_ids)]
    if len(near):
        kept = np.ones(len(old), bool)
        kept[near] = False
        old = old.select(kept)
    return old.followed_by(new)
