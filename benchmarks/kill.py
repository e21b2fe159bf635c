"""Kill a writer at random moments and look whether it lost anything that it acknowledged.

    OMP_NUM_THREADS=1 python -m benchmarks.kill --rounds 100

A process writes new films, ratings and removals to a durable engine, with a snapshot every 20
changes, and says so after each; it gets SIGKILL at a random moment after at least fifty. Then the
state is opened again: every change that was acknowledged must be there, and the embeddings must be
those of an engine that got the same changes in one piece.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coldstart.engine import ColdStartEngine
from coldstart.serving.durable import DurableEngine
from coldstart.serving.operations import applied
from kg.toy import toy_graph
from kg.vectors import NodeEmbeddings

SNAPSHOT_EVERY = 20


def film(key: str, liked_by: tuple[str, ...] = ("u1",)) -> dict[str, Any]:
    """A change that adds a film, for the graph of :mod:`kg.toy`."""
    rated = {"type": ["User", "RATED", "Movie"], "target": key, "weight": 5.0, "time": 2_000_000}
    return {
        "op": "upsert",
        "nodes": {"Movie": [{"id": key, "title": "The orbit", "year": 1990}]},
        "edges": [{"type": ["Movie", "HAS_GENRE", "Genre"], "source": key, "target": "space"}]
        + [rated | {"source": user} for user in liked_by],
        "vectors": {"Movie": {"keys": [key], "matrix": [[1.0] + [0.0] * 23]}},
    }


def operations(start: int) -> Any:
    """Changes without end, each different from all before."""
    n = start
    while True:
        yield film(f"new{n}", (f"u{n % 50}", f"u{(n + 7) % 50}"))
        event = {"user": f"u{n % 60}", "item": f"m{n % 80}", "kind": "like", "time": 2e9 + n}
        yield {"op": "feedback", "events": [event]}
        n += 1


def write(model: Path, state: Path, start: int, told: Connection) -> None:
    """Write until killed."""
    torch.set_num_threads(1)
    durable = DurableEngine(model, state, snapshot_every=SNAPSHOT_EVERY)
    for operation in operations(start):
        _, number = durable.submit(operation)
        told.send((number, operation))


def rounds_survived(model: Path, folder: Path, *, rounds: int, at_least: int, seed: int) -> int:
    """Rounds in which a kill lost nothing; an assertion fails in the first that did."""
    rng = np.random.default_rng(seed)
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    state, known = folder / "killed", ColdStartEngine.load(model, device="cpu")
    number = 0
    for turn in range(rounds):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=write, args=(model, state, 10_000 * turn, theirs))
        process.start()
        theirs.close()
        acknowledged, ends = [], None
        while ends is None or time.monotonic() < ends:
            if mine.poll(0.001):
                acknowledged.append(mine.recv())
            if ends is None and len(acknowledged) >= at_least:
                ends = time.monotonic() + rng.random() * 0.3
            assert process.is_alive(), "the writer died by itself"
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        try:
            while mine.poll():
                acknowledged.append(mine.recv())
        except EOFError:
            pass  # killed in the middle of telling
        assert [n for n, _ in acknowledged] == list(
            range(number + 1, number + 1 + len(acknowledged))
        )
        for _, operation in acknowledged:
            known, _ = applied(known, operation)
        durable = DurableEngine(model, state, snapshot_every=SNAPSHOT_EVERY)
        found, number = durable.current
        more = number - acknowledged[-1][0]  # written, but killed before it was told
        assert more in (0, 1), f"round {turn}: {-more} acknowledged changes are lost"
        if more:
            (last,) = [record for record in durable._records() if record["seq"] == number]
            known, _ = applied(known, last)
        for node_type in ("User", "Movie"):
            ours, theirs_ = (e.embeddings(node_type) for e in (known, found))
            assert ours.nodes == theirs_.nodes, f"round {turn}: {node_type} differ"
            np.testing.assert_array_equal(ours.matrix, theirs_.matrix)
        durable._journal.close()
        os.close(durable._lock)
    return rounds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, graph = Path(place), toy_graph(num_cold_items=8, num_cold_users=6)
        vectors = np.random.default_rng(0).normal(size=(len(graph.items), 24))
        texts = {"Movie": NodeEmbeddings(graph.items, vectors)}
        ColdStartEngine.fit(graph, texts=texts, device="cpu").save(folder / "model")
        start = time.perf_counter()
        survived = rounds_survived(
            folder / "model", folder, rounds=arguments.rounds, at_least=50, seed=arguments.seed
        )
        seconds = time.perf_counter() - start
        print(
            f"{survived} kills of {arguments.rounds} lost no acknowledged change ({seconds:.0f} s)"
        )


if __name__ == "__main__":
    main()
