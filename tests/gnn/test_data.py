import datetime as dt
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import gnn
from gnn.data import Adjacency, feature_names, node_inputs, number_of, relation_name
from kg import KnowledgeGraph, Schema
from kg.toy import toy_graph

RATED = ("User", "RATED", "Movie")
SCHEMA = Schema("User", "Movie", RATED, numeric={"Movie": ("year",)})


def made(edges, **nodes):
    tables = {"User": {"id": ["u"]}, "Movie": {"id": ["a", "b", "c"], "year": [1, None, 3]}} | nodes
    return KnowledgeGraph.from_tables(tables, edges, SCHEMA)


def lists(links):
    return [links.indices[s:e].tolist() for s, e in pairwise(links.indptr)]


def test_repeated_pairs_count_once_and_targets_ascend():
    links = Adjacency.from_pairs(np.array([2, 0, 2, 2]), np.array([3, 1, 0, 3]), 3, 4)
    assert lists(links) == [[1], [], [0, 3]]
    assert links.degrees.tolist() == [1, 0, 2]
    assert links.sources.tolist() == [0, 2, 2]


def test_taking_filtering_and_turning_links_around():
    links = Adjacency.from_pairs(np.array([0, 0, 1, 2]), np.array([0, 2, 2, 1]), 3, 3)
    assert lists(links.take(np.array([2, 0, 0]))) == [[1], [0, 2], [0, 2]]
    assert lists(links.only(np.array([False, True, True]))) == [[2], [2], [1]]
    assert lists(links.transpose()) == [[0], [2], [0, 1]]
    assert lists(links.take(np.empty(0, np.int64))) == []


def test_links_within_a_type_go_both_ways_and_never_to_oneself():
    graph = made({("Movie", "LIKE", "Movie"): {"source": ["a", "c"], "target": ["b", "c"]}})
    inputs = node_inputs(graph, "Movie", None)
    assert lists(inputs.same_type["LIKE"]) == [[1], [0], []]
    assert not inputs.relations


def test_interactions_and_other_links_between_users_and_items_are_no_features():
    pair = {"source": ["u"], "target": ["a"]}
    back = {"source": ["a"], "target": ["u"]}
    graph = made({RATED: pair, ("User", "SAW", "Movie"): pair, ("Movie", "SEEN_BY", "User"): back})
    for node_type in ("User", "Movie"):
        inputs = node_inputs(graph, node_type, None)
        assert not inputs.relations
        assert not inputs.same_type


def test_relations_are_named_by_direction_and_where_needed_by_the_other_end():
    person = {"source": ["p"], "target": ["a"]}
    graph = made(
        {
            ("Person", "MADE", "Movie"): person,
            ("Movie", "IN", "Genre"): {"source": ["a"], "target": ["g"]},
            ("Movie", "IN", "Decade"): {"source": ["a"], "target": [1990]},
        }
    )
    inputs = node_inputs(graph, "Movie", None)
    assert set(inputs.relations) == {"rev_MADE", "IN Genre", "IN Decade"}
    assert inputs.entity_types["rev_MADE"] == "Person"
    assert relation_name(graph.edge_types, ("Person", "MADE", "Movie"), graph, "Person") == "MADE"


def test_relations_that_would_have_one_name_are_told_apart():
    graph = made(
        {
            ("Genre", "has", "Movie"): {"source": ["g", "g"], "target": ["a", "b"]},
            ("Movie", "rev_has", "Genre"): {"source": ["a"], "target": ["h"]},
            ("Movie", "IN", "Genre"): {"source": ["a"], "target": ["g"]},
            ("Movie", "IN", "Decade"): {"source": ["a"], "target": [1990]},
            ("Movie", "IN Genre", "Decade"): {"source": ["a"], "target": [2000]},
            ("Movie", "like", "Movie"): {"source": ["a"], "target": ["b"]},
            ("Movie", "rev_like", "Movie"): {"source": ["b"], "target": ["a"]},
        }
    )
    inputs = node_inputs(graph, "Movie", None)
    degrees = {name: len(links.indices) for name, links in inputs.relations.items()}
    assert degrees == {
        "rev_has": 2,
        "rev_has (Movie rev_has Genre)": 1,
        "IN Genre": 1,
        "IN Decade": 1,
        "IN Genre (Movie IN Genre Decade)": 1,
    }
    data = gnn.to_hetero_data(graph)
    assert len(data.edge_types) == 2 * len(graph.edges)
    assert data["Genre", "has", "Movie"].edge_index.shape[1] == 2
    assert data["Movie", "rev_has", "Genre"].edge_index.shape[1] == 1
    assert data["Movie", "rev_rev_has", "Genre"].edge_index.shape[1] == 2


def test_interactions_under_another_name_have_no_name_among_features():
    edge_types = [*toy_graph().edge_types, ("User", "VIEWED", "Movie")]
    named = feature_names(edge_types, toy_graph(), "User")
    assert named == {
        ("User", "FRIEND_OF", "User"): "FRIEND_OF",
        ("User", "LIVES_IN", "City"): "LIVES_IN",
    }


def test_some_rows_have_the_inputs_that_they_have_among_all():
    graph = toy_graph(num_cold_users=3)
    rows = np.array([5, 0, 58])
    every, some = node_inputs(graph, "User", None), node_inputs(graph, "User", None, rows=rows)
    assert some.rows.tolist() == [5, 0, 58]
    for name, links in every.relations.items():
        assert lists(some.relations[name]) == lists(links.take(rows))
    for name, links in every.same_type.items():
        assert lists(some.same_type[name]) == lists(links.take(rows))
    np.testing.assert_array_equal(some.numeric["age"], every.numeric["age"][rows])
    assert some.categorical["gender"] == [every.categorical["gender"][r] for r in rows]


def test_edge_types_that_were_not_there_at_training_are_left_out():
    graph = toy_graph()
    known = [e for e in graph.edge_types if e[1] != "HAS_GENRE"]
    assert not node_inputs(graph, "Movie", None, edge_types=known).relations


def test_edge_types_that_are_gone_since_training_are_empty():
    graph, genre = toy_graph(), ("Movie", "HAS_GENRE", "Genre")
    rest = {e: edges for e, edges in graph.edges.items() if e != genre}
    gone = KnowledgeGraph(graph.schema, graph.vocabularies, graph.attributes, rest)
    inputs = node_inputs(gone, "Movie", None, edge_types=graph.edge_types)
    assert inputs.relations["HAS_GENRE"].degrees.tolist() == [0] * 80


def test_a_missing_number_is_nan_and_lists_are_several_categories():
    schema = Schema("User", "Movie", RATED, numeric={"Movie": ("year",)}, categorical=TAGS)
    tables = {"User": {"id": ["u"]}, "Movie": {"id": ["a", "b", "c"], **VALUES}}
    inputs = node_inputs(KnowledgeGraph.from_tables(tables, {}, schema), "Movie", None)
    np.testing.assert_array_equal(inputs.numeric["year"], [1, np.nan, 3])
    assert inputs.categorical["tags"] == [["x", "y"], [], ["y"]]
    assert inputs.categorical["code"] == [["7"], [], ["8"]]


TAGS = {"Movie": ("tags", "code")}
VALUES = {"year": [1, None, 3], "tags": [["x", "y"], None, [None, "y"]], "code": [7, None, 8]}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({}, r"the schema names Movie\.year as numeric, and no Movie has this property"),
        ({"year": ["new", "old"]}, r"Movie\.year: .* numeric, so numbers, dates .* got string"),
        ({"year": [1.0, float("inf")]}, r"Movie\.year is infinite in rows \[1\]"),
    ],
)
def test_a_property_that_is_not_as_the_schema_says_is_an_error(column, message):
    tables = {"User": {"id": ["u"]}, "Movie": {"id": ["a", "b"], "name": ["A", "B"]} | column}
    with pytest.raises(ValueError, match=message):
        node_inputs(KnowledgeGraph.from_tables(tables, {}, SCHEMA), "Movie", None)


def test_dates_are_numbers_in_the_graph_and_by_themselves():
    days = [dt.date(1970, 1, 2), None, dt.date(1969, 12, 31)]
    at = [dt.datetime(1970, 1, 2, 12), None, dt.datetime(9999, 5, 31, 7, 30, 1)]
    tables = {"Movie": {"id": ["a", "b", "c"], "year": days}, "User": {"id": ["u"]}}
    inputs = node_inputs(KnowledgeGraph.from_tables(tables, {}, SCHEMA), "Movie", None)
    day = 86_400e6  # microseconds
    number = partial(number_of, kind=pa.timestamp("s"), what="Movie.year")
    np.testing.assert_array_equal(inputs.numeric["year"], [day, np.nan, -day])
    tables["Movie"]["year"] = at
    inputs = node_inputs(KnowledgeGraph.from_tables(tables, {}, SCHEMA), "Movie", None)
    np.testing.assert_array_equal(inputs.numeric["year"], [number(x) for x in at])
    assert inputs.numeric["year"][0] == 1.5 * day
    assert number(days[2]) == number("1969-12-31") == -day
    assert number(dt.date(9999, 12, 31)) > 2e17
    assert np.isnan([number(None), number(pd.NaT)]).all()
    assert number(np.datetime64("1970-01-02")) == number(pd.Timestamp("1970-01-02")) == day
    assert number_of(1999, pa.int64(), "Movie.year") == 1999.0
    for wrong in (1999, "soon"):
        with pytest.raises(ValueError, match=r"Movie\.year: expected a date, as the others are"):
            number(wrong)
    with pytest.raises(ValueError, match=r"Movie\.year: expected a number, got 'soon'"):
        number_of("soon", pa.int64(), "Movie.year")


def test_integers_that_no_float_holds_are_rounded_missing_ones_beside_them_or_not():
    large = 1_600_000_000_000_000_001
    for years in ([large, 1, 2], [large, None, 2]):
        tables = {"Movie": {"id": ["a", "b", "c"], "year": years}, "User": {"id": ["u"]}}
        inputs = node_inputs(KnowledgeGraph.from_tables(tables, {}, SCHEMA), "Movie", None)
        assert inputs.numeric["year"][0] == float(large)


def test_entities_are_followed_to_what_they_are_linked_to():
    many = {"source": ["p", "p", "q", "q"], "target": ["g", "h", "h", "i"]}
    graph = made(
        {
            ("Person", "MADE", "Movie"): {"source": ["p", "q", "p"], "target": ["a", "a", "c"]},
            ("Person", "LIKES", "Genre"): many,
            ("Person", "LIKES", "Food"): {"source": ["p"], "target": ["pie"]},
            ("Genre", "PART_OF", "Genre"): {"source": ["g"], "target": ["h"]},
            ("Movie", "IN", "Genre"): {"source": ["b"], "target": ["g"]},
            ("User", "KNOWS", "Person"): {"source": ["u"], "target": ["p"]},
        }
    )
    inputs = node_inputs(graph, "Movie", None)
    assert set(inputs.far) == {
        *("rev_MADE > LIKES Genre", "rev_MADE > LIKES Food"),
        *("IN > rev_LIKES", "IN > PART_OF", "IN > rev_PART_OF"),
    }
    genres = graph.vocabularies["Genre"]
    liked = inputs.links("rev_MADE > LIKES Genre")
    assert liked is not None
    assert [{genres[row] for row in some} for some in lists(liked)] == [{*"ghi"}, set(), {*"gh"}]
    assert [[genres[row] for row in some] for some in lists(inputs.links("IN > PART_OF"))] == [
        *([], ["h"], [])
    ]
    assert lists(inputs.links("IN > rev_PART_OF")) == [[], [], []]
    assert inputs.entity_types["IN > rev_LIKES"] == "Person"
    assert inputs.links("nowhere") is None
    alone = node_inputs(graph, "Movie", None, rows=np.array([2, 0]))
    taken = liked.take(np.array([2, 0]))
    assert lists(alone.links("rev_MADE > LIKES Genre")) == lists(taken)
    before = node_inputs(graph, "Movie", None, edge_types=[("Person", "MADE", "Movie")])
    assert not before.far


def test_the_graph_as_hetero_data_has_reverse_edges_weights_and_features():
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")
    graph = toy_graph()
    data = gnn.to_hetero_data(graph, {"Movie": np.ones((80, 4), np.float32)})
    assert data["Movie"].x.shape == (80, 4)
    assert data["Genre"].num_nodes == 4
    there, back = data[RATED], data["Movie", "rev_RATED", "User"]
    np.testing.assert_array_equal(there.edge_index.numpy(), graph.interactions.index)
    np.testing.assert_array_equal(back.edge_index.flip(0).numpy(), there.edge_index.numpy())
    np.testing.assert_array_equal(there.edge_weight.numpy(), graph.interactions.weight)
    np.testing.assert_array_equal(back.time.numpy(), graph.interactions.time)
    data.validate()


def test_hetero_data_does_not_share_memory_with_the_graph():
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")
    graph = toy_graph()
    before = graph.interactions.index.copy()
    gnn.to_hetero_data(graph)[RATED].edge_index.zero_()
    np.testing.assert_array_equal(graph.interactions.index, before)


def test_the_package_names_only_what_it_has():
    with pytest.raises(AttributeError, match="module 'gnn' has no attribute 'nothing'"):
        _ = gnn.nothing
