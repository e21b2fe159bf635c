"""From the rows of one triple query to a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kg.errors import GraphError, MissingColumnError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.tables import MAX_ROWS_SHOWN, to_table

REQUIRED = ("head", "relation", "tail")
OPTIONAL = ("head_type", "tail_type", "weight", "time")


@dataclass(frozen=True)
class NodeValue:
    """A node that a query returned."""

    labels: tuple[str, ...]
    properties: dict[str, Any]


@dataclass(frozen=True)
class RelationValue:
    """A relationship that a query returned."""

    relation: str
    properties: dict[str, Any]


@dataclass(frozen=True)
class Triples:
    """The columns of a triple query; nodes and relationships as our own values.

    Args:
        columns: a list per returned name, all of one length.
        query: the Cypher, for messages.
    """

    columns: dict[str, Sequence[Any]]
    query: str


@dataclass
class _Rows:
    """The edges of one type as they come."""

    source: list[Any] = field(default_factory=list)
    target: list[Any] = field(default_factory=list)
    weight: list[Any] = field(default_factory=list)
    time: list[Any] = field(default_factory=list)


def graph_of_triples(
    triples: Triples,
    schema: Schema,
    as_stored: Callable[[str, list[Any]], list[Any]],
    on_dangling: str = "error",
) -> KnowledgeGraph:
    """The graph in triples; see :meth:`kg.stores.base.CypherStore.read_triples` for the rules.

    Args:
        triples: what the query returned.
        schema: roles and keys.
        as_stored: gives the keys of a node type the type that the store has for them.
        on_dangling: passed on to :meth:`KnowledgeGraph.from_tables`.

    Raises:
        MissingColumnError: a required column is lacking.
        GraphError: an end or relation is null, or a node has no key.
    """
    columns = _named(triples)
    ends = _ends_by_relation(schema)
    nodes: dict[str, dict[Any, dict[str, Any]]] = {}
    edges: dict[EdgeType, _Rows] = {}
    length = len(columns["head"])
    none = [None] * length
    optional = [columns.get(name, none) for name in OPTIONAL]
    for head, relation, tail, head_type, tail_type, weight, time in zip(
        columns["head"], columns["relation"], columns["tail"], *optional, strict=True
    ):
        if isinstance(relation, RelationValue):
            weight = relation.properties.get(schema.weight) if weight is None else weight
            time = relation.properties.get(schema.time) if time is None else time
            relation = relation.relation
        by_rule = ends.get(relation, (schema.item, relation))
        source_type, source = _end(head, head_type, by_rule[0], schema, nodes)
        target_type, target = _end(tail, tail_type, by_rule[1], schema, nodes)
        if source is None or relation is None or target is None:
            raise _null(columns, triples.query)
        rows = edges.setdefault((source_type, str(relation), target_type), _Rows())
        rows.source.append(source)
        rows.target.append(target)
        rows.weight.append(weight)
        rows.time.append(time)
    tables = {e: _edge_table(e, rows, schema, as_stored) for e, rows in edges.items()}
    node_tables = {t: _node_table(t, found, schema, as_stored) for t, found in nodes.items()}
    plain = {end for e in edges for end in (e[0], e[2]) if end not in nodes}
    return KnowledgeGraph.from_tables(
        {t: v for t, v in node_tables.items() if t not in plain},
        tables,
        schema,
        on_dangling=on_dangling,
    )


def _named(triples: Triples) -> dict[str, Sequence[Any]]:
    """The columns under our names; ``h, r, t`` are taken for head, relation, tail."""
    columns = dict(triples.columns)
    for short, name in (("h", "head"), ("r", "relation"), ("t", "tail")):
        if name not in columns and short in columns:
            columns[name] = columns.pop(short)
    if absent := [name for name in REQUIRED if name not in columns]:
        raise MissingColumnError(
            f"the triple query: expected the columns {absent}, got {list(triples.columns)}; "
            f"RETURN ... AS head, ... AS relation, ... AS tail. It was: {triples.query.strip()}"
        )
    return columns


def _ends_by_relation(schema: Schema) -> dict[str, tuple[str, str]]:
    """Ends of every relation that exactly one edge type of the schema has."""
    ends: dict[str, list[tuple[str, str]]] = {}
    for source, relation, target in (schema.interaction, *schema.edge_types):
        ends.setdefault(relation, []).append((source, target))
    return {relation: found[0] for relation, found in ends.items() if len(found) == 1}


def _end(
    value: Any,
    named_type: Any,
    type_by_rule: str,
    schema: Schema,
    nodes: dict[str, dict[Any, dict[str, Any]]],
) -> tuple[str, Any]:
    """Type and key of one end; the properties of a node are kept in ``nodes``."""
    if not isinstance(value, NodeValue):
        return (type_by_rule if named_type is None else str(named_type)), value
    named = schema.node_types
    known = [label for label in named if label in value.labels] or sorted(value.labels)
    if named_type is None and not known:
        raise GraphError(f"a node without a label came ({value.properties}); return head_type")
    node_type = known[0] if named_type is None else str(named_type)
    name = schema.key_of(node_type)
    if (key := value.properties.get(name)) is None:
        raise GraphError(
            f"a {node_type} without its key {name!r} came, with {sorted(value.properties)}; "
            f"name the key in Schema(key={{{node_type!r}: ...}})"
        )
    nodes.setdefault(node_type, {})[key] = value.properties
    return node_type, key


def _null(columns: dict[str, Sequence[Any]], query: str) -> GraphError:
    for name in REQUIRED:
        if rows := [row for row, value in enumerate(columns[name]) if value is None]:
            return GraphError(
                f"the triple query: {name} is null in rows {rows[:MAX_ROWS_SHOWN]}; "
                f"leave them out with WHERE ... IS NOT NULL. It was: {query.strip()}"
            )
    raise AssertionError("no null after all")


def _edge_table(
    edge_type: EdgeType,
    rows: _Rows,
    schema: Schema,
    as_stored: Callable[[str, list[Any]], list[Any]],
) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "source": as_stored(edge_type[0], rows.source),
        "target": as_stored(edge_type[2], rows.target),
    }
    for name, values in ((schema.weight, rows.weight), (schema.time, rows.time)):
        if any(v is not None for v in values):
            columns[name] = values
    return to_table(columns, f"{edge_type} edges of the triple query")


def _node_table(
    node_type: str,
    found: dict[Any, dict[str, Any]],
    schema: Schema,
    as_stored: Callable[[str, list[Any]], list[Any]],
) -> pa.Table:
    key = schema.key_of(node_type)
    names = dict.fromkeys(name for properties in found.values() for name in properties)
    columns = {name: [p.get(name) for p in found.values()] for name in names if name != key}
    columns = {n: v for n, v in columns.items() if any(x is not None for x in v)}
    keys = as_stored(node_type, list(found))
    return to_table({key: keys, **columns}, f"{node_type} nodes of the triple query")
