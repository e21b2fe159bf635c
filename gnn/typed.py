"""A graph as message passing sees it: for every node and relation, the edges that arrive."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from kg.graph import KnowledgeGraph
from kg.schema import EdgeType


@dataclass(frozen=True, eq=False)
class Incoming:
    """The edges of one type, by the node at which they arrive.

    Args:
        indptr: int64 ``[num_targets + 1]``; edges of target ``t`` are ``indptr[t]:indptr[t + 1]``.
        indices: row of the source of every edge, int64 ``[num_edges]``; an edge that is there twice
            counts twice.
        times: float64 ``[num_edges]``, ascending for every target, or ``None``: always there.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    times: torch.Tensor | None = None

    @classmethod
    def from_edges(
        cls,
        sources: np.ndarray,
        targets: np.ndarray,
        num_targets: int,
        times: np.ndarray | None = None,
    ) -> Incoming:
        """Sorted by target, then by time or source.

        Args:
            sources: rows, int64 ``[num_edges]``.
            targets: rows, int64 ``[num_edges]``.
            num_targets: how many nodes there are at the far end.
            times: of the edges, ``[num_edges]``.
        """
        order = np.lexsort((sources, targets) if times is None else (sources, times, targets))
        indptr = np.zeros(num_targets + 1, np.int64)
        np.cumsum(np.bincount(targets, minlength=num_targets), out=indptr[1:])
        sorted_times = None
        if times is not None:
            sorted_times = torch.from_numpy(times[order].astype(np.float64))
        indices = torch.from_numpy(np.ascontiguousarray(sources[order], np.int64))
        return cls(torch.from_numpy(indptr), indices, sorted_times)

    def __len__(self) -> int:
        return len(self.indices)

    def without_sources(self, rows: torch.Tensor) -> Incoming:
        """The edges that come from other rows than these."""
        kept = ~torch.isin(self.indices, rows)
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        times = None if self.times is None else self.times[kept]
        return Incoming(before[self.indptr], self.indices[kept], times)

    def to(self, device: torch.device) -> Incoming:
        """The same edges on another device."""
        times = None if self.times is None else self.times.to(device)
        return Incoming(self.indptr.to(device), self.indices.to(device), times)


@dataclass(frozen=True, eq=False)
class TypedGraph:
    """Nodes and arriving edges of every type.

    Args:
        num_nodes: by node type.
        edges: by ``(source type, relation, target type)``.
    """

    num_nodes: Mapping[str, int]
    edges: Mapping[EdgeType, Incoming]

    @property
    def node_types(self) -> tuple[str, ...]:
        """Sorted names."""
        return tuple(sorted(self.num_nodes))

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        """Sorted."""
        return tuple(sorted(self.edges))

    def without_sources(self, rows: Mapping[str, np.ndarray]) -> TypedGraph:
        """The same nodes, without the edges that leave some of them.

        Args:
            rows: of these nodes, by type.
        """
        edges = dict(self.edges)
        for edge_type, incoming in self.edges.items():
            if len(silent := rows.get(edge_type[0], ())):
                edges[edge_type] = incoming.without_sources(torch.from_numpy(np.asarray(silent)))
        return replace(self, edges=edges)

    def to(self, device: torch.device) -> TypedGraph:
        """The same graph on another device."""
        return replace(self, edges={e: edges.to(device) for e, edges in self.edges.items()})


REVERSE = "<-"
"""Before the name of a relation that is followed backwards; ``rev_`` may be a user's own name."""


def reverse_type(edge_type: EdgeType) -> EdgeType:
    """``(a, rel, b)`` to ``(b, <-rel, a)`` and back."""
    source, relation, target = edge_type
    if relation.startswith(REVERSE):
        return (target, relation.removeprefix(REVERSE), source)
    return (target, f"{REVERSE}{relation}", source)


def typed_graph(
    graph: KnowledgeGraph,
    *,
    edge_types: Collection[EdgeType] | None = None,
    interactions: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> TypedGraph:
    """Every relation of a graph in both directions, the reverse one as ``<-`` + name.

    Args:
        graph: the typed graph.
        edge_types: the relations wanted, interactions apart; all by default.
        interactions: rows of user and item that stand for the interactions, ``[2, num_pairs]``;
            ``None``: the interactions are left out.
        times: of these pairs; ``None``: always there.
    """
    num_nodes = {t: graph.num_nodes(t) for t in graph.node_types}
    wanted = set(graph.edges if edge_types is None else edge_types) - {graph.schema.interaction}
    given = {e: (graph.edges[e].index, graph.edges[e].time) for e in wanted if e in graph.edges}
    if interactions is not None:
        given[graph.schema.interaction] = (interactions, times)
    edges = {}
    for edge_type, (index, when) in given.items():
        source, _, target = edge_type
        edges[edge_type] = Incoming.from_edges(index[0], index[1], num_nodes[target], when)
        edges[reverse_type(edge_type)] = Incoming.from_edges(
            index[1], index[0], num_nodes[source], when
        )
    return TypedGraph(num_nodes, edges)
