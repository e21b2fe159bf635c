from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from coldstart.approximate import ApproximateIndex
from coldstart.engine import ColdStartEngine, EngineConfig
from coldstart.index import ExactIndex
from kg.delta import GraphDelta
from kg.toy import toy_graph

pytest.importorskip("faiss", reason="needs the extra faiss")
NUM, DIM = 4000, 12
INDEXES = ("_item_index", "_user_index")


@pytest.fixture(scope="module")
def exact():
    torch.manual_seed(0)
    centres = torch.randn(40, DIM + 1)
    return ExactIndex(centres[torch.arange(NUM) % 40] + 0.3 * torch.randn(NUM, DIM + 1))


@pytest.fixture(scope="module")
def queries():
    torch.manual_seed(1)
    return torch.randn(60, DIM)


@pytest.fixture(scope="module")
def index(exact, queries):
    return ApproximateIndex.of(exact, queries)


def test_the_recall_that_is_told_is_that_of_its_lists_and_few_clusters_are_read(
    index, exact, queries
):
    best, scores = exact.search(queries, 100)
    found, found_scores = index.search(queries, 100)
    hits = [np.isin(a, b).sum() for a, b in zip(best, found, strict=True)]
    assert np.sum(hits) / best.size == pytest.approx(index.recall)
    assert 0.95 <= index.recall < 1
    assert index.probed < index.num_clusters / 2
    for at in range(60):
        known = dict(zip(best[at].tolist(), scores[at].tolist(), strict=True))
        told = zip(found[at].tolist(), found_scores[at].tolist(), strict=True)
        assert all(known[row] == score for row, score in told if row in known)


def test_candidates_are_searched_exactly_and_what_was_seen_is_left_out(index, exact, queries):
    pool = np.arange(0, NUM, 7)
    for ours, theirs in zip(
        index.search(queries, 10, candidates=pool),
        exact.search(queries, 10, candidates=pool),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    first, _ = index.search(queries, 10)
    seen = [np.sort(rows) for rows in first]
    second, scores = index.search(queries, 10, excluded=seen)
    assert not any(np.isin(a, b).any() for a, b in zip(first, second, strict=True))
    assert np.isfinite(scores).all()


def test_new_and_changed_items_are_found_and_the_index_before_stays(index, exact, queries):
    best = 10 * torch.cat([queries[:1], torch.ones(1, 1)], dim=1)
    behind = exact.with_rows(slice(NUM, NUM + 1), best[:, :-1], best[:, -1])
    after = behind.with_rows(torch.tensor([5]), 2 * best[:, :-1], 2 * best[:, -1])
    late = index.followed(after, np.array([5, NUM]))
    assert late.search(queries[:1], 2)[0].tolist() == [[5, NUM]]
    assert NUM not in index.search(queries[:1], 100)[0]
    assert not late.is_stale
    assert index.followed(after, np.arange(100)).is_stale  # better made anew


@pytest.fixture
def of_few(monkeypatch):
    """Clusters also where all items are fewer than the hundred that a recall is measured with."""
    made = ApproximateIndex.of
    monkeypatch.setattr("coldstart.approximate._MOST_LATE", 0.9)  # of 80 items many are touched
    monkeypatch.setattr(ApproximateIndex, "of", partial(made, least_recall=0.0))


@pytest.mark.usefixtures("of_few")
def test_an_engine_tells_the_recall_of_its_search_and_keeps_it_through_updates(caplog, tmp_path):
    config = EngineConfig(approximate_from=50, cold_boost=0.0)
    engine = ColdStartEngine.fit(toy_graph(), config, texts={})
    found = engine.recommend(["u1", "u2"], 5, evidence=False)
    assert "recall@" in caplog.text
    exact = ColdStartEngine.fit(toy_graph(), EngineConfig(cold_boost=0.0), texts={})
    np.testing.assert_array_equal(found.scores[:1], exact.recommend(["u1"], 1).scores)
    after = engine.update(GraphDelta(nodes={"Movie": {"id": ["new"], "year": [1990]}}))
    assert after.__dict__["_item_search"].late.tolist() == [80]
    assert "new" in after.recommend(["u1"], 81).to_table()["item"].to_pylist()
    engine.save(tmp_path / "model")
    again = ColdStartEngine.load(tmp_path / "model", device="cpu")
    assert again.config.approximate_from == 50
    assert again.recommend(["u1", "u2"], 5, evidence=False).to_table() == found.to_table()


@pytest.mark.parametrize("least", [0, -5, 1.5, float("nan"), "10", True, np.int64(10)])
def test_from_how_many_items_on_is_a_whole_number(least):
    with pytest.raises(ValueError, match="approximate_from must be a whole number of at least 1"):
        EngineConfig(approximate_from=least)


@pytest.mark.usefixtures("of_few")
def test_a_change_that_moves_no_user_or_item_keeps_the_searches_as_they_are():
    engine = ColdStartEngine.fit(toy_graph(), EngineConfig(approximate_from=50), texts={})
    engine.recommend(["u0"], 3)
    engine.audience(["m0"], 3)
    after = engine.update(GraphDelta(nodes={"Genre": {"id": ["western"]}}))
    for name in ("_item_index", "_item_search", "_user_index"):
        assert after.__dict__[name] is engine.__dict__[name]


def test_what_is_gone_is_never_found_and_the_clusters_are_not_made_anew(index, exact, queries):
    best, _ = index.search(queries, 100)
    gone = np.unique(best[:10])  # many more than are asked for beyond k
    kept = np.setdiff1d(np.arange(NUM), gone)
    rows = exact.rows[torch.from_numpy(kept)]
    left = index.followed(ExactIndex(rows), np.empty(0, np.int64), kept)
    assert left.clusters is index.clusters
    found, scores = left.search(queries, 100)
    truth, _ = left.exact.search(queries, 100)
    shares = [np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]
    assert np.mean(shares[10:]) > 0.9  # the first ten lost all they had, whole clusters
    longer = torch.cat([queries, torch.ones(len(queries), 1)], dim=1)
    products = (longer[:, None] * rows[torch.from_numpy(found)]).sum(dim=2)
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)
    assert not np.isin(index.search(queries, 100)[0], found).all()  # the one before stays
    again = left.followed(ExactIndex(rows[1:]), np.array([7]), np.arange(1, len(rows)))
    assert again.search(queries, 10)[0].max() < len(rows) - 1
    few = left.followed(ExactIndex(rows[:1000]), np.empty(0, np.int64), np.arange(1000))
    assert few.is_stale


def test_removals_changes_and_additions_in_any_order_are_searched_as_if_made_anew(
    exact, queries, monkeypatch
):
    monkeypatch.setattr("coldstart.approximate._MOST_LATE", 0.05)
    rng = np.random.default_rng(0)
    index, rows = ApproximateIndex.of(exact, queries, least_recall=0.999), exact.rows
    for step in range(12):
        kept = np.flatnonzero(rng.random(len(rows)) > 0.004)
        rows = rows[torch.from_numpy(kept)]
        changed = rng.choice(len(rows), 5, replace=False)
        rows[torch.from_numpy(changed)] = torch.randn(5, DIM + 1) + 2
        rows = torch.cat([rows, torch.randn(3, DIM + 1) + 2])
        changed = np.concatenate([np.sort(changed), np.arange(len(rows) - 3, len(rows))])
        index = index.followed(ExactIndex(rows), changed, kept)
        best, scores = index.exact.search(queries, 20)
        found, found_scores = index.search(queries, 20)
        assert np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]) > 0.97
        for at in range(len(queries)):
            known = dict(zip(best[at].tolist(), scores[at].tolist(), strict=True))
            told = zip(found[at].tolist(), found_scores[at].tolist(), strict=True)
            assert all(known[row] == score for row, score in told if row in known), step


@pytest.mark.usefixtures("of_few")
def test_an_engine_keeps_its_searches_when_items_and_people_are_removed():
    engine = ColdStartEngine.fit(toy_graph(), EngineConfig(approximate_from=50), texts={})
    engine.recommend(["u0"], 3)
    engine.audience(["m0"], 3)
    best = engine.recommend(["u1"], 1, exclude_seen=False).to_table()["item"].to_pylist()
    delta = GraphDelta(
        nodes={"Movie": {"id": ["new"], "year": [1990]}},
        removed_nodes={"Movie": best, "User": ["u0", "u59"]},
    )
    after = engine.update(delta)
    before, search = engine.__dict__["_item_search"], after.__dict__["_item_search"]
    assert search.clusters is before.clusters
    lengths = [torch.linalg.vector_norm(after.__dict__[n].rows, dim=1).max() for n in INDEXES]
    assert [after.__dict__[n].longest >= x for n, x in zip(INDEXES, lengths, strict=True)]
    fresh = replace(after)  # makes its indexes anew
    for name in INDEXES:
        assert torch.equal(after.__dict__[name].rows, getattr(fresh, name).rows)
    everybody = list(after.graph.users)
    found = after.recommend(everybody, 79, exclude_seen=False, evidence=False)
    assert set(found.to_table()["item"].to_pylist()) == set(after.graph.items)
    seen_by = after.audience(["m3"], 58, exclude_seen=False, evidence=False)
    assert set(seen_by.to_table()["user"].to_pylist()) == set(after.graph.users)


def test_late_items_that_were_seen_are_left_out_and_weights_counted(exact, queries, monkeypatch):
    monkeypatch.setattr("coldstart.approximate._MOST_LATE", 0.5)
    index = ApproximateIndex.of(exact, queries, least_recall=0.99)
    late = np.arange(0, NUM, 3)
    after = index.followed(exact, late)
    seen = [np.sort(rows[::2]) for rows in exact.search(queries, 60)[0]]
    weights = torch.linspace(0, 1, len(queries))
    options = {"excluded": seen, "weights": weights}
    best, scores = exact.search(queries, 40, **options)
    found, found_scores = after.search(queries, 40, **options)
    hits = [np.isin(a, b) for a, b in zip(best, found, strict=True)]
    assert np.mean(hits) > 0.98
    of_late = np.isin(best, late)
    assert np.concatenate(hits)[of_late.ravel()].all()  # all of these are looked at
    whole = np.all(hits, axis=1)
    assert whole.sum() > 20
    np.testing.assert_array_equal(found[whole], best[whole])
    np.testing.assert_array_equal(found_scores[whole], scores[whole])


def test_where_all_clusters_would_be_read_search_stays_exact_and_says_so(caplog):
    torch.manual_seed(3)
    exact = ExactIndex(torch.randn(2000, 30))
    found = ApproximateIndex.of(exact, torch.randn(50, 29), least_recall=1.0)
    assert found is exact
    assert "search of 2000 items stays exact: a recall@100 of 1.00 would take nearly" in caplog.text


def test_items_of_equal_score_are_as_good_as_each_other_for_the_recall(queries, monkeypatch):
    def last(self, queries, wanted):
        return np.tile(np.arange(NUM - wanted, NUM), (len(queries), 1))

    monkeypatch.setattr(ApproximateIndex, "_near", last)
    index = ApproximateIndex.of(ExactIndex(torch.ones(NUM, DIM + 1)), queries)
    assert (index.recall, index.probed) == (1, 1)


def test_an_engine_that_found_clusters_of_no_use_does_not_try_again(monkeypatch):
    monkeypatch.setattr("coldstart.approximate.ApproximateIndex.of", lambda exact, queries: exact)
    engine = ColdStartEngine.fit(toy_graph(), EngineConfig(approximate_from=50), texts={})
    engine.recommend(["u0"], 3)
    monkeypatch.setattr("coldstart.approximate.ApproximateIndex.of", None)
    after = engine.update(GraphDelta(nodes={"Movie": {"id": ["new"], "year": [1990]}}))
    assert "new" in after.recommend(["u1"], 81).to_table()["item"].to_pylist()


def test_lists_that_a_cluster_is_too_small_for_are_filled_and_count_as_short_in_the_recall(exact):
    few = ExactIndex(exact.rows[:780])  # 20 clusters of 39 or so
    queries = few.rows[:30, :-1]
    index = ApproximateIndex.of(few, queries, least_recall=0.5)
    assert index.probed > 1
    found, scores = replace(index, probed=1).search(queries, 100)
    best, best_scores = few.search(queries, 100)
    np.testing.assert_array_equal(found, best)
    np.testing.assert_array_equal(scores, best_scores)
