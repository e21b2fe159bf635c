"""Users and items of four tastes, told by genres, with items that nobody has chosen yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gnn.network_data import NetworkData
from gnn.typed import Incoming, TypedGraph


def tastes() -> NetworkData:
    """User and item n have taste n % 4; the last 12 of 60 items have no interaction."""
    rng = np.random.default_rng(0)
    users, items = np.arange(80), np.arange(60)
    genre = items % 4
    edges = {
        ("item", "has", "genre"): Incoming.from_edges(items, genre, 4),
        ("genre", "rev_has", "item"): Incoming.from_edges(genre, items, 60),
    }
    age = (users % 4)[:, None] == np.arange(4)
    features = {
        "user": np.concatenate([age, rng.normal(size=(80, 2))], axis=1).astype(np.float32),
        "item": np.concatenate([np.ones((60, 1)), rng.normal(size=(60, 2))], axis=1).astype(
            np.float32
        ),
    }
    u, i = np.nonzero((users[:, None] % 4 == items[None] % 4) & (items[None] < 48))
    some = rng.random(len(u)) < 0.7
    graph = TypedGraph({"user": 80, "item": 60, "genre": 4}, edges)
    return NetworkData(graph, features, np.stack([u, i])[:, some], ("user", "rated", "item"))


def with_rare_relation() -> NetworkData:
    """The same, and two items of one studio: a relation that many a step does not reach."""
    data = tastes()
    edges = dict(data.graph.edges)
    edges["studio", "made", "item"] = Incoming.from_edges(np.zeros(2, int), np.array([3, 9]), 60)
    graph = TypedGraph(dict(data.graph.num_nodes) | {"studio": 1}, edges)
    return replace(data, graph=graph)
