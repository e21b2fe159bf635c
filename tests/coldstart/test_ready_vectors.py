from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coldstart.engine import ColdStartEngine
from coldstart.evaluation import evaluate
from coldstart.splits import random_split
from kg import Edges, GraphDelta, NodeEmbeddings, Vocabulary
from kg.errors import AlignmentError, UnknownNodeError
from kg.toy import toy_graph

GRAPH = toy_graph(num_cold_items=12).apply(
    GraphDelta(removed_nodes={"Genre": ["space", "romance", "crime", "nature"]})
)


def posters(*keys: str, dim: int = 6) -> NodeEmbeddings:
    """Pictures that tell the taste."""
    noise = np.random.default_rng(1).normal(scale=0.1, size=(1000, dim))
    rows = [int(key.removeprefix("m")) for key in keys]
    tastes = np.eye(4, dim)[[row % 4 for row in rows]]
    return NodeEmbeddings(Vocabulary("Movie", keys), (tastes + noise[rows]).astype(np.float32))


WITH = [f"m{i}" for i in range(80) if i % 9]


@pytest.fixture(scope="module")
def engine() -> ColdStartEngine:
    vectors = {"Movie": {"poster": posters(*WITH)}}
    return ColdStartEngine.fit(GRAPH, texts={}, vectors=vectors)


def test_named_vectors_are_features_and_films_without_one_are_embedded_too(engine):
    assert "poster" in engine.items.propagation.names
    assert not engine.vectors["Movie"]["poster"].of(["m0", "m9"]).any()
    assert np.isfinite(engine.item_vectors.numpy()).all()
    assert "part_poster" in engine.recommend(["u1"], 3).evidence


def test_a_new_film_with_a_poster_goes_to_its_taste_and_one_without_may_get_it_later(engine):
    nodes = {"Movie": {"id": ["m401", "m402"]}}
    grown = engine.update(
        GraphDelta(nodes=nodes), texts={}, vectors={"Movie": {"poster": posters("m401")}}
    )
    drafted = engine.embed_new("Movie", vectors={"poster": posters("m401").matrix[0]})
    np.testing.assert_allclose(grown.embed("Movie", ["m401"]).matrix[0], drafted, atol=1e-5)
    fans = grown.score([f"u{u}" for u in range(60)], ["m401"])[:, 0].reshape(-1, 4).mean(axis=0)
    assert fans.argmax() == 1
    later = grown.update(
        GraphDelta(nodes={"Movie": {"id": ["m402"]}}),
        texts={},
        vectors={"Movie": {"poster": posters("m402")}},
    )
    whole = engine.embed_new("Movie", vectors={"poster": posters("m402").matrix[0]})
    np.testing.assert_allclose(later.embed("Movie", ["m402"]).matrix[0], whole, atol=1e-5)
    assert np.array_equal(later.embed("Movie", ["m3"]).matrix, engine.embed("Movie", ["m3"]).matrix)


def test_a_new_film_with_a_poster_copies_nobody_elses_and_the_engine_before_keeps_its_own(engine):
    def added(before, key):
        delta = GraphDelta(nodes={"Movie": {"id": [key]}})
        return before.update(delta, texts={}, vectors={"Movie": {"poster": posters(key)}})

    def matrix(engine):
        return engine.vectors["Movie"]["poster"].matrix

    first = added(engine, "m401")
    second, other = added(first, "m402"), added(first, "m403")
    assert np.shares_memory(matrix(first), matrix(second))
    assert not np.shares_memory(matrix(second), matrix(other))
    for some, key in ((first, "m401"), (second, "m402"), (other, "m403")):
        np.testing.assert_array_equal(matrix(some)[-1], posters(key).matrix[0])
    clicked = second.update(GraphDelta(nodes={"User": {"id": ["v"]}}))
    assert matrix(clicked) is matrix(second)
    ones = NodeEmbeddings(Vocabulary("Movie", ["m3"]), np.ones((1, 6)))
    both = GraphDelta(nodes={"Movie": {"id": ["m404", "m3"]}})
    again = second.update(both, texts={}, vectors={"Movie": {"poster": ones}})
    assert matrix(again)[3].tolist() == [1] * 6
    assert not matrix(again)[-1].any()
    np.testing.assert_array_equal(matrix(second)[3], posters("m3").matrix[0])


def test_they_follow_when_films_are_removed_and_come_back_from_disk(engine, tmp_path):
    left = engine.update(GraphDelta(removed_nodes={"Movie": ["m1", "m30"]}))
    left.save(tmp_path / "e")
    again = ColdStartEngine.load(tmp_path / "e")
    found = again.vectors["Movie"]["poster"]
    np.testing.assert_array_equal(
        found.of(["m79", "m0"]), engine.vectors["Movie"]["poster"].of(["m79", "m0"])
    )
    assert len(found.nodes) == 78
    fresh, before = (e.recomputed("Movie", ["m79"]).matrix for e in (again, engine))
    np.testing.assert_allclose(fresh, before, atol=1e-5)


def test_they_count_in_ratings_also_of_a_film_that_came_with_nothing_else(engine, tmp_path):
    delta = GraphDelta(nodes={"Movie": {"id": ["m401", "m402"]}})
    grown = engine.update(delta, texts={}, vectors={"Movie": {"poster": posters("m401", "m402")}})
    people = [f"u{u}" for u in range(60)]
    found = grown.rate(people, ["m401", "m402"])
    means = found.reshape(-1, 4, 2).mean(axis=0)  # by taste of the person, and film
    assert means.argmax(axis=0).tolist() == [1, 2]
    assert means[1, 0] - np.delete(means[:, 0], 1).max() > 0.5
    assert "poster" in grown.ratings.head.items.features.names
    grown.save(tmp_path / "e")
    again = ColdStartEngine.load(tmp_path / "e", device="cpu")
    np.testing.assert_allclose(again.rate(people, ["m401", "m402"]), found, atol=1e-5)


def test_vectors_that_do_not_fit_are_refused(engine):
    def fit(vectors):
        return ColdStartEngine.fit(GRAPH, texts={}, vectors=vectors)

    def update(vectors):
        return engine.update(
            GraphDelta(nodes={"Movie": {"id": ["m401"]}}), texts={}, vectors=vectors
        )

    with pytest.raises(ValueError, match=r"vectors= are of users \(User\) and items \(Movie\)"):
        fit({"City": {"map": posters("m1")}})
    with pytest.raises(ValueError, match="vectors= named 'text' are made by the engine"):
        fit({"Movie": {"text": posters("m1")}})
    with pytest.raises(UnknownNodeError):
        fit({"Movie": {"poster": posters("m999")}})
    with pytest.raises(ValueError, match="Movie 'm1' has a 'poster' vector with NaN or infinity"):
        fit(
            {
                "Movie": {
                    "poster": NodeEmbeddings(Vocabulary("Movie", ["m1"]), np.full((1, 2), np.nan))
                }
            }
        )
    with pytest.raises(AlignmentError, match=r"was fitted without vectors \['sound'\] of Movie"):
        update({"Movie": {"sound": posters("m401")}})
    with pytest.raises(AlignmentError, match="fitted on 6 floats each, got 7"):
        update({"Movie": {"poster": posters("m401", dim=7)}})
    with pytest.raises(AlignmentError, match="'m2' has a new vector 'poster' and is not in the"):
        update({"Movie": {"poster": posters("m2")}})
    with pytest.raises(ValueError, match=r"vectors= 'poster': expected \[6\] finite floats, got"):
        engine.embed_new("Movie", vectors={"poster": np.ones(3)})


def test_vectors_of_another_type_of_node_are_refused(engine):
    strange = NodeEmbeddings(Vocabulary("User", ["m401"]), np.ones((1, 6), np.float32))
    with pytest.raises(AlignmentError, match="of Movie were expected, and vectors of User came"):
        ColdStartEngine.fit(GRAPH, texts={}, vectors={"Movie": {"poster": strange}})
    delta = GraphDelta(nodes={"Movie": {"id": ["m401"]}})
    with pytest.raises(AlignmentError, match="of Movie were expected, and vectors of User came"):
        engine.update(delta, texts={}, vectors={"Movie": {"poster": strange}})


def test_an_evaluation_shows_them_to_the_engine_and_to_the_baselines():
    films = list(GRAPH.items)  # of which nothing but the poster tells the taste
    same = {
        "title": ["A film"],
        "plot": ["A story"],
        "year": [1990],
    }
    same = {"id": films} | {name: value * len(films) for name, value in same.items()}
    graph = GRAPH.apply(GraphDelta(nodes={"Movie": same}))
    graph = graph.with_edges(("Movie", "SIMILAR_TO", "Movie"), Edges(np.empty((2, 0), np.int64)))
    split = random_split(graph, cold_items=0.2, rng=np.random.default_rng(0))
    names = ["engine", "ridge to columns"]
    segments = {"cold_items": names}

    def quality(**features: Any) -> dict[str, float]:
        report = evaluate(graph, names, [split], texts={}, segments=segments, **features)
        return {name: report.values("cold_items", name)["random"] for name in names}

    plain = quality()
    told = quality(vectors={"Movie": {"poster": posters(*WITH)}})
    assert all(told[name] > plain[name] + 0.05 for name in names), (plain, told)
    with pytest.raises(AlignmentError, match="'poster' vectors of User were expected"):
        quality(vectors={"User": {"poster": posters("m1")}})
