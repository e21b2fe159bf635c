import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from coldstart.metrics import (
    auc,
    coverage,
    hit_rate,
    intra_list_diversity,
    mae,
    mrr,
    ndcg,
    novelty,
    popularity_bias,
    precision,
    recall,
    rmse,
    top_k,
)

REFERENCE = json.loads(Path(__file__).with_name("metric_reference.json").read_text())


def hits(*rows):
    return np.array(rows, bool)


def test_ndcg_by_hand():
    found = ndcg(hits([1, 0, 1], [0, 1, 0], [0, 0, 0]), np.array([2, 1, 4]))
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(found, [(1 + 0.5) / ideal, 1 / np.log2(3), 0])


def test_a_perfect_list_has_ndcg_one_whatever_its_length():
    assert ndcg(hits([1, 1, 0]), np.array([2]))[0] == pytest.approx(1)
    assert ndcg(hits([1, 1, 1]), np.array([7]))[0] == pytest.approx(1)


def test_recall_by_hand():
    found = recall(hits([1, 0, 1], [0, 1, 0], [0, 0, 0]), np.array([2, 4, 1]))
    np.testing.assert_allclose(found, [1, 0.25, 0])


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_ndcg_agrees_with_scikit_learn(k):
    rng = np.random.default_rng(k)
    truth, scores = rng.random((40, 30)) < 0.2, rng.normal(size=(40, 30))
    truth[:, 0] = True
    found = ndcg(np.take_along_axis(truth, top_k(scores, k), axis=1), truth.sum(axis=1))
    expected = [ndcg_score(truth[[u]], scores[[u]], k=k) for u in range(40)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("k", [1, 3, 9, 10, 25])
def test_top_k_is_a_stable_sort_cut_off(k):
    scores = np.random.default_rng(0).integers(0, 4, (50, 10)).astype(float)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top_k(scores, k), expected)


def test_nan_comes_last_and_minus_infinity_is_a_score():
    scores = np.array([[np.nan, 1.0, -np.inf, 2.0]])
    assert top_k(scores, 2).tolist() == [[3, 1]]
    assert set(top_k(scores, 4)[0, 2:].tolist()) == {0, 2}


def test_a_list_of_no_length_is_an_error():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k(np.zeros((1, 3)), 0)


def test_no_candidates_give_an_empty_list():
    assert top_k(np.zeros((2, 0)), 5).shape == (2, 0)


def test_rating_errors_by_hand():
    predicted, actual = np.array([3.0, 4.0, 1.0]), np.array([3.0, 2.0, 2.0])
    assert rmse(predicted, actual) == pytest.approx((5 / 3) ** 0.5)
    assert mae(predicted, actual) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [rmse, mae])
def test_predictions_that_do_not_fit_the_ratings_are_an_error(metric):
    with pytest.raises(ValueError, match=r"one prediction per rating|got \[2\] and \[3\]"):
        metric(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="at least one, got"):
        metric(np.zeros(0), np.zeros(0))


def test_precision_hit_rate_and_mrr_by_hand():
    lists = hits([0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0])
    np.testing.assert_allclose(precision(lists), [0.5, 0, 0.25])
    np.testing.assert_allclose(hit_rate(lists), [1, 0, 1])
    np.testing.assert_allclose(mrr(lists), [0.5, 0, 1])


@pytest.mark.parametrize("metric", [precision, hit_rate, mrr])
def test_a_list_without_places_hits_nothing(metric):
    assert metric(np.zeros((2, 0), bool)).tolist() == [0, 0]


@pytest.mark.parametrize("library", sorted(REFERENCE["expected"]))
def test_ranking_metrics_agree_with_an_independent_library(library):
    items = np.array(REFERENCE["lists"])
    relevant = [set(row) for row in REFERENCE["relevant"]]
    found = np.array([[i in r for i in row] for row, r in zip(items, relevant, strict=True)])
    number = np.array([len(r) for r in relevant])
    ours = {"ndcg": ndcg(found, number), "recall": recall(found, number)}
    ours |= {"precision": precision(found), "hit_rate": hit_rate(found), "mrr": mrr(found)}
    for name, values in REFERENCE["expected"][library].items():
        np.testing.assert_allclose(ours.pop(name), values, rtol=0, atol=1e-9, err_msg=name)
    assert not ours


def test_auc_by_hand_with_ties_and_what_is_not_ranked():
    scores = np.array([[3.0, 2.0, 2.0, 1.0, 9.0]] * 2)
    relevant = np.array([[0, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    excluded = np.array([[0, 0, 0, 0, 1]] * 2, bool)
    found = auc(scores, relevant, excluded)
    assert found[0] == pytest.approx((0 + 0.5 + 1) / 3)
    assert np.isnan(found[1])


def test_auc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, excluded = rng.integers(0, 9, (30, 40)) * 0.5, rng.random((30, 40)) < 0.2
    relevant = (rng.random((30, 40)) < 0.2) & ~excluded
    scores[:, 3] = np.nan
    known = np.nan_to_num(scores, nan=-1)
    rows = zip(known, relevant, ~excluded, strict=True)
    expected = [roc_auc_score(r[ranked], s[ranked]) for s, r, ranked in rows]
    np.testing.assert_allclose(auc(scores, relevant, excluded), expected, rtol=0, atol=1e-9)


def test_coverage_counts_items_in_anyones_list():
    assert coverage(np.array([[0, 1], [1, -1]]), 8) == 0.25
    assert np.isnan(coverage(np.empty((0, 2), int), 0))


def test_novelty_is_the_information_in_knowing_an_item():
    found = novelty(np.array([[0, 1], [2, -1], [-1, -1]]), np.array([7, 1, 0]), 7)
    np.testing.assert_allclose(found, [(0 + 2) / 2, 3, np.nan])


def test_diversity_by_hand():
    vectors = np.array([[2.0, 0], [0, 3], [5, 0], [0, 0]])
    lists = np.array([[0, 2, -1], [0, 1, 2], [0, 3, -1], [1, -1, -1]])
    found = intra_list_diversity(lists, vectors)
    np.testing.assert_allclose(found, [0, 1 - 1 / 3, 1, np.nan], atol=1e-12)


def test_diversity_in_blocks_is_that_of_all_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, lists = rng.normal(size=(30, 6)), np.argsort(rng.random((9, 30)), axis=1)[:, :5]
    monkeypatch.setattr("coldstart.metrics._BLOCK_VALUES", 60)
    upper = np.triu_indices(5, 1)
    expected = [1 - cosine_similarity(vectors[row])[upper].mean() for row in lists]
    np.testing.assert_allclose(intra_list_diversity(lists, vectors), expected)


def test_popularity_bias_compares_lists_with_histories():
    popularity = np.array([8, 2, 6])
    lists, histories = np.array([[0, 2], [1, -1], [0, 1]]), np.array([2.0, 4.0, np.nan])
    assert popularity_bias(lists, popularity, histories) == pytest.approx((7 + 2) / (2 + 4))
    assert np.isnan(popularity_bias(lists[2:], popularity, histories[2:]))
