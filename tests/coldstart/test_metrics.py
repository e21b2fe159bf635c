import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from coldstart.metrics import mae, ndcg, recall, rmse, top_k


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
