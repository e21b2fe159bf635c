from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart import ColdStartEngine, calibration
from coldstart.calibration import (
    COLD_GAIN,
    FAMILIAR_SHARE,
    HALF_NEW,
    _some_of_all_popularities,
    familiarity,
    newness,
    newness_since_training,
    simulated_cold_boost,
    unwanted,
)
from coldstart.engine import inputs_of_graph
from coldstart.judging import (
    calibrate_cold_boost,
    calibrate_on_several,
    evaluate_boosts,
    evaluate_task,
)
from coldstart.scorer import CosineBiasScorer, MatrixScorer
from coldstart.splits import Task
from gnn.data import Adjacency
from gnn.train import TrainConfig, train
from kg import GraphDelta, KnowledgeGraph
from kg.toy import toy_graph
from tests.coldstart.toys import RATED, ratings, word_vectors


@pytest.fixture(scope="module")
def trained(graph):
    """A training of that graph, and the inputs of its items."""
    inputs = inputs_of_graph(graph, word_vectors(graph), graph.edge_types)
    rng, cpu = np.random.default_rng(0), torch.device("cpu")
    return train(*inputs, graph.positives(), TrainConfig(), rng=rng, device=cpu), inputs[1]


def boost(trained, rng=0):
    return simulated_cold_boost(*trained, np.random.default_rng(rng))


def test_the_simulated_lift_repeats_and_is_finite(trained):
    assert boost(trained) == boost(trained)
    assert np.isfinite(boost(trained, rng=1))


def test_where_nobody_can_be_asked_there_is_no_lift(trained):
    (training, inputs), one = trained, np.zeros(1, np.int64)
    links = Adjacency.from_pairs(one, one, 1, 1)
    alone = replace(training, rehearsal=replace(training.rehearsal, links=links))
    assert boost((alone, inputs)) == 0


def test_a_simulation_asks_for_what_was_hidden_and_for_nothing_known(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, **_: seen.extend(found) or 0
    )
    boost(trained)
    _, task = seen[0]
    asked = trained[0].rehearsal.links.take(task.users)
    assert task.relevant.degrees.min() >= 2  # of both kinds
    np.testing.assert_array_equal(task.relevant.degrees + task.excluded.degrees, asked.degrees)
    assert not np.isin(task.excluded.indices, np.flatnonzero(task.cold)).any()
    assert np.isin(np.flatnonzero(task.cold), task.relevant.indices).any()


def test_too_many_users_and_items_are_sampled(trained, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_USERS", 5)
    monkeypatch.setattr(calibration, "MAX_ITEMS", 50)
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, **_: seen.extend(found) or 0
    )
    boost(trained)
    _, task = seen[0]
    assert (len(task.users), len(task.candidates), task.cold.sum() > 0) == (5, 50, True)
    assert len(task.relevant) == 5


def test_a_simulation_is_repeated_until_enough_users_were_asked(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, **_: seen.append(found) or 0
    )
    boost(trained)
    asked = [len(task.users) for _, task in seen[0]]
    assert len(asked) == calibration.MAX_TIMES
    cold = [tuple(np.flatnonzero(task.cold)) for _, task in seen[0]]
    assert len(set(cold)) == len(cold)
    monkeypatch.setattr(calibration, "ENOUGH_USERS", asked[0] + 1)
    boost(trained)
    assert [len(task.users) for _, task in seen[1]] == asked[:2]


def test_the_lift_for_several_tasks_is_the_best_over_all_their_users():
    one = np.ones((1, 1), np.float32)
    items = np.array([[3.0], [2.9], [0.5], [1.0]], np.float32)
    scorer = CosineBiasScorer(one, items, np.zeros(4, np.float32))
    cold = [False, False, True, True]
    wanted, unwanted = mixed_task(cold, [3]), mixed_task(cold, [0])
    high = calibrate_on_several([(scorer, wanted), (scorer, wanted), (scorer, unwanted)], k=1)
    low = calibrate_on_several([(scorer, wanted), (scorer, unwanted), (scorer, unwanted)], k=1)
    assert high > 2
    assert low < 2
    with pytest.raises(ValueError, match="expected at least one scorer"):
        calibrate_on_several([])


def test_items_of_all_popularities_play_cold():
    rng = np.random.default_rng(0)
    counts = rng.permutation(np.arange(200) // 2)
    masks = np.array([_some_of_all_popularities(counts, rng) for _ in range(200)])
    by_popularity = np.argsort(counts, kind="stable")
    assert (masks.sum(axis=1) == 20).all()
    assert (masks[:, by_popularity[-10:]].sum(axis=1) == 1).all()
    assert 2 < masks.sum(axis=0).min() < masks.sum(axis=0).max() < 60  # every item now and then
    assert _some_of_all_popularities(np.array([3]), rng).tolist() == [True]


def test_old_items_that_nobody_wanted_are_counted_from_those_that_few_wanted():
    assert unwanted(np.array([1, 1, 1, 1, 2, 30])) == 4 * 3 / (2 * 2) - 4 / 6
    assert unwanted(np.array([1, 2, 5])) == 0
    assert unwanted(np.array([1] * 10 + [2] * 10)) == 0  # those without are wanted like others


def test_items_that_nobody_wanted_stand_between_those_that_play_cold(trained, monkeypatch):
    monkeypatch.setattr(calibration, "unwanted", lambda counts: 5.3)
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, **_: seen.extend(found) or 0
    )
    boost(trained)
    scorer, task = seen[0]
    assert len(task.candidates) == len(scorer.items) == 72 + 5
    assert task.cold[-5:].all()
    assert task.relevant.indices.max() < 72  # nobody wanted them
    assert len({tuple(row) for row in scorer.items[-5:].tolist()}) == 5
    assert np.abs(scorer.items[-5:]).max() > 0.01


def mixed_task(cold, relevant):
    links = Adjacency.from_pairs(np.zeros(len(relevant), int), np.array(relevant), 1, len(cold))
    none = Adjacency.from_pairs(np.empty(0, int), np.empty(0, int), 1, len(cold))
    cold = np.array(cold)
    return Task("mixed", "val", np.array([0]), np.arange(len(cold)), links, none, cold)


def test_cold_items_are_lifted_where_their_scores_are_too_low_and_lowered_where_too_high():
    one = np.ones((1, 1), np.float32)
    low = CosineBiasScorer(one, np.array([[3.0], [2.9], [0.5]], np.float32), np.zeros(3, "f"))
    high = CosineBiasScorer(one, np.array([[3.0], [2.9], [9.0]], np.float32), np.zeros(3, "f"))
    cold = [False, False, True]
    assert calibrate_cold_boost(low, mixed_task(cold, [2])) > 2.4
    assert calibrate_cold_boost(high, mixed_task(cold, [0, 1])) < -6


def test_an_item_is_lifted_by_what_it_lacks_in_history(engine, graph):
    edges = {RATED: ratings(("u1", "m78"), ("u2", "m78"))}
    disliked = {RATED: ratings(("u1", "m79"), weight=1.0)}
    after = graph.apply(GraphDelta(edges=edges)).apply(GraphDelta(edges=disliked))
    found = 3 * newness(after, engine.items, np.array([0, 77, 78, 79]))
    np.testing.assert_allclose(found, [0, 3, 3 * (1 - 2 / (2 + HALF_NEW)), 1.5], rtol=1e-6)
    alone = [newness_since_training(n, m) for n, m in ((0.0, 0.0), (2.0, 0.0))]
    np.testing.assert_allclose(3 * np.array(alone), found[1:3], rtol=1e-6)


def test_a_lift_in_a_graph_without_weights_counts_every_interaction(engine):
    graph = toy_graph(num_cold_items=8)
    pairs = {"source": ["u1"], "target": ["m79"]}
    plain = KnowledgeGraph.from_tables(
        {t: graph.node_table(t) for t in graph.node_types},
        {RATED: pairs},
        replace(graph.schema, positive_weight=None, edge_types=()),
    )
    found = newness(plain, engine.items, np.array([79]))
    assert found.item() == pytest.approx(1 - 1 / (1 + HALF_NEW))


def test_who_plays_new_in_a_simulation_has_the_gain_of_new_items(trained, monkeypatch):
    monkeypatch.setattr(calibration, "unwanted", lambda counts: 3.0)
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, **_: seen.append(found[0]) or 0
    )
    boost(trained)
    monkeypatch.setattr(calibration, "COLD_GAIN", 1.0)
    boost(trained)
    (one, task), (other, _) = seen
    factor = np.where(task.cold, COLD_GAIN, 1)
    np.testing.assert_allclose(one.items, factor[:, None] * other.items, rtol=1e-5)
    np.testing.assert_array_equal(other.users, one.users)


def test_users_get_their_share_of_a_lift():
    one = np.ones((1, 1), np.float32)
    items = np.array([[3.0], [0.5], [1.0]], np.float32)
    scorer = CosineBiasScorer(one, items, np.zeros(3, np.float32))
    simulation = [(scorer, mixed_task([False, True, True], [2]))]
    every, half = (
        calibrate_on_several(simulation, shares=[np.array([share], np.float32)])
        for share in (1.0, 0.5)
    )
    assert every + 1 > 3
    assert every <= 3  # the first that is enough
    assert half + 1 > 3
    assert 0.5 * half + 1 > 3
    assert every == calibrate_on_several(simulation)


def test_a_user_is_known_by_distinct_positives(graph, engine):
    rows = np.arange(graph.num_nodes("User"))
    counts = np.bincount(graph.positives()[0], minlength=len(rows))
    assert counts.min() == 0 < counts.sum() < len(graph.interactions)
    half = FAMILIAR_SHARE * counts[counts > 0].mean()
    known = counts**3 / (counts**3 + half**3)
    np.testing.assert_allclose(engine.familiarity, known, rtol=1e-5)
    np.testing.assert_array_equal(familiarity(counts, 0.0), 1)
    index = graph.interactions.index
    twice = graph.with_edges(
        graph.schema.interaction, graph.interactions.select(np.repeat(np.arange(index.shape[1]), 2))
    )
    again = ColdStartEngine.fit(twice, texts=word_vectors(twice), device="cpu")
    np.testing.assert_allclose(again.familiarity, known, rtol=1e-5)
    liked = {RATED: ratings(("u1", "m78"))}
    later = again.update(GraphDelta(edges=liked))
    more = counts[1] + 1
    assert float(later.familiarity[1]) == pytest.approx(more**3 / (more**3 + half**3), rel=1e-5)


def test_a_simulation_gives_users_the_share_of_what_is_left_of_them(trained, monkeypatch):
    seen = []
    monkeypatch.setattr(
        calibration, "calibrate_on_several", lambda found, shares: seen.append((found, shares)) or 0
    )
    boost(trained)
    (found, shares) = seen[0]
    for (_, task), share in zip(found, shares, strict=True):
        left = task.excluded.degrees  # what plays neither cold nor unknown
        half = FAMILIAR_SHARE * trained[0].rehearsal.links.degrees.mean()
        np.testing.assert_allclose(share, left**3 / (left**3 + half**3), rtol=1e-5)


def test_a_lift_tried_on_the_best_of_both_kinds_ranks_as_among_all_candidates():
    rng = np.random.default_rng(0)
    num_users, num_items, k = 30, 60, 7
    scores = rng.integers(0, 9, (num_users, num_items)).astype(np.float32)  # many are equal
    likes = (rng.random(scores.shape) < 0.2) | np.eye(num_users, num_items, dtype=bool)
    known = Adjacency.from_pairs(
        *np.nonzero(~likes & (rng.random(scores.shape) < 0.3)), *scores.shape
    )
    relevant = Adjacency.from_pairs(*np.nonzero(likes), *scores.shape)
    cold = rng.random(num_items) < 0.3
    task = Task("mixed", "val", np.arange(num_users), np.arange(num_items), relevant, known, cold)
    scorer, boosts = MatrixScorer(scores), np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    for boost, found in zip(boosts, evaluate_boosts(scorer, task, k, boosts), strict=True):
        wanted = evaluate_task(scorer, task, k=k, cold_boost=boost)
        np.testing.assert_array_equal(found.ndcg, wanted.ndcg)
        np.testing.assert_array_equal(found.recall, wanted.recall)
