"""Metrics by name, and what they may look at."""

import numpy as np
import pytest

from coldstart.measures import METRICS, Background, Lists, means, named_metrics
from coldstart.training_data import TrainingData
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors


def lists(**changes) -> Lists:
    values = {
        "users": np.arange(2),
        "items": np.array([[0, 1], [2, -1]]),
        "hits": np.array([[False, True], [False, False]]),
        "num_relevant": np.array([1, 3]),
        "num_candidates": 6,
        "auc": np.array([0.75, np.nan]),
    }
    return Lists(**(values | changes))


def test_every_metric_of_known_lists():
    known = Background(np.array([3, 0, 1]), 3, np.array([2.0, np.nan]), np.eye(3))
    found = means(lists(background=known), named_metrics(METRICS))
    expected = {"ndcg": 0.5 / np.log2(3), "recall": 0.5, "precision": 0.25, "hit_rate": 0.5}
    expected |= {"mrr": 0.25, "auc": 0.75, "coverage": 0.5, "novelty": (1.0 + 1.0) / 2}
    assert found == pytest.approx(expected | {"diversity": 1.0, "popularity_bias": 1.5 / 2})


def test_the_background_is_what_the_training_graph_says():
    graph = toy_graph()
    known = Background.of(TrainingData(graph, word_vectors(graph)))
    users, items = graph.positives()
    assert known.popularity.tolist() == np.bincount(items, minlength=len(graph.items)).tolist()
    assert known.num_users == len(np.unique(users))
    expected = known.popularity[items[users == 0]].mean()
    assert known.history_popularity[0] == pytest.approx(expected)


def test_without_texts_diversity_is_unknown_and_without_a_background_an_error():
    known = Background(np.ones(3, int), 3, np.ones(2), None)
    assert np.isnan(means(lists(background=known), named_metrics(["diversity"]))["diversity"])
    with pytest.raises(ValueError, match="pass background=Background"):
        means(lists(), named_metrics(["novelty"]))


def test_a_function_of_yours_goes_by_its_own_name():
    def first_place(lists: Lists) -> np.ndarray:
        return lists.hits[:, 0]

    assert means(lists(), named_metrics(["mrr", first_place])) == {"mrr": 0.25, "first_place": 0}
    with pytest.raises(ValueError, match=r"first_place' must return one number, .* \[1\]"):
        means(lists(hits=np.ones((1, 2))), named_metrics([first_place]))


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (["ndgc"], ValueError, "no metric is named 'ndgc'; known: ndcg, recall"),
        (["mrr", "mrr"], ValueError, "'mrr' comes twice"),
        ("mrr", TypeError, "a list of names or functions, got 'mrr'"),
        ([3], TypeError, "a name or a function of Lists, got 3"),
    ],
)
def test_a_metric_that_cannot_be_is_an_error(wanted, error, message):
    with pytest.raises(error, match=message):
        named_metrics(wanted)


def test_a_metric_may_not_hide_a_column_of_the_report():
    def users(lists: Lists) -> float:
        return 0.0

    with pytest.raises(ValueError, match="'users' is a column of every report"):
        named_metrics([users])
