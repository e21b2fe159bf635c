"""What graph networks know of a graph: the features of nodes, and the links to pass along.

Users and items give messages only where they are warm, and entities only where at least two warm
nodes have them, so a node that comes later changes nothing that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import Category, Constant, FeatureGroup, Gaussians, Text
from gnn.network import Features
from gnn.network_data import NetworkData
from gnn.networked import own_features
from gnn.prominence import PROMINENCE, Prominence
from gnn.propagate import Propagation, largest_relations, scaled
from gnn.typed import Incoming, TypedGraph, reverse_type, typed_graph
from gnn.words import Words
from kg.graph import KnowledgeGraph


@dataclass(frozen=True, eq=False)
class Content:
    """Users and items as networks see them.

    Args:
        sides: inputs of all users and of all items, by type.
        warm: their warm rows.
        own: features of the nodes apart from their links.
        giving: who gives messages to them, see :func:`givers`.
        graph: the typed graph.
        positives: distinct rows of user and item, ``[2, num_pairs]``.
    """

    sides: Mapping[str, NodeInputs]
    warm: Mapping[str, np.ndarray]
    own: Mapping[str, Propagation]
    giving: Mapping[str, Mapping[tuple[str, str], np.ndarray]]
    graph: KnowledgeGraph
    positives: np.ndarray

    @classmethod
    def of(
        cls,
        graph: KnowledgeGraph,
        user_inputs: NodeInputs,
        item_inputs: NodeInputs,
        positives: np.ndarray,
        like: Content | None = None,
    ) -> Content:
        """What a graph holds besides its interactions, with every statistic from warm rows.

        Args:
            graph: the typed graph.
            user_inputs: of all users.
            item_inputs: of all items.
            positives: distinct rows of user and item, ``[2, num_pairs]``.
            like: what the same graph held when a network was trained; statistics and who gives
                messages over relations are as they were, and nodes that came behind the others give
                none. (Their interactions a network that hears of these hears of, too.)
        """
        schema = graph.schema
        sides = {schema.user: user_inputs, schema.item: item_inputs}
        if like is None:
            warm = {schema.user: np.unique(positives[0]), schema.item: np.unique(positives[1])}
            own = {t: own_groups(inputs, warm[t]) for t, inputs in sides.items()}
            giving = {t: givers(inputs, t, warm[t]) for t, inputs in sides.items()}
        else:
            warm, own = like.warm, like.own
            giving = {
                t: {(n, s): _longer(mask, graph.num_nodes(s)) for (n, s), mask in of.items()}
                for t, of in like.giving.items()
            }
        return cls(sides, warm, own, giving, graph, positives)

    @cached_property
    def data(self) -> NetworkData:
        """What a network is trained on."""
        features = {t: _features(self.own[t], inputs) for t, inputs in self.sides.items()}
        passed = _passed(self.graph, self.sides, self.warm, self.giving)
        return NetworkData(passed, features, self.positives, self.graph.schema.interaction)


def _longer(mask: np.ndarray, size: int) -> np.ndarray:
    return np.pad(mask, (0, size - len(mask)))


def _features(own: Propagation, inputs: NodeInputs) -> Features:
    rows, device = np.arange(len(inputs)), torch.device("cpu")
    found = own_features(own.groups, own.scales, inputs, rows, device)
    return (found[0].numpy(), found[1]) if isinstance(found, tuple) else found.numpy()


def own_groups(inputs: NodeInputs, warm: np.ndarray) -> Propagation:
    """The features of nodes apart from what is passed along.

    A constant, text and its words, ready-made vectors, numbers and categories (see
    :mod:`gnn.groups`), and how well connected their entities are, for a mean of messages does not
    tell how many there were.
    """
    groups: list[FeatureGroup] = [Constant()]
    if inputs.text is not None:
        groups.append(Text.fit("text", "text", inputs, warm))
    if words := Words.fit("words", inputs, warm):
        groups.append(words)
    relations = largest_relations(inputs, warm)
    if prominence := Prominence.fit(PROMINENCE, relations, inputs, warm):
        groups.append(prominence)
    groups += [Text.fit(name, name, inputs, warm) for name in inputs.vectors]
    groups += [g for name in inputs.numeric if (g := Gaussians.fit(name, inputs, warm))]
    groups += [g for name in inputs.categorical if (g := Category.fit(name, inputs, warm))]
    return scaled(groups, inputs, warm)


def givers(
    inputs: NodeInputs, node_type: str, warm: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """Who gives messages to nodes of a type, bool ``[num_nodes]`` by relation and source type.

    Entities that at least two warm nodes have (what only one has is that node's name), and of the
    same type the warm nodes.
    """
    out = {}
    for name, links in inputs.relations.items():
        frequency = np.bincount(links.take(warm).indices, minlength=links.num_targets)
        out[name, inputs.entity_types[name]] = frequency >= 2
    is_warm = np.zeros(len(inputs), bool)
    is_warm[warm] = True
    return out | {(name, node_type): is_warm for name in inputs.same_type}


def _passed(
    graph: KnowledgeGraph,
    sides: Mapping[str, NodeInputs],
    warm: Mapping[str, np.ndarray],
    giving: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
) -> TypedGraph:
    """Every relation but the interactions, from those who give."""
    ends = set(sides)
    found = typed_graph(graph, edge_types=[e for e in graph.edges if not ends & {e[0], e[2]}])
    edges = dict(found.edges)
    for node_type, inputs in sides.items():
        is_warm = np.zeros(len(inputs), bool)
        is_warm[warm[node_type]] = True
        for (name, source), allowed in giving[node_type].items():
            if source == node_type:
                links = inputs.same_type[name].only(allowed)
                edges[(node_type, name, node_type)] = _arriving(links)
                continue
            links = inputs.relations[name].only(allowed)
            edges[(source, name, node_type)] = _arriving(links)
            back = links.select(is_warm[links.sources]).transpose()
            edges[reverse_type((source, name, node_type))] = _arriving(back)
    return TypedGraph(found.num_nodes, edges)


def _arriving(links: Adjacency) -> Incoming:
    return Incoming(torch.from_numpy(links.indptr), torch.from_numpy(links.indices))
