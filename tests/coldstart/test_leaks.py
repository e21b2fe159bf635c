"""A planted leak of each kind is refused with its rows, and a clean graph is not."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from coldstart.baselines import popularity
from coldstart.evaluation import evaluate
from coldstart.leaks import LeakError, find_leaks, refuse_leaks
from coldstart.splits import random_split
from kg import Edges
from kg.toy import toy_graph
from tests.coldstart.toys import with_property

GRAPH = toy_graph(num_users=80, num_items=100)
SPLIT = random_split(GRAPH, cold_users=0.1, cold_items=0.15, rng=np.random.default_rng(0), name="s")
HELD_OUT = SPLIT.pairs[:, SPLIT.pair_part != "train"]
TRAIN = SPLIT.train


def partners(number: int, of: int, pairs: np.ndarray = HELD_OUT) -> list[list[int]]:
    return [pairs[1 - of][pairs[of] == row].tolist() for row in range(number)]


def profiles(pairs: np.ndarray = HELD_OUT) -> list[str]:
    """What a language model writes of users whose films it was shown."""
    titles = GRAPH.attributes["Movie"]["title"].to_pylist()
    of_users = partners(len(GRAPH.users), 0, pairs)
    return ["Enjoys " + " as well as ".join(titles[i] for i in some) + "." for some in of_users]


def test_a_clean_graph_has_no_leak():
    assert find_leaks(GRAPH, SPLIT) == []


@pytest.mark.parametrize("backwards", [False, True])
def test_an_edge_type_that_holds_held_out_pairs_is_refused_with_its_rows(backwards):
    index = np.hstack([TRAIN[:, :50], HELD_OUT[:, 3:5]])
    name = ("Movie", "WATCHED_BY", "User") if backwards else ("User", "WATCHED", "Movie")
    graph = GRAPH.with_edges(name, Edges(index[::-1] if backwards else index))
    (leak,) = find_leaks(graph, SPLIT)
    expected = [{"user": GRAPH.users[u], "item": GRAPH.items[i]} for u, i in HELD_OUT[:, 3:5].T]
    assert list(leak.rows) == expected
    with pytest.raises(LeakError, match=f"{'-'.join(name)}: 2 of its 52 edges are held-out"):
        refuse_leaks(graph, SPLIT)


def test_an_edge_type_that_only_repeats_training_pairs_is_no_leak():
    assert not find_leaks(GRAPH.with_edges(("User", "WATCHED", "Movie"), Edges(TRAIN)), SPLIT)


def test_texts_of_users_that_name_the_titles_of_held_out_films_are_refused():
    (leak,) = find_leaks(with_property(GRAPH, "User", "profile", profiles()), SPLIT)
    # Some films share their title with a film of the user's training, and are not counted.
    assert leak.where == "User.profile"
    assert leak.number > 0.8 * HELD_OUT.shape[1]
    secret = {(GRAPH.users[u], GRAPH.items[i]) for u, i in HELD_OUT.T.tolist()}
    assert {(row["user"], row["item"]) for row in leak.rows} <= secret


def test_texts_of_users_that_name_training_films_alone_are_no_leak():
    assert not find_leaks(with_property(GRAPH, "User", "profile", profiles(TRAIN)), SPLIT)


@pytest.mark.parametrize("role", ["text", "categorical"])
def test_items_that_list_the_keys_of_their_held_out_users_are_refused(role):
    fans = [[GRAPH.users[u].upper() for u in some] for some in partners(len(GRAPH.items), 1)]
    graph = with_property(GRAPH, "Movie", "fans", fans, role)
    with pytest.raises(LeakError, match=r"Movie\.fans: it names the User of \d+ of \d+ held-out"):
        refuse_leaks(graph, SPLIT)


def test_a_key_is_named_as_a_whole_word_only():
    fans = ["x".join(GRAPH.users[u] for u in some) for some in partners(len(GRAPH.items), 1)]
    assert not find_leaks(
        with_property(GRAPH, "Movie", "code", [f"x{some}x" for some in fans]), SPLIT
    )


def test_names_that_all_texts_hold_are_chance_and_no_leak():
    everybody = " ".join(map(str, GRAPH.users))
    assert not find_leaks(with_property(GRAPH, "Movie", "credits", [everybody] * 100), SPLIT)


def test_a_property_that_nobody_uses_is_not_looked_at():
    table = GRAPH.attributes["User"].append_column("profile", pa.array(profiles()))
    graph = replace(GRAPH, attributes={**GRAPH.attributes, "User": table})
    assert find_leaks(graph, SPLIT) == []


def test_evaluate_refuses_a_leak_before_anything_is_trained_unless_told_otherwise():
    graph = GRAPH.with_edges(("User", "WATCHED", "Movie"), Edges(HELD_OUT))
    asked = {"texts": {}, "segments": ["cold_items"]}
    with pytest.raises(LeakError, match="split s: held-out interactions can be read"):
        evaluate(graph, {"pop": lambda data: pytest.fail("fitted")}, [SPLIT], **asked)
    report = evaluate(graph, {"pop": popularity}, [SPLIT], check_leaks=False, **asked)
    assert len(report.rows) == 1
