"""Cross-fitted graph networks: the feature groups that :mod:`gnn.networked` offers.

Where nodes are held out for that, a first training finds how many epochs are right. Then one uses
all interactions, and each of the others leaves out those of a fold of the users and of the items.
While these are trained, the fold's nodes are as cold ones are: they give no messages, or entities
would look like what gave them theirs. Embedded afterwards, a node hears all warm ones of its type
that it is linked to, as a new one will, those of its fold among them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from gnn.content import Content
from gnn.data import NodeInputs
from gnn.network import NetworkConfig, TypedNetwork
from gnn.network_data import build_network
from gnn.network_infer import all_states
from gnn.network_train import train_network
from gnn.networked import FrozenNetwork, Networked, output
from gnn.typed import TypedGraph
from kg.graph import KnowledgeGraph

ALIGNMENT_RIDGE = 1e-3
"""Of the map between two networks' vectors, as a share of their mean square."""


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
    """The feature groups of users and of items, from ``folds + 1`` trainings, or one more.

    Where ``held_out`` of the configuration is not 0, a training before the others holds nodes out
    to learn how many epochs are right. The first of the others uses all interactions, and each
    further one leaves out those of a fold of the users and of the items, whose messages it does not
    hear either.

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
    content = Content.of(graph, user_inputs, item_inputs, positives)
    data = content.data
    config = replace(config, interactions=False, cold_share=0.0, refit=False)

    def trained(
        passed: TypedGraph,
        pairs: np.ndarray,
        settings: NetworkConfig,
        what: str,
        epochs: int | None = None,
    ) -> tuple[TypedNetwork, int]:
        def tell(kind: str, numbers: dict[str, float]) -> None:
            if kind == "epoch":
                loss = f"loss {numbers['loss']:.4f}"
                if "ndcg" in numbers and not math.isnan(numbers["ndcg"]):
                    loss += f", NDCG {numbers['ndcg']:.4f}"
                progress(f"{config.model} {what}, epoch {numbers['epoch'] + 1}, {loss}")

        found = train_network(
            replace(data, graph=passed, positives=pairs),
            settings,
            seed=seed,
            stop_after=epochs,
            device=device,
            progress=tell,
        )
        return found.network, found.best_epoch + 1

    epochs = None
    if config.held_out:
        _, epochs = trained(data.graph, positives, config, "search for the number of epochs")
    settings = replace(config, held_out=0.0)
    rng = np.random.default_rng([seed, 3])
    fold_of = {t: np.zeros(len(inputs), np.int8) for t, inputs in content.sides.items()}
    for t, rows in content.warm.items():
        fold_of[t][rows] = rng.permutation(len(rows)) % folds + 1
    networks = [trained(data.graph, positives, settings, "on all", epochs)[0]]
    states = [all_states(networks[0], data.graph, data.features, device)]
    for fold in range(1, folds + 1):
        cold = {t: np.flatnonzero(of == fold) for t, of in fold_of.items()}
        passed = data.graph.without_sources(cold)
        away = np.isin(positives[0], cold[data.user]) | np.isin(positives[1], cold[data.item])
        if away.all():  # nothing is left to learn from, and nothing may be learnt from the rest
            network = build_network(data, settings, seed).to(device).eval()
        else:
            what = f"without fold {fold}"
            network = trained(passed, positives[:, ~away], settings, what, epochs)[0]
        networks.append(network)
        states.append(all_states(network, passed, data.features, device))
    user, item = (
        _group(t, content, fold_of[t], networks, states, settings) for t in (data.user, data.item)
    )
    return user, item


def _group(
    node_type: str,
    content: Content,
    folds: np.ndarray,
    networks: Sequence[TypedNetwork],
    states: Sequence[list[dict[str, torch.Tensor]]],
    config: NetworkConfig,
) -> Networked:
    warm, own = content.warm[node_type], content.own[node_type]
    giving = {
        (name, source, node_type): mask
        for (name, source), mask in content.giving[node_type].items()
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
    widths, sparse_widths = content.data.widths()
    description = {
        "config": config.to_dict(),
        "widths": widths,
        "sparse_widths": sparse_widths,
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
        own.groups,
        own.scales,
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
