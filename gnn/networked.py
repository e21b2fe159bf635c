"""A feature group made by trained graph networks, cross-fitted.

The networks pass along relations, not interactions, so every node is embedded as if it were cold,
and only interactions teach them. A network has seen what the nodes it was trained on were chosen
with; a warm node therefore gets its features from a network that was trained without its
interactions, and any other node from one that was trained on all. What entities (and nodes of the
same type) look like to the layers is kept as tables from training, so a new node costs O(degree).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from gnn.data import NodeInputs
from gnn.groups import (
    FeatureGroup,
    SparseRows,
    known,
    leads_to_warm,
    still_there,
    warm_links,
)
from gnn.network import NetworkConfig, Read, TypedNetwork
from gnn.prominence import Prominence
from gnn.sampler import Block
from gnn.words import Words
from kg.schema import EdgeType


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """What one network needs to embed nodes of one type.

    Args:
        names: of the parameters.
        values: of the parameters, in that order.
        types: node types whose states are kept.
        states: of these types float32 ``[num_nodes, channels]`` before every layer, type by type.
        alignment: to the vectors of the network trained on everything, ``[width, width]``.
    """

    names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    types: tuple[str, ...]
    states: tuple[np.ndarray, ...]
    alignment: np.ndarray
    kind: ClassVar[str] = "frozen_network"

    def states_of(self, node_type: str, layer: int) -> np.ndarray:
        """States of a type before a layer."""
        per_type = len(self.states) // len(self.types)
        return self.states[self.types.index(node_type) * per_type + layer]


@dataclass(frozen=True, eq=False)
class Networked:
    """Vectors from graph networks, a zero-cost feature group once they are trained.

    Args:
        name: of the group, that of the model.
        description: JSON of the networks' settings and sizes.
        node_type: of the nodes, users or items.
        links: of every relation its name and the edge type it arrives over.
        own: groups of the nodes' own features.
        scales: their scales.
        folds: int8 ``[num_nodes]`` at training, the network that did not see a warm node's
            interactions, from 1; 0 for the others, whose network is that of all interactions.
        giving: for each of the links, bool ``[num_nodes]`` of its source type: the nodes that give
            messages over it, entities of two warm nodes or more and warm nodes of the same type.
        networks: that of all interactions, then one per fold.
    """

    name: str
    description: str
    node_type: str
    links: tuple[Sequence[str], ...]
    own: tuple[FeatureGroup, ...]
    scales: tuple[float, ...]
    folds: np.ndarray
    giving: tuple[np.ndarray, ...]
    networks: tuple[FrozenNetwork, ...]
    kind: ClassVar[str] = "networked"

    @property
    def relations(self) -> tuple[str, ...]:
        """Names of the relations that lead to entities."""
        return tuple(name for name, source, _ in self.links if source != self.node_type)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Vectors, ``[n, dim + 1]`` for items (with their bias) and ``[n, dim]`` for users."""
        fold = np.maximum(known(self.folds, inputs.rows[rows]), 0)
        out = torch.zeros(len(rows), self.networks[0].alignment.shape[0], device=device)
        for which in np.unique(fold):
            places = np.flatnonzero(fold == which)
            out[torch.from_numpy(places).to(device)] = self._of(
                int(which), inputs, rows[places], device
            )
        return out

    def unknown(self, inputs: NodeInputs, rows: np.ndarray) -> np.ndarray:
        """How many links of these rows lead to entities that give nothing, int64 ``[n]``."""
        counts = np.zeros(len(rows), np.int64)
        for (name, source, _), giving in zip(self.links, self.giving, strict=True):
            if source != self.node_type and name in inputs.relations:
                of = inputs.relations[name].take(rows)
                silent = ~leads_to_warm(of.indices, giving)
                counts += np.bincount(of.sources[silent], minlength=len(rows))
        return counts

    def renumbered(self, node_type: str, kept: Mapping[str, np.ndarray]) -> Networked:
        """The same group after nodes were removed and the rest moved up."""

        def taken(values: np.ndarray, of: str) -> np.ndarray:
            return still_there(values, kept.get(of))

        entity = {name: source for name, source, _ in self.links if source != self.node_type}
        own = tuple(
            g.without_removed(node_type, kept, entity) if isinstance(g, Prominence) else g
            for g in self.own
        )
        networks = []
        for network in self.networks:
            per_type = len(network.states) // max(len(network.types), 1)
            states = tuple(
                taken(values, network.types[i // per_type])
                for i, values in enumerate(network.states)
            )
            networks.append(replace(network, states=states))
        return replace(
            self,
            own=own,
            folds=taken(self.folds, node_type),
            giving=tuple(
                taken(giving, link[1]) for link, giving in zip(self.links, self.giving, strict=True)
            ),
            networks=tuple(networks),
        )

    @cached_property
    def _built(self) -> list[TypedNetwork]:
        out = []
        for frozen in self.networks:
            told = json.loads(self.description)
            network = TypedNetwork(
                NetworkConfig.from_dict(told["config"]),
                told["widths"],
                {t: 0 for t in told["with_rows"]},
                [tuple(e) for e in told["edge_types"]],
                told["user"],
                told["item"],
                told.get("sparse_widths"),  # engines saved before there were any have none
            )
            state = network.state_dict()
            for name, value in zip(frozen.names, frozen.values, strict=True):
                state[name] = torch.from_numpy(value)
            network.load_state_dict(state)
            out.append(network.eval())
        return out

    @torch.no_grad()
    def _of(
        self, which: int, inputs: NodeInputs, rows: np.ndarray, device: torch.device
    ) -> torch.Tensor:
        network, frozen = self._built[which].to(device), self.networks[which]
        linked, nodes = self._linked(inputs, rows)
        graph_rows = torch.from_numpy(inputs.rows[rows]).to(device)
        features = own_features(self.own, self.scales, inputs, rows, device)
        x = network.start(self.node_type, features, graph_rows)
        for number, layer in enumerate(network.layers):
            x_dict = {
                t: torch.from_numpy(frozen.states_of(t, number)[at]).to(device)
                for t, at in nodes.items()
            }
            peers = x_dict.get(self.node_type)
            x_dict[self.node_type] = x if peers is None else torch.cat([x, peers])
            sizes = {t: len(values) for t, values in x_dict.items()}
            block = Block(
                {e: index.to(device) for e, index in linked.items()},
                {self.node_type: len(x)},
                sizes,
            )
            x = layer(x_dict, block)[self.node_type]
        return output(network, self.node_type, x) @ torch.from_numpy(frozen.alignment).to(device)

    def _linked(
        self, inputs: NodeInputs, rows: np.ndarray
    ) -> tuple[dict[EdgeType, torch.Tensor], dict[str, np.ndarray]]:
        """Edges from places among the kept rows of every type, and these rows."""
        arriving: dict[EdgeType, tuple[np.ndarray, np.ndarray]] = {}
        for (name, source, target), giving in zip(self.links, self.giving, strict=True):
            links = inputs.same_type if source == self.node_type else inputs.relations
            if name not in links:
                continue
            of = warm_links(links[name], rows, giving)
            arriving[(source, name, target)] = of.indices, of.sources
        nodes: dict[str, np.ndarray] = {}
        for edge_type, (sources, _) in arriving.items():
            if len(sources):
                before = nodes.get(edge_type[0], np.empty(0, np.int64))
                nodes[edge_type[0]] = np.union1d(before, sources)
        linked = {}
        for edge_type, (sources, targets) in arriving.items():
            if len(sources):
                place = np.searchsorted(nodes[edge_type[0]], sources)
                if edge_type[0] == self.node_type:
                    place = place + len(rows)
                linked[edge_type] = torch.from_numpy(np.stack([place, targets]))
        return linked, nodes


def output(network: TypedNetwork, node_type: str, states: torch.Tensor) -> torch.Tensor:
    """What a network says of nodes with these states: vectors, and of items their bias too."""
    if node_type == network.user:
        return network.user_vectors(states)
    return torch.cat([network.item_vectors(states), network.item_biases(states)[:, None]], dim=1)


def own_features(
    groups: Sequence[FeatureGroup],
    scales: Sequence[float],
    inputs: NodeInputs,
    rows: np.ndarray,
    device: torch.device,
) -> Read:
    """Features of some rows side by side, float32 ``[n, width]``, and their words apart."""
    parts, words = [], None
    for group, scale in zip(groups, scales, strict=True):
        raw = group.raw(inputs, rows, device)
        if isinstance(group, Words) and isinstance(raw, SparseRows):
            words = replace(raw, values=raw.values / scale)
        else:  # categories are few
            parts.append((raw.to_dense() if isinstance(raw, SparseRows) else raw) / scale)
    dense = torch.cat(parts, dim=1)
    return dense if words is None else (dense, words)
