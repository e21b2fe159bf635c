from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kg import Edges, GraphDelta, KnowledgeGraph, Schema
from kg.difference import difference
from kg.toy import toy_graph
from tests.contracts import FILMS, RATED, films, same_graph


def changed_at_random(graph: KnowledgeGraph, rng: np.random.Generator) -> KnowledgeGraph:
    """The graph with some nodes and edges gone, others new, others changed."""
    gone = rng.choice(list(graph.items), 5, replace=False).tolist()
    graph = graph.apply(GraphDelta(removed_nodes={"Movie": gone}))
    edges = graph.interactions
    kept = edges.select(np.sort(rng.choice(len(edges), len(edges) - 40, replace=False)))
    assert kept.weight is not None
    weight = np.where(rng.random(len(kept)) < 0.1, 2.5, kept.weight)
    graph = graph.with_edges(RATED, Edges(kept.index, weight, kept.time))
    some = rng.choice(list(graph.items), 6, replace=False).tolist()
    new = [f"new {n}" for n in range(4)]
    nodes = {"id": some + new, "title": [f"Other {n}" for n in range(10)], "year": [None] * 10}
    links = {"source": new, "target": rng.choice(list(graph.vocabularies["Genre"]), 4)}
    rated = {"source": ["u0"] * 4, "target": new, "weight": [5.0] * 4, "time": [1] * 4}
    return graph.apply(
        GraphDelta(
            nodes={"Movie": nodes}, edges={("Movie", "HAS_GENRE", "Genre"): links, RATED: rated}
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_difference_turns_the_old_graph_into_the_new_one(seed):
    old = toy_graph()
    new = changed_at_random(old, np.random.default_rng(seed))
    delta = difference(old, new)
    same_graph(old.apply(delta), new)
    assert not difference(new, new)
    assert not difference(new, old.apply(delta))


def test_only_changed_nodes_and_properties_are_named():
    new = films(
        Movie={
            "id": ["m3", "1", "m2"],
            "title": [None, "Stalker", ""],
            "year": [2002.0, 1972.0, None],
            "tags": [None, ["space", "sea"], []],
        }
    )
    delta = difference(films(), new)
    assert delta.nodes["Movie"].to_pylist() == [{"id": "1", "title": "Stalker"}]
    assert (dict(delta.edges), dict(delta.removed_edges)) == ({}, {})
    assert not delta.removed_nodes


def test_a_property_that_is_gone_becomes_null_and_a_list_is_compared_whole():
    old = films()
    movies = pa.table({"title": ["Solaris", "", None], "tags": [["space"], [], None]})
    delta = difference(old, replace(old, attributes={**old.attributes, "Movie": movies}))
    assert delta.nodes["Movie"].to_pylist() == [
        {"id": "1", "tags": ["space"], "year": None},
        {"id": "m3", "tags": None, "year": None},
    ]


def test_a_node_type_and_its_edges_that_are_gone_are_removed():
    old = films()
    nodes = {t: old.node_table(t) for t in ("User", "Movie")}
    edges = {e: old.edge_table(e) for e in old.edge_types if e[2] != "Genre"}
    new = KnowledgeGraph.from_tables(nodes, edges, FILMS)
    delta = difference(old, new)
    assert delta.removed_nodes == {"Genre": ["sf"]}
    assert old.apply(delta).num_edges(("Movie", "IN_GENRE", "Genre")) == 0


def test_weights_that_come_or_go_replace_all_edges():
    old = films()
    bare = old.with_edges(RATED, Edges(old.interactions.index))
    same_graph(old.apply(difference(old, bare)), bare)
    same_graph(bare.apply(difference(bare, old)), old)


def test_of_parallel_edges_the_last_counts():
    def rated(*weights: float) -> KnowledgeGraph:
        edges = {"source": [1] * len(weights), "target": ["a"] * len(weights), "weight": weights}
        return KnowledgeGraph.from_tables(
            {"User": {"id": [1]}, "Movie": {"id": ["a"]}},
            {RATED: edges},
            Schema("User", "Movie", RATED),
        )

    delta = difference(rated(1.0, 2.0), rated(1.0, 3.0))
    assert rated(1.0, 2.0).apply(delta).interactions.weight.tolist() == [3.0]
