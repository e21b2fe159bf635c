"""The nine segments: who is cold, warming up or warm, and who ranks what."""

import numpy as np
import pytest

from coldstart.baselines import popularity
from coldstart.evaluation import evaluate
from coldstart.report import Report, Row
from coldstart.segments import CLASSES, NINE, class_of, ends_of, spoken
from coldstart.splits import random_split
from kg.toy import toy_graph


@pytest.fixture(scope="module")
def split():
    graph = toy_graph(num_users=120, num_items=100, ratings_per_user=25)
    return random_split(
        graph,
        cold_users=0.15,
        cold_items=0.15,
        warm_up_users=0.25,
        warm_up_items=0.25,
        rng=np.random.default_rng(0),
    )


def counts(split):
    users, items = split.train
    return (
        np.bincount(users, minlength=len(split.user_part)),
        np.bincount(items, minlength=len(split.item_part)),
    )


def pairs_of(task, adjacency):
    users, items = task.users[adjacency.sources], task.candidates[adjacency.indices]
    return set(zip(users.tolist(), items.tolist(), strict=True))


def test_classes_go_by_training_interactions():
    assert class_of(np.array([0, 1, 5, 6, 99])).tolist() == [0, 1, 1, 2, 2]
    assert spoken("cold_users_warm_up_items") == "cold users x warm-up items"
    assert spoken("cold_both") == "cold both"
    assert len(set(NINE)) == 9


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("segment", NINE)
def test_users_of_a_class_rank_the_items_of_a_class(split, segment, part):
    task = split.task(segment, part)
    users, items = (CLASSES.index(name) for name in ends_of(segment))
    of_users, of_items = (class_of(number) for number in counts(split))
    in_play = np.isin(split.item_part, ["warm", part])
    assert len(task.users)
    assert set(of_users[task.users]) == {users}
    np.testing.assert_array_equal(task.candidates, np.flatnonzero(in_play & (of_items == items)))
    assert task.cold.all() == task.cold.any() == (items == 0)


def test_the_right_answers_of_the_nine_are_all_held_out_pairs_once(split):
    found: list[tuple[int, int]] = []
    for segment in NINE:
        task = split.task(segment)
        relevant = pairs_of(task, task.relevant)
        assert not relevant & pairs_of(task, task.excluded)
        found += relevant
    parts = split.user_part[split.pairs[0]], split.item_part[split.pairs[1]]
    in_play = np.isin(parts[0], ["warm", "test"]) & np.isin(parts[1], ["warm", "test"])
    held_out = in_play & ((split.pair_part == "test") | (parts[0] == "test") | (parts[1] == "test"))
    assert sorted(found) == sorted(map(tuple, split.pairs[:, held_out].T.tolist()))


def test_training_pairs_of_the_users_are_not_ranked(split):
    task = split.task("warm_users_warm_items")
    known = np.isin(split.pair_part, ["train", "val"])
    expected = {
        (u, i)
        for u, i in split.pairs[:, known].T.tolist()
        if u in set(task.users.tolist()) and i in set(task.candidates.tolist())
    }
    assert pairs_of(task, task.excluded) == expected


def test_nodes_that_warm_up_keep_one_to_five_interactions():
    graph = toy_graph(num_users=100, num_items=80, ratings_per_user=30)
    shares = {"cold_items": 0.0, "held_out": 0.0}
    split = random_split(graph, warm_up_users=0.3, rng=np.random.default_rng(0), **shares)
    of_users, all_of_users = counts(split)[0], np.bincount(split.pairs[0], minlength=100)
    few = of_users < all_of_users
    assert few.sum() == 30
    assert set(of_users[few]) == {1, 2, 3, 4, 5}
    rest = split.pair_part[few[split.pairs[0]]]
    assert 0.4 < (rest == "val").sum() / np.isin(rest, ["val", "test"]).sum() < 0.6


def test_more_nodes_that_warm_up_than_are_not_cold_is_an_error():
    with pytest.raises(ValueError, match=r"warm_up_items must be at least 0 and below 0\.6"):
        random_split(toy_graph(), cold_items=0.2, warm_up_items=0.6, rng=np.random.default_rng(0))


def test_the_nine_of_a_scorer_are_a_table_and_what_cannot_be_judged_is_left_out():
    graph = toy_graph(num_users=120, num_items=100, ratings_per_user=25)
    some = random_split(graph, cold_users=0.1, cold_items=0.0, rng=np.random.default_rng(0))
    said: list[str] = []
    makers = {"pop": popularity}
    report = evaluate(graph, makers, [some], texts={}, segments=NINE, progress=said.append)
    lines = report.nine("pop").splitlines()
    assert lines[0].split("  ")[0] == "pop, NDCG@20"
    names = [line.split("  ")[0] for line in lines[1:]]
    assert names == ["cold users", "warm-up users", "warm users"]
    assert lines[1].endswith(f"({len(some.task('cold_users_warm_items').users)})")
    assert lines[1].split()[2] == "-"
    assert any("cold users x cold items: left out, nobody to validate" in line for line in said)
    assert "cold users x warm items (1 split)" in report.to_text("pop")


def test_a_cell_of_the_nine_is_mean_error_and_users():
    def row(split: str, ndcg: float, users: int) -> Row:
        return Row("x", "cold_users_warm_items", split, ndcg, 0.5, 0.0, users, "", 0.0)

    report = Report((row("1", 0.2, 10), row("2", 0.4, 20)), 5)
    last = report.nine("x", markdown=True).splitlines()
    assert last[0] == "| x, NDCG@5 | cold items | warm-up items | warm items |"
    assert last[2] == "| cold users | - | - | 0.3000 +- 0.1000 (15) |"
    with pytest.raises(ValueError, match="'y' was judged on none of the nine segments"):
        report.nine("y")
