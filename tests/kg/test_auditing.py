from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import kg
from kg import Edges, GraphDelta, KnowledgeGraph, Schema
from kg.auditing import AuditLimits, plain_name
from kg.likeness import shuffled_links
from kg.toy import TOY_SCHEMA, toy_graph

GENRE = ("Movie", "HAS_GENRE", "Genre")
SIMILAR = ("Movie", "SIMILAR_TO", "Movie")
DATA = Path(os.environ.get("KG_COLDSTART_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def clean() -> KnowledgeGraph:
    return toy_graph()


def faults(graph: KnowledgeGraph) -> set[tuple[str, str]]:
    return {(f.check, f.subject) for f in kg.audit(graph).faults}


def with_edges(graph, edge_type, source, target) -> KnowledgeGraph:
    return graph.apply(GraphDelta(edges={edge_type: {"source": source, "target": target}}))


def test_a_clean_graph_passes(clean):
    assert faults(clean) == set()


def test_shuffled_links_are_neither_informative_nor_alike(clean):
    shuffled = shuffled_links(clean, [GENRE, SIMILAR], np.random.default_rng(3))
    assert faults(shuffled) == {
        (check, "-".join(edge_type))
        for check in ("informative relation", "links like nodes")
        for edge_type in (GENRE, SIMILAR)
    }


def test_links_of_users_are_judged_by_what_they_like(clean):
    lives, friend = ("User", "LIVES_IN", "City"), ("User", "FRIEND_OF", "User")
    found = kg.audit(shuffled_links(clean, [lives], np.random.default_rng(3)))
    informative = found.of("informative relation")
    assert informative["-".join(lives)].is_fault
    assert not informative["-".join(friend)].is_fault


def test_a_relation_of_few_links_is_unknown_and_no_fault(clean):
    graph = with_edges(clean, ("Movie", "IN", "Series"), ["m0", "m1"], ["a", "a"])
    found = kg.audit(graph).of("informative relation")["Movie-IN-Series"]
    assert (found.verdict, found.is_fault) == ("unknown", False)
    assert "2 links" in found.sentence


def test_duplicate_entities_are_found_across_case_accents_and_punctuation(clean):
    names = {"id": ["x", "y", "z"], "name": ["Amélie P.", "amelie p", "Other"]}
    graph = clean.apply(
        GraphDelta(
            nodes={"Person": names},
            edges={("Movie", "BY", "Person"): {"source": ["m0"] * 3, "target": ["x", "y", "z"]}},
        )
    )
    found = kg.audit(graph).of("duplicate entities")["Person"]
    assert found.is_fault
    assert found.figure == pytest.approx(1 / 3)
    assert found.examples == ({"keys": ["x", "y"], "names": ["Amélie P.", "amelie p"]},)


def test_a_plain_name_keeps_letters_of_every_script():
    assert plain_name("  The Beatles! ") == plain_name("the-beatles")
    assert plain_name("映画 1") == "映画1"


def test_a_relation_with_the_same_links_as_another_is_found(clean):
    again = ("Movie", "KIND", "Genre")
    edges = clean.edges[GENRE]
    graph = dataclasses.replace(clean, edges={**clean.edges, again: edges})
    assert ("duplicate relation", "Movie-KIND-Genre") in faults(graph)


def test_isolated_items_are_counted_with_examples(clean):
    graph = clean.apply(GraphDelta(nodes={"Movie": {"id": [f"n{i}" for i in range(10)]}}))
    found = kg.audit(graph).of("isolated items")["Movie"]
    assert (found.is_fault, found.figure) == (True, pytest.approx(10 / 90))
    assert found.examples[0] == {"item": "n0"}
    assert "10 of them no text either" in found.sentence


def test_a_relation_that_copies_interactions_is_found(clean):
    pairs = clean.edge_table(clean.schema.interaction)
    graph = with_edges(clean, ("User", "VIEWED", "Movie"), pairs["source"], pairs["target"])
    found = kg.audit(graph).of("leaked interactions")["User-VIEWED-Movie"]
    assert (found.is_fault, found.figure) == (True, 1.0)
    assert set(found.examples[0]) == {"user", "item"}


def test_interactions_hidden_behind_nodes_with_the_users_keys_are_found(clean):
    pairs = clean.edge_table(clean.schema.interaction)
    seen_by = ("Movie", "SEEN_BY", "Viewer")
    graph = with_edges(clean, seen_by, pairs["target"], pairs["source"])
    assert ("leaked interactions", "Movie-SEEN_BY-Viewer") in faults(graph)


def test_an_item_item_relation_made_from_interactions_is_found(clean):
    users, items = clean.positives()
    seen = np.zeros((len(clean.items), len(clean.users)))
    seen[items, users] = 1
    unit = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1)
    near = unit @ unit.T
    np.fill_diagonal(near, 0)
    target = np.argsort(-near, axis=1)[:, :3].reshape(-1)
    index = np.stack([np.repeat(np.arange(len(seen)), 3), target])
    graph = clean.with_edges(("Movie", "ALSO_LIKED", "Movie"), Edges(index))
    assert ("leaked interactions", "Movie-ALSO_LIKED-Movie") in faults(graph)


def test_a_hub_is_named_with_its_share(clean):
    items = list(clean.items)
    other = [f"l{n % 7}" for n in range(len(items))]
    graph = with_edges(
        clean, ("Movie", "IN", "Language"), items * 2, ["english"] * len(items) + other
    )
    found = kg.audit(graph).of("hub entities")["Movie-IN-Language"]
    assert (found.is_fault, found.figure) == (True, 1.0)
    assert found.examples[0] == {"entity": "english", "links": 80}


def test_missing_texts_are_counted(clean):
    some = [f"m{n}" for n in range(20)]
    blank = {"id": some, "title": [" "] * 20, "plot": pa.nulls(20, pa.string())}
    found = kg.audit(clean.apply(GraphDelta(nodes={"Movie": blank}))).of("missing texts")["Movie"]
    assert (found.is_fault, found.figure) == (True, 0.25)


def test_a_constant_property_one_mostly_missing_and_one_that_is_absent_are_found(clean):
    schema = dataclasses.replace(
        TOY_SCHEMA,
        numeric={"Movie": ("year", "discs")},
        categorical={"Movie": ("colour", "studio")},
    )
    graph = dataclasses.replace(clean, schema=schema)
    colours = ["red", "blue", *[""] * 39, *[None] * 39]  # an empty cell of CSV is no value
    few = {"id": list(clean.items), "colour": colours}
    graph = graph.apply(GraphDelta(nodes={"Movie": few}))
    every = {"id": list(clean.items), "discs": [1] * 80}
    audited = kg.audit(graph.apply(GraphDelta(nodes={"Movie": every})))
    assert audited.of("missing values")["Movie.colour"].figure == 78 / 80
    found = faults(graph.apply(GraphDelta(nodes={"Movie": every})))
    assert ("constant property", "Movie.discs") in found
    assert ("missing values", "Movie.colour") in found
    assert ("missing values", "Movie.studio") in found


def test_edges_left_out_and_entities_without_an_edge_are_found():
    rated = ("User", "RATED", "Movie")
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": [1]}, "Movie": {"id": [1]}, "Genre": {"id": ["g"]}},
        {rated: {"source": [1, 1], "target": [1, 9]}},
        Schema("User", "Movie", rated),
        on_dangling="skip",
    )
    audit = kg.audit(graph)
    assert audit.of("dangling edges")["User-RATED-Movie"].figure == 0.5
    assert audit.of("unlinked entities")["Genre"].is_fault


def test_an_empty_graph_is_looked_at_without_a_word(clean):
    nothing = KnowledgeGraph.from_tables(
        {"User": {"id": []}, "Movie": {"id": []}},
        {},
        Schema("User", "Movie", ("User", "R", "Movie")),
    )
    assert kg.audit(nothing).faults == ()


def test_an_audit_as_json_table_and_text_says_the_same(clean):
    audit = kg.audit(shuffled_links(clean, [GENRE], np.random.default_rng(3)))
    told = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert told["faults"] == len(audit.faults) == 2
    assert audit.to_table()["verdict"].to_pylist().count("fault") == 2
    assert "informative relation Movie-HAS_GENRE-Genre" in audit.to_text()
    assert audit.to_text(every=True).count("\n") > audit.to_text().count("\n")


def test_the_same_seed_gives_the_same_audit_and_limits_can_be_set(clean):
    assert kg.audit(clean, rng=1).to_dict() == kg.audit(clean, rng=1).to_dict()
    strict = kg.audit(clean, AuditLimits(hub=0.1))
    assert {f.check for f in strict.faults} == {"hub entities"}


def test_importing_kg_does_not_load_scipy():
    code = "import sys, kg; print('scipy' in sys.modules); kg.audit; print('scipy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[0] == "False"


@pytest.mark.slow
def test_the_links_of_movielens_are_told_from_the_same_links_shuffled():
    if not (DATA / "ml100k").exists():
        pytest.skip(f"the development data is not at {DATA}; set KG_COLDSTART_DATA")
    from benchmarks.quality.data import ml100k

    graph = ml100k()
    links = [e for e in graph.edge_types if e != graph.schema.interaction]
    good = kg.audit(graph).of("informative relation")
    bad = kg.audit(shuffled_links(graph, links, np.random.default_rng(5)))
    assert len(good) == len(links) > 10
    assert not any(found.is_fault for found in good.values())
    assert all(found.is_fault for found in bad.of("informative relation").values())
    assert min(f.figure for f in good.values()) > 2 * max(
        f.figure for f in bad.of("informative relation").values()
    )
