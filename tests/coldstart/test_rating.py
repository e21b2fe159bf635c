import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from coldstart import ColdStartEngine, EngineConfig
from coldstart.metrics import rmse
from coldstart.rating import rating_vectors
from gnn.ratings import RatingConfig
from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Schema
from kg.datasets import load_movielens_100k
from kg.errors import GraphError, SavedFileError, UnknownNodeError
from tests.coldstart.toys import RATED, part_of, ratings, vectors_of, word_vectors

COLD_ITEMS = [f"m{n}" for n in range(72, 80)]
COLD_USERS = [f"u{n}" for n in range(54, 60)]
USERS, ITEMS = [f"u{n}" for n in range(60)], [f"m{n}" for n in range(80)]


@pytest.fixture(scope="module")
def rater(graph):
    """An engine whose rating head is trained; it never changes."""
    engine = fitted(graph)
    engine.rate(["u0"], ["m0"])
    return engine


def fitted(graph, **options):
    return ColdStartEngine.fit(graph, texts=word_vectors(graph), device="cpu", **options)


def liked(found, users, items):
    """Mean rating within a taste, and across."""
    own = np.array([[int(u[1:]) % 4 == int(i[1:]) % 4 for i in items] for u in users])
    return found[own].mean(), found[~own].mean()


def trains(caplog):
    return sum("training the rating head" in record.message for record in caplog.records)


# What comes out


def test_known_pairs_are_rated_as_they_were(graph, rater):
    found = rater.rate(USERS, ITEMS)
    edges = graph.interactions
    assert found.dtype == np.float32
    assert found.shape == (60, 80)
    assert found.min() >= 1
    assert found.max() <= 5
    assert rmse(found[tuple(edges.index)], edges.weight) < 0.75


def test_a_cold_item_of_a_planted_taste_is_rated_right(rater):
    own, other = liked(rater.rate(USERS[:54], COLD_ITEMS), USERS[:54], COLD_ITEMS)
    assert own - other > 1.5


def test_a_cold_user_and_both_cold_are_too(rater):
    for items in (ITEMS[:72], COLD_ITEMS):
        own, other = liked(rater.rate(COLD_USERS, items), COLD_USERS, items)
        assert own - other > 0.8


def test_the_rating_is_mean_and_biases_and_the_cosine_with_gains(rater):
    head = rater.ratings.head
    u, i = (
        rating_vectors(rater, head, t, np.arange(9)).double().numpy() for t in ("User", "Movie")
    )
    gain = np.outer(np.linalg.norm(u[:, 1:], axis=1), np.linalg.norm(i[:, 1:], axis=1))
    cosine = (u[:, 1:] @ i[:, 1:].T) / gain
    r = head.mean + head.scale * (u[:, :1] + i[:, 0] + gain * cosine)
    np.testing.assert_allclose(rater.rate(USERS[:9], ITEMS[:9]), r.clip(1, 5), atol=1e-5)


def test_a_rating_does_not_depend_on_its_company_or_order(rater):
    every = rater.rate(USERS, ITEMS)
    for user, item in ((0, 0), (59, 3), (7, 79), (58, 77)):
        alone = rater.rate([USERS[user]], [ITEMS[item]])
        np.testing.assert_allclose(alone[0, 0], every[user, item], atol=1e-5)
    again = rater.rate(["u5", "u1", "u5"], ["m3", "m0"])
    np.testing.assert_allclose(again, every[[5, 1, 5]][:, [3, 0]], atol=1e-5)
    assert rater.rate([], ["m1"]).shape == (0, 1)


def test_the_references_come_back_from_edges_features_and_the_other_side(rater):
    head = rater.ratings.head
    found = rating_vectors(rater, head, "User", head.users.warm)
    np.testing.assert_allclose(found, head.users.reference.mean, atol=1e-5)


# What is new


def test_a_cold_item_rates_the_same_whether_it_was_there_or_came_later(graph, rater):
    gone = GraphDelta(removed_nodes={"Movie": COLD_ITEMS, "User": COLD_USERS})
    fewer = fitted(graph.apply(gone))
    texts = vectors_of(word_vectors(graph), COLD_ITEMS)
    back = fewer.update(part_of(graph, Movie=COLD_ITEMS, User=COLD_USERS), texts=texts)
    np.testing.assert_allclose(back.rate(USERS, ITEMS), rater.rate(USERS, ITEMS), atol=1e-4)


def test_new_ratings_count_without_training(rater, caplog):
    caplog.set_level(logging.INFO)
    before = rater.rate(["u58"], ["m2", "m6", "m1"])
    dull = GraphDelta(edges={RATED: ratings(("u58", "m10"), ("u58", "m14"), weight=1.0)})
    after = rater.update(dull).rate(["u58"], ["m2", "m6", "m1"])
    assert (after[0, :2] < before[0, :2] - 0.1).all()
    assert trains(caplog) == 0


def test_a_node_that_nothing_touched_is_rated_bit_for_bit_alike(rater):
    updated = rater.update(GraphDelta(edges={RATED: ratings(("u58", "m10"))}))
    users, items = [u for u in USERS if u != "u58"], [i for i in ITEMS if i != "m10"]
    friends = rater.graph.edge_table(("User", "FRIEND_OF", "User")).to_pylist()
    near = {e["source"] for e in friends if e["target"] == "u58"}
    near |= {e["target"] for e in friends if e["source"] == "u58"}
    users = [u for u in users if u not in near]
    np.testing.assert_array_equal(updated.rate(users, items), rater.rate(users, items))


def test_one_change_and_its_halves_give_the_same(rater):
    pairs = ratings(("u58", "m10"), ("u58", "m11")), ratings(("u57", "m10"), ("u3", "m75"))
    halves = rater
    for table in pairs:
        halves = halves.update(GraphDelta(edges={RATED: table}))
    whole = {name: [*pairs[0][name], *pairs[1][name]] for name in pairs[0]}
    at_once = rater.update(GraphDelta(edges={RATED: whole}))
    np.testing.assert_array_equal(at_once.rate(USERS, ITEMS), halves.rate(USERS, ITEMS))


def test_two_new_nodes_that_rate_each_other_move_each_other(rater):
    new = {"nodes": {"User": {"id": ["v"], "age": [25]}, "Movie": {"id": ["n"], "year": [1990]}}}
    texts = {"Movie": NodeEmbeddings(pa_vocabulary(["n"]), np.zeros((1, 24), np.float32))}
    shy = rater.update(GraphDelta(**new), texts=texts).rate(["v"], ["n"])
    fond = rater.update(
        GraphDelta(**new, edges={RATED: ratings(("v", "n"), weight=5.0)}), texts=texts
    )
    assert fond.rate(["v"], ["n"]) > shy + 0.1


def pa_vocabulary(keys):
    from kg import Vocabulary

    return Vocabulary("Movie", pa.chunked_array([keys]))


def test_after_a_removal_the_others_are_rated_as_before(rater):
    gone = {"Movie": ["m0", "m75"], "User": ["u2", "u57"], "Genre": ["crime"]}
    kept = [u for u in USERS if u not in gone["User"]], [i for i in ITEMS if i not in gone["Movie"]]
    updated = rater.update(GraphDelta(removed_nodes={"User": ["u57"]}))
    cold = [u for u in USERS if u != "u57"]
    np.testing.assert_allclose(updated.rate(cold, ITEMS), rater.rate(cold, ITEMS), atol=0.05)
    found = rater.update(GraphDelta(removed_nodes=gone)).rate(*kept)
    assert np.abs(found - rater.rate(*kept)).mean() < 0.2
    own, other = liked(found, *kept)
    assert own - other > 1.5


# When the head is trained


def test_the_head_is_trained_once_and_when_first_asked_for(graph, caplog):
    caplog.set_level(logging.INFO)
    engine = fitted(graph)
    updated = engine.update(GraphDelta(edges={RATED: ratings(("u58", "m10"))}))
    assert trains(caplog) == 0
    for asked in (engine, engine, updated, updated.update(GraphDelta())):
        asked.rate(["u0"], ["m0"])
    assert trains(caplog) == 2


def test_one_training_serves_all_later_engines_of_a_row_of_updates(graph, caplog):
    caplog.set_level(logging.INFO)
    one = fitted(graph).update(GraphDelta(edges={RATED: ratings(("u58", "m10"))}))
    two = one.update(GraphDelta(edges={RATED: ratings(("u58", "m11"))}))
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda engine: engine.rate(["u0"], ["m0"]), (one, two, one)))
    assert trains(caplog) == 1
    assert one.ratings.basis is None  # the graph before the changes is let go


def test_it_does_not_matter_when_somebody_asks_first(graph, rater):
    delta = GraphDelta(edges={RATED: ratings(("u58", "m10"), ("u3", "m75"), weight=2.0)})
    late = fitted(graph).update(delta)
    np.testing.assert_array_equal(late.rate(USERS, ITEMS), rater.update(delta).rate(USERS, ITEMS))


def test_who_was_removed_is_not_trained_on_later(graph):
    engine = fitted(graph).update(GraphDelta(removed_nodes={"User": ["u2"]}))
    engine.rate(["u1"], ["m1"])
    assert len(engine.ratings.head.users.warm) == 53


# Disk


@pytest.mark.parametrize("asked", [True, False])
def test_a_loaded_engine_rates_identically(graph, rater, tmp_path, asked):
    engine = rater if asked else fitted(graph)
    engine.save(tmp_path / "model")
    loaded = ColdStartEngine.load(tmp_path / "model", device="cpu")
    assert (loaded.ratings.head is not None) == asked
    np.testing.assert_array_equal(loaded.rate(USERS, ITEMS), rater.rate(USERS, ITEMS))


def test_an_updated_engine_that_nobody_asked_is_trained_before_it_is_saved(graph, tmp_path):
    delta = GraphDelta(edges={RATED: ratings(("u58", "m10"), weight=2.0)})
    engine = fitted(graph).update(delta)
    engine.save(tmp_path / "model")
    loaded = ColdStartEngine.load(tmp_path / "model", device="cpu")
    more = GraphDelta(edges={RATED: ratings(("u3", "m75"))}, removed_nodes={"User": ["u5"]})
    np.testing.assert_array_equal(
        loaded.update(more).rate(["u1", "u58"], ITEMS),
        engine.update(more).rate(["u1", "u58"], ITEMS),
    )


def test_settings_come_along_and_a_head_that_lacks_an_array_is_refused(rater, graph, tmp_path):
    from gnn.checkpoint import head_from_state, head_to_state

    config = EngineConfig(ratings=RatingConfig(dim=2, sweeps=3))
    engine = fitted(graph, config=config)
    engine.save(tmp_path / "model")
    loaded = ColdStartEngine.load(tmp_path / "model", device="cpu")
    assert loaded.config == config
    assert loaded.rate(["u1"], ["m1"]) == engine.rate(["u1"], ["m1"])
    meta, arrays = head_to_state(rater.ratings.head)
    del arrays["users.variance"]
    with pytest.raises(SavedFileError, match=r"rating head lacks 'users\.variance'; save again"):
        head_from_state(meta, arrays, rater.item_vectors.device)


# Errors


def test_interactions_without_weights_have_no_scale_to_rate_in():
    schema = Schema(user="User", item="Movie", interaction=RATED)
    nodes = {"User": {"id": ["u", "v"]}, "Movie": {"id": ["a", "b"]}}
    edges = {RATED: {"source": ["u", "v"], "target": ["a", "b"]}}
    graph = KnowledgeGraph.from_tables(nodes, edges, schema)
    engine = ColdStartEngine.fit(graph, texts={}, device="cpu")
    with pytest.raises(GraphError, match=r"2 interactions .* have no weights.*column 'weight'"):
        engine.rate(["u"], ["a"])
    assert engine.score(["u"], ["a"]).shape == (1, 1)


def test_unknown_users_and_items_are_named(rater):
    with pytest.raises(UnknownNodeError, match="'u99' is not among the 60 known"):
        rater.rate(["u99"], ["m1"])
    with pytest.raises(UnknownNodeError, match="'m99' is not among the 80 known"):
        rater.rate(["u1"], ["m99"])


# Real data


@pytest.mark.slow
def test_movielens_is_rated_better_than_by_biases():
    graph = load_movielens_100k()
    edges = graph.interactions
    held_out = np.random.default_rng(0).random(len(edges)) < 0.2
    training = graph.with_edges(RATED, edges.select(~held_out))
    engine = ColdStartEngine.fit(training, texts=no_texts(graph), device="cpu")
    found = engine.rate(list(graph.users), list(graph.items))[tuple(edges.index[:, held_out])]
    assert rmse(found, edges.weight[held_out]) < 0.91


def no_texts(graph):
    return {"Movie": NodeEmbeddings(graph.items, np.zeros((len(graph.items), 2), np.float32))}
