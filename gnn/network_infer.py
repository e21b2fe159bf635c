"""Embeddings from a trained network: all nodes layer by layer, or a few from their neighbourhood.

Both use every neighbour and give the same to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from gnn.network import Features, TypedNetwork, features_of
from gnn.sampler import sample
from gnn.typed import TypedGraph

_BLOCK_ROWS = 4096
"""So many nodes of a type are computed at once."""


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
    """Vectors of all users and items, and the biases of items; arguments as :func:`all_states`."""
    states = all_states(network, graph, features, device)[-1]
    users, items = (states[t].to(device) for t in (network.user, network.item))
    found = network.user_vectors(users), network.item_vectors(items), network.item_biases(items)
    return Vectors(*(values.cpu() for values in found))


@torch.no_grad()
def all_states(
    network: TypedNetwork,
    graph: TypedGraph,
    features: Mapping[str, Features],
    device: torch.device,
) -> list[dict[str, torch.Tensor]]:
    """States of all nodes before the first layer and after each, on the CPU.

    A layer at a time and a block of nodes at a time, so the device never holds more than the
    neighbours of one block.

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
        blocks = _blocks(graph.num_nodes[t])
        parts = [
            network.start(t, features_of(features, {t: rows}, device).get(t), rows.to(device)).cpu()
            for rows in blocks
        ]
        start[t] = torch.cat(parts)
    out = [start]
    for layer in network.layers:
        now = {}
        for t in types:
            parts = []
            for rows in _blocks(graph.num_nodes[t]):
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


def _blocks(num_rows: int) -> list[torch.Tensor]:
    return list(torch.arange(num_rows).split(_BLOCK_ROWS))
