import numpy as np
import pytest

from coldstart import baselines
from coldstart.baselines import BASELINES, ease_columns
from coldstart.training_data import TrainingData
from kg import KnowledgeGraph, Schema
from kg.toy import toy_graph
from tests.coldstart.toys import RATED, word_vectors
from tests.contracts import ScorerContract

CONTENT = ["text kNN", "ridge to columns", "ridge to ALS factors", "ridge to EASE columns"]


def first_of(family, data):
    return next(iter(BASELINES[family](data).values()))()


@pytest.mark.parametrize("family", list(BASELINES), scope="class")
class TestEveryBaseline(ScorerContract):
    @pytest.fixture(autouse=True)
    def of_family(self, family):
        self.family = family

    def make(self, data):
        return first_of(self.family, data)


@pytest.fixture(scope="module")
def data():
    graph = toy_graph(num_cold_items=8, num_cold_users=6)
    return TrainingData(graph, word_vectors(graph))


def alike(users, items):
    return np.asarray(users)[:, None] % 4 == np.asarray(items) % 4


@pytest.mark.parametrize("family", CONTENT)
def test_a_cold_item_of_ones_taste_outranks_the_others(data, family):
    users, items = np.arange(54), np.arange(72, 80)
    scores = first_of(family, data).score(users, items)
    assert alike(users, items)[users, scores.argmax(axis=1)].mean() > 0.95


def test_every_setting_of_the_strongest_ranks_cold_items_of_ones_taste_first(data):
    users, items = np.arange(54), np.arange(72, 80)
    for family in CONTENT[2:]:
        for name, make in list(BASELINES[family](data).items())[::9]:
            best = make().score(users, items).argmax(axis=1)
            assert alike(users, items)[users, best].mean() > 0.8, name


def test_attributes_tell_the_taste_of_a_cold_user(data):
    users, items = np.arange(54, 60), np.arange(72)
    scores = first_of("ridge on user attributes", data).score(users, items)
    same = alike(users, items)
    assert scores[same].mean() > scores[~same].mean() + 0.1


@pytest.mark.parametrize("family", ["ridge to ALS factors", "ridge to EASE columns"])
def test_the_strongest_baselines_choose_among_75_settings_at_least(data, family):
    settings = BASELINES[family](data)
    assert len(settings) >= 75
    assert len(settings) == len(set(settings))


def test_popularity_counts_positives_and_ties_cold_items(data):
    scores = first_of("popularity", data).score(np.array([0, 59]), np.arange(80))
    counts = np.bincount(data.graph.positives()[1], minlength=80)
    np.testing.assert_array_equal(scores, [counts, counts])
    assert not counts[72:].any()


def test_ease_columns_are_ridge_from_all_other_items():
    # EASE leaves an item's own column out: (X B)_i is ridge from the others to it.
    rng = np.random.default_rng(0)
    pairs = np.stack(np.nonzero(rng.random((30, 6)) < 0.4))
    users, items = ([f"{p}{n}" for n in range(k)] for p, k in (("u", 30), ("i", 6)))
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": users}, "Movie": {"id": items}},
        {RATED: {"source": [users[u] for u in pairs[0]], "target": [items[i] for i in pairs[1]]}},
        Schema("User", "Movie", RATED),
    )
    x = TrainingData(graph, {}).matrix.toarray().astype(np.float64)
    found = ease_columns(TrainingData(graph, {}), 5.0)
    for item in range(6):
        rest = np.delete(x, item, axis=1)
        b = np.linalg.solve(rest.T @ rest + 5.0 * np.eye(5), rest.T @ x[:, item])
        np.testing.assert_allclose(found[item], rest @ b, atol=1e-5)


def test_text_knn_is_the_mean_similarity_to_the_nearest_of_the_history(data, monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", (1000,))
    scores = first_of("text kNN", data).score(np.arange(60), np.arange(80))
    text = data.texts["Movie"].matrix
    warm = data.warm_items
    x = text - text[warm].mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, data.matrix.toarray() @ x @ x.T, atol=1e-3)


def test_kernel_ridge_is_ridge_in_the_features_with_a_free_intercept(data):
    settings = BASELINES["ridge to columns"](data)
    scores = settings["text=1 vectors ridge=3.0"]().score(np.arange(60), np.arange(80))
    text, warm = data.texts["Movie"].matrix.astype(np.float64), data.warm_items
    x = text - text[warm].mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = data.matrix.toarray()[:, warm].T.astype(np.float64)
    mean = x[warm].mean(axis=0)
    gram = (x[warm] - mean).T @ (x[warm] - mean)
    w = np.linalg.solve(gram + 3.0 * np.eye(24), (x[warm] - mean).T @ (y - y.mean(axis=0)))
    cold = np.setdiff1d(np.arange(80), warm)
    expected = (x[cold] - mean) @ w + y.mean(axis=0)
    np.testing.assert_allclose(scores[:, cold], expected.T, atol=1e-4)
    np.testing.assert_array_equal(scores[:, warm], data.matrix.toarray()[:, warm])


def test_without_any_content_there_is_no_setting():
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": ["u", "v"]}, "Movie": {"id": ["a", "b"]}},
        {RATED: {"source": ["u", "v"], "target": ["a", "b"]}},
        Schema("User", "Movie", RATED),
    )
    bare = TrainingData(graph, {})
    for family in [*CONTENT, "ridge on user attributes"]:
        assert not BASELINES[family](bare), family
    assert first_of("popularity", bare).score(np.array([0]), np.array([0, 1])).tolist() == [[1, 1]]
