"""The commands about graphs and stores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coldstart.cli import main
from coldstart.engine import ColdStartEngine
from kg.files import read_graph, write_graph
from kg.likeness import shuffled_links
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors
from tests.contracts import same_graph


@pytest.fixture
def toy_store(tmp_path):
    """The toy graph in a file, and its schema beside it."""
    graph = toy_graph()
    graph.schema.write(tmp_path / "schema.toml")
    with LadybugStore(tmp_path / "toy.lbug", memory_limit=1 << 28) as store:
        store.write(graph)
    return ["--store", str(tmp_path / "toy.lbug"), "--schema", str(tmp_path / "schema.toml")]


def test_import_infers_a_schema_to_edit_then_imports_then_only_changes(tmp_path, toy_store, capsys):
    store, folder = toy_store[:2], str(tmp_path / "graph")
    written = tmp_path / "inferred.toml"
    assert main(["import", folder, *store, "--infer", str(written)]) == 0
    said = capsys.readouterr().out
    assert "Movie: 80 nodes" in said
    assert "id: string, unique, so a key" in said
    assert "(User)-[RATED]->(Movie): 900 at most; weight (double), time (int64)" in said
    assert "weight of RATED goes from 1 to 5 in the 900 looked at, and all of them count" in said
    assert not (tmp_path / "graph").exists()
    command = ["import", folder, *store, "--schema", str(written)]
    assert main(command) == 0
    same_graph(read_graph(folder), toy_graph())
    assert "rows/s" in capsys.readouterr().err
    with LadybugStore(store[1], memory_limit=1 << 28) as opened:
        opened.query("MATCH (m:Movie) WHERE m.id = 'm3' DETACH DELETE m")
    assert main([*command, "--quiet"]) == 0
    told = capsys.readouterr()
    assert "1 Movie node removed" in told.out
    assert told.err == ""


def test_import_from_files_follows_them(tmp_path, capsys):
    (tmp_path / "likes.csv").write_text("user,item\n1,a\n2,b\n2,lost\n")
    (tmp_path / "items.csv").write_text("id,title\na,Rose\nb,Iris\n")
    toml = """
    user = "User"
    item = "Item"
    interaction = ["User", "LIKED", "Item"]
    nodes.Item = { file = "items.csv", text = ["title"] }
    [[edges]]
    type = ["User", "LIKED", "Item"]
    file = "likes.csv"
    source = "user"
    target = "item"
    """
    (tmp_path / "likes.toml").write_text(toml)
    command = ["import", str(tmp_path / "graph"), "--tables", str(tmp_path / "likes.toml")]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "'lost'" in told
    assert "pass --skip-dangling" in told
    assert main([*command, "--skip-dangling"]) == 0
    assert "1 User-LIKED-Item edge left out" in capsys.readouterr().out
    (tmp_path / "items.csv").write_text("id,title\na,Rose\nb,Iris\nlost,Lily\n")
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "1 Item node new or changed\n1 User-LIKED-Item edge new or changed" in told


@pytest.mark.neo4j
def test_import_from_a_server_follows_it(neo4j, neo4j_store, tmp_path, monkeypatch, capsys):
    neo4j_store.write(toy_graph())
    toy_graph().schema.write(tmp_path / "schema.toml")
    monkeypatch.setenv("NEO4J_PASSWORD", neo4j.auth[1])
    command = ["import", str(tmp_path / "graph"), "--uri", neo4j.uri, "--quiet"]
    command += ["--schema", str(tmp_path / "schema.toml")]
    assert main(command) == 0
    same_graph(read_graph(tmp_path / "graph"), toy_graph())
    neo4j_store.query("MATCH (m:Movie {id: 'm3'}) SET m.title = 'Alien'")
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("1 Movie node new or changed\nKnowledgeGraph")


def test_audit_of_an_embedded_store_finds_no_fault_in_a_clean_graph(toy_store, capsys):
    assert main(["audit", *toy_store, "--strict"]) == 0
    out = capsys.readouterr().out
    assert "0 faults in" in out
    assert "informative relation 4 subjects" in out


def test_a_store_or_folder_may_come_without_its_option(toy_store, tmp_path, capsys):
    graph = toy_graph()
    write_graph(graph, tmp_path / "graph")
    for given in (
        toy_store[1:],
        [str(tmp_path / "graph")],
        ["--graph", str(tmp_path / "graph")],
    ):
        assert main(["texts", *given, "--type", "Movie", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["audit", *toy_store[1:], "--graph", str(tmp_path / "graph")])
    assert "not allowed with argument" in capsys.readouterr().err


def test_audit_of_a_folder_prints_json_and_draws_a_picture(tmp_path, capsys):
    links = [("Movie", "HAS_GENRE", "Genre")]
    write_graph(shuffled_links(toy_graph(), links, np.random.default_rng(3)), tmp_path / "g")
    plot = tmp_path / "new" / "audit.png"
    assert main(["audit", "--graph", str(tmp_path / "g"), "--json", "--plot", str(plot)]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["audit", "--graph", str(tmp_path / "g"), "--strict"]) == 1
    assert capsys.readouterr().err == "coldstart audit: 2 faults, told above\n"


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


def test_write_back_checks_all_keys_before_it_writes_and_names_its_options(
    tmp_path, toy_store, capsys
):
    graph, model = toy_graph(), str(tmp_path / "model")
    ColdStartEngine.fit(graph, texts=word_vectors(graph), cache=None).save(model)
    with LadybugStore(toy_store[1], memory_limit=1 << 28) as store:
        store.query("MATCH (n) WHERE n.id IN ['m3', 'u5'] DETACH DELETE n")
        store.query("MATCH (m:Movie) WHERE m.id = 'm4' DETACH DELETE m")
    command = ["write-back", model, *toy_store[:2], "--no-index", "--recommend", "3"]
    for more in ([], ["--dry-run"]):
        assert main([*command, *more]) == 1
        told = capsys.readouterr().err
        assert "'u5' (matched by 'id'); nothing was written" in told
        assert "pass --skip-missing" in told
    with LadybugStore(toy_store[1], read_only=True, memory_limit=1 << 28) as store:
        assert "embedding" not in store.contents().nodes["User"].sample.column_names
    assert main([*command, "--skip-missing"]) == 0
    assert "59 COLDSTART_RECOMMENDS lists written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["audit", "--graph", "g", "--schema", "nowhere.toml"], "--schema: a graph folder has"),
        (["audit", "--graph", "g", "--item-type", "Foo"], "--item-type: a graph folder has"),
        (["estimate", "--graph", "g", "--user-type", "U"], "--user-type: a graph folder has"),
        (["texts", "--graph", "g", "--positive-weight", "0"], "--positive-weight: a graph folder"),
        (["texts", "--graph", "g", "--timeout", "5"], "--timeout: this is for a server"),
        (["estimate", "--graph", "g", "--database", "d"], "--database: this is for a server"),
        (["import", "g", "--store", "toy.lbug", "--login", "me"], "--login: this is for a server"),
        (["audit", "--store", "toy.lbug", "--schema", "nope.toml"], "no schema file at nope.toml"),
        (
            ["audit", "--store", "toy.lbug", "--schema", "schema.toml", "--item-type", "Foo"],
            "--item-type: the schema file says this; leave the option out",
        ),
        (["import", "g", "--tables", "no.toml"], "there is no file at no.toml; check the path"),
        (["import", "g", "--tables", "a.toml", "--infer", "b"], "--infer: this is for stores"),
        (["import", "g", "--tables", "a.toml", "--schema", "b"], "--schema: the file of --tables"),
        (["fit", "toy.lbug", "m", "--schema", "nope.toml"], "no schema file at nope.toml; check"),
        (["erase", "--store", "toy.lbug", "--user", "u1", "--model", "x"], "check --model and"),
        (["adapt", "a", "--graph", "g", "--config", "x.toml"], "by --write-config x.toml"),
    ],
)
def test_options_that_would_be_ignored_and_files_that_are_not_there_are_told(
    command, message, toy_store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    assert message in (told := capsys.readouterr().err)
    assert "Errno" not in told


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
