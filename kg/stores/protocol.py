"""What a store is asked for, and what it answers to a write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.vectors import NodeEmbeddings
from kg.wording import counted

Queries = Mapping[str | EdgeType, str]
"""A user's own Cypher by node type or by ``(source, relation, target)``."""


@dataclass(frozen=True)
class WriteReport:
    """What a write came to.

    Args:
        nodes: nodes that are now in the store as given, by node type, new or not.
        edges: edges likewise, by edge type.
        merged: parallel edges that were folded into the last of them, by edge type; an edge is
            identified by its two ends.
        embeddings: vectors that are now in the store as given, by node type.
        unchanged: how many of these were there before and were left alone, by node type.
        missing: keys that have a vector and no node, by node type; only where they were skipped.
        recommendations: lists that are now in the store as given, by relation.
        steps: what was done besides, or with ``dry_run`` would be, in sentences.
        dry_run: whether nothing was written and the counts say what would be.
    """

    nodes: Mapping[str, int] = field(default_factory=dict)
    edges: Mapping[EdgeType, int] = field(default_factory=dict)
    merged: Mapping[EdgeType, int] = field(default_factory=dict)
    embeddings: Mapping[str, int] = field(default_factory=dict)
    unchanged: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    recommendations: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    dry_run: bool = False

    def __str__(self) -> str:
        """What was written, or would be, a line each."""
        would = "would be " if self.dry_run else ""
        lines = [f"{counted(n, f'{t} node')} {would}written" for t, n in self.nodes.items()]
        lines += [
            f"{counted(n, '-'.join(e) + ' edge')} {would}written" for e, n in self.edges.items()
        ]
        lines += [
            f"{counted(n, 'parallel ' + '-'.join(e) + ' edge')} folded"
            for e, n in self.merged.items()
        ]
        for kind, counts in (("vectors", self.embeddings), ("lists", self.recommendations)):
            for name, n in counts.items():
                same = self.unchanged.get(name, 0)
                lines.append(f"{n - same} {name} {kind} {would}written, {same} unchanged")
        lines += [f"{n} {t} keys have no node" for t, n in self.missing.items()]
        lines += [("would " if self.dry_run else "") + step for step in self.steps]
        return "\n".join(lines)


@runtime_checkable
class Store(Protocol):
    """Where graphs come from and where vectors go; see :class:`CypherStore` for each method."""

    def read(self, schema: Schema, queries: Queries | None = None) -> KnowledgeGraph:
        """The graph that the schema describes."""
        ...

    def read_triples(self, cypher: str, schema: Schema) -> KnowledgeGraph:
        """The graph in the rows of one query."""
        ...

    def infer_schema(
        self, user: str | None = None, item: str | None = None, interaction: Any = None
    ) -> Schema:
        """A schema made from what the store holds."""
        ...

    def write(self, graph: KnowledgeGraph) -> WriteReport:
        """Make the store hold every node and edge of a graph."""
        ...

    def write_embeddings(self, embeddings: NodeEmbeddings) -> WriteReport:
        """Put vectors on nodes, by key."""
        ...

    def write_recommendations(self, recommendations: Any, user: str, item: str) -> WriteReport:
        """Put ranked lists into the store, as relations."""
        ...

    def read_embeddings(self, node_type: str) -> NodeEmbeddings:
        """The vectors on the nodes of one type."""
        ...

    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
