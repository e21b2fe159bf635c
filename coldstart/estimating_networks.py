"""What trained graph networks will take, from a few batches on made-up data of the same sizes."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from gnn.encoding import NetworkEncoder
from gnn.groups import SparseRows
from gnn.network import Features, split
from gnn.network_data import NetworkData
from gnn.prominence import CENTRES, MEASURES
from gnn.typed import Incoming, TypedGraph, reverse_type
from kg.outlining import Outline, resident_bytes

log = logging.getLogger(__name__)

_MOST_EDGES, _MOST_NODES = 2_000_000, 300_000
"""Larger graphs are made up on a smaller scale."""
_BATCHES = 3
USUAL_EPOCHS = 6
"""Where held-out nodes tell when to stop, the best epoch is about this one.

It was the 9th on MovieLens 100K, the 2nd to the 5th on toy graphs of 500 and 3,000 users.
"""
_NEAR_ALL = 4
"""Besides training, features are made of all nodes so often: for scales, weights, priors, boost."""


@dataclass(frozen=True)
class NetworkCost:
    """What the networks of an engine take.

    Args:
        seconds: of all trainings, which stop after about :data:`USUAL_EPOCHS`.
        loading: of these, seconds until PyTorch Geometric is there.
        memory: bytes at the peak, beside what the process holds already.
        saved: bytes in a saved engine: parameters, and the states of those who give messages.
    """

    seconds: float
    loading: float
    memory: int
    saved: int


def network_cost(
    outline: Outline,
    encoder: NetworkEncoder,
    text_dims: dict[str, int],
    words: dict[str, tuple[float, int]],
    device: torch.device,
) -> NetworkCost:
    """Measured on a few batches and one pass over all nodes, and scaled to the whole.

    Args:
        outline: of the graph.
        encoder: the networks.
        text_dims: length of the text vectors of users and items that have any.
        words: of users and items with texts, how many a text has, and how many there are.
        device: where they would be trained.
    """
    began = time.perf_counter()
    import gnn.layers  # noqa: F401  # PyTorch Geometric takes seconds
    from gnn.network_infer import all_vectors
    from gnn.network_train import train_network

    loading = time.perf_counter() - began
    config = replace(encoder.config, interactions=False, cold_share=0.0)
    positives = max(1, round(outline.edges[outline.schema.interaction] * outline.positive_share))
    data, scale = _made_up(outline, text_dims, words, min(positives, _BATCHES * config.batch_size))
    told: list[tuple[str, float]] = []

    def tell(kind: str, numbers: dict[str, float]) -> None:
        told.append((kind, time.perf_counter()))

    before = resident_bytes()
    _forget_peak()
    two = replace(config, epochs=2, held_out=0.0)  # the first epoch warms up
    network = train_network(data, two, device=device, progress=tell).network
    second = told[len(told) // 2 - 1 :]
    steps = sum(end - start for (_, start), (kind, end) in pairwise(second) if kind == "step")
    per_pair = steps / data.positives.shape[1]
    start = time.perf_counter()
    all_vectors(network, data.graph, data.features, device)
    inference = scale * (time.perf_counter() - start)
    working = max(_peak_bytes() - before, 0)
    usual = min(config.epochs, USUAL_EPOCHS) if config.held_out else config.epochs
    # The search holds out a share of both sides, and so does every fold.
    seconds = 0.0
    if config.held_out:
        searched = min(config.epochs, usual + config.patience)
        seconds = searched * ((1 - config.held_out) ** 2 * positives * per_pair + inference)
    for share in (1.0, *[1 - 1 / encoder.folds] * encoder.folds):
        seconds += usual * share**2 * positives * per_pair
    seconds += (encoder.folds + 1 + _NEAR_ALL) * inference
    trained, layers = encoder.folds + 1, len(config.fanouts)
    states = 4 * sum(outline.nodes.values()) * config.hidden_channels * trained
    weights = sum(p.nbytes for n, p in network.named_parameters() if not n.startswith("rows."))
    memory = round(scale * _data_bytes(data)) + states * (layers + 1) + working
    per_node = 4 * config.hidden_channels * trained * layers
    saved = per_node * _givers(outline) + 2 * trained * weights  # users and items have them each
    return NetworkCost(loading + seconds, loading, memory, saved)


def _made_up(
    outline: Outline,
    text_dims: dict[str, int],
    words: dict[str, tuple[float, int]],
    num_pairs: int,
) -> tuple[NetworkData, float]:
    """Random links and features, as many and as wide, and by how much the whole is larger."""
    schema, rng = outline.schema, np.random.default_rng(0)
    ends = {schema.user, schema.item}
    links = {e: n for e, n in outline.edges.items() if {e[0], e[2]} != ends}
    scale = max(1.0, sum(links.values()) / _MOST_EDGES, sum(outline.nodes.values()) / _MOST_NODES)
    num = {t: max(1, round(n / scale)) for t, n in outline.nodes.items()}
    edges = {}
    for (source, name, target), count in links.items():
        drawn = rng.integers(0, [[num[source]], [num[target]]], (2, round(count / scale)))
        edges[source, name, target] = Incoming.from_edges(drawn[0], drawn[1], num[target])
        back = Incoming.from_edges(drawn[1], drawn[0], num[source])
        edges[reverse_type((source, name, target))] = back
    features: dict[str, Features] = {}
    for t in ends:
        groups = len(schema.numeric.get(t, ())) + len(schema.categorical.get(t, ()))
        relations = sum(t in (source, target) and source != target for source, _, target in links)
        measured = MEASURES * (relations + 1) * len(CENTRES) if relations else 0
        width = 1 + text_dims.get(t, 0) + 10 * groups + measured
        dense = rng.random((num[t], width), np.float32)
        features[t] = (dense, _random_words(num[t], *words[t], rng)) if t in words else dense
    most = [[num[schema.user]], [num[schema.item]]]
    pairs = np.unique(rng.integers(0, most, (2, num_pairs)), axis=1)
    return NetworkData(TypedGraph(num, edges), features, pairs, schema.interaction), scale


def _random_words(
    num_texts: int, per_text: float, width: int, rng: np.random.Generator
) -> SparseRows:
    count = max(1, round(per_text))
    return SparseRows(
        torch.arange(num_texts + 1) * count,
        torch.from_numpy(rng.integers(max(width, 1), size=num_texts * count)),
        torch.full((num_texts * count,), count**-0.5),
        max(width, 1),
    )


def _givers(outline: Outline) -> int:
    """Nodes that give messages to users, and those that give to items, together."""
    ends = {outline.schema.user, outline.schema.item}
    giving = {
        (at, source if at == target else target)
        for source, _, target in outline.edges
        for at in ends & {source, target}
        if {source, target} != ends
    }
    return sum(outline.nodes[source] for _, source in giving)


def _data_bytes(data: NetworkData) -> int:
    links = sum(8 * (len(e) + len(e.indptr)) for e in data.graph.edges.values())
    features = 0
    for dense, sparse in map(split, data.features.values()):
        features += dense.nbytes + (0 if sparse is None else sparse.nbytes)
    return links + features


def _forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can and may; Linux mostly does."""
    at = Path("/proc/self/clear_refs")
    try:
        if at.exists():
            at.write_text("5")
    except OSError as error:  # a container, say, with /proc read-only
        log.info("the memory of networks may be told too high, by an earlier peak: %s", error)


def _peak_bytes() -> int:
    at = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", at.read_text()) if at.exists() else None
    return int(found[1]) * 1024 if found else resident_bytes()
