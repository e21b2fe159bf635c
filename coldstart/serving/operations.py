"""Changes as JSON values: what a request asks for, the journal keeps, and a restart replays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from coldstart.feedback import FeedbackEvent
from coldstart.known_names import require_edge_type, require_node_type, require_properties
from coldstart.ready_vectors import Ready
from coldstart.temporal import are_dates, require_dates
from coldstart.updating import updated
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import as_edge_type
from kg.schema import EdgeType, Schema
from kg.vectors import Key, NodeEmbeddings, Vocabulary

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from kg.graph import KnowledgeGraph

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Operation = dict[str, Any]
"""``op`` is ``upsert``, ``feedback`` or ``erase``; the rest are its arguments, and ``once``: see
:meth:`coldstart.serving.durable.DurableEngine.submit`."""


def applied(engine: ColdStartEngine, operation: Operation) -> tuple[ColdStartEngine, Any]:
    """The engine after an operation, and what there is to say about it.

    Raises:
        ValueError: the operation does not fit the engine (also :class:`kg.errors.GraphError`).
        UnknownNodeError: it names a node that does not exist.
    """
    match operation["op"]:
        case "upsert":
            delta, texts, ready = upsert_of(engine.graph.schema, operation)
            # Names are checked where it is asked for; what a journal has was taken once.
            after = updated(engine, delta, texts, ready, progress=False)
            return after, {
                "nodes": sum(table.num_rows for table in delta.nodes.values()),
                "edges": sum(table.num_rows for table in delta.edges.values()),
            }
        case "feedback":
            events = [FeedbackEvent(**event) for event in operation["events"]]
            found = engine.feedback(events, now=operation.get("now"))
            told = [{"event": places(events, e), "reason": reason} for e, reason in found.ignored]
            counts = {"counted": found.counted, "added": found.added, "removed": found.removed}
            return found.engine, counts | {"ignored": told}
        case "erase":
            removed = {operation["type"]: [operation["key"]]}
            return engine.update(GraphDelta(removed_nodes=removed)), {}
        case "redacted":
            return engine, {}
    raise ValueError(f"unknown operation {operation['op']!r}; this program is older than the log")


def checked_upsert(engine: ColdStartEngine, asked: Operation) -> Operation:
    """An ``upsert`` that fits the engine, with numbers for dates.

    Raises:
        GraphError: it does not, see :func:`with_times`, :func:`check_upsert` and
            :func:`check_vectors`.
    """
    operation = with_times(engine.graph, asked)
    check_upsert(engine.graph, operation)
    check_vectors(engine, operation)
    return operation


def supposed(engine: ColdStartEngine, operation: Operation) -> ColdStartEngine:
    """The engine as it would be after an ``upsert``, of which nothing is kept on disk.

    Raises:
        GraphError: see :func:`checked_upsert`.
    """
    forgetful = copy(engine)  # with its indexes, which are continued
    object.__setattr__(forgetful, "cache", None)
    return applied(forgetful, checked_upsert(engine, operation))[0]


def places(events: list[FeedbackEvent], event: FeedbackEvent) -> int:
    """Which of the events it is."""
    return next(at for at, other in enumerate(events) if other is event)


def upsert_of(
    schema: Schema, operation: Operation
) -> tuple[GraphDelta, dict[str, NodeEmbeddings] | None, Ready]:
    """Nodes and edges, text vectors, and ready-made vectors of an ``upsert``.

    Raises:
        GraphError: rows of one type do not have the same properties, vectors differ in length or
            are of no node that comes with them.
    """
    nodes = {
        node_type: columns_of(rows, f"{node_type} nodes")
        for node_type, rows in operation.get("nodes", {}).items()
    }
    edges = edges_of(schema, operation.get("edges", ()))
    removed = edges_of(schema, operation.get("remove_edges", ()))
    sent = {t: set(columns.get(schema.key_of(t), ())) for t, columns in nodes.items()}
    texts = {
        t: _embeddings(vectors, t, _called("vectors", t, None), sent.get(t, set()))
        for t, vectors in operation.get("vectors", {}).items()
        if _any(vectors)
    }
    ready = {
        t: {
            name: _embeddings(vectors, t, _called("ready_vectors", t, name), sent.get(t, set()))
            for name, vectors in named.items()
            if _any(vectors)
        }
        for t, named in operation.get("ready_vectors", {}).items()
    }
    delta = GraphDelta(nodes=nodes, edges=edges, removed_edges=removed)
    return delta, texts or None, ready


def _any(vectors: Mapping[str, Any]) -> bool:
    return bool(vectors["keys"] or vectors["matrix"])


def _embeddings(
    vectors: Mapping[str, Any], node_type: str, what: str, sent: set[Key]
) -> NodeEmbeddings:
    keys, matrix = vectors["keys"], vectors["matrix"]
    lengths = {len(row) for row in matrix}
    if len(lengths) > 1 or len(matrix) != len(keys):
        raise GraphError(
            f"{what}: expected one for each of {len(keys)} keys, all of one length, got "
            f"{len(matrix)} of lengths {sorted(lengths)}"
        )
    if lost := [key for key in keys if key not in sent]:
        raise GraphError(
            f"{what}: {lost[0]!r} is not among the nodes of this request; send the node, with its "
            "texts, beside its vector"
        )
    made = np.asarray(matrix, np.float32).reshape(len(keys), max(lengths, default=0))
    return NodeEmbeddings(Vocabulary(node_type, keys), made)


def check_upsert(graph: KnowledgeGraph, operation: Operation) -> None:
    """Refuse what no part of an engine would ever look at, and seconds where times are dates.

    Raises:
        GraphError: there is nothing in it, a node or edge is of a type that neither graph nor
            schema has, a node has such a property, or see
            :func:`coldstart.temporal.require_dates`.
    """
    lists = [operation.get(name) for name in ("edges", "remove_edges", "vectors", "ready_vectors")]
    if not any((*lists, *operation.get("nodes", {}).values())):
        raise GraphError("the request changes nothing; give nodes, edges or remove_edges")
    for name in ("nodes", "vectors", "ready_vectors"):
        for node_type in operation.get(name, {}):
            require_node_type(graph, node_type, name)
    advice = "use one of these, or fit an engine on a graph that has the new property"
    for node_type, rows in operation.get("nodes", {}).items():
        require_properties(graph, node_type, dict.fromkeys(n for row in rows for n in row), advice)
    for name in ("edges", "remove_edges"):
        for at, edge in enumerate(operation.get(name, ())):
            require_edge_type(graph, tuple(edge["type"]), f"{name}[{at}]")
    times: dict[EdgeType, list[int]] = {}
    for edge in operation.get("edges", ()):
        if edge.get("time") is not None:
            times.setdefault(tuple(edge["type"]), []).append(edge["time"])
    for edge_type, some in times.items():
        if (known := graph.edges.get(edge_type)) is not None:
            require_dates(edge_type, known.time, some)


def with_times(graph: KnowledgeGraph, operation: Operation) -> Operation:
    """An ``upsert`` whose edges have numbers for dates, microseconds since 1970.

    Raises:
        GraphError: one is no date as in ISO 8601, or the times of such edges are no dates.
    """
    edges = operation.get("edges", [])
    if not any(isinstance(edge.get("time"), str) for edge in edges):
        return operation
    return operation | {"edges": [_with_time(graph, at, edge) for at, edge in enumerate(edges)]}


def _with_time(graph: KnowledgeGraph, at: int, edge: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given := edge.get("time"), str):
        return edge
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise GraphError(
            f"edges[{at}]: the time {given!r} is no date as in ISO 8601, like 2024-12-01 or "
            "2024-12-01T18:30:00+01:00"
        ) from error
    edge_type = as_edge_type(edge["type"])
    known = graph.edges.get(edge_type)
    times = None if known is None else known.time
    if times is not None and len(times) and not are_dates(times):
        raise GraphError(
            f"edges[{at}]: the times of {'-'.join(edge_type)} are numbers, such as "
            f"{int(times[0])}, got the date {given!r}; give it in that unit"
        )
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return edge | {"time": since // timedelta(microseconds=1)}


def check_vectors(engine: ColdStartEngine, operation: Operation) -> None:
    """Refuse vectors that the engine was fitted without, or of another length.

    Raises:
        GraphError: there are such.
    """
    named = {("vectors", t, None): v for t, v in operation.get("vectors", {}).items()}
    for t, ready in operation.get("ready_vectors", {}).items():
        named |= {("ready_vectors", t, name): v for name, v in ready.items()}
    texts = {("vectors", t, None): known for t, known in engine.texts.items()}
    there = texts | {
        ("ready_vectors", t, name): known
        for t, ready in engine.vectors.items()
        for name, known in ready.items()
    }
    for place, vectors in named.items():
        if place not in there:
            expected = "; ".join(f"{_called(*p)}: {k.dim} floats" for p, k in there.items())
            raise GraphError(
                f"{_called(*place)}: the engine was fitted without these; expected any of "
                f"[{expected}]; leave them out, or fit again with them"
            )
        dim = there[place].dim
        if got := {len(row) for row in vectors["matrix"]} - {dim}:
            raise GraphError(
                f"{_called(*place)}: expected {dim} floats each, as in training, got {min(got)}"
            )


def _called(field: str, node_type: str, name: str | None) -> str:
    return f"{field} of {node_type}" if name is None else f"{field} {name!r} of {node_type}"


def columns_of(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, list[Any]]:
    """Rows as columns.

    Raises:
        GraphError: rows have no properties, or not all the same. Empty ones would overwrite.
    """
    names = list(rows[0]) if rows else []
    if rows and not names:
        raise GraphError(f"{what}: row 0 has no properties; give its key at least")
    for at, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise GraphError(
                f"{what}: row {at} has the properties {sorted(row)}, row 0 {sorted(names)}; give "
                "the same for all, or send them in requests of their own"
            )
    return {name: [row[name] for row in rows] for name in names}


def edges_of(schema: Schema, edges: Iterable[Mapping[str, Any]]) -> dict[EdgeType, Any]:
    """Edge rows as a table per edge type."""
    by_type: dict[EdgeType, list[dict[str, Any]]] = {}
    for edge in edges:
        source, relation, target = edge["type"]
        row = {"source": edge["source"], "target": edge["target"]}
        for name, column in (("weight", schema.weight), ("time", schema.time)):
            if edge.get(name) is not None:
                row[column] = edge[name]
        by_type.setdefault((source, relation, target), []).append(row)
    return {e: columns_of(rows, f"{'-'.join(e)} edges") for e, rows in by_type.items()}


def redacted(operation: Operation, node_type: str, key: Key, schema: Schema) -> Operation:
    """An operation without anything of one node; one that has nothing of it comes back equal."""
    out = dict(operation)
    if out["op"] == "upsert":
        name = schema.key_of(node_type)
        if rows := out.get("nodes", {}).get(node_type):
            left = [row for row in rows if row.get(name) != key]
            others = {t: rows for t, rows in out["nodes"].items() if t != node_type}
            out["nodes"] = others | ({node_type: left} if left else {})
        for kind in {"edges", "remove_edges"} & set(out):
            out[kind] = [
                e
                for e in out[kind]
                if (node_type, key)
                not in ((e["type"][0], e["source"]), (e["type"][2], e["target"]))
            ]
        if key in (vectors := out.get("vectors", {}).get(node_type, {})).get("keys", ()):
            kept = _vectors_without(vectors, key)
            others = {t: v for t, v in out["vectors"].items() if t != node_type}
            out["vectors"] = others | ({node_type: kept} if kept["keys"] else {})
        if (named := out.get("ready_vectors", {}).get(node_type)) is not None:
            left = {name: _vectors_without(v, key) for name, v in named.items()}
            left = {name: v for name, v in left.items() if v["keys"] or v == named[name]}
            out["ready_vectors"] = out["ready_vectors"] | {node_type: left}
    elif out["op"] == "feedback":
        role = "user" if node_type == schema.user else "item"
        named = node_type in (schema.user, schema.item)
        out["events"] = [e for e in out["events"] if not (named and e[role] == key)]
        if len(out["events"]) < len(operation["events"]) and "once" in out:
            out["once"] = {"key": out["once"]["key"]}  # a hash of little can be guessed
        if operation["events"] and not out["events"]:  # feedback of nothing lets time pass
            out = {"seq": out["seq"], "op": "redacted"}
    elif out["op"] == "erase" and (out["type"], out["key"]) == (node_type, key):
        out = {"seq": out["seq"], "op": "redacted"}
    return out


def _vectors_without(vectors: Mapping[str, Any], key: Key) -> dict[str, Any]:
    kept = [at for at, other in enumerate(vectors["keys"]) if other != key]
    return {name: [vectors[name][at] for at in kept] for name in ("keys", "matrix")}
