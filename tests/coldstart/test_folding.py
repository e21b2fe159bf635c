from __future__ import annotations

import numpy as np
import pytest

from coldstart.folding import fold_items, fold_users, scores_of_cosines
from kg.errors import AlignmentError


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    items = rng.normal(size=(300, 16)) * rng.lognormal(size=(300, 1))
    return rng.normal(size=(20, 16)), items, rng.normal(size=300)


def cosines(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    users, items = users.astype(float), items.astype(float)
    lengths = np.linalg.norm(users, axis=1)[:, None] * np.linalg.norm(items, axis=1)
    return users @ items.T / lengths


def test_the_order_by_cosine_is_the_order_by_score(sides):
    users, items, bias = sides
    folded, queries = fold_items(items, bias), fold_users(users)
    scores = users @ items.T + bias
    by_cosine = np.argsort(-cosines(queries, folded.matrix), axis=1)
    assert np.array_equal(by_cosine, np.argsort(-scores, axis=1))


def test_all_items_are_equally_long_and_cosines_give_the_scores_back(sides):
    users, items, bias = sides
    folded, queries = fold_items(items, bias), fold_users(users)
    np.testing.assert_allclose(np.linalg.norm(folded.matrix, axis=1), folded.length, rtol=1e-6)
    again = scores_of_cosines(cosines(queries, folded.matrix)[3], queries[3], folded.length)
    np.testing.assert_allclose(again, users[3] @ items.T + bias, rtol=1e-4, atol=1e-4)


def test_a_new_item_that_is_not_much_longer_leaves_the_others_as_they_are(sides):
    _, items, bias = sides
    before = fold_items(items, bias)
    new = fold_items(np.concatenate([items, items[:1]]), np.append(bias, bias[0]))
    assert np.array_equal(new.matrix[:-1], before.matrix)
    longest = np.sqrt((items**2).sum(axis=1) + bias**2).max()
    assert longest <= before.length <= 1.19 * longest


def test_no_items_zero_items_and_a_length_that_is_too_short():
    assert fold_items(np.zeros((0, 3)), np.zeros(0)).matrix.shape == (0, 5)
    assert fold_items(np.zeros((1, 3)), np.zeros(1)).matrix.tolist() == [[0, 0, 0, 0, 1]]
    with pytest.raises(ValueError, match="at least that of the longest item, 2"):
        fold_items(np.array([[2.0]]), np.zeros(1), length=1.0)
    with pytest.raises(AlignmentError, match=r"expected \[1\], got \[2\]"):
        fold_items(np.ones((1, 3)), np.zeros(2))
