"""What ``coldstart estimate`` says against what then happens, stage by stage.

    python -m benchmarks.estimate                              # toy graphs of three sizes
    python -m benchmarks.estimate --users 3000 --movielens     # one size, and MovieLens 100K
    python -m benchmarks.estimate --graph-encoder propagation+sage   # a network, within its train

Budget: within 1.5 x for the peak of memory, 2 x for time. Both run in processes of their own, one
after the other, from an embedded store, with an empty text cache. Linux tells the peak of a stage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kg import KnowledgeGraph, Schema
from kg.stores import LadybugStore
from kg.toy import toy_graph

STAGES = ("import", "encode", "train", "index")


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def run(folder: Path, graph_encoder: str) -> None:
    """The four stages of a run, as a child process; prints what they took as JSON."""
    took: dict[str, dict[str, float]] = {}

    def stage(name: str, work: Callable[[], Any], *places: Path) -> Any:
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        disk = sum(f.stat().st_size for p in places for f in p.rglob("*") if f.is_file())
        took[name] = {"seconds": seconds, "memory": peak_bytes(), "disk": disk}
        return result

    from kg.importing import import_graph

    schema = Schema.read(folder / "schema.toml")
    with LadybugStore(folder / "store", read_only=True) as store:
        import_ = lambda: import_graph(store, folder / "graph", schema)  # noqa: E731
        graph = stage("import", import_, folder / "graph").graph

    from coldstart.engine import ColdStartEngine, EngineConfig
    from encoders.cache import VectorCache
    from encoders.embed import embed_nodes

    cache = VectorCache(folder / "cache")
    types = [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]
    texts = stage("encode", lambda: embed_nodes(graph, None, types, cache=cache), folder / "cache")
    config = EngineConfig(graph_encoder=graph_encoder)
    engine = stage("train", lambda: ColdStartEngine.fit(graph, config, texts=texts))

    def index() -> None:
        engine.recommend([engine.graph.users[0]], 10, evidence=False)
        engine.audience([engine.graph.items[0]], 10, evidence=False)
        engine.save(folder / "model")

    stage("index", index, folder / "model")
    print(json.dumps(took))


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compare(name: str, graph: KnowledgeGraph, encoder: str) -> None:
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        graph.schema.write(folder / "schema.toml")
        with LadybugStore(folder / "store") as store:
            store.write(graph)
        del store
        options = ["--store", str(folder / "store"), "--schema", str(folder / "schema.toml")]
        options += ["--graph-encoder", encoder]
        start = time.perf_counter()
        said = child(
            "coldstart.cli", "estimate", *options, "--cache", str(folder / "cache"), "--json"
        )
        seconds = time.perf_counter() - start
        was = child("benchmarks.estimate", "--run", at, "--graph-encoder", encoder)
    if networks := said["stages"].pop("networks", None):  # fit makes both in one
        train = said["stages"]["train"]
        train["seconds"] += networks["seconds"]
        train["memory"] = max(train["memory"], networks["memory"])
    print(f"{name}: {graph!r}\n  estimated in {seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    for stage in STAGES:
        print(f"  {stage:7}" + "".join(compared(said["stages"][stage], was[stage])))
    total = {
        "seconds": sum(w["seconds"] for w in was.values()),
        "memory": max(w["memory"] for w in was.values()),
        "disk": sum(w["disk"] for w in was.values()),
    }
    print(f"  {'total':7}" + "".join(compared(said["total"], total)), flush=True)


def compared(said: dict[str, float], was: dict[str, float]) -> list[str]:
    out = []
    for what, unit, by in (
        ("seconds", "s", 1.0),
        ("memory", "MiB", 2.0**20),
        ("disk", "MiB", 2.0**20),
    ):
        ratio = f"{said[what] / was[what]:.2f} x" if was[what] and said[what] else "-"
        out.append(f"{said[what] / by:9.1f} of {was[what] / by:7.1f} {unit} {ratio:>7}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="*", default=[500, 3000, 15000])
    parser.add_argument("--movielens", action="store_true")
    parser.add_argument("--graph-encoder", default="propagation")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(Path(options.run), options.graph_encoder)
        return
    for users in options.users:
        items = users // 2
        graph = toy_graph(num_users=users, num_items=items)
        compare(f"toy, {users} users", graph, options.graph_encoder)
    if options.movielens:
        from kg.datasets import load_movielens_100k

        compare("MovieLens 100K", load_movielens_100k(), options.graph_encoder)


if __name__ == "__main__":
    main()
