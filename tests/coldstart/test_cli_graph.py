"""The commands about graphs and stores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coldstart.cli import main
from coldstart.engine import ColdStartEngine
from kg.files import write_graph
from kg.likeness import shuffled_links
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors


@pytest.fixture
def toy_store(tmp_path):
    """The toy graph in a file, and its schema beside it."""
    graph = toy_graph()
    graph.schema.write(tmp_path / "schema.toml")
    with LadybugStore(tmp_path / "toy.lbug", memory_limit=1 << 28) as store:
        store.write(graph)
    return ["--store", str(tmp_path / "toy.lbug"), "--schema", str(tmp_path / "schema.toml")]


def test_audit_of_an_embedded_store_finds_no_fault_in_a_clean_graph(toy_store, capsys):
    assert main(["audit", *toy_store]) == 0
    out = capsys.readouterr().out
    assert "0 faults in" in out
    assert "informative relation 4 subjects" in out


def test_audit_of_a_folder_prints_json_and_draws_a_picture(tmp_path, capsys):
    links = [("Movie", "HAS_GENRE", "Genre")]
    write_graph(shuffled_links(toy_graph(), links, np.random.default_rng(3)), tmp_path / "g")
    plot = tmp_path / "new" / "audit.png"
    assert main(["audit", "--graph", str(tmp_path / "g"), "--json", "--plot", str(plot)]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == 2
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.neo4j
def test_audit_of_a_server_takes_the_password_from_the_environment(
    neo4j, neo4j_store, monkeypatch, capsys
):
    neo4j_store.write(toy_graph())
    monkeypatch.setenv("NEO4J_PASSWORD", neo4j.auth[1])
    assert main(["audit", "--uri", neo4j.uri, "--user-type", "User", "--positive-weight", "4"]) == 0
    assert "0 faults in" in capsys.readouterr().out


def test_write_back_puts_vectors_and_lists_into_a_store_and_a_dry_run_does_not(
    tmp_path, toy_store, capsys
):
    graph, model = toy_graph(), str(tmp_path / "model")
    ColdStartEngine.fit(graph, texts=word_vectors(graph), cache=None).save(model)
    command = ["write-back", model, *toy_store[:2], "--no-index", "--recommend", "3"]
    assert main([*command, "--dry-run"]) == 0
    assert "60 COLDSTART_RECOMMENDS lists would be written" in capsys.readouterr().out
    assert main(command) == 0
    with LadybugStore(toy_store[1], read_only=True, memory_limit=1 << 28) as store:
        assert len(store.read_embeddings("User")) == 60
        assert store.query("MATCH ()-[r:COLDSTART_RECOMMENDS]->() RETURN r.rank").num_rows == 180
    assert main(command) == 0
    assert "0 COLDSTART_RECOMMENDS lists written, 60 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "nowhere.lbug"], "there is no store at nowhere.lbug"),
        (["--uri", "neo4j://me:hidden-word@host"], "leave it out and set $NEO4J_PASSWORD"),
        (["--uri", "neo4j://host"], "the password of 'neo4j' is not known"),
    ],
)
def test_a_source_that_cannot_be_opened_is_told_without_the_password(
    arguments, message, monkeypatch, capsys
):
    monkeypatch.delenv("NEO4J_PASSWORD", raising=False)
    assert main(["audit", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "hidden-word" not in error
