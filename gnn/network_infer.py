"""Embeddings from a trained network: all nodes layer by layer, or a few from their neighbourhood.

Both use every neighbour and give the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from gnn.network import Features, TypedNetwork, features_of
from gnn.sampler import sample
from gnn.typed import TypedGraph
from kg.errors import TrainingError

_BLOCK_ROWS = 4096
"""So many nodes of a type at most are computed at once."""

_BLOCK_EDGES = 2**18
"""So many edges at most arrive at nodes that are computed at once, or those of one node."""


class Vectors(NamedTuple):
    """What a network makes of all users and items, on the CPU.

    Args:
        users: a_u u / |u|, float32 ``[num_users, dim]``.
        items: a_i i / |i|, ``[num_items, dim]``.
        biases: b_i, ``[num_items]``.
    """

    users: torch.Tensor
    items: torch.Tensor
    biases: torch.Tensor


@torch.no_grad()
def all_vectors(
    network: TypedNetwork,
    graph: TypedGraph,
    features: Mapping[str, Features],
    device: torch.device,
) -> Vectors:
    """Vectors of all users and items, and the biases of items; arguments as :func:`all_states`.

    Raises:
        TrainingError: some of them are no numbers.
    """
    states = all_states(network, graph, features, device)[-1]
    none = torch.empty(0, network.config.hidden_channels)

    def made(node_type: str, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        parts = states.get(node_type, none).split(_BLOCK_ROWS)
        found = torch.cat([head(part.to(device)).cpu() for part in parts])
        wrong = ~found.isfinite()
        if wrong.any():
            wrong = torch.nonzero(wrong.any(dim=1) if wrong.dim() > 1 else wrong).flatten()
            raise TrainingError(
                f"what the network makes of {len(wrong)} of {len(found)} {node_type} nodes is no "
                f"number, of those in rows {wrong[:5].tolist()} say; look at the features of these "
                f"and of their neighbours, or lower learning_rate (it was "
                f"{network.config.learning_rate})"
            )
        return found

    return Vectors(
        made(network.user, network.user_vectors),
        made(network.item, network.item_vectors),
        made(network.item, network.item_biases),
    )


@torch.no_grad()
def all_states(
    network: TypedNetwork,
    graph: TypedGraph,
    features: Mapping[str, Features],
    device: torch.device,
) -> list[dict[str, torch.Tensor]]:
    """States of all nodes before the first layer and after each, on the CPU.

    A layer at a time and a block of nodes at a time, so the device never holds more than the
    neighbours of one block, of :data:`_BLOCK_EDGES` edges or those of one node. Before and after
    every layer a state of every node is kept, on the CPU.

    Args:
        network: trained.
        graph: as it is now; may have other nodes than at training, and lack types.
        features: of all nodes, as at training.
        device: where the network is.

    Returns:
        For every layer float32 ``[num_nodes, channels]`` by node type.
    """
    types = [t for t in network.node_types if graph.num_nodes.get(t)]
    edges = {e: graph.edges[e] for e in network.edge_types if e in graph.edges}
    graph = TypedGraph(graph.num_nodes, edges).to(device)
    start = {}
    for t in types:
        parts = [
            network.start(t, features_of(features, {t: rows}, device).get(t), rows.to(device)).cpu()
            for rows in torch.arange(graph.num_nodes[t]).split(_BLOCK_ROWS)
        ]
        start[t] = torch.cat(parts)
    out = [start]
    for layer in network.layers:
        now = {}
        for t in types:
            parts = []
            for rows in _blocks(graph, t):
                drawn = sample(graph, {t: rows.to(device)}, [-1], seed=0)
                x_dict = {
                    kind: out[-1][kind][at.cpu()].to(device)
                    for kind, at in drawn.nodes.items()
                    if kind in start
                }
                parts.append(layer(x_dict, drawn.blocks[0])[t].cpu())
            now[t] = torch.cat(parts)
        out.append(now)
    return out


@torch.no_grad()
def some_states(
    network: TypedNetwork,
    graph: TypedGraph,
    features: Mapping[str, Features],
    rows: Mapping[str, torch.Tensor],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """States of a few nodes from their own neighbourhood alone, equal to :func:`all_states`.

    Args:
        network: trained.
        graph: as it is now.
        features: of all nodes; only those of the neighbourhood are read.
        rows: distinct, by type.
        device: where the network is, and where the states will be.
    """
    edges = {e: graph.edges[e] for e in network.edge_types if e in graph.edges}
    graph = TypedGraph(graph.num_nodes, edges).to(device)
    seeds = {t: at.to(device) for t, at in rows.items()}
    drawn = sample(graph, seeds, [-1] * len(network.layers), seed=0)
    return network.states(features_of(features, drawn.nodes, device), drawn.nodes, drawn.blocks)


def _blocks(graph: TypedGraph, node_type: str) -> Iterator[torch.Tensor]:
    """Rows of all nodes of a type, in blocks."""
    number = graph.num_nodes[node_type]
    arriving = np.zeros(number, np.int64)
    for edge_type, incoming in graph.edges.items():
        if edge_type[2] == node_type:
            arriving += np.diff(incoming.indptr.cpu().numpy())
    up_to, first = np.cumsum(arriving), 0
    while first < number:
        before = up_to[first] - arriving[first]
        last = int(np.searchsorted(up_to, before + _BLOCK_EDGES, side="right"))
        last = max(first + 1, min(last, first + _BLOCK_ROWS, number))
        yield torch.arange(first, last)
        first = last
