from __future__ import annotations

import importlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coldstart import estimating
from coldstart.cli import main
from coldstart.engine import EngineConfig, inputs_of_graph
from coldstart.estimating import Estimate, estimate
from coldstart.estimating_networks import network_cost
from coldstart.probing import Machine, fastest
from encoders.cache import VectorCache
from encoders.embed import embed_nodes
from encoders.texts import node_texts
from encoders.tfidf import TfidfEncoder
from gnn.data import Adjacency, node_inputs
from gnn.encoding import NetworkEncoder
from gnn.groups import SparseRows
from gnn.heads import implicit_als
from gnn.network import NetworkConfig
from gnn.propagate import fit_propagation
from kg import KnowledgeGraph, Schema
from kg.files import write_graph
from kg.outlining import Outline, outline_folder
from kg.stores import LadybugStore
from kg.toy import toy_graph

GRAPH = toy_graph(num_users=200, num_items=120)
MACHINE = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def outline(tmp_path_factory) -> Outline:
    folder = tmp_path_factory.mktemp("outlined") / "g"
    write_graph(GRAPH, folder)
    return outline_folder(folder)


@pytest.fixture(scope="module")
def encoder() -> TfidfEncoder:
    return TfidfEncoder.fit(list(node_texts(GRAPH, "Movie").texts), dim=32)


@pytest.fixture(scope="module")
def small(outline, encoder) -> Estimate:
    return estimate(outline, encoder, cache=None, machine=MACHINE)


def test_every_stage_takes_time_and_memory_and_what_is_written_takes_disk(small):
    assert [stage.name for stage in small.stages] == ["import", "encode", "train", "index"]
    assert all(stage.seconds > 0 and stage.memory > 2**20 for stage in small.stages)
    assert [stage.disk > 0 for stage in small.stages] == [True, False, False, True]
    assert small.seconds == sum(stage.seconds for stage in small.stages)
    assert small.counts["positives"] == GRAPH.positives().shape[1]


def test_five_times_the_graph_takes_more_of_everything(outline, encoder, monkeypatch):
    monkeypatch.setattr(estimating, "resident_bytes", lambda: 0)
    small = estimate(outline, encoder, cache=None, machine=MACHINE)
    larger = replace(
        outline,
        nodes={t: 5 * n for t, n in outline.nodes.items()},
        edges={e: 5 * n for e, n in outline.edges.items()},
    )
    found = estimate(larger, encoder, cache=None, machine=MACHINE)
    for few, many in zip(small.stages[1:], found.stages[1:], strict=True):
        assert many.memory > 3 * few.memory
    assert found.stages[2].seconds > small.stages[2].seconds
    assert found.disk > 2 * small.disk
    assert found.counts["texts"] == 5 * small.counts["texts"]


def test_texts_whose_vectors_are_in_the_cache_are_not_encoded_and_others_are(
    outline, encoder, tmp_path
):
    cache = VectorCache(tmp_path)
    before = estimate(outline, encoder, cache=cache, machine=MACHINE).stages[1]
    assert before.disk > 4 * 32 * GRAPH.num_nodes("Movie")
    embed_nodes(GRAPH, encoder, ["Movie"], cache=cache)
    assert estimate(outline, encoder, cache=cache, machine=MACHINE).stages[1].disk == 0


def test_features_are_counted_as_they_are_made(tmp_path):
    """Songs by artists, who play genres, which are part of others and of eras."""
    by, plays = ("Song", "BY", "Artist"), ("Artist", "PLAYS", "Genre")
    signed, heard = ("Artist", "SIGNED", "Label"), ("User", "HEARD", "Song")
    edges = {
        heard: {"source": [n % 7 for n in range(60)], "target": [n % 24 for n in range(60)]},
        by: {"source": list(range(24)), "target": [n // 2 % 10 for n in range(24)]},
        plays: {"source": list(range(10)), "target": [n % 3 for n in range(10)]},
        signed: {"source": list(range(10)), "target": [n % 4 for n in range(10)]},
    }
    sizes = {"User": 7, "Song": 24, "Artist": 10, "Genre": 3, "Label": 4}
    nodes = {node_type: {"id": list(range(size))} for node_type, size in sizes.items()}
    graph = KnowledgeGraph.from_tables(nodes, edges, Schema("User", "Song", heard))
    write_graph(graph, tmp_path / "g")
    told = estimating._Side.of(outline_folder(tmp_path / "g"), "Song", _no_texts(), 32)
    inputs = node_inputs(graph, "Song", None)
    fitted = fit_propagation(inputs, np.arange(24))
    made = dict(zip(fitted.names, fitted.raw(inputs, np.arange(24), MACHINE.device), strict=True))
    assert told.num_groups == len(made)
    sparse = {n: raw for n, raw in made.items() if isinstance(raw, SparseRows)}
    assert list(sparse) == ["BY", "BY > PLAYS", "BY > SIGNED", "far entities"]
    assert sorted(told.sparse) == sorted((len(r.columns) / 24, r.width) for r in sparse.values())
    assert sum(told.dense) == sum(made[name].shape[1] for name in ("constant", "prominence"))


def _no_texts() -> estimating._Texts:
    return estimating._Texts({}, {}, 0, 0.0)


def test_half_steps_are_told_from_a_few_rows_within_a_factor_of_three():
    rng, k = np.random.default_rng(0), 64
    links = Adjacency.from_pairs(
        rng.integers(0, 3000, 60_000), rng.integers(0, 2000, 60_000), 3000, 2000
    )
    back = links.transpose()
    told = 5 * (
        MACHINE.half_step_seconds(links.degrees, 3000, 2000, k)
        + MACHINE.half_step_seconds(back.degrees, 2000, 3000, k)
    )
    took = fastest(5, lambda: implicit_als(links, k, 10.0, rng, torch.device("cpu")))
    assert 1 / 3 < told / took < 3


def test_what_networks_take_is_told_within_a_factor_of_three(outline):
    config = NetworkConfig(hidden_channels=16, fanouts=(5,), epochs=1, held_out=0.0, batch_size=512)
    encoder = NetworkEncoder(config, folds=2)
    inputs = inputs_of_graph(GRAPH, {}, GRAPH.edge_types)
    work = lambda: encoder.fit(  # noqa: E731
        *(GRAPH, *inputs, GRAPH.positives()),
        rng=np.random.default_rng(0),
        device=MACHINE.device,
    )
    costs = [network_cost(outline, encoder, {}, {}, MACHINE.device) for _ in range(3)]
    told = min(costs, key=lambda cost: cost.seconds - cost.loading)
    importlib.import_module("gnn.layers")  # for the first to train
    took = fastest(5, work)  # tenths of a second: another process would slow one of them much
    assert 1 / 3 < (told.seconds - told.loading) / took < 3
    assert told.memory > 4 * 16 * 2 * 3 * GRAPH.num_nodes()  # states of three networks


def test_networks_are_estimated_where_the_peak_of_memory_cannot_begin_anew(
    outline, monkeypatch, caplog
):
    def forbidden(path, content):
        raise PermissionError(f"not allowed to write {path}")

    monkeypatch.setattr("coldstart.estimating_networks.Path.write_text", forbidden)
    caplog.set_level(logging.INFO)
    config = NetworkConfig(hidden_channels=16, fanouts=(5,), epochs=1, batch_size=512)
    assert network_cost(outline, NetworkEncoder(config, folds=2), {}, {}, MACHINE.device).memory > 0
    if Path("/proc/self/clear_refs").exists():
        assert "not allowed to write /proc/self/clear_refs" in caplog.text


def test_networks_have_a_stage_of_their_own_and_features_in_training(outline, encoder, small):
    network = NetworkConfig(hidden_channels=16, dim=8, batch_size=256)
    config = EngineConfig(graph_encoder="propagation+sage", network=network)
    found = estimate(outline, encoder, config, cache=None, machine=MACHINE)
    assert [s.name for s in found.stages] == ["import", "encode", "networks", "train", "index"]
    assert "\nnetworks " in found.to_text()
    assert found.stages[-1].disk > small.stages[-1].disk  # their features have a table


def test_a_table_has_a_line_for_every_stage_and_the_total(small):
    lines = small.to_text().splitlines()
    assert lines[0].startswith(f"{GRAPH.num_nodes()} nodes, {GRAPH.num_edges():,} edges")
    assert [line.split()[0] for line in lines[2:]] == [
        "import",
        "encode",
        "train",
        "index",
        "total",
    ]


def test_the_command_prints_json_from_a_store(tmp_path, capsys):
    GRAPH.schema.write(tmp_path / "schema.toml")
    with LadybugStore(tmp_path / "s", memory_limit=1 << 28) as store:
        store.write(GRAPH)
    options = ["--store", str(tmp_path / "s"), "--schema", str(tmp_path / "schema.toml"), "--json"]
    assert main(["estimate", *options, "--cache", str(tmp_path / "c")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["stages"]) == {"import", "encode", "train", "index"}
    assert told["total"]["memory"] == max(s["memory"] for s in told["stages"].values())
