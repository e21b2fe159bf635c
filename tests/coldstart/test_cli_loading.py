"""Commands over an engine that was fitted with a graph encoder of the user's own."""

import re
from pathlib import Path

import pytest

from coldstart.cli import main
from coldstart.engine import ColdStartEngine
from kg.files import read_graph_files
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.test_graph_encoders import FamiliarEncoder, PlainEncoder
from tests.coldstart.toys import word_vectors

NAMED = ["--graph-encoder-class", f"{FamiliarEncoder.__module__}:FamiliarEncoder"]


@pytest.fixture(scope="module")
def engine():
    graph = toy_graph(num_cold_items=8)
    texts = word_vectors(graph)
    return ColdStartEngine.fit(graph, texts=texts, graph_encoders=[FamiliarEncoder()])


@pytest.fixture
def model(engine, tmp_path):
    engine.save(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def store(tmp_path, model):
    with LadybugStore(tmp_path / "toy.lbug", memory_limit=1 << 28) as store:
        store.write(toy_graph(num_cold_items=8))
    return str(tmp_path / "toy.lbug")


def test_every_command_that_loads_the_engine_takes_the_encoder(model, store, tmp_path, capsys):
    commands = (
        ["recommend", model, "u1"],
        ["explain", model, "u1", "m1"],
        ["refit", model],
        ["update", model, "--store", store],
        ["vectors", model, "Movie", str(tmp_path / "films.parquet")],
        ["write-back", model, "--store", store, "--dry-run"],
        ["erase", "--user", "u3", "--store", store, "--model", model, "--cache", str(tmp_path)],
    )
    for command in commands:
        assert main(command) == 1
        assert f"or at a command {' '.join(NAMED)}" in capsys.readouterr().err
        assert main([*command, *NAMED]) == 0
    assert "u3" not in read_graph_files(Path(model) / "graph").users


def test_a_served_engine_has_it_also_when_it_is_loaded_again(model, monkeypatch):
    def use(durable, *rest):
        durable.erase("User", "u3")
        durable.reload()
        assert isinstance(durable.current.engine.graph_encoders[0], FamiliarEncoder)
        durable.close()

    monkeypatch.setattr("coldstart.serving.running.run", use)
    assert main(["serve", model, "--open", *NAMED]) == 0
    assert "u3" not in read_graph_files(Path(model) / "graph").users


def test_an_engine_takes_only_its_own_of_several(model):
    encoders = [PlainEncoder(), FamiliarEncoder()]
    assert ColdStartEngine.load(model, graph_encoders=encoders).graph_encoders == (encoders[1],)


def test_a_module_in_the_folder_of_the_command_is_found(model, tmp_path, monkeypatch):
    source = "from tests.coldstart.test_graph_encoders import FamiliarEncoder\n"
    (tmp_path / "encoder_beside.py").write_text(
        f"{source}\ndef made():\n    return FamiliarEncoder()"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    found = ["--graph-encoder-class", "encoder_beside:made"]
    assert main(["recommend", model, "u1", *found]) == 0


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("FamiliarEncoder", "expected MODULE:NAME, such as"),
        (".relative:Name", "expected MODULE:NAME, such as"),
        ("no_such_module:Name", "is not found: No module named 'no_such_module'; check the name"),
        ("json:Name", "is not found: module 'json' has no attribute 'Name'"),
        ("collections:namedtuple", "cannot be called without arguments"),
        ("collections:Counter", "expected a gnn.encoding.GraphEncoder, with fit.* got a Counter"),
    ],
)
def test_what_is_no_graph_encoder_is_refused(capsys, named, told):
    assert main(["recommend", "model", "u1", "--graph-encoder-class", named]) == 1
    assert re.search(told, capsys.readouterr().err)
