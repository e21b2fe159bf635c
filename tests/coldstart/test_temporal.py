"""Splits by time: nobody learns from what came later."""

import numpy as np
import pytest

from coldstart.splits import SEGMENTS
from coldstart.temporal import temporal_split, temporal_splits, time_in_words
from kg import KnowledgeGraph, Schema
from kg.toy import toy_graph
from tests.coldstart.toys import RATED


def graph_of(*rows: tuple[str, str, int]) -> KnowledgeGraph:
    users, items, times = zip(*rows, strict=True)
    return KnowledgeGraph.from_tables(
        {"User": {"id": ["u0", "u1", "u2"]}, "Movie": {"id": ["a", "b", "c"]}},
        {RATED: {"source": users, "target": items, "time": times}},
        Schema("User", "Movie", RATED),
    )


ROWS = (("u0", "a", 1), ("u1", "a", 2), ("u0", "b", 5), ("u1", "b", 8), ("u2", "a", 8))


def test_a_node_first_seen_later_is_cold_where_it_first_was():
    split = temporal_split(graph_of(*ROWS, ("u0", "c", 9)), validation_from=5, test_from=8)
    assert split.train.tolist() == [[0, 1], [0, 0]]
    assert split.item_part.tolist() == ["warm", "val", "test"]
    assert split.user_part.tolist() == ["warm", "warm", "test"]
    assert split.task("cold_items", "val").users.tolist() == [0]
    assert split.task("cold_items").users.tolist() == [0]
    assert split.task("cold_users").users.tolist() == [2]


def test_a_later_positive_of_a_node_that_was_new_in_validation_is_in_no_part():
    split = temporal_split(graph_of(*ROWS), validation_from=5, test_from=8)
    assert (1, 1) not in set(map(tuple, split.pairs.T.tolist()))


def test_training_is_before_validation_and_validation_before_the_test():
    graph = toy_graph()
    split = temporal_split(graph)
    edges = graph.interactions
    time = dict(zip(map(tuple, edges.index.T.tolist()), edges.time.tolist(), strict=True))
    spans: dict[str, list[int]] = {"val": [], "test": []}
    for part, times in spans.items():
        for task in (split.task(segment, part) for segment in SEGMENTS):
            judged = zip(task.relevant.sources, task.relevant.indices, strict=True)
            times += [time[int(task.users[u]), int(task.candidates[i])] for u, i in judged]
    assert max(time[pair] for pair in map(tuple, split.train.T.tolist())) < min(spans["val"])
    assert max(spans["val"]) < min(spans["test"])


def test_the_shares_of_a_temporal_split_are_those_asked_for():
    graph = toy_graph(num_users=200)
    split = temporal_split(graph, validation=0.2, test=0.1)
    assert split.train.shape[1] == pytest.approx(0.7 * graph.positives().shape[1], abs=2)


def test_a_pair_that_repeats_counts_from_its_first_time():
    rows = (("u0", "a", 1), ("u0", "a", 9), ("u1", "a", 5), ("u1", "b", 8))
    split = temporal_split(graph_of(*rows), validation_from=5, test_from=8)
    assert split.train.tolist() == [[0], [0]]


def test_what_a_known_pair_does_later_is_not_trained_on():
    often = (("u0", "a", 2), ("u0", "a", 5), ("u0", "a", 9), ("u1", "a", 9))
    graph = graph_of(*ROWS, *often)
    split = temporal_split(graph, validation_from=5, test_from=8)
    training = split.training_graph(graph)
    assert sorted(training.interactions.time.tolist()) == [1, 2, 2]
    assert training.positives().tolist() == split.train.tolist()


def test_a_rating_that_is_no_positive_does_not_make_a_node_known():
    graph = toy_graph()
    split = temporal_split(graph)
    positives = graph.positives()
    assert set(split.train[1]) == set(np.flatnonzero(split.item_part == "warm"))
    assert set(map(tuple, split.pairs.T)) <= set(map(tuple, positives.T))


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (1_691_712_000_000_000, "2023-08-11"),
        (1_691_712_061_500_000, "2023-08-11 00:01:01.500000"),
        (1_691_712_000, "1691712000"),
        (7, "7"),
    ],
)
def test_times_that_were_dates_are_told_as_dates(time, said):
    assert time_in_words(time) == said


def test_the_tests_of_several_splits_lie_one_after_another():
    graph = toy_graph()
    splits = temporal_splits(graph, 3)
    tested = [set(map(tuple, s.pairs[:, s.pair_part == "test"].T.tolist())) for s in splits]
    assert all(tested)
    assert len(set.union(*tested)) == sum(map(len, tested))
    sizes = [s.train.shape[1] for s in splits]
    assert sizes == sorted(sizes)
    assert splits[-1].name == "until the end"
    with pytest.raises(ValueError, match=r"9 tests of 0\.1 .* leave nothing to train on"):
        temporal_splits(graph, 9)


def test_a_graph_without_times_is_an_error_that_says_which_column():
    nodes = {"User": {"id": ["u0"]}, "Movie": {"id": ["a"]}}
    edges = {RATED: {"source": ["u0"], "target": ["a"]}}
    graph = KnowledgeGraph.from_tables(nodes, edges, Schema("User", "Movie", RATED))
    with pytest.raises(ValueError, match="has none; give its table the column 'time', or use"):
        temporal_split(graph)


@pytest.mark.parametrize("points", [(8, 5), (5, 99), (0, 5)])
def test_points_that_leave_a_part_empty_are_an_error(points):
    with pytest.raises(ValueError, match=r"expected positives before .* got times 1 to 8"):
        temporal_split(graph_of(*ROWS), validation_from=points[0], test_from=points[1])


def test_a_share_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"validation must be a share .* got 1"):
        temporal_split(graph_of(*ROWS), validation=1)


def test_validation_lies_just_before_a_test_that_is_given():
    graph = toy_graph()
    times = np.sort(graph.interactions.time[graph.interactions.weight >= 4])
    for share in (0.5, 0.99):
        test_from = int(times[int(share * len(times))])
        split = temporal_split(graph, test_from=test_from, validation=0.1)
        again = temporal_split(
            graph,
            test_from=test_from,
            validation_from=int(times[round(len(times) * (share - 0.1))]),
        )
        assert abs(split.train.shape[1] - again.train.shape[1]) <= 2
