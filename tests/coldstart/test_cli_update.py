"""The shell brings an engine up to a graph, asks of what is not there, takes vectors."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart import ColdStartEngine
from coldstart.cli import main
from coldstart.feedback import FeedbackEvent
from kg import GraphDelta, NodeEmbeddings
from kg.difference import difference
from kg.files import read_graph_files, write_graph
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.test_feedback import NOW
from tests.coldstart.toys import GENRE, RATED, ratings

DRAFT = {"id": ["draft"], "title": ["Laser orbit"], "plot": ["galaxy"], "year": [1999]}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    engine = ColdStartEngine.fit(toy_graph(num_cold_items=8), device="cpu")
    engine.save(folder := tmp_path_factory.mktemp("fitted") / "model")
    return folder


@pytest.fixture
def model(fitted, tmp_path):
    return shutil.copytree(fitted, tmp_path / "model")


@pytest.fixture
def delta():
    """A new film and person, a rating of hers, and a person who leaves."""
    return GraphDelta(
        nodes={"Movie": DRAFT, "User": {"id": ["zoe"], "age": [30], "gender": ["F"]}},
        edges={
            RATED: ratings(("zoe", "m1"), ("zoe", "m5")),
            GENRE: {"source": ["draft"], "target": ["space"]},
        },
        removed_nodes={"User": ["u3"]},
    )


def given(tmp_path, content) -> list[str]:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "given.json").write_text(text)
    return ["--given", str(tmp_path / "given.json")]


@pytest.mark.parametrize("source", ["graph", "store"])
def test_an_engine_is_brought_up_to_a_graph_as_update_does_it(
    model, delta, source, tmp_path, capsys
):
    before = ColdStartEngine.load(model)
    graph = before.graph.apply(delta)
    if source == "graph":
        write_graph(graph, tmp_path / "graph")
    else:
        with LadybugStore(tmp_path / "graph") as store:
            store.write(graph)
    command = ["update", str(model), str(tmp_path / "graph")]
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "1 Movie node new or changed" in told
    assert "1 User node removed" in told
    assert not difference(before.graph, ColdStartEngine.load(model).graph)
    assert main(command) == 0
    assert told in capsys.readouterr().out
    after, expected = ColdStartEngine.load(model), before.update(delta)
    for node_type in ("User", "Movie"):
        keys = list(expected.graph.vocabularies[node_type])
        np.testing.assert_allclose(
            after.embed(node_type, keys).matrix,
            expected.embed(node_type, keys).matrix,
            atol=1e-5,
        )
    assert main(command) == 0
    assert capsys.readouterr().out == "nothing changed\n"


def test_what_an_engine_heard_is_not_lost_in_silence(model, delta, tmp_path, capsys):
    engine = ColdStartEngine.load(model)
    write_graph(engine.graph.apply(delta), tmp_path / "graph")
    heard = engine.feedback([FeedbackEvent("u1", "m76", "rating", NOW, value=5)]).engine
    heard.save(model)
    command = ["update", str(model), str(tmp_path / "graph")]
    assert main(command) == 1
    assert (
        "heard feedback that the graph does not have, and would lose it" in capsys.readouterr().err
    )
    assert main([*command, "--dry-run"]) == 1
    assert "1 Movie node new or changed" in capsys.readouterr().out
    assert main([*command, "--keep"]) == 0
    after = ColdStartEngine.load(model)
    assert after.heard.users.keys() == {"u1"}
    assert {"zoe", "u3"} <= set(after.graph.users)
    rated = after.graph.edge_table(RATED).to_pylist()
    assert ("u1", "m76") in {(row["source"], row["target"]) for row in rated}


def test_a_graph_that_has_what_was_heard_is_taken_as_it_is(model, delta, tmp_path):
    engine = ColdStartEngine.load(model)
    heard = engine.feedback([FeedbackEvent("u1", "m76", "rating", NOW, value=5)]).engine
    heard.save(model)
    write_graph(heard.graph.apply(delta), tmp_path / "graph")
    assert main(["update", str(model), str(tmp_path / "graph")]) == 0
    after = ColdStartEngine.load(model)
    assert after.heard == heard.heard
    assert "u3" not in set(after.graph.users)


def test_a_pair_that_was_heard_of_stays_as_it_was_heard(model, tmp_path):
    engine = ColdStartEngine.load(model)
    first = engine.graph.edge_table(RATED).to_pylist()[0]
    user, film = first["source"], first["target"]
    told = ratings((user, film), weight=3.0)
    write_graph(engine.graph.apply(GraphDelta(edges={RATED: told})), tmp_path / "graph")
    engine.feedback([FeedbackEvent(user, film, "rating", NOW, value=1)]).engine.save(model)
    assert main(["update", str(model), str(tmp_path / "graph"), "--keep"]) == 0
    after = ColdStartEngine.load(model)
    rows = after.graph.edge_table(RATED).to_pylist()
    assert [r["weight"] for r in rows if (r["source"], r["target"]) == (user, film)] == [1.0]
    assert film in after.heard.users[user]


def test_a_graph_without_most_of_the_nodes_needs_a_yes(model, tmp_path, capsys):
    engine = ColdStartEngine.load(model)
    gone = {"Movie": list(engine.graph.items)[:41]}
    write_graph(engine.graph.apply(GraphDelta(removed_nodes=gone)), tmp_path / "graph")
    command = ["update", str(model), str(tmp_path / "graph")]
    assert main(command) == 1
    assert "41 of 80 Movie nodes would go" in capsys.readouterr().err
    assert len(ColdStartEngine.load(model).graph.items) == 80
    assert main([*command, "--yes"]) == 0
    assert len(ColdStartEngine.load(model).graph.items) == 39


def test_a_graph_without_most_of_the_interactions_needs_a_yes(model, tmp_path, capsys):
    graph = ColdStartEngine.load(model).graph
    few = graph.interactions.select(np.arange(len(graph.interactions)) < 9)
    write_graph(graph.with_edges(RATED, few), tmp_path / "graph")
    command = ["update", str(model), str(tmp_path / "graph")]
    assert main(command) == 1
    assert "User-RATED-Movie edges would go" in capsys.readouterr().err
    assert len(ColdStartEngine.load(model).graph.interactions) == len(graph.interactions)
    assert main([*command, "--yes"]) == 0
    assert len(ColdStartEngine.load(model).graph.interactions) == 9
    # Without times all edges are replaced, and none is lost.
    untimed = replace(few, time=None)
    write_graph(graph.with_edges(RATED, untimed), tmp_path / "graph")
    assert main(command) == 0


def test_a_graph_with_another_schema_is_refused(model, tmp_path, capsys):
    graph = read_graph_files(model / "graph")
    other = replace(graph, schema=replace(graph.schema, positive_weight=2))
    write_graph(other, tmp_path / "graph")
    assert main(["update", str(model), str(tmp_path / "graph")]) == 1
    assert "is not the one that" in capsys.readouterr().err
    assert main(["update", str(model), str(tmp_path / "graph"), "--login", "me"]) == 1
    assert "--login: this is for a server" in capsys.readouterr().err


def test_the_vectors_are_those_of_the_engine_and_can_be_given_to_fit(model, tmp_path, capsys):
    engine, file = ColdStartEngine.load(model), tmp_path / "films.parquet"
    assert main(["vectors", str(model), "Movie", str(file)]) == 0
    assert f"80 vectors of {engine.dim} floats written to {file}" in capsys.readouterr().out
    found = NodeEmbeddings.from_table("Movie", pq.read_table(file))
    assert found.nodes == engine.graph.items
    np.testing.assert_array_equal(found.matrix, engine.embeddings("Movie").matrix)
    assert main(["vectors", str(model), "Genre", str(file)]) == 1
    assert "embeddings are made for 'User' and 'Movie'" in capsys.readouterr().err
    assert pq.read_table(file).num_rows == 80
    assert main(["vectors", str(model), "Movie", str(tmp_path)]) == 1
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_lists_and_explanations_of_somebody_who_is_not_there(model, tmp_path, capsys):
    zoe = {
        "nodes": {
            "User": [{"id": "zoe", "age": 30, "gender": "F"}],
            "Movie": [{name: values[0] for name, values in DRAFT.items()}],
        },
        "edges": [
            {"type": list(RATED), "source": "zoe", "target": f"m{n}", "weight": 5, "time": 9**9}
            for n in (1, 5)
        ],
    }
    before = (model / "manifest.json").read_bytes()
    option = given(tmp_path, zoe)
    assert main(["recommend", str(model), "zoe", "-k", "3", "--json", *option]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    engine = ColdStartEngine.load(model)
    films = ratings(("zoe", "m1"), ("zoe", "m5")) | {"time": pa.array([9**9] * 2)}
    nodes = {"User": {"id": ["zoe"], "age": [30], "gender": ["F"]}, "Movie": DRAFT}
    expected = engine.update(GraphDelta(nodes=nodes, edges={RATED: films})).recommend(["zoe"], 3)
    assert [row["item"] for row in rows] == [row["item"] for row in expected.to_pylist()]
    assert main(["audience", str(model), "draft", "-k", "2", *option]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["explain", str(model), "zoe", "draft", "--json", *option]) == 0
    assert json.loads(capsys.readouterr().out)["user"] == "zoe"
    assert (model / "manifest.json").read_bytes() == before
    assert main(["recommend", str(model), "zoe"]) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is no JSON in UTF-8"),
        ('{"nodes": {"User": [{"id": NaN}]}}', "NaN is no number of JSON"),
        ([], "it holds no object; expected the like of"),
        ({"users": {}}, "it has 'users' beside nodes and edges"),
        ({"nodes": []}, "nodes are no object of lists by type"),
        ({"nodes": {"User": {"id": "zoe"}}}, "nodes of 'User' are no list of objects"),
        ({"nodes": {"User": [{"id": ["zoe"]}]}}, "keys are whole numbers or strings"),
        ({"nodes": {"User": [{"id": {"of": "zoe"}}]}}, "'id' of 'User' is an object"),
        ({"edges": {}}, "edges are no list"),
        ({"edges": [3]}, "edges[0] is no object"),
        ({"edges": [{"type": "RATED"}]}, "has the type 'RATED', no list of three names"),
        ({"edges": [{"type": list(RATED), "source": 1.5}]}, "has the source 1.5, no key"),
        ({"edges": [{"type": list(RATED), "stars": 5}]}, "has 'stars', and an edge only"),
        (
            {"edges": [{"type": list(RATED), "source": "a", "target": "b", "weight": "5"}]},
            "has the weight '5', no number",
        ),
        (
            {"edges": [{"type": list(RATED), "source": "a", "target": "b", "time": 1.5}]},
            "has the time 1.5, no whole number or date",
        ),
        ({"nodes": {"User": []}}, "the request changes nothing"),
        ({"nodes": {"Person": [{"id": "zoe"}]}}, "there are no 'Person' nodes"),
        ({"nodes": {"User": [{"id": "zoe", "town": "Rome"}]}}, "has no property 'town'"),
    ],
)
def test_what_is_given_and_wrong_is_told(model, content, expected, tmp_path, capsys):
    assert main(["recommend", str(model), "zoe", *given(tmp_path, content)]) == 1
    assert expected in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(model, capsys):
    assert main(["audience", str(model), "m1", "--given", "nowhere.json"]) == 1
    assert "--given: there is no file nowhere.json" in capsys.readouterr().err
