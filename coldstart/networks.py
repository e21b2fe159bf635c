"""Trained graph networks as scorers of their own, beside the engine and the baselines."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from coldstart.scorer import CosineBiasScorer
from coldstart.training_data import Settings, TrainingData
from gnn.content import Content
from gnn.network import NetworkConfig, TypedNetwork
from gnn.network_data import NetworkData
from gnn.network_infer import all_vectors
from gnn.network_train import TrainedNetwork, train_network
from gnn.parallel import own_device
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.vectors import Key

log = logging.getLogger(__name__)


def network_data(data: TrainingData, *, like: TrainingData | None = None) -> NetworkData:
    """What a network is trained on: every relation, the nodes' own features, the positives.

    Args:
        data: the graph and the vectors of its texts.
        like: what the network was trained on, where the graph has got nodes and edges since. What
            was learnt of features then (words, scales) counts now as well, and new nodes give no
            messages over relations. (Over interactions they do, in a network that passes these.)

    Raises:
        ValueError: nodes of then are gone, or stand in other rows.
    """
    if like is None:
        return _content(data).data
    for node_type in like.graph.node_types:
        then, now = (_keys(d.graph, node_type) for d in (like, data))
        if now[: len(then)] != then:
            raise ValueError(
                f"{node_type}: nodes that the network was trained with are gone or in other rows; "
                "add new nodes by graph.apply(delta), which puts them behind, or train anew"
            )
    known = like.graph.edge_types
    return _content(data, edge_types=known, like=_content(like)).data


def _content(
    data: TrainingData,
    edge_types: Collection[EdgeType] | None = None,
    like: Content | None = None,
) -> Content:
    schema = data.graph.schema
    user, item = (data.inputs(t, edge_types) for t in (schema.user, schema.item))
    return Content.of(data.graph, user, item, data.graph.positives(), like)


def _keys(graph: KnowledgeGraph, node_type: str) -> list[Key]:
    return list(graph.vocabularies[node_type]) if node_type in graph.vocabularies else []


def network_scorer(network: TypedNetwork, data: NetworkData) -> CosineBiasScorer:
    """The scores of a trained network for all users and items, cold ones included.

    Args:
        network: trained.
        data: as at training, or what :func:`network_data` makes of a graph that has grown since;
            with ``interactions`` in its settings, its positives are passed along.
    """
    device = next(network.parameters()).device
    found = all_vectors(network, data.passed(network.config), data.features, device)
    return CosineBiasScorer(*(values.numpy() for values in found))


def train_scorer(
    data: TrainingData,
    config: NetworkConfig,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Callable[[str, dict[str, float]], None] | None = None,
) -> tuple[CosineBiasScorer, TrainedNetwork]:
    """Train a network on some data, and its scores for all users and items.

    On a GPU where there is one; under ``torchrun`` each process takes its own.
    """
    prepared = network_data(data)
    found = train_network(
        prepared, config, seed=seed, device=own_device(), checkpoint=checkpoint, progress=progress
    )
    return network_scorer(found.network, prepared), found


def network_family(
    settings: Mapping[str, NetworkConfig],
    *,
    seconds: float = math.inf,
    seed: int = 0,
    progress: Callable[[str], None] = log.info,
) -> Callable[[TrainingData], Settings]:
    """Networks for :func:`coldstart.evaluation.evaluate`, which chooses among them on validation.

    Args:
        settings: to be tried, in this order, by name.
        seconds: of wall time on each split; when they are over no further setting is begun. The
            first is always trained.
        seed: of every training.
        progress: called with a sentence after every training.
    """

    def family(data: TrainingData) -> Settings:
        began = time.perf_counter()
        found: dict[str, Callable[[], CosineBiasScorer]] = {}
        for name, config in settings.items():
            if found and time.perf_counter() - began > seconds:
                break
            start = time.perf_counter()
            scorer, trained = train_scorer(data, config, seed=seed)
            found[name] = partial(_itself, scorer)
            progress(
                f"{config.model} {name}: {len(trained.history) + len(trained.refit)} epochs, "
                f"{time.perf_counter() - start:.0f} s"
            )
        return found

    return family


def _itself(scorer: CosineBiasScorer) -> CosineBiasScorer:
    return scorer
