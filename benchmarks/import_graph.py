"""How fast a graph comes out of a store, as a ratio to the plainest way of asking.

    python benchmarks/import_graph.py --edges 100000          # the embedded store
    python benchmarks/import_graph.py --edges 100000 --neo4j  # and a genuine server
    NEO4J_URI=... NEO4J_PASSWORD=... python benchmarks/import_graph.py --neo4j  # your own, empty
    python benchmarks/import_graph.py --edges 5000000 --neo4j --bulk  # filled by neo4j-admin import

Neo4j: ``read`` against ``for record in session.run(...)`` over the same edges (budget: 6 x or
more). Embedded: ``read`` against the bare query to Arrow (budget: at most 1.5 x its time). The
rounds are interleaved; the best of each is compared. A delta import of the unchanged graph is timed
beside them: by contents (budget: no slower than the full read) and by a time of change (budget: at
least 5 x faster). Memory is measured in a process of its own, on Linux: what the read adds at its
peak, against the finished graph (budget: at most 3 x).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.csv import write_csv

sys.path.insert(0, str(Path(__file__).parents[1]))

from kg import KnowledgeGraph, Schema
from kg.stores import LadybugStore, Neo4jStore

RATED = ("User", "RATED", "Movie")
SCHEMA = Schema("User", "Movie", RATED, edge_types=(("User", "RATED", "Movie"),))
EDGES = (
    "MATCH (u:User)-[r:RATED]->(m:Movie) "
    "RETURN u.id AS source, m.id AS target, r.weight AS weight, r.time AS time"
)


PAGE_CACHE = "-Dpagecache.mib=2048"
"""Of a server of our own: five million edges fit, as they would at anyone who has so many."""

LAST = 2**31
"""Nothing changed at this time or later but the nodes, so that a mark has something to find."""


def random_graph(num_edges: int) -> KnowledgeGraph:
    """Distinct random ratings with string keys, 20 a user, 100 a film."""
    rng = np.random.default_rng(0)
    num_users, num_items = max(10, num_edges // 20), max(10, num_edges // 100)
    pairs = rng.choice(num_users * num_items, num_edges, replace=False)
    users, items = np.divmod(pairs, num_items)
    nodes = {
        "User": {"id": [f"user-{n}" for n in range(num_users)], "time": np.full(num_users, LAST)},
        "Movie": {
            "id": [f"movie-{n}" for n in range(num_items)],
            "title": [f"The title of film number {n}" for n in range(num_items)],
            "year": rng.integers(1920, 2025, num_items),
            "time": np.full(num_items, LAST),
        },
    }
    edges = {
        "source": [f"user-{n}" for n in users],
        "target": [f"movie-{n}" for n in items],
        "weight": rng.integers(1, 6, num_edges).astype(float),
        "time": rng.integers(0, 2**31, num_edges),
    }
    return KnowledgeGraph.from_tables(nodes, {RATED: edges}, SCHEMA)


def best_of(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of the best round of each way, rounds interleaved."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def status(name: str) -> int:
    """Bytes that the kernel tells of this process: ``VmRSS`` now, ``VmHWM`` at the peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure_memory(place: str) -> None:
    """Read the graph at a place once and say what that took; runs in a process of its own."""
    auth = (os.environ.get("NEO4J_USER", "neo4j"), os.environ.get("NEO4J_PASSWORD", ""))
    with Neo4jStore(place, auth) if "://" in place else LadybugStore(place) as store:
        with LadybugStore() as small:  # loads what Arrow and the stores load when first used
            small.write(random_graph(100))
            small.read(SCHEMA)
        store.query("MATCH (n:Movie) RETURN n.id AS id, n.title AS title LIMIT 1000")
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        graph = store.read(SCHEMA)
        added = status("VmHWM") - before
    mib = 2**20
    print(
        f"  memory: the read adds {added / mib:,.0f} MiB at its peak, {added / graph.nbytes:.1f} x "
        f"the graph of {graph.nbytes / mib:,.0f} MiB (budget 3)"
    )


def memory_of(place: str, auth: tuple[str, str] = ("", "")) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("  memory: not measured, only Linux tells the peak of a moment")
        return
    user = {"NEO4J_USER": auth[0], "NEO4J_PASSWORD": auth[1]}
    command = [sys.executable, "-m", "benchmarks.import_graph", "--memory-of", place]
    sys.stdout.flush()
    subprocess.run(command, check=True, env=os.environ | user, cwd=Path(__file__).parents[1])


def timed_write(store: Any, graph: KnowledgeGraph) -> None:
    start = time.perf_counter()
    store.write(graph)
    total, took = graph.num_nodes() + graph.num_edges(), time.perf_counter() - start
    print(f"  write: {took:.2f} s, {total / took:,.0f} nodes and edges a second")


def embedded(graph: KnowledgeGraph, rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LadybugStore(Path(folder) / "graph.lbug") as store,
    ):
        print(f"embedded store, {graph.num_edges():,} edges")
        timed_write(store, graph)
        ways = {"query to Arrow": lambda: store.query(EDGES), "read": lambda: store.read(SCHEMA)}
        seconds = best_of(rounds, ways | deltas(store))
        show(seconds, graph.num_edges())
        ratio = seconds["read"] / seconds["query to Arrow"]
        print(f"  read takes {ratio:.2f} x the bare query (budget 1.5)")
        store.close()
        memory_of(str(Path(folder) / "graph.lbug"))


def bulk_filled(graph: KnowledgeGraph, home: Path) -> None:
    """Fill the database of a new home by ``neo4j-admin database import``, from files of CSV."""
    from tests import neo4j_server

    columns = {"id": "id:ID({})", "title": "title", "year": "year:long", "time": "time:long"}
    files = {t: home / f"{t}.csv" for t in (*graph.node_types, "RATED")}
    for node_type in graph.node_types:
        table = graph.node_table(node_type)
        names = [columns[n].format(node_type) for n in table.column_names]
        write_csv(table.rename_columns(names), files[node_type])
    names = [":START_ID(User)", ":END_ID(Movie)", "weight:double", "time:long"]
    write_csv(graph.edge_table(RATED).rename_columns(names), files["RATED"])
    (home / "conf").mkdir()
    (home / "conf" / "neo4j.conf").touch()
    command = ["java", "-Xmx1g", "-cp", f"{neo4j_server.jars()}/*", "org.neo4j.cli.AdminTool"]
    command += ["database", "import", "full", "neo4j", f"--relationships=RATED={files['RATED']}"]
    command += [f"--nodes={t}={files[t]}" for t in graph.node_types]
    places = {"NEO4J_HOME": str(home), "NEO4J_CONF": str(home / "conf")}
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | places, cwd=home, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"neo4j-admin database import failed: {done.stderr[-800:]}")
    print(f"  neo4j-admin database import: {time.perf_counter() - start:.0f} s")
    for file in files.values():
        file.unlink()


def server(graph: KnowledgeGraph, rounds: int, bulk: bool) -> None:
    from tests import neo4j_server

    print(f"Neo4j, {graph.num_edges():,} edges", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if bulk:
            bulk_filled(graph, Path(folder))
        running = (
            neo4j_server.start_java(neo4j_server.jars(), Path(folder), options=(PAGE_CACHE,))
            if bulk or not os.environ.get("NEO4J_URI")
            else neo4j_server.start()
        )
        with Neo4jStore(running.uri, running.auth) as store:
            if bulk:
                for node_type in graph.node_types:
                    store._make_unique(node_type, "id")
            else:
                timed_write(store, graph)
            store.query("CREATE INDEX FOR ()-[r:RATED]-() ON (r.time)")
            store.query("CALL db.awaitIndexes(600)")
            measure_server(store, graph.num_edges(), rounds)
            memory_of(running.uri, running.auth)
        running.stop()


def measure_server(store: Neo4jStore, num_edges: int, rounds: int) -> None:
    def plain_loop() -> int:
        with store._open().session(default_access_mode="READ") as session:
            rows = [
                (record["source"], record["target"], record["weight"], record["time"])
                for record in session.run(EDGES)
            ]
        return len(rows)

    ways = {"plain loop": plain_loop, "read": lambda: store.read(SCHEMA)} | deltas(store)
    seconds = best_of(rounds, ways)
    show(seconds, num_edges)
    print(f"  read is {seconds['plain loop'] / seconds['read']:.1f} x the loop (budget 6)")


def deltas(store: Any) -> dict[str, Callable[[], Any]]:
    """Delta imports of the unchanged graph, by contents and by time."""
    graph = store.read(SCHEMA)

    def unchanged(**how: Any) -> None:
        if store.read_changes(graph, **how).delta:
            raise AssertionError("the store did not change, and changes were found")

    return {
        "delta by contents": unchanged,
        "delta by time": lambda: unchanged(updated_at="time", since=LAST + 1),
    }


def show(seconds: dict[str, float], num_edges: int) -> None:
    for name, took in seconds.items():
        print(f"  {name}: {took:.2f} s, {num_edges / took:,.0f} edges a second")
    for name, budget in (("delta by contents", 1), ("delta by time", 5)):
        print(f"  {name} is {seconds['read'] / seconds[name]:.1f} x the read (budget {budget})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--neo4j", action="store_true", help="also measure a genuine server")
    parser.add_argument(
        "--bulk", action="store_true", help="fill a server of our own by neo4j-admin import"
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(options.memory_of)
        return
    print(f"load: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    for num_edges in options.edges:
        graph = random_graph(num_edges)
        embedded(graph, options.rounds)
        if options.neo4j:
            server(graph, options.rounds, options.bulk)
        print(f"load: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
