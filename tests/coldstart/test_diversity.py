import numpy as np
import pytest
import torch

from coldstart.diversity import diversified
from coldstart.metrics import intra_list_diversity


def test_the_second_of_two_twins_waits():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rows, scores = np.array([[0, 1, 2]]), np.array([[1.0, 0.9, 0.5]], np.float32)
    found, values, price = diversified(rows, scores, vectors, 2, 0.5)
    assert found.tolist() == [[0, 2]]
    assert values.tolist() == [[1.0, 0.5]]
    assert price[0] == pytest.approx(0.95 - 0.75)


def test_no_diversity_is_the_order_of_scores_and_costs_nothing(engine):
    plain = engine.recommend(["u1", "u58"], 10)
    for diversity in (0.0, 1e-9):
        found = engine.recommend(["u1", "u58"], 10, diversity=diversity)
        assert found.item_rows.tolist() == plain.item_rows.tolist()
        np.testing.assert_array_equal(found.scores, plain.scores)


def test_more_diversity_is_less_alike_at_a_price_that_is_told(engine):
    alike, prices = [], []
    for diversity in (0.1, 0.5, 0.9):
        found = engine.recommend(["u1", "u58"], 10, diversity=diversity)
        lists = found.item_rows.reshape(2, 10)
        alike.append(intra_list_diversity(lists, engine.item_vectors.numpy()).mean())
        prices.append(found.evidence["price"].reshape(2, 10)[:, 0])
    assert alike == sorted(alike)
    assert (np.diff(prices, axis=0) >= 0).all()
    best = engine.recommend(["u1", "u58"], 10).scores.reshape(2, 10).mean(axis=1)
    expected = best - found.scores.reshape(2, 10).mean(axis=1)
    np.testing.assert_allclose(prices[-1], expected, atol=1e-6)


def test_diversity_keeps_to_candidates_and_what_was_not_seen(engine):
    pool = [f"m{n}" for n in range(70, 80)]
    found = engine.recommend(["u1"], 20, candidates=pool, diversity=0.5).to_table()
    assert set(found["item"].to_pylist()) <= set(pool)
    assert found["rank"].to_pylist() == list(range(1, found.num_rows + 1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        engine.recommend(["u1"], diversity=1.5)
