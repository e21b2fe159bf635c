"""Toy graphs with text vectors that need no encoder, and what is cut out of them and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Vocabulary
from kg.toy import GENRES

RATED = ("User", "RATED", "Movie")
GENRE = ("Movie", "HAS_GENRE", "Genre")
SIMILAR = ("Movie", "SIMILAR_TO", "Movie")
FRIEND = ("User", "FRIEND_OF", "User")
LIVES = ("User", "LIVES_IN", "City")
WORDS = [word for words in GENRES.values() for word in words]


def words_of(title: str, plot: str) -> np.ndarray:
    """How often each of the planted words occurs, float32 ``[24]``."""
    text = f"{title} {plot}"
    return np.array([text.count(word) for word in WORDS], np.float32)


def word_vectors(graph: KnowledgeGraph) -> dict[str, NodeEmbeddings]:
    """Text vectors of all films of a toy graph."""
    films = graph.attributes["Movie"]
    pairs = zip(films["title"].to_pylist(), films["plot"].to_pylist(), strict=True)
    matrix = np.stack([words_of(t or "", p or "") for t, p in pairs])
    return {"Movie": NodeEmbeddings(graph.items, matrix)}


def vectors_of(vectors: dict[str, NodeEmbeddings], keys: Sequence[str]) -> dict:
    """The text vectors of some films."""
    return {"Movie": NodeEmbeddings(Vocabulary("Movie", keys), vectors["Movie"].of(keys))}


def part_of(graph: KnowledgeGraph, **keys: Sequence[str]) -> GraphDelta:
    """Some nodes of a graph with all their edges, as a change that adds them."""
    nodes, edges = {}, {}
    for node_type, some in keys.items():
        table = graph.node_table(node_type)
        nodes[node_type] = table.filter(pc.is_in(table["id"], pa.array(some)))
    for edge_type in graph.edge_types:
        table = graph.edge_table(edge_type)
        wanted = np.zeros(table.num_rows, bool)
        for end, column in ((edge_type[0], "source"), (edge_type[2], "target")):
            if end in keys:
                wanted |= pc.is_in(table[column], pa.array(keys[end])).to_numpy()
        edges[edge_type] = table.filter(pa.array(wanted))
    return GraphDelta(nodes=nodes, edges=edges)


def ratings(*pairs: tuple[str, str], weight: float = 5.0) -> dict:
    """An interaction table of pairs of a user and a film."""
    users, films = zip(*pairs, strict=True)
    some = {"source": users, "target": films, "weight": [weight] * len(pairs)}
    return some | {"time": [2_000_000_000] * len(pairs)}


def with_property(
    graph: KnowledgeGraph, node_type: str, name: str, values: list, role: str = "text"
) -> KnowledgeGraph:
    """The graph with a property, used as text, category or number."""
    table = graph.attributes[node_type].append_column(name, pa.array(values))
    roles = getattr(graph.schema, role)
    used = {**roles, node_type: (*roles.get(node_type, ()), name)}
    schema = replace(graph.schema, **{role: used})
    return replace(graph, schema=schema, attributes={**graph.attributes, node_type: table})
