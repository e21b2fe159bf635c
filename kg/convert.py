"""A knowledge graph as a networkx graph and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from kg.errors import GraphError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.vectors import Key

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(graph: KnowledgeGraph) -> nx.MultiDiGraph:
    """The graph as a directed networkx graph.

    A node is named ``(node_type, key)`` and has its properties as attributes, those that are null
    left out. An edge has the attribute ``relation`` and, where the graph has them, its weight and
    time under the names of the schema.
    """
    import networkx as nx

    out = nx.MultiDiGraph()
    for node_type, nodes in graph.vocabularies.items():
        rows = graph.attributes[node_type].to_pylist()
        for key, properties in zip(nodes, rows, strict=True):
            known = {name: value for name, value in properties.items() if value is not None}
            out.add_node((node_type, key))
            out.nodes[node_type, key].update(known)
    for source, relation, target in graph.edge_types:
        for edge in graph.edge_table((source, relation, target)).to_pylist():
            ends = (source, edge.pop("source")), (target, edge.pop("target"))
            number = out.add_edge(*ends)
            out.edges[*ends, number].update(edge | {"relation": relation})
    return out


def from_networkx(nx_graph: nx.DiGraph, schema: Schema) -> KnowledgeGraph:
    """The knowledge graph in a directed networkx graph.

    Args:
        nx_graph: nodes named ``(node_type, key)``, or named by their key with an attribute
            ``node_type``; other attributes are properties. The relation of an edge is its attribute
            ``relation``, or its key in a multigraph where that is a string.
        schema: the roles of types and properties; its ``weight`` and ``time`` name the attributes
            of edges that are read, others are dropped.

    Raises:
        GraphError: the graph is undirected, a node has no type, an edge has no relation, or a
            property has values of several types.
        SchemaError: there are no nodes of the user or item type.
    """
    if not nx_graph.is_directed():
        raise GraphError(
            "expected a directed networkx graph, got an undirected one; relations have a "
            "direction, build a MultiDiGraph (to_directed() would add each edge both ways)"
        )
    names: dict[Any, tuple[str, Key]] = {}
    nodes: dict[str, list[dict[str, Any]]] = {}
    for node, attributes in nx_graph.nodes(data=True):
        node_type, key = names[node] = _type_and_key(node, attributes)
        properties = dict(attributes)
        if node != names[node]:  # then the attribute told the type and is no property
            del properties["node_type"]
        nodes.setdefault(node_type, []).append(properties | {schema.key_of(node_type): key})
    edges: dict[EdgeType, list[dict[str, Any]]] = {}
    # networkx types only the simple form of edges()
    view: Any = nx_graph.edges
    listed = view(data=True, keys=True) if nx_graph.is_multigraph() else view(data=True)
    for source, target, *name, attributes in listed:
        relation = attributes.get("relation", name[0] if name else None)
        if not isinstance(relation, str):
            raise GraphError(
                f"the edge from {source!r} to {target!r} has no relation; give it an attribute "
                "'relation' (or, in a multigraph, a string key)"
            )
        (source_type, source_key), (target_type, target_key) = names[source], names[target]
        known = {k: attributes[k] for k in (schema.weight, schema.time) if k in attributes}
        row = {"source": source_key, "target": target_key} | known
        edges.setdefault((source_type, relation, target_type), []).append(row)
    return KnowledgeGraph.from_tables(
        {t: _columns(rows, f"{t} nodes") for t, rows in nodes.items()},
        {e: _columns(rows, f"{e} edges") for e, rows in edges.items()},
        schema,
    )


def _type_and_key(node: Any, attributes: Mapping[str, Any]) -> tuple[str, Key]:
    if isinstance(node, tuple) and len(node) == 2 and isinstance(node[0], str):
        return node[0], node[1]
    node_type = attributes.get("node_type")
    if not isinstance(node_type, str):
        raise GraphError(
            f"the node {node!r} has no type; name it (node_type, key) or give it an attribute "
            "'node_type'"
        )
    return node_type, cast(Key, node)  # the vocabulary checks it


def _columns(rows: list[dict[str, Any]], what: str) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[str(name)] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise GraphError(
                f"{what}: {name!r} has values of several types ({error}); make them one type"
            ) from error
    return pa.table(columns)
