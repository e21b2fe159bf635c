"""What a change to an engine names or dates in a way that must be a mistake.

Types and properties that nothing would ever look at are misspelt, mostly: a film with a ``titel``
would have no text, and nobody would be told.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from coldstart.temporal import require_dates
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import KnowledgeGraph
from kg.schema import PROPERTY_ROLES, EdgeType


def check_names(graph: KnowledgeGraph, delta: GraphDelta) -> None:
    """Refuse a change that names what the graph does not have.

    Raises:
        GraphError: a node or edge is of a type that neither graph nor schema has, or a node has a
            property that neither has and ``delta.new_properties`` is false.
    """
    for node_type, table in delta.nodes.items():
        require_node_type(graph, node_type, "nodes")
        if not delta.new_properties:
            advice = "use one of these, or pass new_properties=True to carry it along unused"
            require_properties(graph, node_type, table.column_names, advice)
    for edge_type in delta.edges:
        require_edge_type(graph, edge_type, "edges")


def check_times(graph: KnowledgeGraph, delta: GraphDelta) -> None:
    """Refuse seconds where the times of the graph's edges are dates.

    Raises:
        GraphError: see :func:`coldstart.temporal.require_dates`.
    """
    for edge_type, table in delta.edges.items():
        known, name = graph.edges.get(edge_type), graph.schema.time
        if known is None or known.time is None or name not in table.column_names:
            continue
        if pa.types.is_integer(table[name].type):
            require_dates(edge_type, known.time, table[name].drop_null().to_pylist())


def require_node_type(graph: KnowledgeGraph, node_type: str, place: str) -> None:
    """Raise unless graph or schema has nodes of this type; ``place`` is where it is named."""
    types = {*graph.node_types, *graph.schema.node_types}
    if node_type not in types:
        raise GraphError(
            f"{place}: there are no {node_type!r} nodes, only {', '.join(sorted(types))}; "
            "use one of these, or fit an engine on a graph that has the new type"
        )


def require_edge_type(graph: KnowledgeGraph, edge_type: EdgeType, place: str) -> None:
    """Raise unless graph or schema has edges of this type; ``place`` is where it is named."""
    known = {*graph.edge_types, *graph.schema.edge_types, graph.schema.interaction}
    if edge_type not in known:
        there = ", ".join(sorted("-".join(e) for e in known))
        raise GraphError(
            f"{place}: there are no {'-'.join(edge_type)} edges, only {there}; "
            "use one of these, or fit an engine on a graph that has the new type"
        )


def require_properties(
    graph: KnowledgeGraph, node_type: str, names: Iterable[str], advice: str
) -> None:
    """Raise unless nodes of this type have these properties, by graph or schema.

    Nodes of a type that has none yet may bring any.
    """
    if not len(graph.vocabularies.get(node_type, ())):
        return
    key = graph.schema.key_of(node_type)
    known = {key, *graph.attributes[node_type].column_names}
    for role in PROPERTY_ROLES:
        known |= set(getattr(graph.schema, role).get(node_type, ()))
    if unknown := [name for name in names if name not in known]:
        raise GraphError(
            f"nodes: a {node_type} has no property {unknown[0]!r}, only {', '.join(sorted(known))} "
            f"(its key is {key}); {advice}"
        )
