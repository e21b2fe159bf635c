import numpy as np
import pytest

from coldstart import ColdStartEngine
from coldstart.evaluation import engine_maker
from coldstart.scorer import (
    CosineBiasScorer,
    MatrixScorer,
    ProductScorer,
    cosine_plus_bias,
    unit_rows,
)
from tests.contracts import ScorerContract


def score(user, item, user_gain, item_gain, user_bias=0.0, item_bias=0.0):
    one = (np.array([x]) for x in (user, item, user_gain, item_gain, user_bias, item_bias))
    return float(cosine_plus_bias(*one)[0, 0])


def test_the_worked_example():
    # The source document rounds the cosine to 0.7 and the score with it; these are exact.
    u, i = [0.4, 0.2, 0.1, 0.3], [0.6, 0.3, 0.5, 0.2]
    assert score(u, i, 1.0, 1.0) == pytest.approx(0.8702, abs=5e-5)
    assert score(u, i, 0.5, 0.7, 0.1, 0.2) == pytest.approx(0.6046, abs=5e-5)


def test_the_cosine_with_a_zero_vector_is_zero():
    assert score([0.0, 0.0], [1.0, 2.0], 3.0, 4.0, 0.25, 0.5) == 0.75
    assert not unit_rows(np.zeros((2, 3))).any()


def test_with_lengths_as_gains_the_formula_is_the_dot_product():
    rng = np.random.default_rng(0)
    users, items, bias = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=5)
    users[1] = 0
    lengths = np.linalg.norm(users, axis=1), np.linalg.norm(items, axis=1)
    r = cosine_plus_bias(users, items, *lengths, np.zeros(4), bias)
    found = CosineBiasScorer(users, items, bias).score(np.arange(4), np.arange(5))
    np.testing.assert_allclose(found, r)


def test_gain_and_bias_belong_to_their_own_row_and_column():
    eye = np.eye(2)
    r = cosine_plus_bias(eye, eye, *(np.array(x) for x in ([2, 3], [5, 7], [0.1, 0.2], [10, 20])))
    np.testing.assert_allclose(r, [[2 * 5 + 10.1, 20.1], [10.2, 3 * 7 + 20.2]])


class TestEngine(ScorerContract):
    def make(self, data):
        return engine_maker()(data)


class TestEngineWithItsLift(ScorerContract):
    def make(self, data):
        return ColdStartEngine.fit(data.graph, texts=data.texts, device="cpu").scorer


class TestSavedEngine(ScorerContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path / "model"

    def make(self, data):
        ColdStartEngine.fit(data.graph, texts=data.texts, device="cpu").save(self.path)
        return ColdStartEngine.load(self.path, device="cpu").scorer


class TestMatrix(ScorerContract):
    def make(self, data):
        return MatrixScorer(np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32))


class TestProduct(ScorerContract):
    def make(self, data):
        rng = np.random.default_rng(0)
        return ProductScorer(*(rng.normal(size=(n, 5)).astype(np.float32) for n in (24, 32)))
