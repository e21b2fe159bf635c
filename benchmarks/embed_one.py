"""Embedding one new node with about 20 edges, text vector given; and 10,000 new nodes at once.

    OMP_NUM_THREADS=1 python -m benchmarks.embed_one      # MovieLens 100K: titles, years, genres

Budget (DESIGN 9): one node under 1 ms p50; a batch at 20,000 nodes a second or more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from coldstart.engine import ColdStartEngine
from encoders.embed import embed_nodes
from gnn.infer import priors
from kg.datasets import (
    FROM_DECADE,
    HAS_GENRE,
    HAS_OCCUPATION,
    IN_AGE_GROUP,
    RATED,
    load_movielens_100k,
)
from kg.delta import GraphDelta
from kg.vectors import Key, NodeEmbeddings, Vocabulary

NUM_BATCH = 10_000
CPU = torch.device("cpu")


def main() -> None:
    torch.set_num_threads(1)
    graph = load_movielens_100k()
    texts = embed_nodes(graph, None, ["Movie"])
    engine = ColdStartEngine.fit(graph, texts=texts)
    users, films, genres = (list(graph.vocabularies[t]) for t in ("User", "Movie", "Genre"))
    titles = graph.attributes["Movie"]["title"].to_pylist()
    rng = np.random.default_rng(0)

    def film(num_genres: int, num_ratings: int) -> dict[str, Any]:
        links = {HAS_GENRE: _some(rng, genres, num_genres), FROM_DECADE: ["1990s"]}
        if num_ratings:
            links[RATED] = _some(rng, users, num_ratings)
        text = texts["Movie"].matrix[rng.integers(len(films))]
        known = {"year": 1995, "title": titles[rng.integers(len(films))]}
        return {"node_type": "Movie", "links": links, "properties": known, "text": text}

    def person(num_ratings: int) -> dict[str, Any]:
        links = {HAS_OCCUPATION: ["writer"], IN_AGE_GROUP: ["25-34"]}
        links[RATED] = _some(rng, films, num_ratings)
        return {"node_type": "User", "links": links, "properties": {"age": 30, "gender": "F"}}

    # 18 genres and a decade are all the entities a film can have here.
    _one("new film, 19 entities", engine, lambda: film(18, 0))
    _one("new film, 19 entities, 2 ratings", engine, lambda: film(18, 2))
    _one("new film, 3 entities, 17 ratings", engine, lambda: film(2, 17))
    _one("new person, 2 entities, 18 ratings", engine, lambda: person(18))
    for num_genres, num_ratings in ((18, 0), (2, 17)):
        _many(engine, [film(num_genres, num_ratings) for _ in range(NUM_BATCH)], num_ratings)


def _one(
    what: str, engine: ColdStartEngine, request: Callable[[], dict[str, Any]], times: int = 500
) -> None:
    seconds = []
    for _ in range(times):
        given = request()
        start = time.perf_counter()
        engine.embed_new(**given)
        seconds.append(time.perf_counter() - start)
    p50, p99 = 1000 * np.quantile(seconds[50:], [0.5, 0.99])
    print(f"{what}: p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)


def _many(engine: ColdStartEngine, films: list[dict[str, Any]], num_ratings: int) -> None:
    keys = [100_000 + i for i in range(len(films))]
    edges: dict[Any, dict[str, list[Any]]] = {}
    for key, film in zip(keys, films, strict=True):
        for edge_type, ends in film["links"].items():
            own, other = ("target", "source") if edge_type == RATED else ("source", "target")
            table = edges.setdefault(edge_type, {"source": [], "target": []})
            table[own] += [key] * len(ends)
            table[other] += ends
    if num_ratings:
        edges[RATED] |= {"weight": [5.0] * num_ratings * len(keys)}
        edges[RATED] |= {"time": [0] * num_ratings * len(keys)}
    names = films[0]["properties"]
    named = {name: [film["properties"][name] for film in films] for name in names}
    nodes = {"Movie": {"id": keys, **named}}
    matrix = np.stack([film["text"] for film in films])
    texts = {"Movie": NodeEmbeddings(Vocabulary("Movie", keys), matrix)}
    delta = GraphDelta(nodes=nodes, edges=edges)
    applied = _best_of_three(lambda: engine.graph.apply(delta))
    updated = _best_of_three(lambda: engine.update(delta, texts=texts))
    grown = engine.update(delta, texts=texts)
    rows = grown.graph.items.rows(keys)
    inputs = grown._inputs_of("Movie", rows)
    prior = _best_of_three(lambda: priors(grown.items, inputs, np.arange(len(keys)), CPU))
    embedded = _best_of_three(lambda: grown.recomputed("Movie", keys))
    rates = {
        "features and priors": prior,
        "and half steps, edges looked up": embedded,
        "the graph's own change": applied,
        "update, all in all": updated,
    }
    print(f"{len(keys):,} new films at once, 20 edges each, {num_ratings} of them ratings:")
    for what, seconds in rates.items():
        print(f"  {what}: {seconds:.2f} s, {len(keys) / seconds:,.0f} nodes a second", flush=True)


def _best_of_three(work: Callable[[], object]) -> float:
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _some(rng: np.random.Generator, keys: list[Key], number: int) -> list[Key]:
    return [keys[i] for i in rng.choice(len(keys), number, replace=False)]


if __name__ == "__main__":
    main()
