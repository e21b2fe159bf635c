from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from coldstart.engine import ColdStartEngine
from coldstart.writing_back import write_back
from kg import KnowledgeGraph, NodeEmbeddings, Schema
from kg.stores import LadybugStore
from kg.stores.values import FOLDED_PROPERTY, QUERY_PROPERTY
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors


@pytest.fixture(scope="module")
def engine() -> ColdStartEngine:
    graph = toy_graph(num_cold_items=8)
    fitted = ColdStartEngine.fit(graph, texts=word_vectors(graph), cache=None)
    bias = torch.linspace(-0.3, 0.3, len(graph.items))  # so that biases matter
    return dataclasses.replace(fitted, newness=bias, cold_boost=1.0)


def test_values_read_back_and_a_second_write_back_writes_nothing(engine):
    with LadybugStore(memory_limit=1 << 28) as store:
        store.write(engine.graph)
        write_back(engine, store, index=False)
        embeddings = engine.embeddings("Movie")
        read = store.read_embeddings("Movie")
        assert np.array_equal(read.of(list(embeddings.nodes)), embeddings.matrix)
        found = store.query("MATCH (m:Movie) RETURN m.id AS i, m.coldstart_bias AS b").to_pylist()
        bias = dict(zip(engine.graph.items, engine.item_bias.tolist(), strict=True))
        assert {r["i"]: r["b"] for r in found} == bias
        again = write_back(engine, store, index=False)
        for (node_type, _), report in again.reports.items():
            assert (
                report.unchanged
                == report.embeddings
                == {node_type: engine.graph.num_nodes(node_type)}
            )


def test_a_dry_run_says_what_would_be_written(engine):
    with LadybugStore(memory_limit=1 << 28) as store:
        store.write(engine.graph)
        said = str(write_back(engine, store, dry_run=True))
        assert "Movie.coldstart_folded:\n  80 Movie vectors would be written" in said
        assert "embedding" not in store.contents().nodes["Movie"].sample.column_names
        fetched = (
            "would fetch the embedded store's vector extension, which is not installed" in said
        )
        assert fetched == (not store._has_vector_extension())


@pytest.mark.neo4j
def test_cosine_order_in_cypher_is_the_order_of_the_engine(engine, neo4j_store):
    neo4j_store.write(engine.graph)
    write_back(engine, neo4j_store)
    cypher = (
        "MATCH (u:User), (m:Movie) WITH u, m, "
        "vector.similarity.cosine(u.coldstart_query, m.coldstart_folded) AS s "
        "ORDER BY s DESC RETURN u.id AS user, collect(m.id) AS items"
    )
    rows = {r["user"]: r["items"] for r in neo4j_store.query(cypher).to_pylist()}
    ours = engine.recommend(list(rows), 80, exclude_seen=False, evidence=False).to_table()
    for user, items in rows.items():
        mine = ours.filter(np.array(ours["user"].to_pylist()) == user)["item"].to_pylist()
        assert items == mine


@pytest.mark.neo4j
def test_the_query_that_comes_with_a_write_back_recommends_unseen_items(engine, neo4j_store):
    neo4j_store.write(engine.graph)
    written = write_back(engine, neo4j_store)
    for user in ("u0", "u7"):
        found = neo4j_store.query(written.cypher, user=user, k=10)["item"].to_pylist()
        assert found == engine.recommend([user], 10, evidence=False).to_table()["item"].to_pylist()


@pytest.mark.neo4j
@pytest.mark.slow
def test_the_index_finds_at_least_95_of_a_hundred_of_the_50_best(neo4j_store):
    from coldstart.folding import fold_items, fold_users

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    items = centres[np.arange(4000) % 20] + rng.normal(size=(4000, 64))
    items *= rng.lognormal(sigma=0.4, size=(4000, 1))
    users, bias = (
        centres[rng.integers(0, 20, 40)] + rng.normal(size=(40, 64)),
        rng.normal(size=4000),
    )
    rated = ("User", "RATED", "Movie")
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": np.arange(40)}, "Movie": {"id": np.arange(4000)}},
        {rated: {"source": [0], "target": [0]}},
        Schema("User", "Movie", rated),
    )
    neo4j_store.write(graph)
    folded = NodeEmbeddings(graph.items, fold_items(items, bias).matrix)
    neo4j_store.write_embeddings(folded, FOLDED_PROPERTY, index=True)
    neo4j_store.write_embeddings(NodeEmbeddings(graph.users, fold_users(users)), QUERY_PROPERTY)
    found = neo4j_store.query(
        "MATCH (u:User) CALL (u) { CALL db.index.vector.queryNodes("
        "'vector Movie coldstart_folded', 300, u.coldstart_query) YIELD node, score "
        "WITH node ORDER BY score DESC LIMIT 50 RETURN collect(node.id) AS items } "
        "RETURN u.id AS user, items"
    ).to_pylist()
    best = np.argsort(-(users @ items.T + bias), axis=1)[:, :50]
    recall = np.mean([len({*r["items"]} & {*best[r["user"]].tolist()}) / 50 for r in found])
    assert recall >= 0.95  # asked for 300 and cut, as recommending_cypher does
