"""What decides every figure: who is fitted on what, which setting is chosen, what is reported."""

import json
import tracemalloc

import numpy as np
import pytest

from coldstart.baselines import popularity
from coldstart.curves import side_task
from coldstart.evaluation import OWN_LIFT, engine_maker, evaluate, makers_named
from coldstart.judging import (
    calibrate_cold_boost,
    choose,
    evaluate_boosts,
    evaluate_task,
    ranked_lists,
)
from coldstart.measures import METRICS
from coldstart.plots import plot_by_interactions, plot_comparison
from coldstart.report import Report, Row, paired
from coldstart.scorer import MatrixScorer
from coldstart.splits import Split, Task, random_split
from gnn.data import Adjacency
from kg.toy import toy_graph

SHAPE = (2, 4)


def pairs(*at: tuple[int, int]) -> Adjacency:
    user, item = np.array(at or np.empty((0, 2)), np.int64).T
    return Adjacency.from_pairs(user, item, *SHAPE)


def task(part: str = "val", cold=(False, False, True, True)) -> Task:
    """User 0 likes items 0 and 2, user 1 items 1 and 3; items 2 and 3 are cold."""
    likes = pairs((0, 0), (0, 2), (1, 1), (1, 3))
    return Task("mixed", part, np.arange(2), np.arange(4), likes, pairs(), np.array(cold))


def perfect() -> MatrixScorer:
    return MatrixScorer(np.array([[1, 0, 1, 0], [0, 1, 0, 1]], np.float32))


def backwards() -> MatrixScorer:
    return MatrixScorer(-perfect().matrix)


def test_the_setting_that_is_best_on_validation_speaks_for_a_grid():
    name, scorer, lift = choose({"bad": backwards, "good": perfect}, task(), k=2)
    assert (name, lift) == ("good", 0.0)
    assert evaluate_task(scorer, task(), k=2).mean() == {"ndcg": 1.0, "recall": 1.0}


def test_a_lift_makes_up_for_cold_items_that_score_too_low():
    low = MatrixScorer(perfect().matrix - np.array([0, 0, 1.5, 1.5], np.float32))
    assert evaluate_task(low, task(), k=2).mean()["recall"] == 0.5
    lift = calibrate_cold_boost(low, task(), k=2)
    assert 0.5 < lift < 2.5
    assert evaluate_task(low, task(), k=2, cold_boost=lift).mean()["recall"] == 1.0


def test_a_grid_is_lifted_before_its_settings_are_compared():
    def low() -> MatrixScorer:
        return MatrixScorer(perfect().matrix - np.array([0, 0, 1.5, 1.5], np.float32))

    half = MatrixScorer(np.array([[1, 0, 1, 0], [1, 0, 1, 0]], np.float32))
    name, _, lift = choose({"half": lambda: half, "low": low}, task(), lifted=task(), k=2)
    assert name == "low"
    assert lift > 0


def test_nobody_to_judge_by_is_an_error_and_not_nan():
    empty = task()
    empty = Task(
        "mixed", "val", np.empty(0, np.int64), empty.candidates, pairs(), pairs(), empty.cold
    )
    with pytest.raises(ValueError, match="val part of mixed has no users"):
        calibrate_cold_boost(perfect(), empty)
    graph = toy_graph()
    split = random_split(graph, cold_items=0.2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"cold users: left out, nobody to validate with; choose"):
        evaluate(graph, {"pop": popularity}, [split], texts={}, segments=["cold_users"])


def test_a_segment_that_a_split_cannot_judge_is_left_out_and_the_others_stay():
    graph, said = toy_graph(), []
    split = random_split(graph, cold_items=0.0, rng=np.random.default_rng(0), name="first")
    report = evaluate(
        graph, {"pop": popularity}, [split], segments=["mixed", "warm"], progress=said.append
    )
    assert [row.segment for row in report.rows] == ["warm"]
    assert "first, mixed: left out, nobody to validate with" in said


def test_a_list_length_below_one_is_told_before_anything_is_trained():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        evaluate(toy_graph(), {"pop": lambda data: pytest.fail("trained")}, [], k=0)


def test_a_scorer_in_place_of_a_function_is_an_error_that_says_what_to_do():
    graph = toy_graph()
    split = random_split(graph, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match="fitted anew on every split, got MatrixScorer"):
        evaluate(graph, {"mine": perfect()}, [split], texts={}, segments=["warm"])  # type: ignore


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scorers": "engine"}, "scorers must be a list of names or a mapping, got the text 'eng"),
        ({"segments": "warm"}, "segments must be a list"),
        ({"curves": "users"}, "curves must be a list"),
        ({"splits": random_split(toy_graph(), rng=np.random.default_rng(0))}, r"pass \[split\]"),
    ],
)
def test_a_text_or_a_split_in_place_of_a_list_is_an_error(changed, message):
    asked = {"scorers": {"pop": popularity}, "splits": [], "texts": {}} | changed
    with pytest.raises(TypeError, match=message):
        evaluate(toy_graph(), **asked)


def test_a_curve_or_scorer_that_nobody_knows_is_an_error():
    graph = toy_graph()
    split = random_split(graph, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="there is no curve by 'films'; known: users, items"):
        evaluate(graph, {"pop": popularity}, [split], texts={}, curves=["films"])
    with pytest.raises(ValueError, match="no scorer is named 'mine'; given: 'pop'"):
        evaluate(graph, {"pop": popularity}, [split], texts={}, segments={"warm": ["mine"]})


@pytest.fixture(scope="module")
def evaluated() -> tuple[Report, list[Split], list[np.ndarray]]:
    graph = toy_graph(num_users=80, num_items=100)
    splits = [
        random_split(graph, cold_items=0.2, rng=np.random.default_rng(n), name=f"split {n}")
        for n in range(2)
    ]
    seen: list[np.ndarray] = []

    def spy(data):
        seen.append(data.graph.positives())
        return popularity(data)

    makers = {"engine": engine_maker(), OWN_LIFT: engine_maker(own_lift=True), "popularity": spy}
    segments = {"cold_items": ["engine", "popularity"], "mixed": list(makers)}
    metrics = ["ndcg", "auc", "coverage", "popularity_bias", "diversity"]
    asked = {"segments": segments, "metrics": metrics, "curves": ["users", "items"], "k": 10}
    report = evaluate(graph, makers, splits, texts={}, **asked)
    return report, splits, seen


def test_a_maker_sees_only_training_interactions(evaluated):
    _, splits, seen = evaluated
    assert len(seen) == len(splits)
    for split, positives in zip(splits, seen, strict=True):
        order = np.lexsort(split.train[::-1])
        np.testing.assert_array_equal(positives, split.train[:, order])


def test_on_planted_tastes_the_engine_finds_cold_items_and_popularity_does_not(evaluated):
    report, _, _ = evaluated
    gain = report.difference("cold_items", "engine", "popularity")
    assert gain.splits == 2
    assert gain.mean > 0.1


def test_a_report_reads_as_text_table_and_json(evaluated, tmp_path):
    report, _, _ = evaluated
    text = report.to_text()
    assert "cold items (2 splits)" in text
    assert "NDCG@10" in text
    assert report.to_table().num_rows == len(report.rows) == 10
    first = json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][0]
    assert first["scorer"] == "engine"
    assert first["metrics"]["diversity"] is None
    plot_comparison(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_that_were_asked_for_are_in_every_form_of_a_report(evaluated):
    report, _, _ = evaluated
    area = report.values("cold_items", "engine", "auc")
    assert all(value > 0.6 for value in area.values())
    assert list(area.values()) == report.to_table()["auc"].to_pylist()[0::5]
    assert report.difference("cold_items", "engine", "popularity", "auc").mean > 0.1
    assert "recall@10  AUC " in report.to_text()
    heading, rule, *rows = report.to_markdown().split("\n\n")[1].splitlines()
    assert heading.startswith("|  | NDCG@10 | recall@10 | AUC | coverage | popularity bias |")
    assert {line.count("|") for line in (heading, rule, *rows)} == {9}
    with pytest.raises(ValueError, match="no metric 'mrr' of engine on cold_items, only ndcg"):
        report.values("cold_items", "engine", "mrr")


def test_paired_differences_are_in_every_form_of_a_report(evaluated):
    report, _, _ = evaluated
    gain = report.difference("mixed", "engine", "popularity", "auc")
    wanted = {"segment": "mixed", "metric": "auc", "scorer": "engine", "other": "popularity"}
    wanted |= gain._asdict()
    assert wanted in report.differences().to_pylist()
    assert wanted in json.loads(json.dumps(report.to_dict(), allow_nan=False))["differences"]
    frame = report.differences().to_pandas().query("metric == 'auc' and segment == 'mixed'")
    assert frame.set_index("other").loc["popularity"]["error"] == gain.error > 0
    for form in (report.to_text, report.to_markdown):
        assert "engine ahead by (AUC)" in form(metric="auc")
        assert str(gain) in form(metric="auc")
    diversity = report.differences().to_pandas().query("metric == 'diversity'")
    assert diversity["mean"].isna().all()


def test_the_lift_from_training_is_reported_beside_the_calibrated_one(evaluated):
    report, _, _ = evaluated
    auto, mine = (
        [row.cold_boost for row in report.rows if (row.segment, row.scorer) == ("mixed", name)]
        for name in (OWN_LIFT, "engine")
    )
    assert auto == [0, 0]
    assert all(mine)
    assert report.values("mixed", OWN_LIFT).keys() == report.values("mixed", "engine").keys()


def test_quality_by_interactions_counts_every_judged_node_once(evaluated):
    report, splits, _ = evaluated
    for side, here in (("users", 0), ("items", 1)):
        trained = np.bincount(splits[0].train[here], minlength=100)
        first = [p for p in report.points if (p.side, p.split) == (side, "split 0")]
        mine = [p.binned for p in first if p.scorer == "engine"]
        nodes = side_task(splits[0], side).users
        expected = [((trained[nodes] >= b.least) & (trained[nodes] <= b.most)).sum() for b in mine]
        assert [b.nodes for b in mine] == expected
        assert sum(expected) == len(nodes)
    cold = report.curve("items", "engine")[0]
    assert (cold.label, cold.nodes > 5, cold.error > 0) == ("0", True, True)
    assert cold.ndcg > report.curve("items", "popularity")[0].ndcg + 0.1


def test_what_a_node_has_in_training_is_not_among_its_answers(evaluated):
    _, splits, _ = evaluated
    for side in ("users", "items"):
        task = side_task(splits[0], side)
        pairs = np.stack(
            [task.users[task.relevant.sources], task.candidates[task.relevant.indices]]
        )
        found = set(map(tuple, (pairs if side == "users" else pairs[::-1]).T.tolist()))
        assert found <= set(map(tuple, splits[0].pairs.T.tolist()))
        assert not found & set(map(tuple, splits[0].train.T.tolist()))


def test_curves_are_drawn_and_their_absence_is_an_error(evaluated, tmp_path):
    report, _, _ = evaluated
    plot_by_interactions(report, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "by training interactions of items (2 splits)" in report.to_text()
    with pytest.raises(ValueError, match="evaluate with curves="):
        plot_by_interactions(Report(report.rows, 10), tmp_path / "none.png")


def test_scorers_go_by_name_whatever_their_case():
    assert list(makers_named(["ENGINE", "text_knn", "ridge-to-als factors"])) == [
        "engine",
        "text kNN",
        "ridge to ALS factors",
    ]
    with pytest.raises(ValueError, match="no scorer is named 'svd'; known: 'engine', 'engine, own"):
        makers_named(["svd"])
    assert list(makers_named(["engine_own_lift"])) == ["engine, own lift"]


def test_a_segment_that_nobody_knows_is_an_error_before_anything_is_fitted():
    with pytest.raises(ValueError, match=r"no segment is named 'cold_itmes'; known: cold_items, "):
        evaluate(toy_graph(), {"pop": popularity}, [], texts={}, segments=["cold_itmes"])


def test_scores_are_kept_for_a_block_of_users_only(monkeypatch):
    class Wide:
        def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
            return np.sin(users[:, None] * 0.1 + items[None, :]).astype(np.float32)

    monkeypatch.setattr("coldstart.judging._BLOCK_SCORES", 2**16)
    users, width = np.arange(2000), 1000
    likes = Adjacency.from_pairs(users, users % width, 2000, width)
    none = Adjacency.from_pairs(users[:0], users[:0], 2000, width)
    some = Task("warm", "test", users, np.arange(width), likes, none, np.zeros(width, bool))
    tracemalloc.start()
    evaluate_task(Wide(), some, metrics=list(METRICS)[:7])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2000 * width  # less than all scores in float32


def test_items_that_tie_have_an_auc_of_one_half(evaluated):
    report, _, _ = evaluated
    assert set(report.values("cold_items", "popularity", "auc").values()) == {0.5}


def test_lists_do_not_depend_on_the_size_of_a_block(monkeypatch):
    at_once = ranked_lists(perfect(), task(), k=3, cold_boost=0.25, with_auc=True)
    monkeypatch.setattr("coldstart.judging._BLOCK_SCORES", 4)
    one_by_one = ranked_lists(perfect(), task(), k=3, cold_boost=0.25, with_auc=True)
    np.testing.assert_array_equal(at_once.items, one_by_one.items)
    np.testing.assert_array_equal(at_once.hits, one_by_one.hits)
    assert at_once.auc.tolist() == one_by_one.auc.tolist() == [1, 1]


def test_what_a_user_had_in_training_fills_no_place():
    some = task()
    known = pairs((0, 1), (0, 2), (0, 3))
    likes = pairs((0, 0), (1, 1))
    warm = Task("warm", "val", some.users, some.candidates, likes, known, some.cold)
    # Candidates 0 and 2 are equal to the second user, and 2 is before 0 in the order drawn.
    assert ranked_lists(perfect(), warm, k=3).items.tolist() == [[0, -1, -1], [1, 3, 2]]


def test_equal_scores_are_worth_what_chance_is_whatever_the_order_of_rows():
    class Alike:
        def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
            return np.zeros((len(users), len(items)), np.float32)

    def found(best, cold):
        users, width = np.arange(200), 1000
        likes = Adjacency.from_pairs(users.repeat(5), np.resize(best, 1000), 200, width)
        none = Adjacency.from_pairs(users[:0], users[:0], 200, width)
        judged = Task("cold_items", "test", users, np.arange(width), likes, none, cold)
        lifted = evaluate_boosts(Alike(), judged, 100, np.array([1.0]))[0]
        return evaluate_task(Alike(), judged, k=100).mean()["recall"], lifted.recall.mean()

    popular_first, popular_last = np.arange(100), np.arange(900, 1000)
    for best in (popular_first, popular_last):
        half_cold = np.arange(1000) % 2 == 0
        plain, lifted = found(best, half_cold)
        assert plain == pytest.approx(0.1, abs=0.06)  # it is 1 or 0 by rows
        assert lifted == pytest.approx(0.1, abs=0.06)


def row(scorer: str, split: str, ndcg: float, validation: float) -> Row:
    return Row(scorer, "warm", split, ndcg, 0.0, validation, 1, "", 0.0)


def test_paired_differences_have_the_standard_error_of_their_mean():
    found = paired({"a": 0.5, "b": 0.7, "c": 0.9}, {"a": 0.4, "b": 0.4, "c": 0.7})
    assert found.mean == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1 / 3**0.5)
    assert np.isnan(paired({"a": 1.0}, {"a": 0.5}).error)
    with pytest.raises(ValueError, match="no split in common"):
        paired({"a": 1.0}, {"b": 1.0})


def test_the_best_on_validation_is_chosen_split_by_split():
    rows = (row("x", "1", 0.1, 0.9), row("y", "1", 0.8, 0.2), row("x", "2", 0.3, 0.1))
    report = Report((*rows, row("y", "2", 0.4, 0.6)), 20)
    assert report.chosen_on_validation("warm", ["x", "y"]) == {"1": 0.1, "2": 0.4}
