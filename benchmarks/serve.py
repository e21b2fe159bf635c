"""An engine in use: changes in process, and lists over HTTP while changes come.

    OMP_NUM_THREADS=1 python -m benchmarks.serve             # MovieLens 100K
    OMP_NUM_THREADS=1 python -m benchmarks.serve --requests 100000    # and look at the memory

Targets: a new film with 20 edges and its text vector under 2 ms at the median, visible to the next
request; with the text encoded on a CPU under 30 ms; at least 500 lists a second over HTTP with 99%
of them under 50 ms, while ten changes a second come. The client is a process of its own on the same
machine; for each figure the processor time is told as well, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn

from coldstart.engine import ColdStartEngine
from coldstart.serving.app import create_app
from coldstart.serving.durable import DurableEngine
from coldstart.serving.running import spare_the_collector
from kg.datasets import FROM_DECADE, HAS_GENRE, RATED, load_movielens_100k
from kg.delta import GraphDelta
from kg.vectors import NodeEmbeddings, Vocabulary

CONNECTIONS, CHANGES_A_SECOND = 16, 10


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", help="folder of an engine fitted on MovieLens 100K before")
    options.add_argument("--requests", type=int, default=5000)
    options.add_argument(
        "--films", type=int, default=100_000, help="also with a catalogue of this size; 0: without"
    )
    arguments = options.parse_args()
    torch.set_num_threads(1)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"load before: {load} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as place:
        model = Path(arguments.model or f"{place}/model")
        if not arguments.model:
            ColdStartEngine.fit(load_movielens_100k()).save(model)
        # Without the cache on disk, which knows the texts from the run before.
        engine = replace(ColdStartEngine.load(model, device="cpu"), cache=None)
        in_process(engine)
        if arguments.films:
            in_process(with_films(engine, arguments.films), f", of {arguments.films:,}")
        over_http(model, Path(place) / "state", arguments.requests)


def with_films(engine: ColdStartEngine, num_films: int) -> ColdStartEngine:
    """The engine with further films, so many in all, each with three genres and a text vector."""
    rng = np.random.default_rng(0)
    keys = np.arange(100_000, 100_000 + num_films - len(engine.graph.items))
    genres = np.array(list(engine.graph.vocabularies["Genre"]))
    edges = {"source": np.repeat(keys, 3), "target": rng.choice(genres, 3 * len(keys))}
    titles = [f"Film number {key}" for key in keys]
    nodes = {"id": keys, "title": titles, "year": rng.integers(1930, 2000, len(keys))}
    known = engine.texts["Movie"].matrix
    vectors = NodeEmbeddings(
        Vocabulary("Movie", keys), known[rng.integers(0, len(known), len(keys))]
    )
    delta = GraphDelta(nodes={"Movie": nodes}, edges={HAS_GENRE: edges})
    return engine.update(delta, texts={"Movie": vectors})


def in_process(engine: ColdStartEngine, among: str = "") -> None:
    """Adding films one at a time, each visible to the request after it."""
    rng = np.random.default_rng(0)
    engine.recommend(list(engine.graph.users)[:1], 1)  # the indexes are there from then on
    engine.audience(list(engine.graph.items)[:1], 1)
    users, genres = list(engine.graph.users), list(engine.graph.vocabularies["Genre"])
    vectors = engine.texts["Movie"].matrix
    keys = iter(range(1_000_000, 2_000_000))

    def film(num_ratings: int) -> tuple[int, GraphDelta]:
        key = next(keys)
        some = rng.choice(len(genres), min(19 - num_ratings, len(genres)), replace=False)
        edges: dict[Any, Any] = {
            HAS_GENRE: {"source": [key] * len(some), "target": [genres[g] for g in some]},
            FROM_DECADE: {"source": [key], "target": ["1990s"]},
        }
        if num_ratings:
            raters = rng.choice(len(users), num_ratings, replace=False)
            edges[RATED] = {
                "source": [users[u] for u in raters],
                "target": [key] * num_ratings,
                "weight": [5.0] * num_ratings,
                "time": [900_000_000] * num_ratings,
            }
        nodes = {"Movie": {"id": [key], "title": [f"Film number {key}"], "year": [1995]}}
        return key, GraphDelta(nodes=nodes, edges=edges)

    def add(num_ratings: int, *, given: bool) -> Callable[[], Any]:
        key, delta = film(num_ratings)
        vector = vectors[[key % len(vectors)]]
        texts = {"Movie": NodeEmbeddings(Vocabulary("Movie", [key]), vector)} if given else None

        def change() -> None:
            nonlocal engine
            engine = engine.update(delta, texts=texts)
            assert engine.graph.items.row(key) == len(engine.graph.items) - 1

        return change

    for name, num_ratings, given, times in (
        ("new film, 19 entities, vector given", 0, True, 200),
        ("new film, 2 entities and 17 ratings, vector given", 17, True, 100),
        ("new film, 19 entities, text encoded", 0, False, 40),
    )[: 2 if among else 3]:
        timed(name + among, lambda n=num_ratings, g=given: add(n, given=g), times)


def timed(name: str, make: Callable[[], Callable[[], Any]], times: int) -> None:
    wall, used = [], []
    for turn in range(times + 10):
        change = make()
        start, cpu = time.perf_counter(), time.thread_time()
        change()
        if turn >= 10:
            wall.append(1000 * (time.perf_counter() - start))
            used.append(1000 * (time.thread_time() - cpu))
    p50, p99 = np.percentile(wall, [50, 99])
    print(
        f"{name:64} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  fastest {min(wall):6.2f} ms  "
        f"processor {np.median(used):6.2f} ms"
    )


def over_http(model: Path, state: Path, num_requests: int) -> None:
    """Lists and changes over HTTP at the same time, the server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=serve, args=(model, state, theirs), daemon=True)
    server.start()
    port = mine.recv()
    users = ColdStartEngine.load(model, device="cpu").graph.users
    before = server_use(server.pid or 0)
    asyncio.run(ask(port, list(users)[:2], 300, server.pid or 0))  # until all is warm
    warm = server_use(server.pid or 0)
    found = asyncio.run(ask(port, list(users), num_requests, server.pid or 0))
    after = server_use(server.pid or 0)
    mine.send("stop")
    server.join(60)
    latencies = 1000 * np.array(found["seconds"])
    p50, p99 = np.percentile(latencies, [50, 99])
    rate = len(latencies) / found["took"]
    cpu = 1000 * (after[0] - warm[0]) / len(latencies)
    print(
        f"recommend over HTTP, {CONNECTIONS} connections, {found['changes']} changes "
        f"({found['changes'] / found['took']:.0f} a second): {rate:.0f} a second, "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms; the server used {cpu:.2f} ms of processor time a "
        "request, changes included"
    )
    print(
        f"memory of the server: {before[1]:.0f} MB at first, {warm[1]:.0f} MB after 300 requests, "
        f"{after[1]:.0f} MB after {len(latencies)} more and {found['changes']} films; after each "
        f"tenth of them {', '.join(f'{x:.0f}' for x in found['memory'])} MB"
    )


def serve(model: Path, state: Path, told: Any) -> None:
    torch.set_num_threads(1)
    durable = DurableEngine(model, state)
    spare_the_collector()
    config = uvicorn.Config(create_app(durable), port=0, log_level="warning", access_log=False)
    listening = config.bind_socket()
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        told.send(listening.getsockname()[1])
        await asyncio.to_thread(told.recv)
        server.should_exit = True
        await serving

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


async def ask(port: int, users: list[Any], num_requests: int, server: int) -> dict[str, Any]:
    """Lists for random users over some connections, and changes over one more."""
    seconds: list[float] = []
    memory: list[float] = []
    rng = np.random.default_rng(1)
    picks = iter([users[u] for u in rng.integers(0, len(users), num_requests)])
    ended, changes = asyncio.Event(), 0

    async def lists() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for user in picks:
            start = time.perf_counter()
            await exchange(reader, writer, "/recommend", {"users": [user], "k": 10})
            seconds.append(time.perf_counter() - start)
            if len(seconds) % max(1, num_requests // 10) == 0:
                memory.append(server_use(server)[1])
        writer.close()

    async def films() -> None:
        nonlocal changes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = time.perf_counter()
        while not ended.is_set():
            key = 3_000_000 + num_requests + changes
            edges = [
                {"type": list(HAS_GENRE), "source": key, "target": "Comedy"},
                {"type": list(RATED), "source": users[0], "target": key, "weight": 5, "time": 9},
            ]
            vector = {"keys": [key], "matrix": [rng.normal(size=384).round(4).tolist()]}
            nodes = {"Movie": [{"id": key, "title": f"Film {key}", "year": 1995}]}
            body = {"nodes": nodes, "edges": edges, "vectors": {"Movie": vector}}
            await exchange(reader, writer, "/upsert", body)
            changes += 1
            due += 1 / CHANGES_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        writer.close()

    start = time.perf_counter()
    changing = asyncio.create_task(films())
    await asyncio.gather(*(lists() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - start
    ended.set()
    await changing
    return {"seconds": seconds, "took": took, "changes": changes, "memory": memory}


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: Any
) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
    found = await reader.readexactly(length)
    assert answer.startswith(b"http/1.1 200"), found
    return found


def server_use(pid: int) -> tuple[float, float]:
    """Processor seconds and resident megabytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
