"""Weights of interactions: what an engine makes of them, and keeps of them."""

from dataclasses import replace

import numpy as np
import pytest

from coldstart import ColdStartEngine, EngineConfig
from coldstart.baselines import BASELINES
from coldstart.training_data import TrainingData
from gnn.train import TrainConfig
from kg import GraphDelta
from kg.errors import GraphError, UnknownNodeError
from tests.coldstart.toys import RATED, ratings, word_vectors

COUNTED = EngineConfig(propagation=TrainConfig(strength_share=0.25))


def fit(graph, config=COUNTED):
    return ColdStartEngine.fit(graph, config, texts=word_vectors(graph), device="cpu")


@pytest.fixture(scope="module")
def engine(graph):
    return fit(graph)


def without_weights(graph, weight=None):
    """All positives, none of which counts more than another."""
    positive = graph.interactions.select(graph.interactions.weight >= 4)
    edges = replace(positive, weight=weight and np.full(len(positive), weight))
    schema = replace(graph.schema, positive_weight=weight)
    return replace(graph, schema=schema, edges=graph.edges | {RATED: edges})


def test_a_high_rating_pulls_harder_than_a_low_one(engine):
    least = engine.graph.schema.positive_weight
    low, high = engine.strengths(np.array([least, 5.0]))
    assert 0.75 < low < 1 < high < 1.25
    people = engine.update(
        GraphDelta(
            nodes={"User": {"id": ["a", "b"]}},
            edges={
                RATED: {
                    "source": ["a", "a", "b", "b"],
                    "target": ["m1", "m2", "m1", "m2"],
                    "weight": [5.0, least, least, 5.0],
                    "time": [1] * 4,
                }
            },
        )
    )
    one, other = people.score(["a", "b"], ["m1", "m2"])
    assert one[0] - one[1] > other[0] - other[1] + 1e-3


def test_without_different_weights_nothing_is_stronger(graph, engine):
    alike = fit(without_weights(graph, 4.0))
    assert alike.strengths is None
    np.testing.assert_array_equal(alike.item_vectors, fit(without_weights(graph)).item_vectors)
    off = fit(graph, EngineConfig(propagation=TrainConfig(strength_share=0)))
    assert off.strengths is None
    assert not np.array_equal(off.item_vectors, engine.item_vectors)


def test_of_several_ratings_of_a_pair_the_highest_counts(graph, engine):
    user, item = graph.users[0], graph.items[int(graph.interactions.index[1, 0])]
    pair = {"source": [user] * 2, "target": [item] * 2, "weight": [4.0, 5.0], "time": [1, 2]}
    row = np.array([graph.users.row(user)])
    edges = graph.interactions
    both = replace(
        edges,
        index=np.concatenate([edges.index, [[row[0]] * 2, [graph.items.row(item)] * 2]], axis=1),
        weight=np.concatenate([edges.weight, pair["weight"]]),
        time=np.concatenate([edges.time, pair["time"]]),
    )
    links = replace(engine, graph=graph.with_edges(RATED, both))._links("User", row)
    place = links.indices.tolist().index(graph.items.row(item))
    assert links.values[place] == engine.strengths(np.array([5.0]))[0]


@pytest.mark.parametrize("node_type", ["User", "Movie"])
def test_embeddings_follow_from_weights_before_and_after_saving(engine, node_type, tmp_path):
    keys = engine.graph.vocabularies[node_type]
    warm = (engine.users if node_type == "User" else engine.items).warm
    some = [keys[row] for row in warm.tolist()]
    now = engine.embed(node_type, some).matrix
    np.testing.assert_allclose(engine.recomputed(node_type, some).matrix, now, atol=1e-5)
    engine.save(tmp_path / "engine")
    again = ColdStartEngine.load(tmp_path / "engine", device="cpu")
    np.testing.assert_array_equal(again.strengths.values, engine.strengths.values)
    np.testing.assert_allclose(again.recomputed(node_type, some).matrix, now, atol=1e-5)


def test_a_draft_with_weights_is_what_adding_it_would_give(engine):
    for weights in ({"m1": 5.0, "m3": 4.0}, {"m1": 4.0, "m3": 5.0, "m2": 1.0}):
        names = list(weights)
        table = {"source": ["v"] * len(names), "target": names, "weight": list(weights.values())}
        delta = GraphDelta(
            nodes={"User": {"id": ["v"], "age": [25], "gender": ["x"]}},
            edges={RATED: table | {"time": [1] * len(names)}},
        )
        added = engine.update(delta).embed("User", ["v"]).matrix[0]
        draft = engine.embed_new(
            "User", links={RATED: weights}, properties={"age": 25, "gender": "x"}
        )
        np.testing.assert_allclose(draft, added, atol=1e-5)
        bare = engine.embed_new(
            "User", links={RATED: ["m1", "m3"]}, properties={"age": 25, "gender": "x"}
        )
        assert np.abs(bare - added).max() > 1e-3
    skipped = engine.embed_new("User", links={RATED: {"m1": 5, "no": 4}}, on_unknown="skip")
    np.testing.assert_array_equal(skipped, engine.embed_new("User", links={RATED: {"m1": 5}}))


def test_weights_of_what_has_none_are_refused(graph, engine):
    with pytest.raises(ValueError, match="weights came for its keys, and it has none"):
        engine.embed_new("User", links={("User", "FRIEND_OF", "User"): {"u1": 2.0}})
    with pytest.raises(UnknownNodeError):  # also where it would be no positive
        engine.embed_new("User", links={RATED: {"no": 1.0}})
    with pytest.raises(GraphError, match=r"links .*RATED.*, weights: 1 values are null, NaN"):
        engine.embed_new("User", links={RATED: {"m1": float("nan")}})
    with pytest.raises(ValueError, match="weights came for its keys, and it has none"):
        fit(without_weights(graph)).embed_new("User", links={RATED: {"m1": 2.0}})


def test_explanations_and_parts_add_up_where_weights_count(engine):
    user, item = engine.graph.users[0], engine.graph.items[int(engine.items.warm[0])]
    told = engine.explain(user, item)
    for parts in (told.parts, told.user_parts):
        assert sum(part.share for part in parts) == pytest.approx(told.score, abs=1e-4)
    row = engine.recommend([user], 1, candidates=[item], exclude_seen=False).to_pylist()[0]
    parts = [value for name, value in row.items() if name.startswith("part_")]
    assert sum(parts) == pytest.approx(row["score"], abs=1e-3)
    later = engine.update(GraphDelta(edges={RATED: ratings((user, item))}))
    again = later.explain(user, item)
    assert sum(part.share for part in again.parts) == pytest.approx(again.score, abs=1e-4)


def test_baselines_try_weights_where_they_differ(graph):
    data = TrainingData(graph, {})
    assert data.weighted is not None
    np.testing.assert_array_equal(data.weighted.indices, data.matrix.indices)
    settings = BASELINES["EASE"](data)
    users, items = data.warm_users[:9], data.warm_items
    one, other = (
        settings[name]().score(users, items) for name in ("penalty=200", "penalty=200 by weight")
    )
    x = data.weighted[:, items].toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 200 * np.eye(len(items)))
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(other, x[users] @ b, atol=1e-5)
    assert np.abs(one - other).max() > 1e-4
    assert any("by weight" in name for name in BASELINES["ridge to ALS factors"](data))
    alike = TrainingData(without_weights(graph, 4.0), {})
    assert alike.weighted is None
    assert not any("by weight" in name for name in BASELINES["EASE"](alike))
