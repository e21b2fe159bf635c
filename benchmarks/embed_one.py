"""Embedding one new node with about 20 edges, text vector given; and many priors at once.

    python -m benchmarks.embed_one            # MovieLens 100K with titles, years and genres

Budget (DESIGN 9): under 1 ms p50; a batch at 20,000 nodes a second or more.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from coldstart.engine import ColdStartEngine
from encoders.embed import embed_nodes
from gnn.infer import priors
from kg.datasets import FROM_DECADE, HAS_GENRE, RATED, load_movielens_100k


def main() -> None:
    torch.set_num_threads(1)
    graph = load_movielens_100k()
    texts = embed_nodes(graph, None, ["Movie"])
    engine = ColdStartEngine.fit(graph, texts=texts)
    users, genres = list(graph.users), list(graph.vocabularies["Genre"])
    rng = np.random.default_rng(0)
    for interactions in (0, 17):
        seconds = []
        for _ in range(500):
            # 18 genres and a decade are all the entities a film can have here.
            chosen = rng.choice(genres, 2 if interactions else len(genres), replace=False)
            links = {HAS_GENRE: chosen.tolist(), FROM_DECADE: ["1990s"]}
            if interactions:
                links[RATED] = rng.choice(users, interactions, replace=False).tolist()
            vector = texts["Movie"].matrix[rng.integers(len(texts["Movie"]))]
            start = time.perf_counter()
            engine.embed_new("Movie", links=links, properties={"year": 1995}, text=vector)
            seconds.append(time.perf_counter() - start)
        p50, p99 = 1000 * np.quantile(seconds[50:], [0.5, 0.99])
        what = f"one node, {sum(map(len, links.values()))} edges of which {interactions} ratings"
        print(f"{what}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    torch.set_num_threads(2)
    rows = np.tile(np.arange(len(graph.items)), 12)
    inputs = engine._inputs_of("Movie", np.arange(len(graph.items)))
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        priors(engine.items, inputs, rows, torch.device("cpu"))
        best = min(best, time.perf_counter() - start)
    print(f"priors of {len(rows)} nodes: {len(rows) / best:,.0f} a second (best of five)")


if __name__ == "__main__":
    main()
