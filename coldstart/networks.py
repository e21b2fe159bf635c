"""Trained graph networks as scorers of their own, beside the engine and the baselines."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
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

log = logging.getLogger(__name__)


def network_data(data: TrainingData) -> NetworkData:
    """What a network is trained on: every relation, the nodes' own features, the positives.

    Args:
        data: the training graph and the vectors of its texts.
    """
    schema = data.graph.schema
    inputs = data.inputs(schema.user), data.inputs(schema.item)
    return Content.of(data.graph, *inputs, data.graph.positives()).data


def network_scorer(network: TypedNetwork, data: NetworkData) -> CosineBiasScorer:
    """The scores of a trained network for all users and items, cold ones included.

    Args:
        network: trained.
        data: as it is now; with ``interactions`` in its settings, its positives are passed along.
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
                f"{config.model} {name}: {len(trained.history)} epochs, "
                f"{time.perf_counter() - start:.0f} s"
            )
        return found

    return family


def _itself(scorer: CosineBiasScorer) -> CosineBiasScorer:
    return scorer
