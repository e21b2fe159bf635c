"""The command: cheap to ask for help, clear when something is wrong."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from coldstart import ColdStartEngine
from coldstart.cli import main
from kg import KnowledgeGraph, NodeEmbeddings, Schema
from kg.files import write_graph
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.toys import RATED


def _python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_and_import_bring_no_torch():
    code = (
        "import sys, coldstart, coldstart.cli; coldstart.cli.parser();"
        "print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    assert _python(code).stdout.strip() == "[]"


def test_the_help_of_a_command_begins_with_what_it_does(capsys):
    for command, says in (("fit", "Train an engine on a graph"), ("adapt", "Teach a text encoder")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"\n\n{says}" in capsys.readouterr().out


def test_help_takes_less_than_300_milliseconds_of_processor_time():
    code = (
        "import time; start = time.process_time();"
        "from coldstart.cli import parser; parser().format_help();"
        "print(time.process_time() - start)"
    )
    assert min(float(_python(code).stdout) for _ in range(5)) < 0.3


@pytest.mark.parametrize("given", [None, "active"])
def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    code = "import sys, os, coldstart; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    assert _python(code).stdout.split() == ["False", given or "passive"]


def test_fit_and_recommend_from_a_store(tmp_path, capsys):
    graph = toy_graph()
    schema = tmp_path / "schema.toml"
    graph.schema.write(schema)
    with LadybugStore(tmp_path / "toy.lbug") as store:
        store.write(graph)
    model = str(tmp_path / "model")
    assert main(["fit", str(tmp_path / "toy.lbug"), model, "--schema", str(schema)]) == 0
    capsys.readouterr()
    user = graph.users[0]
    assert main(["recommend", model, str(user), "-k", "3", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["user"] for row in rows} == {user}
    titles = dict(zip(graph.items, graph.node_table("Movie")["title"].to_pylist(), strict=True))
    assert [row["name"] for row in rows] == [titles[row["item"]] for row in rows]
    best = rows[0]["item"]
    assert main(["recommend", model, user, "-k", "1"]) == 0
    place = f"{user}\t1\t{best}\t{rows[0]['score']:.4f}\t{titles[best]}\n"
    assert capsys.readouterr().out == place
    assert main(["audience", model, best, "-k", "2"]) == 0
    expected = ColdStartEngine.load(model).audience([best], 2).to_pylist()
    lines = [f"{best}\t{r['rank']}\t{r['user']}\t{r['score']:.4f}\n" for r in expected]
    assert capsys.readouterr().out == "".join(lines)


def test_fit_takes_the_folder_of_a_graph_and_no_roles_beside_it(tmp_path, capsys):
    graph, model = toy_graph(num_users=12, num_items=8, ratings_per_user=4), tmp_path / "model"
    write_graph(graph, tmp_path / "graph")
    command = ["fit", str(tmp_path / "graph"), str(model)]
    assert main(command) == 0
    assert ColdStartEngine.load(model).graph.schema == graph.schema
    assert main([*command, "--positive-weight", "2"]) == 1
    assert "--positive-weight: a graph folder has its schema in it" in capsys.readouterr().err


def test_fit_tells_of_items_without_interactions_and_lifts_them_as_it_is_told(tmp_path, capsys):
    write_graph(toy_graph(num_cold_items=8), tmp_path / "graph")
    command = ["fit", str(tmp_path / "graph"), str(tmp_path / "model")]
    assert main([*command, "--cold-boost", "0.25"]) == 0
    assert "8 of 80 Movie nodes without interactions are taken for new" in capsys.readouterr().out
    assert ColdStartEngine.load(tmp_path / "model").cold_boost == 0.25
    assert main([*command, "--cold-boost", "0"]) == 0
    assert "without interactions" not in capsys.readouterr().out


def test_fit_and_evaluate_take_ready_made_vectors_from_files(tmp_path, capsys):
    graph = toy_graph(num_users=80)
    graph.schema.write(tmp_path / "schema.toml")
    write_graph(graph, tmp_path / "graph")
    with LadybugStore(tmp_path / "toy.lbug") as store:
        store.write(graph)
    posters = NodeEmbeddings(graph.items.take(np.arange(60)), np.eye(60, 5))
    pq.write_table(posters.to_table(), tmp_path / "posters.parquet")
    given = ["--vectors", f"Movie.poster={tmp_path / 'posters.parquet'}"]
    fit = ["fit", str(tmp_path / "toy.lbug"), str(tmp_path / "model")]
    assert main([*fit, "--schema", str(tmp_path / "schema.toml"), *given]) == 0
    engine = ColdStartEngine.load(tmp_path / "model")
    np.testing.assert_array_equal(
        engine.vectors["Movie"]["poster"].of(list(posters.nodes)), posters.matrix
    )
    options = ["--splits", "1", "--segments", "cold_items", "--baselines", "none", *given]
    assert main(["evaluate", str(tmp_path / "graph"), *options]) == 0
    assert main([*fit, *given, *given]) == 1
    assert "Movie.poster is given twice" in capsys.readouterr().err


def test_evaluate_writes_tables_and_a_picture_and_prints_what_came_out(tmp_path, capsys):
    write_graph(toy_graph(num_users=80), tmp_path / "graph")
    tables, picture = tmp_path / "found.md", tmp_path / "found.png"
    options = ["--splits", "2", "--segments", "warm,nine", "--baselines", "popularity", "-k", "5"]
    options += ["--metrics", "ndcg,auc", "--markdown", str(tables), "--plot", str(picture)]
    assert main(["evaluate", str(tmp_path / "graph"), *options]) == 0
    printed = capsys.readouterr()
    assert "warm (2 splits)" in printed.out
    assert "engine, NDCG@5  cold items" in printed.out
    assert "split 1, warm: engine 0." in printed.err
    assert tables.read_text().startswith("| engine, NDCG@5 | cold items |")
    assert "| popularity | 0." in tables.read_text()
    curves = tmp_path / "found_by_interactions.png"
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (picture, curves))


def test_evaluate_by_time_with_dates_names_the_splits_by_them(tmp_path, capsys):
    toy, films = toy_graph(num_users=80), toy_graph().schema.interaction
    dated = toy.with_edges(films, replace(toy.interactions, time=toy.interactions.time * 10**6))
    write_graph(dated, tmp_path / "graph")
    options = ["--kind", "temporal", "--splits", "2", "--segments", "warm", "--json"]
    assert main(["evaluate", str(tmp_path / "graph"), *options, "--baselines", "none"]) == 0
    splits = [row["split"] for row in json.loads(capsys.readouterr().out)["rows"]]
    assert re.fullmatch(r"until 2001-\d\d-\d\d \d\d:46:40", splits[0])


def test_evaluate_by_time_as_json(tmp_path, capsys):
    write_graph(toy_graph(num_users=80), tmp_path / "graph")
    options = ["--kind", "temporal", "--splits", "1", "--segments", "warm", "--json"]
    assert main(["evaluate", str(tmp_path / "graph"), *options, "--baselines", "none"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["scorer"], row["split"]) == ("engine", "until the end")
    assert set(row["metrics"]) >= {"ndcg", "auc", "coverage", "novelty"}


GOOD = "Good, The Bad and The Ugly, The"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["Star Wars", "The Terminator"]),
        (["--likes", "Alien, Fargo,"], ["Alien", "Fargo"]),
        (["--likes", f'"{GOOD}", Fargo'], [GOOD, "Fargo"]),
        (["--likes", GOOD, "--likes", "Fargo"], [GOOD, "Fargo"]),
        (["--likes", f'"{GOOD}"'], [GOOD]),
    ],
)
def test_titles_with_commas_can_be_named(arguments, expected, monkeypatch):
    named = []

    def run_demo(folder, film, likes, **settings):
        named.extend(likes)

    monkeypatch.setattr("coldstart.demo.run_demo", run_demo)
    assert main(["demo", *arguments]) == 0
    assert named == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "nowhere.lbug", "model"], "there is no graph folder or store at nowhere.lbug"),
        (["recommend", "nowhere", "1"], "no saved cold-start engine"),
        (["demo", "--splits", "0"], "at least 1 split"),
        (["evaluate", "nowhere"], "nowhere"),
        (["fit", "a", "b", "--vectors", "Movie=x"], "expected TYPE.NAME=FILE, such as"),
        (["fit", "a", "b", "--vectors", "Movie.poster=x.parquet"], "there is no file x.parquet"),
        (["fit", "a", "b", "--vectors", f"Movie.poster={__file__}"], "is no Parquet file"),
        (["evaluate", "nowhere", "--segments", "hot"], "no segment is named 'hot'; known: nine"),
        (["evaluate", "nowhere", "--segments", ","], "no segment is named; give --segments nine"),
        (
            ["evaluate", "nowhere", "--baselines", "SVD"],
            "no scorer is named 'SVD'; known: 'engine', 'engine, own l",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) == 1


def test_an_option_that_a_command_lacks_is_told_with_the_usage_of_that_command(capsys):
    with pytest.raises(SystemExit):
        main(["recommend", "model", "u1", "--top", "3"])
    error = capsys.readouterr().err
    assert error.startswith("usage: coldstart recommend [-h] [-k K]")
    assert "coldstart recommend: error: unrecognized arguments: --top" in error


def test_explain_tells_the_order_where_user_and_item_may_be_swapped(tmp_path, capsys):
    toy = toy_graph(num_users=12, num_items=8, ratings_per_user=4)
    edges = toy.edge_table(RATED)
    numbered = edges.set_column(1, "target", [np.arange(len(edges)) % 5])
    graph = KnowledgeGraph.from_tables({}, {RATED: numbered}, Schema("User", "Movie", RATED))
    ColdStartEngine.fit(graph, texts={}, device="cpu").save(tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "3", "4"]) == 1
    error = capsys.readouterr().err
    assert "User '3' is not among the 12 known" in error
    assert error.endswith("(first the User, then the Movie)\n")
    assert main(["explain", str(tmp_path / "model"), "u1", "u2"]) == 1
    error = capsys.readouterr().err
    assert "keys of Movie are whole numbers in this model, got 'u2'; check the key (first" in error


def test_a_keyboard_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("coldstart.cli._recommend", interrupted)
    started = time.monotonic()
    assert main(["recommend", "model", "1"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert time.monotonic() - started < 5


def test_fit_takes_the_graph_encoder_by_name(tmp_path, capsys):
    command = ["fit", str(tmp_path / "toy.lbug"), str(tmp_path / "model")]
    assert main([*command, "--graph-encoder", "gcn"]) == 1
    assert "graph_encoder must be one of" in capsys.readouterr().err
    assert main([*command, "--graph-encoder", "propagation+hgt"]) == 1
    assert "there is no graph folder or store at" in capsys.readouterr().err
