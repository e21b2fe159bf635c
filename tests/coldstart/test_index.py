import numpy as np
import pytest
import torch

from coldstart import index
from coldstart.index import ExactIndex, exact_scores
from coldstart.scorer import cosine_plus_bias


def made(num_items=200, num_queries=7, dim=6, seed=0):
    """Small whole numbers, so that products are exact and many of them tie."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(-2, 3, (num_items, dim + 1)).astype(np.float32))
    queries = torch.from_numpy(rng.integers(-2, 3, (num_queries, dim)).astype(np.float32))
    return ExactIndex(rows), queries


def brute_force(made_index, queries, k, candidates=None, excluded=None):
    """The same by sorting everything, with -1 and -inf where nothing is left."""
    rows = made_index.rows.numpy()
    scores = queries.numpy() @ rows[:, :-1].T + rows[:, -1]
    pool = np.arange(len(rows)) if candidates is None else candidates
    out = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    for i, line in enumerate(scores):
        left = [r for r in pool if excluded is None or r not in set(excluded[i])]
        best = sorted(left, key=lambda r: (-line[r], r))[:k]
        out[0][i, : len(best)], out[1][i, : len(best)] = best, line[best]
    return out


@pytest.fixture(params=["one block", "small blocks"])
def blocks(request, monkeypatch):
    if request.param == "small blocks":
        monkeypatch.setattr(index, "_BLOCK_ITEMS", 13)
        monkeypatch.setattr(index, "_BLOCK_SCORES", 40)
        monkeypatch.setattr(index, "_MOST_SCORES", 400)
        monkeypatch.setattr(index, "_BLOCK_FLOATS", 30)
        monkeypatch.setattr(index, "_SPARE", 2)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [1, 5, 60])
def test_search_equals_sorting_everything_with_ties_in_item_order(k):
    made_index, queries = made()
    assert_same(made_index.search(queries, k), brute_force(made_index, queries, k))


@pytest.mark.parametrize("num_items", [3000, 4001, 70_003])
def test_the_largest_are_found_by_the_maxima_of_groups(num_items):
    rng = np.random.default_rng(num_items)
    scores = torch.from_numpy(rng.integers(0, 500, (3, num_items)).astype(np.float32))
    scores[0, -1] = 1000  # in what is left over after the last group
    values, columns = index._largest(scores, 40)
    np.testing.assert_array_equal(values, scores.sort(dim=1, descending=True).values[:, :40])
    np.testing.assert_array_equal(values, scores.gather(1, columns))
    assert all(len(set(row.tolist())) == 40 for row in columns)


@pytest.mark.usefixtures("blocks")
def test_candidates_and_exclusions_are_kept_to():
    made_index, queries = made()
    rng = np.random.default_rng(1)
    candidates = np.sort(rng.choice(200, 60, replace=False))
    excluded = [np.sort(rng.choice(200, rng.integers(0, 150), replace=False)) for _ in queries]
    for pool in (None, candidates):
        found = made_index.search(queries, 20, candidates=pool, excluded=excluded)
        assert_same(found, brute_force(made_index, queries, 20, pool, excluded))


@pytest.mark.usefixtures("blocks")
def test_the_last_column_counts_as_a_query_says_and_ties_keep_item_order():
    made_index, queries = made(seed=3)
    weights = torch.tensor([0.0, 1, -2, 2.0**24, -(2.0**25), 0.5, 3])  # the large ones hide digits
    rows, scores = made_index.search(queries, 20, weights=weights)
    every = queries.numpy().astype(float) @ made_index.rows.numpy()[:, :-1].T
    biases = weights.numpy()[:, None].astype(float) * made_index.rows.numpy()[:, -1]
    every = (every + biases).astype(np.float32)
    order = np.argsort(-every, axis=1, kind="stable")[:, :20]
    assert_same((rows, scores), (order, np.take_along_axis(every, order, axis=1)))


@pytest.mark.usefixtures("blocks")
def test_more_than_there_is_fills_up_with_minus_one():
    made_index, queries = made(num_items=30)
    everything = [np.arange(30)] * (len(queries) - 1) + [np.arange(28)]
    rows, scores = made_index.search(queries, 50, excluded=everything)
    assert rows.shape == (len(queries), 50)
    assert set(rows[-1].tolist()) == {28, 29, -1}
    assert (rows[:-1] == -1).all()
    assert np.isneginf(scores[:-1]).all()
    assert np.isneginf(scores[-1, 2:]).all()


def test_no_candidates_or_no_queries_are_empty_lists():
    made_index, queries = made()
    rows, scores = made_index.search(queries, 3, candidates=np.empty(0, np.int64))
    assert (rows == -1).all()
    assert np.isneginf(scores).all()
    assert made_index.search(queries[:0], 3)[0].shape == (0, 3)


def test_items_that_are_equal_keep_item_order_in_any_batch():
    # The matrix product of a single query sums in another order than that of many, and differs in
    # the last digit from item to item.
    torch.manual_seed(0)
    made_index = ExactIndex(torch.randn(1, 513).repeat(5003, 1))
    queries = torch.randn(40, 512)
    together, scores = made_index.search(queries, 10)
    alone, alone_scores = made_index.search(queries[3:4], 10)
    assert (together == np.arange(10)).all()
    assert_same((alone, alone_scores), (together[3:4], scores[3:4]))


@pytest.mark.usefixtures("blocks")
def test_a_query_gets_the_same_list_alone_and_together():
    torch.manual_seed(1)
    made_index, queries = ExactIndex(torch.randn(90, 33)), torch.randn(25, 32)
    together = made_index.search(queries, 8)
    for row in range(25):
        alone = made_index.search(queries[row : row + 1], 8)
        assert_same(alone, (together[0][row : row + 1], together[1][row : row + 1]))


def test_all_pairs_have_the_scores_that_a_search_finds():
    torch.manual_seed(2)
    made_index, queries = ExactIndex(torch.randn(300, 513)), torch.randn(9, 512)
    longer = torch.cat([queries, torch.ones(9, 1)], dim=1)
    every = exact_scores(longer, made_index.rows).numpy()
    rows, scores = made_index.search(queries, 100)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, rows, axis=1))
    expected = queries.double() @ made_index.rows[:, :-1].double().T + made_index.rows[:, -1]
    np.testing.assert_allclose(every, expected, rtol=1e-6)


def test_query_times_row_is_the_score_without_the_users_bias():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    user_bias, item_bias = rng.normal(size=3), rng.normal(size=5)
    lengths = np.linalg.norm(users, axis=1), np.linalg.norm(items, axis=1)
    r = cosine_plus_bias(users, items, *lengths, user_bias, item_bias)
    made_index = ExactIndex.of(torch.from_numpy(items), torch.from_numpy(item_bias))
    assert made_index.rows.shape == (5, 5)
    queries = np.concatenate([users, np.ones((3, 1))], axis=1)
    np.testing.assert_allclose(queries @ made_index.rows.numpy().T, r - user_bias[:, None])
