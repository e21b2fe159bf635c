"""What a graph network is trained on, and the untrained network for it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gnn.network import Features, NetworkConfig, TypedNetwork, split
from gnn.typed import Incoming, TypedGraph, reverse_type
from kg.schema import EdgeType


@dataclass(frozen=True, eq=False)
class NetworkData:
    """What a network is trained on and embeds.

    Args:
        graph: relations in both directions, interactions apart.
        features: float32 ``[num_nodes, width]`` by type, arrays or memory maps, or a pair of one
            and of sparse ones; users and items must have some, other types may.
        positives: distinct rows of user and item, int64 ``[2, num_pairs]``.
        interaction: edge type of the positives.
    """

    graph: TypedGraph
    features: Mapping[str, Features]
    positives: np.ndarray
    interaction: EdgeType

    @property
    def user(self) -> str:
        """Type of the users."""
        return self.interaction[0]

    @property
    def item(self) -> str:
        """Type of the items."""
        return self.interaction[2]

    def with_interactions(self, pairs: np.ndarray) -> TypedGraph:
        """The graph with these pairs as edges in both directions."""
        num, edges = self.graph.num_nodes, dict(self.graph.edges)
        edges[self.interaction] = Incoming.from_edges(pairs[0], pairs[1], num[self.item])
        back = Incoming.from_edges(pairs[1], pairs[0], num[self.user])
        edges[reverse_type(self.interaction)] = back
        return TypedGraph(num, edges)

    def passed(self, config: NetworkConfig) -> TypedGraph:
        """What a trained network passes along: the graph, and the positives where it takes them."""
        return self.with_interactions(self.positives) if config.interactions else self.graph

    def checksums(self) -> dict[str, Any]:
        """Of every part, for JSON: other data have others."""
        edges = sorted(self.graph.edges.items())
        return {
            "interaction": " ".join(self.interaction),
            "positives": _checksum(self.positives.T),
            "nodes": dict(sorted(self.graph.num_nodes.items())),
            "edges": {
                " ".join(e): [_checksum(i.indptr.numpy()), _checksum(i.indices.numpy())]
                for e, i in edges
            },
            "features": {t: _checksum_of(f) for t, f in sorted(self.features.items())},
        }

    def widths(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of the features of every type that has some, and of the sparse ones."""
        parts = {t: split(f) for t, f in self.features.items()}
        sparse = {t: s.width for t, (_, s) in parts.items() if s is not None}
        return {t: dense.shape[1] for t, (dense, _) in parts.items()}, sparse


def build_network(data: NetworkData, config: NetworkConfig, seed: int) -> TypedNetwork:
    """An untrained network for some data; the same seed gives the same weights.

    Raises:
        ValueError: users or items have no features.
    """
    for role in (data.user, data.item):
        if role not in data.features:
            raise ValueError(
                f"{role} has no features; give at least a constant column, float32 [num_nodes, 1]"
            )
    widths, sparse_widths = data.widths()
    rows = {
        t: n for t, n in data.graph.num_nodes.items() if t not in (data.user, data.item) and n > 0
    }
    edge_types = set(data.graph.edges)
    if config.interactions:
        edge_types |= {data.interaction, reverse_type(data.interaction)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TypedNetwork(
            config, widths, rows, sorted(edge_types), data.user, data.item, sparse_widths
        )


def _checksum_of(features: Features) -> int | list[int]:
    dense, sparse = split(features)
    if sparse is None:
        return _checksum(dense)
    parts = (sparse.indptr, sparse.columns, sparse.values)
    return [_checksum(dense), *(_checksum(part.numpy()) for part in parts)]


def _checksum(values: np.ndarray) -> int:
    """Block by block, as the values may lie in a file."""
    out = 0
    for start in range(0, len(values), 65_536):
        out = zlib.crc32(np.ascontiguousarray(values[start : start + 65_536]).tobytes(), out)
    return out
