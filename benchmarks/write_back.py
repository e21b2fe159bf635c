"""How fast vectors go back into a store, and how fast it is seen that they are there.

    python -m benchmarks.write_back --vectors 5000    # a server of our own, and the embedded store
    NEO4J_URI=... NEO4J_PASSWORD=... python -m benchmarks.write_back    # your own, empty server

Neo4j: ``write_embeddings`` against the bare chunked ``UNWIND`` loop (budget: at least 0.9 x its
rate), and a second, unchanged write-back against the first (budget: at least 5 x faster). The
rounds are interleaved, vectors are removed between them; the best of each is compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kg import KnowledgeGraph, NodeEmbeddings, Schema
from kg.stores import LadybugStore, Neo4jStore
from kg.stores.base import CypherStore

BARE = "UNWIND $rows AS row MATCH (n:Movie {id: row.key}) SET n.embedding = row.vector"
BATCH = 2_000


def films(num_films: int, dim: int) -> tuple[KnowledgeGraph, NodeEmbeddings]:
    rated = ("User", "RATED", "Movie")
    keys = [f"movie-{n}" for n in range(num_films)]
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": ["u"]}, "Movie": {"id": keys, "title": [f"Film {k}" for k in keys]}},
        {rated: {"source": ["u"], "target": keys[:1]}},
        Schema("User", "Movie", rated),
    )
    matrix = np.random.default_rng(0).normal(size=(num_films, dim)).astype(np.float32)
    return graph, NodeEmbeddings(graph.items, matrix)


def bare_loop(store: Neo4jStore, vectors: NodeEmbeddings) -> None:
    keys = list(vectors.nodes)
    with store._open().session() as session:
        for start in range(0, len(keys), BATCH):
            rows = [
                {"key": key, "vector": vector.tolist()}
                for key, vector in zip(
                    keys[start : start + BATCH], vectors.matrix[start : start + BATCH], strict=True
                )
            ]
            session.execute_write(lambda tx, rows=rows: tx.run(BARE, rows=rows).consume())


def timed(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def measure(store: CypherStore, vectors: NodeEmbeddings, rounds: int) -> None:
    best: dict[str, float] = {}

    def note(name: str, way: Callable[[], Any]) -> None:
        best[name] = min(best.get(name, np.inf), timed(way))

    def remove() -> None:
        store.query("MATCH (n:Movie) SET n.embedding = NULL")

    for _ in range(rounds):
        if isinstance(store, Neo4jStore):
            note("bare UNWIND loop", lambda: bare_loop(store, vectors))
            remove()
        note("write_embeddings", lambda: store.write_embeddings(vectors))
        note("again, unchanged", lambda: store.write_embeddings(vectors))
        remove()
    for name, seconds in best.items():
        print(f"  {name}: {seconds:.2f} s, {len(vectors) / seconds:,.0f} vectors a second")
    if "bare UNWIND loop" in best:
        ratio = best["bare UNWIND loop"] / best["write_embeddings"]
        print(f"  write_embeddings has {ratio:.2f} x the rate of the bare loop (budget 0.9)")
    ratio = best["write_embeddings"] / best["again, unchanged"]
    print(f"  unchanged vectors take {ratio:.1f} x less (budget 5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, nargs="+", default=[5_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from tests import neo4j_server

    named = neo4j_server.os.environ.get("NEO4J_URI")
    running = (
        neo4j_server.start() if named else neo4j_server.start_java(neo4j_server.jars(), options=())
    )
    for num_films in options.vectors:
        graph, vectors = films(num_films, options.dim)
        with tempfile.TemporaryDirectory() as folder:
            for store in (
                Neo4jStore(running.uri, running.auth),
                LadybugStore(Path(folder) / "films.lbug"),
            ):
                print(f"{type(store).__name__}, {num_films:,} vectors of {options.dim} floats")
                with store:
                    store.write(graph)
                    measure(store, vectors, options.rounds)
    running.stop()


if __name__ == "__main__":
    main()
