import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.splits import MIXED, SEGMENTS, Split, random_split, read_splits
from coldstart.temporal import temporal_split
from kg import KnowledgeGraph, Schema
from kg.errors import MissingColumnError, UnknownNodeError
from kg.toy import toy_graph
from tests.coldstart.toys import RATED


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return random_split(toy_graph(), cold_users=0.1, cold_items=0.15, held_out=0.1, rng=rng)


def lists(adjacency):
    return [adjacency.take(np.array([row])).indices.tolist() for row in range(len(adjacency))]


def pairs_of(task, adjacency):
    """Pairs of a user row and an item row."""
    users, items = task.users[adjacency.sources], task.candidates[adjacency.indices]
    return set(zip(users.tolist(), items.tolist(), strict=True))


def pairs_where(split, mask):
    return set(map(tuple, split.pairs[:, mask].T.tolist()))


# Random splits


def test_the_parts_of_a_random_split_are_disjoint_and_have_the_shares_asked_for(split):
    active = len(np.unique(split.pairs[1]))
    assert (split.item_part == "val").sum() == round(0.15 * active)
    assert (split.item_part == "test").sum() == round(0.15 * active)
    assert (split.user_part == "test").sum() == round(0.1 * len(np.unique(split.pairs[0])))
    both_warm = (split.user_part[split.pairs[0]] == "warm") & (
        split.item_part[split.pairs[1]] == "warm"
    )
    np.testing.assert_array_equal(split.pair_part != "", both_warm)
    share = (split.pair_part == "test").sum() / both_warm.sum()
    assert 0.05 < share < 0.16


def test_training_touches_no_cold_node_and_no_held_out_pair(split):
    train = set(map(tuple, split.train.T.tolist()))
    held_out = pairs_where(split, split.pair_part != "train")
    assert not train & held_out
    assert train | held_out == set(map(tuple, split.pairs.T.tolist()))
    assert set(split.user_part[split.train[0]]) == {"warm"}
    assert set(split.item_part[split.train[1]]) == {"warm"}


def test_the_training_graph_has_the_training_pairs_as_its_only_interactions(split):
    graph = toy_graph()
    training = split.training_graph(graph)
    np.testing.assert_array_equal(training.positives(), split.train)
    assert len(training.interactions) == split.train.shape[1]
    assert training.vocabularies["Movie"] == graph.vocabularies["Movie"]


def test_the_training_graph_of_a_split_by_chance_tells_no_times(split):
    graph = toy_graph()
    assert graph.interactions.time is not None
    assert split.training_graph(graph).interactions.time is None
    assert temporal_split(graph).training_graph(graph).interactions.time is not None


def test_the_same_seed_splits_alike_and_another_does_not():
    one, same, other = (
        random_split(toy_graph(), rng=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.pair_part, same.pair_part)
    assert (one.item_part != other.item_part).any()


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0])
def test_a_share_that_leaves_nothing_to_train_on_is_an_error(share):
    with pytest.raises(ValueError, match=f"must be at least 0 and below 0.5, got {share}"):
        random_split(toy_graph(), cold_items=share, rng=np.random.default_rng(0))


# Tasks


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_candidates_and_users_of_every_segment(split, part):
    warm_item, cold_item = split.item_part == "warm", split.item_part == part
    pools = {"cold_items": cold_item, "cold_both": cold_item}
    pools |= dict.fromkeys(MIXED, warm_item | cold_item)
    for segment in SEGMENTS:
        task = split.task(segment, part)
        np.testing.assert_array_equal(
            task.candidates, np.flatnonzero(pools.get(segment, warm_item))
        )
        cold = ("cold_users", "cold_both", "cold_users_mixed")
        of_users = part if segment in cold else "warm"
        assert set(split.user_part[task.users]) <= {of_users}
        assert (task.relevant.degrees > 0).all()
        np.testing.assert_array_equal(task.cold, cold_item[task.candidates])


def test_the_right_answers_are_held_out_pairs_and_never_known_ones(split):
    known = pairs_where(split, np.isin(split.pair_part, ["train", "val"]))
    for segment in SEGMENTS:
        task = split.task(segment)
        relevant = pairs_of(task, task.relevant)
        assert relevant
        assert not relevant & known
        assert not relevant & pairs_of(task, task.excluded)
    warm = split.task("warm")
    assert pairs_of(warm, warm.relevant) == pairs_where(split, split.pair_part == "test")


def test_known_pairs_of_warm_users_are_not_ranked(split):
    warm, mixed = split.task("warm"), split.task("mixed")
    for task in (warm, mixed):
        known = pairs_where(split, np.isin(split.pair_part, ["train", "val"]))
        expected = {(u, i) for u, i in known if u in set(task.users.tolist())}
        assert pairs_of(task, task.excluded) == expected
    on_validation = split.task("warm", "val")
    known = pairs_where(split, split.pair_part == "train")
    assert pairs_of(on_validation, on_validation.excluded) <= known


@pytest.mark.parametrize("part", ["val", "test"])
def test_new_users_rank_all_there_is_and_miss_nothing_they_like(split, part):
    every, apart = (
        split.task("cold_users_mixed", part),
        [split.task(segment, part) for segment in ("cold_users", "cold_both")],
    )
    liked = [pairs_of(task, task.relevant) for task in (every, *apart)]
    assert liked[0] == liked[1] | liked[2]
    assert liked[1]
    assert liked[2]
    assert not every.excluded.degrees.any()


def test_users_of_the_mixed_segment_have_positives_of_both_kinds(split):
    task = split.task("mixed")
    for row in range(len(task.users)):
        cold = task.cold[task.relevant.take(np.array([row])).indices]
        assert cold.any()
        assert not cold.all()


def test_an_unknown_segment_or_part_is_an_error(split):
    with pytest.raises(ValueError, match="no segment is named 'hot'; known: cold_items, "):
        split.task("hot")
    with pytest.raises(ValueError, match="part must be 'val' or 'test', got 'train'"):
        split.task("warm", "train")


# Leaks


def made(pairs, pair_part, user_part=("warm", "warm"), item_part=("warm", "test")):
    parts = (np.array(p, dtype="<U5") for p in (pair_part, user_part, item_part))
    return Split("s", np.array(pairs).T, *parts)


def test_a_split_that_trains_on_a_cold_node_is_refused():
    assert made([(0, 0), (1, 1)], ["train", ""]).train.tolist() == [[0], [0]]
    message = "split s: 1 training pairs touch a node that is to be cold.* user row 1, item row 1"
    with pytest.raises(ValueError, match=message):
        made([(0, 0), (1, 1)], ["train", "train"])
    with pytest.raises(ValueError, match="1 training pairs touch"):
        made([(0, 0)], ["train"], user_part=("val", "warm"))


def test_a_pair_that_is_trained_on_and_tested_is_refused():
    with pytest.raises(ValueError, match="split s: a pair comes twice, so that it could be"):
        made([(0, 0), (0, 0)], ["train", "test"])


# Files


GRAPH = KnowledgeGraph.from_tables(
    {"User": {"id": [7, 8, 9]}, "Movie": {"id": ["a", "b", "c"]}},
    {RATED: {"source": [7, 7, 8], "target": ["a", "b", "a"]}},
    Schema("User", "Movie", RATED),
)


def written(path, **changes):
    columns = {
        "seed": [3, 3, 3, 1],
        "user_id": [7, 7, 8, 8],
        "item_id": ["a", "b", "a", "a"],
        "user_part": ["warm", "warm", "warm", "test"],
        "item_part": ["warm", "test", "warm", "warm"],
        "warm_part": ["train", None, "val", None],
    } | changes
    file = path / "splits.parquet"
    pq.write_table(pa.table({name: c for name, c in columns.items() if c is not None}), file)
    return file


def test_the_splits_of_a_file_come_by_seed(tmp_path):
    first, third = read_splits(written(tmp_path), GRAPH)
    assert (first.name, third.name) == ("seed 1", "seed 3")
    assert third.pairs.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert third.pair_part.tolist() == ["train", "", "val"]
    assert third.user_part.tolist() == ["warm", "warm", ""]
    assert third.item_part.tolist() == ["warm", "test", ""]
    assert first.user_part.tolist() == ["", "test", ""]
    assert first.task("cold_users").users.tolist() == [1]


def test_categories_in_a_file_are_read_as_text(tmp_path):
    part = pa.array(["warm", "warm", "warm", "test"]).dictionary_encode()
    assert read_splits(written(tmp_path, user_part=part), GRAPH)[0].user_part[1] == "test"


def test_a_file_that_lacks_a_column_names_a_stranger_or_leaks_is_refused(tmp_path):
    with pytest.raises(MissingColumnError, match=r"splits in .*splits\.parquet.*'warm_part'"):
        read_splits(written(tmp_path, warm_part=None), GRAPH)
    with pytest.raises(UnknownNodeError, match="Movie 'z' is not among the 3 known"):
        read_splits(written(tmp_path, item_id=["a", "b", "z", "a"]), GRAPH)
    with pytest.raises(ValueError, match="seed 3: 1 training pairs touch a node"):
        read_splits(written(tmp_path, warm_part=["train", "train", "val", None]), GRAPH)
    with pytest.raises(ValueError, match=r"User 7 is in two parts, \['val', 'warm'\]; give it one"):
        read_splits(written(tmp_path, user_part=["warm", "val", "warm", "test"]), GRAPH)
