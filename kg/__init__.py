"""What the world looks like: schema, keys, typed graph, stores. Numpy and Arrow only, no torch."""

from kg.delta import GraphDelta
from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.vectors import Key, NodeEmbeddings, Vocabulary

__all__ = [
    "EdgeType",
    "Edges",
    "GraphDelta",
    "Key",
    "KnowledgeGraph",
    "NodeEmbeddings",
    "Schema",
    "Vocabulary",
]
