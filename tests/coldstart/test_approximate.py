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
    assert index.followed(after, np.arange(1000)) is None  # better made anew


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
    with pytest.raises(ValueError, match="approximate_from must be at least 1"):
        EngineConfig(approximate_from=0)


def test_a_change_that_moves_no_user_or_item_keeps_the_searches_as_they_are():
    engine = ColdStartEngine.fit(toy_graph(), EngineConfig(approximate_from=50), texts={})
    engine.recommend(["u0"], 3)
    engine.audience(["m0"], 3)
    after = engine.update(GraphDelta(nodes={"Genre": {"id": ["western"]}}))
    for name in ("_item_index", "_item_search", "_user_index"):
        assert after.__dict__[name] is engine.__dict__[name]
