import numpy as np
import pytest
import torch

from coldstart import baselines, counting
from coldstart.baselines import BASELINES, ease_columns
from coldstart.training_data import TrainingData
from gnn.groups import Gaussians, NeighbourOneHot, OneHot
from gnn.prominence import Prominence
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


def tiny(pairs, num_users, num_items, **attributes):
    users, items = ([f"{p}{n}" for n in range(k)] for p, k in (("u", num_users), ("i", num_items)))
    ends = [users[u] for u, _ in pairs], [items[i] for _, i in pairs]
    return KnowledgeGraph.from_tables(
        {"User": {"id": users} | attributes, "Movie": {"id": items}},
        {RATED: {"source": ends[0], "target": ends[1]}},
        Schema("User", "Movie", RATED, categorical={"User": tuple(attributes)}),
    )


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


def test_item_knn_by_hand():
    graph = tiny([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2)], 3, 4)
    scores = BASELINES["item kNN"](TrainingData(graph, {}))["k=20 shrinkage=10"]()
    like = {(0, 1): 2 / (6**0.5 + 10), (1, 2): 1 / (3**0.5 + 10)}
    expected = [like[0, 1], like[0, 1], like[1, 2], 0]
    np.testing.assert_allclose(scores.score(np.array([0]), np.arange(4))[0], expected, rtol=1e-6)


def test_item_knn_keeps_the_nearest_only(data, monkeypatch):
    monkeypatch.setattr(counting, "ITEM_NEIGHBOURS", (3,))
    (nearest, *_) = (make() for make in BASELINES["item kNN"](data).values())
    neighbours = (nearest.items.toarray() > 0).sum(axis=0)[data.warm_items]
    assert neighbours.min() >= 3
    assert np.median(neighbours) < 6  # more where several are as near
    taste = data.warm_items[nearest.items.toarray()[:, 0].argsort()[-3:]] % 4
    assert taste.tolist() == [0, 0, 0]


def test_content_popularity_knows_warm_items_and_guesses_cold_ones(data):
    settings = BASELINES["content popularity"](data)
    scores = next(iter(settings.values()))().score(np.array([0, 59]), np.arange(80))
    counts = np.bincount(data.graph.positives()[1], minlength=80)
    np.testing.assert_allclose(scores[0, data.warm_items], np.log1p(counts)[data.warm_items])
    np.testing.assert_array_equal(scores[0], scores[1])
    cold = scores[0, 72:]
    assert len(set(cold.tolist())) == 8
    assert np.log1p(counts).min() < cold.mean() < np.log1p(counts).max()


def test_naive_bayes_by_hand():
    graph = tiny([(0, 0), (1, 0), (1, 1), (2, 1)], 4, 2, group=["a", "a", "b", "b"])
    scores = BASELINES["naive Bayes"](TrainingData(graph, {}))["smoothing=1 weight=0.5"]()
    popular = np.log((np.array([2, 2]) + 1) / (4 + 2))
    of_b = (np.array([0, 1]) + 1 / 3) / (2 + 1)  # one of three warm users is b
    expected = popular + 0.5 * np.log(of_b / (1 / 3))
    np.testing.assert_allclose(scores.score(np.array([3]), np.arange(2))[0], expected, rtol=1e-5)


def test_naive_bayes_tells_the_taste_of_a_cold_user(data):
    users, items = np.arange(54, 60), np.arange(72)
    scores = BASELINES["naive Bayes"](data)["smoothing=1 weight=1"]().score(users, items)
    same = alike(users, items)
    assert scores[same].mean() > scores[~same].mean() + 1


def test_a_user_without_attributes_gets_what_is_popular():
    graph = tiny([(0, 0), (1, 0), (1, 1)], 3, 2, group=["a", "a", None])
    scorer = first_of("naive Bayes", TrainingData(graph, {}))
    assert np.diff(scorer.score(np.array([2]), np.array([1, 0])))[0, 0] > 0


def test_a_user_with_an_attribute_nobody_else_has_gets_what_is_popular():
    graph = tiny([(0, 0), (1, 0), (1, 1)], 3, 2, group=["a", "a", "z"])
    with np.errstate(all="raise"):
        scorer = first_of("naive Bayes", TrainingData(graph, {}))
    assert np.diff(scorer.score(np.array([2]), np.array([1, 0])))[0, 0] > 0


def test_ease_columns_are_ridge_from_all_other_items():
    # EASE leaves an item's own column out: (X B)_i is ridge from the others to it.
    rng = np.random.default_rng(0)
    pairs = np.stack(np.nonzero(rng.random((30, 6)) < 0.4))
    graph = tiny(pairs.T.tolist(), 30, 6)
    x = TrainingData(graph, {}).matrix.toarray().astype(np.float64)
    found = ease_columns(TrainingData(graph, {}), 5.0)
    for item in range(6):
        rest = np.delete(x, item, axis=1)
        b = np.linalg.solve(rest.T @ rest + 5.0 * np.eye(5), rest.T @ x[:, item])
        np.testing.assert_allclose(found[item], rest @ b, atol=1e-5)


def test_text_knn_is_the_mean_similarity_to_the_nearest_of_the_history(data, monkeypatch):
    monkeypatch.setattr(counting, "TEXT_NEIGHBOURS", (1000,))
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


def test_a_kernel_of_all_but_texts_is_the_mean_cosine_of_what_there_is(data, monkeypatch):
    inputs, warm = data.inputs("Movie"), data.warm_items
    every, cpu = np.arange(80), torch.device("cpu")
    found = OneHot.fit("entities", ("HAS_GENRE",), inputs, warm).raw(inputs, every, cpu)
    year = Gaussians.fit("year", inputs, warm).raw(inputs, every, cpu)
    known = Prominence.fit("prominence", ("HAS_GENRE",), inputs, warm).raw(inputs, every, cpu)
    alike = NeighbourOneHot.fit("SIMILAR_TO", "SIMILAR_TO", inputs, warm).raw(inputs, every, cpu)
    parts = found.to_dense(), alike.to_dense(), year, known - known[warm].mean(dim=0)
    unit = [x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) for x in parts]
    for error, number in ((-1.0, 4), (1.0, 3)):
        errors = iter((0.0, error))  # without how connected entities are, and with it
        monkeypatch.setattr(baselines, "_left_out_error", lambda *_, found=errors: next(found))
        expected = sum(x @ x[warm].T for x in unit[:number]) / number
        rest = baselines._Kernels(data, "Movie", warm).rest
        np.testing.assert_allclose(rest, expected, atol=1e-5)


def test_the_error_of_leaving_one_out_is_that_of_fitting_without_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    errors = []
    for penalty in baselines.RIDGE:
        total = 0.0
        for at in range(12):
            rest = np.delete(np.arange(12), at)
            mean, level = x[rest].mean(axis=0), y[rest].mean(axis=0)
            centred = x[rest] - mean
            w = np.linalg.solve(
                centred.T @ centred + penalty * np.eye(3), centred.T @ (y[rest] - level)
            )
            total += (((x[at] - mean) @ w + level - y[at]) ** 2).sum()
        errors.append(total)
    assert baselines._left_out_error(x @ x.T, y) == pytest.approx(min(errors))


def test_without_any_content_there_is_no_setting():
    bare = TrainingData(tiny([(0, 0), (1, 1)], 2, 2), {})
    for family in [*CONTENT, "content popularity", "naive Bayes", "ridge on user attributes"]:
        assert not BASELINES[family](bare), family
    assert first_of("popularity", bare).score(np.array([0]), np.array([0, 1])).tolist() == [[1, 1]]
