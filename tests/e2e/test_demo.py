"""The demo survives being killed at any moment."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coldstart.engine import ColdStartEngine
from encoders.cache import VectorCache
from kg.stores import LadybugStore

SMALL = """
import sys
import numpy as np
from coldstart import cli, demo
from kg.delta import GraphDelta
from kg.datasets import load_movielens_100k

def small(progress=False):
    graph = load_movielens_100k(progress=progress)
    users, films = (np.bincount(side) for side in graph.interactions.index)
    few = {"User": np.argsort(-users)[200:], "Movie": np.argsort(-films)[300:]}
    keys = {t: [graph.vocabularies[t][int(row)] for row in rows] for t, rows in few.items()}
    return graph.apply(GraphDelta(removed_nodes=keys))

demo.load_movielens_100k = small
sys.exit(cli.main(sys.argv[1:]))
"""
"""The demo as it is, on the 200 users and 300 films with most ratings: it is run four times."""


def _command(out: Path) -> list[str]:
    return [sys.executable, "-u", "-c", SMALL, "demo", "--splits", "1", "--out", str(out)]


def _killed_at(line: str, out: Path) -> None:
    """Run the demo and kill it as soon as it says a line."""
    with subprocess.Popen(
        _command(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.startswith(line):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_demo_killed_three_times_runs_to_the_end_and_lost_nothing_cached(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    _killed_at("1.", out)
    _killed_at("3.", out)
    cached = VectorCache().stats().num_vectors
    assert cached > 290
    _killed_at("6.", out)
    done = subprocess.run(_command(out), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ahead by" in done.stdout
    assert VectorCache().stats().num_vectors >= cached
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert {row["segment"] for row in rows} == {"cold_items", "cold_users"}
    engine = ColdStartEngine.load(out / "model")
    with LadybugStore(out / "films.lbug", read_only=True) as store:
        stored = store.read_embeddings("Movie")
    expected = engine.embed("Movie", list(stored.nodes)).matrix
    np.testing.assert_array_equal(stored.matrix, expected)
