import json

import numpy as np
import pytest

from coldstart.cli import main
from encoders import VectorCache
from kg.files import write_graph
from kg.toy import toy_graph
from tests.encoders.conftest import tiny_bert  # noqa: F401 - a fixture


@pytest.fixture
def folder(tmp_path):
    write_graph(toy_graph(), tmp_path / "graph")
    return str(tmp_path / "graph")


def test_texts_shows_a_sample_and_what_is_cut(folder, capsys):
    command = ["texts", "--graph", folder, "--type", "Movie", "--sample", "2"]
    assert main([*command, "--neighbours", "HAS_GENRE", "--max-chars", "25"]) == 0
    first, *sample = capsys.readouterr().out.splitlines()
    assert first.startswith("Movie: 80 nodes, ")
    assert "80 cut; characters: median 2" in first
    assert len(sample) == 2
    assert all(line.startswith("  m") and len(line) <= 32 for line in sample)


def test_texts_names_the_neighbours_of_the_types_that_have_the_relation(folder, capsys):
    command = ["texts", "--graph", folder, "--type", "Movie", "--type", "User", "--json"]
    assert main([*command, "--neighbours", "HAS_GENRE"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all("genre: " in text for text in told["Movie"]["sample"].values())
    assert told["User"]["nodes"] == 60
    assert main([*command, "--neighbours", "HAS_GENRE,DIRECTED"]) == 1
    assert "no relation 'DIRECTED' at Movie or User, only ['" in capsys.readouterr().err


def test_texts_counts_the_tokens_of_a_model(folder, capsys):
    command = ["texts", "--graph", folder, "--type", "Movie", "--model", "all-MiniLM-L6-v2"]
    assert main([*command, "--template", "{title} " * 200, "--json", "--sample", "1"]) == 0
    told = json.loads(capsys.readouterr().out)["Movie"]
    assert told["tokens"]["model takes"] == 256
    assert told["tokens"]["texts cut"] == 80
    assert len(told["sample"]) == 1


def test_texts_names_what_it_cannot_do(folder, capsys):
    command = ["texts", "--graph", folder, "--type", "Movie", "--type", "User"]
    assert main([*command, "--template", "{id}"]) == 1
    assert "--template is for one node type, got ['Movie', 'User']" in capsys.readouterr().err


def test_the_cache_is_shown_pruned_and_cleared(tmp_path, capsys):
    cache = VectorCache(tmp_path)
    matrix = np.random.default_rng(0).normal(size=(1000, 384)).astype(np.float32)
    cache.put_many("f", [str(i) for i in range(1000)], matrix, label="a-model")
    command = ["cache", "--folder", str(tmp_path)]
    assert main(command) == 0
    assert "1000 of 384 numbers" in (out := capsys.readouterr().out)
    assert out.endswith("a-model\n")
    assert main([*command, "--prune", "1MB", "--json"]) == 0
    assert 100 < json.loads(capsys.readouterr().out)["num_vectors"] < 700
    assert main([*command, "--clear"]) == 0
    assert ": 0 vectors, 0.0 MB" in capsys.readouterr().out
    assert main([*command, "--prune", "much"]) == 1
    assert "--prune 'much': expected a size like 500MB or 2GB" in capsys.readouterr().err


def test_adapt_says_which_graph_to_pass(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["adapt", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "interactions that are held out to judge by must not be in it" in said


def test_adapt_writes_settings_to_edit_then_an_adapter(folder, tiny_bert, tmp_path, capsys):  # noqa: F811
    settings, place = tmp_path / "adapt.toml", str(tmp_path / "adapter")
    command = ["adapt", place, "--graph", folder, "--model", str(tiny_bert), "--quiet"]
    assert main([*command, "--write-config", str(settings)]) == 0
    text = (
        settings.read_text().replace("steps = 60", "steps = 2").replace("steps = 100", "steps = 2")
    )
    settings.write_text(text)
    capsys.readouterr()
    assert main([*command, "--config", str(settings)]) == 0
    told = capsys.readouterr().out
    assert "triples: 2 steps on " in told
    assert f"adapter written to {place}" in told
    assert main([*command, "--config", str(settings), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["tastes"]["steps"] == 2
