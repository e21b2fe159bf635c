"""Cross-fitted graph networks: the feature groups that :mod:`gnn.networked` offers.

A first training finds how many epochs are right, a second uses all interactions, and each of the
others leaves out those of a fold of the users and of the items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import Category, Constant, FeatureGroup, Gaussians, Text
from gnn.network import NetworkConfig, TypedNetwork
from gnn.network_infer import all_states
from gnn.network_train import NetworkData, build_network, train_network
from gnn.networked import FrozenNetwork, Networked, output, own_features
from gnn.propagate import root_mean_square
from gnn.typed import Incoming, TypedGraph, reverse_type, typed_graph
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType

ALIGNMENT_RIDGE = 1e-3
"""Of the map between two networks' vectors, as a share of their mean square."""


def own_groups(
    inputs: NodeInputs, warm: np.ndarray
) -> tuple[tuple[FeatureGroup, ...], tuple[float, ...]]:
    """The features of nodes apart from their links, and the scale of each group.

    A constant, text, ready-made vectors, numbers and categories, with every statistic from warm
    rows; see :mod:`gnn.groups`.
    """
    groups: list[FeatureGroup] = [Constant()]
    if inputs.text is not None:
        groups.append(Text.fit("text", "text", inputs, warm))
    groups += [Text.fit(name, name, inputs, warm) for name in inputs.vectors]
    groups += [g for name in inputs.numeric if (g := Gaussians.fit(name, inputs, warm))]
    groups += [g for name in inputs.categorical if (g := Category.fit(name, inputs, warm))]
    cpu = torch.device("cpu")
    scales = [root_mean_square(group.raw(inputs, warm, cpu)) for group in groups]
    useful = [(g, s) for g, s in zip(groups, scales, strict=True) if s > 0]
    return tuple(g for g, _ in useful), tuple(s for _, s in useful)


def content_graph(
    graph: KnowledgeGraph,
    sides: Mapping[str, NodeInputs],
    warm: Mapping[str, np.ndarray],
    edge_types: Sequence[EdgeType],
) -> TypedGraph:
    """What the networks pass along: every relation but the interactions.

    Users and items give messages only where they are warm, so a node that comes later changes no
    state that is kept; who gives to them is in :func:`givers`.

    Args:
        graph: the typed graph.
        sides: inputs of all users and of all items, by type.
        warm: their warm rows.
        edge_types: relations that there are.
    """
    ends = set(sides)
    between = [e for e in edge_types if not ends & {e[0], e[2]}]
    found = typed_graph(graph, edge_types=between)
    edges = dict(found.edges)
    for node_type, inputs in sides.items():
        is_warm = np.zeros(len(inputs), bool)
        is_warm[warm[node_type]] = True
        for (name, source), giving in givers(inputs, node_type, warm[node_type]).items():
            if source == node_type:
                edges[(node_type, name, node_type)] = _arriving(inputs.same_type[name].only(giving))
                continue
            links = inputs.relations[name].only(giving)
            edges[(source, name, node_type)] = _arriving(links)
            back = links.select(is_warm[links.sources]).transpose()
            edges[reverse_type((source, name, node_type))] = _arriving(back)
    return TypedGraph(found.num_nodes, edges)


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


def _arriving(links: Adjacency) -> Incoming:
    return Incoming(torch.from_numpy(links.indptr), torch.from_numpy(links.indices))


def cross_fitted(
    graph: KnowledgeGraph,
    user_inputs: NodeInputs,
    item_inputs: NodeInputs,
    positives: np.ndarray,
    config: NetworkConfig,
    *,
    folds: int = 4,
    seed: int = 0,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Networked, Networked]:
    """The feature groups of users and of items, from ``folds + 2`` trainings.

    The first training holds nodes out to learn how many epochs are right, the second uses all
    interactions, and each of the others leaves out those of a fold of the users and of the items.

    Args:
        graph: the typed graph.
        user_inputs: of all users.
        item_inputs: of all items.
        positives: distinct rows of user and item, ``[2, num_pairs]``.
        config: of the networks; ``interactions`` and ``cold_share`` are off here.
        folds: 2 to 100.
        seed: of everything random.
        device: where they are trained.
        progress: called with a sentence at every training and epoch.
    """
    if not 2 <= folds <= 100:
        raise ValueError(f"cross-fitting needs 2 to 100 folds, got {folds}")
    schema = graph.schema
    sides = {schema.user: user_inputs, schema.item: item_inputs}
    warm = {schema.user: np.unique(positives[0]), schema.item: np.unique(positives[1])}
    own = {t: own_groups(inputs, warm[t]) for t, inputs in sides.items()}
    cpu = torch.device("cpu")
    features = {
        t: own_features(*own[t], inputs, np.arange(len(inputs)), cpu).numpy()
        for t, inputs in sides.items()
    }
    passed = content_graph(graph, sides, warm, list(graph.edge_types))
    config = replace(config, interactions=False, cold_share=0.0)
    data = NetworkData(passed, features, positives, schema.interaction)

    def trained(pairs: np.ndarray, settings: NetworkConfig, what: str) -> tuple[TypedNetwork, int]:
        def tell(kind: str, numbers: dict[str, float]) -> None:
            if kind == "epoch":
                progress(f"{config.model} {what}, epoch {numbers['epoch'] + 1}")

        found = train_network(
            replace(data, positives=pairs), settings, seed=seed, device=device, progress=tell
        )
        return found.network, found.best_epoch + 1

    _, epochs = trained(positives, config, "search for the number of epochs")
    settings = replace(config, epochs=epochs, held_out=0.0)
    rng = np.random.default_rng([seed, 3])
    fold_of = {t: np.zeros(len(inputs), np.int8) for t, inputs in sides.items()}
    for t, rows in warm.items():
        fold_of[t][rows] = rng.permutation(len(rows)) % folds + 1
    networks = [trained(positives, settings, "on all")[0]]
    for fold in range(1, folds + 1):
        away = (fold_of[schema.user][positives[0]] == fold) | (
            fold_of[schema.item][positives[1]] == fold
        )
        if away.all():  # nothing is left to learn from, and nothing may be learnt from the rest
            networks.append(build_network(data, settings, seed).to(device).eval())
            continue
        networks.append(trained(positives[:, ~away], settings, f"without fold {fold}")[0])
    states = [all_states(network, passed, features, device) for network in networks]
    groups = [
        _group(t, sides[t], warm[t], own[t], fold_of[t], networks, states, settings, features)
        for t in (schema.user, schema.item)
    ]
    return groups[0], groups[1]


def _group(
    node_type: str,
    inputs: NodeInputs,
    warm: np.ndarray,
    own: tuple[tuple[FeatureGroup, ...], tuple[float, ...]],
    folds: np.ndarray,
    networks: Sequence[TypedNetwork],
    states: Sequence[list[dict[str, torch.Tensor]]],
    config: NetworkConfig,
    features: Mapping[str, np.ndarray],
) -> Networked:
    giving = {
        (name, source, node_type): mask
        for (name, source), mask in givers(inputs, node_type, warm).items()
        if source in states[0][0]
    }
    kept = tuple(sorted({source for _, source, _ in giving}))
    first = networks[0]
    with torch.no_grad():
        vectors = [
            output(network, node_type, s[-1][node_type].to(next(network.parameters()).device)).cpu()
            for network, s in zip(networks, states, strict=True)
        ]
    frozen = []
    for number, (network, s) in enumerate(zip(networks, states, strict=True)):
        seen = warm if number == 0 else warm[folds[warm] != number]
        names = [n for n in network.state_dict() if not n.startswith("rows.")]
        frozen.append(
            FrozenNetwork(
                tuple(names),
                tuple(network.state_dict()[n].cpu().numpy() for n in names),
                kept,
                tuple(s[layer][t].numpy() for t in kept for layer in range(len(s) - 1)),
                _aligned(vectors[number], vectors[0], seen, same=number == 0),
            )
        )
    description = {
        "config": config.to_dict(),
        "widths": {t: f.shape[1] for t, f in features.items()},
        "with_rows": sorted(first.num_rows),
        "edge_types": first.edge_types,
        "user": first.user,
        "item": first.item,
    }
    return Networked(
        config.model,
        json.dumps(description),
        node_type,
        tuple(giving),
        *own,
        folds,
        tuple(giving.values()),
        tuple(frozen),
    )


def _aligned(
    vectors: torch.Tensor, to: torch.Tensor, rows: np.ndarray, *, same: bool
) -> np.ndarray:
    """The linear map that brings one network's vectors of some nodes closest to another's.

    Two trainings come to spaces that differ by a rotation, or more.
    """
    width = vectors.shape[1]
    if same or not len(rows):
        return np.eye(width, dtype=np.float32)
    x, y = (v[torch.from_numpy(rows)].double() for v in (vectors, to))
    ridge = ALIGNMENT_RIDGE * float((x**2).sum()) / width
    system = x.T @ x + max(ridge, 1e-12) * torch.eye(width, dtype=torch.float64)
    return torch.linalg.solve(system, x.T @ y).float().numpy()
