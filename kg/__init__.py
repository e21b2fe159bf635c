"""What the world looks like: schema, keys, typed graph, stores. Numpy and Arrow only, no torch."""

from typing import TYPE_CHECKING, Any

from kg.delta import GraphDelta
from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.vectors import Key, NodeEmbeddings, Vocabulary

if TYPE_CHECKING:
    from kg.auditing import Audit, audit

__all__ = [
    "Audit",
    "EdgeType",
    "Edges",
    "GraphDelta",
    "Key",
    "KnowledgeGraph",
    "NodeEmbeddings",
    "Schema",
    "Vocabulary",
    "audit",
]


def __getattr__(name: str) -> Any:
    """``audit`` loads when it is first used: it needs scipy, which the values do not."""
    if name in ("audit", "Audit"):
        from kg import auditing

        return getattr(auditing, name)
    raise AttributeError(f"module 'kg' has no attribute {name!r}")
