"""Which items are near an item, and what they have in common."""

from __future__ import annotations

import torch

from coldstart.engine import ColdStartEngine
from gnn.data import feature_edge_types
from kg.graph import KnowledgeGraph
from kg.vectors import Key


def similar_items(engine: ColdStartEngine, item: Key, k: int = 10) -> list[tuple[Key, float]]:
    """The ``k`` items whose embeddings have the highest cosine with an item's, best first.

    Raises:
        UnknownNodeError: the item is not in the graph.
    """
    row = engine.graph.items.row(item)
    unit = torch.nn.functional.normalize(engine.item_vectors, dim=1)
    cosine = unit @ unit[row]
    cosine[row] = -torch.inf
    best = cosine.topk(min(k, len(cosine) - 1))
    rows, values = best.indices.tolist(), best.values.tolist()
    return [(engine.graph.items[r], v) for r, v in zip(rows, values, strict=True)]


def shared_entities(graph: KnowledgeGraph, first: Key, second: Key) -> list[tuple[str, Key]]:
    """Relation and key of every entity that two items are both linked to."""
    item = graph.schema.item
    rows = graph.items.row(first), graph.items.row(second)
    out: list[tuple[str, Key]] = []
    for edge_type in feature_edge_types(graph.edge_types, graph, item):
        if edge_type[0] == edge_type[2]:
            continue
        own = 0 if edge_type[0] == item else 1
        index = graph.edges[edge_type].index
        one, other = (set(index[1 - own][index[own] == row].tolist()) for row in rows)
        entities = graph.vocabularies[edge_type[2 - 2 * own]]
        out += [(edge_type[1], entities[row]) for row in sorted(one & other)]
    return out
