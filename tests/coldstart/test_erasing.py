from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coldstart.cli import main
from coldstart.engine import ColdStartEngine
from coldstart.erasing import erase
from coldstart.feedback import EventLog, FeedbackEvent
from coldstart.serving.durable import DurableEngine
from encoders.cache import VectorCache
from encoders.embed import embed_nodes
from encoders.texts import node_texts
from encoders.tfidf import TfidfEncoder
from kg import GraphDelta, NodeEmbeddings
from kg.errors import UnknownNodeError
from kg.files import read_graph, write_graph
from kg.stores import LadybugStore
from kg.toy import toy_graph

BIO = "lives at 12 Elm Street and collects moths"


@pytest.fixture
def places(tmp_path):
    """A person with a text in a store, a saved engine, a saved graph and the text cache."""
    base = toy_graph()
    schema = base.schema.from_dict(base.schema.to_dict() | {"edge_types": []})
    told = schema.to_dict()
    told["nodes"].setdefault("User", {})["text"] = ["bio"]
    graph = type(base)(type(schema).from_dict(told), base.vocabularies, base.attributes, base.edges)
    people = {"id": ["u3", "u4"], "bio": [BIO, "somebody else entirely"]}
    graph = graph.apply(GraphDelta(nodes={"User": people}))
    texts = [t for n in ("User", "Movie") for t in node_texts(graph, n)]
    encoder, cache = TfidfEncoder.fit(texts, dim=16), VectorCache(tmp_path / "cache")
    vectors = embed_nodes(graph, encoder, ["User", "Movie"], cache=cache)
    engine = ColdStartEngine.fit(graph, encoder=encoder, texts=vectors, cache=None)
    engine.save(tmp_path / "model")
    write_graph(graph, tmp_path / "graph")
    with LadybugStore(tmp_path / "toy.lbug", memory_limit=1 << 28) as store:
        store.write(graph)
    return tmp_path


def test_a_person_is_found_everywhere_before_and_nowhere_by_key_or_text_after(places):
    with LadybugStore(places / "toy.lbug", memory_limit=1 << 28) as store:
        report = erase(
            "User",
            "u3",
            stores=[store],
            models=[places / "model"],
            graphs=[places / "graph"],
            cache=VectorCache(places / "cache"),
        )
        assert store.lookup("User", ["u3", "u4"], ["bio"]).num_rows == 1
    found = {(trace.what, part) for trace in report.before for part in trace.file.split("/")}
    assert {("key", "model"), ("text", "model"), ("vector", "model")} <= found
    assert {("key", "graph"), ("text", "graph"), ("text", "toy.lbug")} <= found
    assert any(t.what == "vector" and "/cache/" in t.file for t in report.before)
    assert {trace.what for trace in report.after} <= {"vector"}
    assert all("arrays.safetensors" in trace.file for trace in report.after)
    assert "trained weights" in str(report)
    assert {trace.why for trace in report.after} <= {"what it had in training, see what remains"}


def test_a_reason_is_told_only_where_it_explains_all_that_is_still_found(places):
    twin = GraphDelta(nodes={"User": {"id": ["u4"], "bio": [BIO]}})
    write_graph(read_graph(places / "graph").apply(twin), places / "graph")
    (left,) = erase("User", "u3", graphs=[places / "graph"]).after
    assert str(left).endswith("column bio: text (other nodes have the same text)")


def test_a_text_within_another_is_not_explained_by_some_other_text_that_is_shared(places):
    longer = GraphDelta(nodes={"User": {"id": ["u4", "u5"], "bio": [f"She {BIO}.", "Aberystwyth"]}})
    town = {"id": ["u3", "u5"], "town": ["Aberystwyth", "Aberystwyth"]}
    graph = read_graph(places / "graph").apply(longer)
    graph = graph.apply(GraphDelta(nodes={"User": town}, new_properties=True))
    told = graph.schema.to_dict()
    told["nodes"]["User"]["text"] = ["bio", "town"]
    changed = type(graph)(
        graph.schema.from_dict(told), graph.vocabularies, graph.attributes, graph.edges
    )
    write_graph(changed, places / "graph")
    after = erase("User", "u3", graphs=[places / "graph"]).after
    reasons = {trace.place: trace.why for trace in after if trace.what == "text"}
    assert reasons["column town"] == "other nodes have the same text"
    assert reasons["column bio"] == ""


def test_what_is_left_works_and_others_keep_their_texts_and_vectors(places):
    before = ColdStartEngine.load(places / "model")
    with LadybugStore(places / "toy.lbug", memory_limit=1 << 28) as store:
        erase("User", "u3", stores=[store], models=[places / "model"], graphs=[places / "graph"])
    after = ColdStartEngine.load(places / "model")
    assert "u3" not in after.graph.users
    assert (after.embed("User", ["u9"]).matrix == before.embed("User", ["u9"]).matrix).all()
    graph = read_graph(places / "graph")
    assert "somebody else entirely" in graph.attributes["User"]["bio"].to_pylist()
    assert after.recommend(["u4"], 3).to_table().num_rows == 3


def test_a_run_that_was_stopped_half_way_is_completed_by_the_next(places):
    erase("User", "u3", models=[places / "model"], cache=VectorCache(places / "cache"))
    with LadybugStore(places / "toy.lbug", memory_limit=1 << 28) as store:
        both = {"stores": [store], "models": [places / "model"], "graphs": [places / "graph"]}
        again = erase("User", "u3", **both)
        assert {trace.what for trace in again.before} >= {"key", "text"}
        assert not {trace for trace in again.after if trace.what != "vector"}
        with pytest.raises(UnknownNodeError, match="'u3' is found in none of the places"):
            erase("User", "u3", **both)


def test_the_command_erases_and_reports(places, capsys):
    command = ["erase", "--user", "u3", "--store", str(places / "toy.lbug"), "--json"]
    command += ["--model", str(places / "model"), "--graph", str(places / "graph")]
    command += ["--cache", str(places / "cache")]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["before"]) > len(told["after"])
    assert any("1 node and" in done for done in told["done"])
    assert main(command) == 1
    assert "'u3' is found in none" in capsys.readouterr().err


def test_every_vector_of_a_node_is_looked_for_as_it_is_saved_and_as_it_is_told(tmp_path):
    graph = toy_graph(num_cold_items=8)
    posters = NodeEmbeddings(graph.items, np.random.default_rng(0).normal(size=(80, 6)))
    engine = ColdStartEngine.fit(graph, texts={}, vectors={"Movie": {"poster": posters}})
    engine.save(tmp_path / "model")
    killed = tmp_path / ".model.1.new"  # of a writer that was killed
    killed.mkdir()
    row, told = graph.items.row("m79"), engine.embed("Movie", ["m79"]).matrix
    saved = engine.item_vectors[row].numpy()
    assert not np.allclose(saved, told)  # a new item is told with a gain
    for name, vector in (("saved", saved), ("told", told), ("poster", posters.of(["m79"]))):
        (killed / name).write_bytes(vector.tobytes())
    report = erase("Movie", "m79", models=[tmp_path / "model"])
    found = {Path(trace.file).name for trace in report.before if trace.what == "vector"}
    assert found == {"arrays.safetensors", "saved", "told", "poster"}
    assert {Path(trace.file).parent for trace in report.after} == {killed}


@pytest.fixture
def served(engine, tmp_path, monkeypatch):
    """A model and the state of a server that heard of u3 and of somebody new; and an event log."""
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    engine.save(tmp_path / "model")
    like = {"user": "u3", "item": "m5", "kind": "like", "time": 9.0, "value": None}
    durable = DurableEngine(tmp_path / "model", tmp_path / "model.state")
    durable.submit({"op": "feedback", "events": [like], "now": 9.0})
    durable.submit({"op": "upsert", "nodes": {"User": [{"id": "new"}]}})
    durable.close()
    EventLog(tmp_path / "events.log").append([FeedbackEvent(**like), FeedbackEvent(**OTHERS)])
    return tmp_path


OTHERS = {"user": "u4", "item": "m5", "kind": "like", "time": 9.0}


def test_what_a_server_keeps_and_event_logs_are_erased_too_and_refit_goes_on(served, capsys):
    model, log = str(served / "model"), str(served / "events.log")
    command = ["erase", "--user", "u3", "--model", model, "--log", log]  # no store is needed
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "before: " + log + ", 1 event: key" in told
    assert f"before: {model}.state/journal" in told
    assert "after: " not in told
    assert list(EventLog(log)) == [FeedbackEvent(**OTHERS)]
    durable = DurableEngine(model, f"{model}.state")
    assert "u3" not in durable.current.engine.graph.users
    assert "new" in durable.current.engine.graph.users
    durable.close()
    assert main(["refit", model, "--log", log]) == 0
    assert main(command) == 1
    assert "'u3' is found in none of the places" in capsys.readouterr().err


def test_a_state_whose_model_was_erased_without_it_is_still_cleared(served):
    model, state = served / "model", served / "model.state"
    erase("User", "u3", models=[model])
    report = erase("User", "u3", models=[model], states={model: state})
    assert {t.what for t in report.before} == {"key"}
    assert report.after == ()
    with pytest.raises(UnknownNodeError):
        erase("User", "u3", models=[model], states={model: state})


def test_nothing_is_erased_while_a_server_has_the_state(served):
    durable = DurableEngine(served / "model", served / "model.state")
    with pytest.raises(RuntimeError, match="a server has it; send POST /erase to that, or stop it"):
        erase("User", "u3", models=[served / "model"], states={served / "model": durable.folder})
    assert "u3" in ColdStartEngine.load(served / "model").graph.users
    durable.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "model", "--log", "nope.log"], "there is no event log at nope.log"),
        (["--type", "User", "--store", "toy.lbug", "--log", "x.log"], "name a model or graph"),
        (["--model", "model", "--state", "nope"], "there is no folder nope; check the path"),
        (["--graph", "graph", "--state", "nope"], "--state: give one --model with it"),
        (["--type", "User"], "name a place to erase from: --store, --uri, --model or --graph"),
    ],
)
def test_a_place_that_is_not_there_is_told_before_anything_is_erased(
    places, options, message, monkeypatch, capsys
):
    monkeypatch.chdir(places)
    (places / "x.log").touch()
    assert main(["erase", "--user", "u3", *options]) == 1
    assert message in capsys.readouterr().err
    assert "u3" in ColdStartEngine.load("model").graph.users
