from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from kg import GraphDelta, KnowledgeGraph, Schema
from kg.errors import (
    AlignmentError,
    DanglingEdgeError,
    DuplicateKeyError,
    GraphError,
    MissingColumnError,
    SchemaError,
    UnknownNodeError,
)

RATED = ("User", "RATED", "Movie")
BY = ("Movie", "DIRECTED_BY", "Person")
NEXT = ("Movie", "SEQUEL", "Movie")
SCHEMA = Schema(user="User", item="Movie", interaction=RATED)


@pytest.fixture
def graph():
    return KnowledgeGraph.from_tables(
        {
            "User": {"id": [1, 2]},
            "Movie": {"id": ["a", "b", "c"], "title": ["A", "B", "C"], "year": [1990, None, 2000]},
        },
        {
            RATED: {"source": [1, 1, 2], "target": ["a", "b", "c"], "weight": [3, 4, 5]},
            NEXT: {"source": ["b", "c"], "target": ["a", "b"]},
        },
        SCHEMA,
    )


def nodes(graph, node_type="Movie"):
    return graph.node_table(node_type).to_pylist()


def edges(graph, edge_type=RATED):
    return [tuple(row.values()) for row in graph.edge_table(edge_type).to_pylist()]


def same(one, two):
    return (
        all(nodes(one, t) == nodes(two, t) for t in one.node_types)
        and one.edge_types == two.edge_types
        and all(sorted(edges(one, e)) == sorted(edges(two, e)) for e in one.edge_types)
    )


# Nodes


def test_an_empty_delta_changes_nothing_and_is_false(graph):
    delta = GraphDelta(nodes={"Movie": {"id": []}}, removed_nodes={"User": []})
    assert not delta
    assert same(graph.apply(delta), graph)


def test_a_new_node_comes_last_and_lacks_what_was_not_given(graph):
    after = graph.apply(GraphDelta(nodes={"Movie": {"id": ["d"], "title": ["D"]}}))
    assert nodes(after)[3] == {"id": "d", "title": "D", "year": None}
    assert nodes(after)[:3] == nodes(graph)
    assert len(graph.items) == 3


def test_a_known_node_gets_the_given_properties_and_keeps_the_others(graph):
    after = graph.apply(GraphDelta(nodes={"Movie": {"id": ["c", "d", "a"], "year": [1, 2, 3]}}))
    assert nodes(after) == [
        {"id": "a", "title": "A", "year": 3},
        {"id": "b", "title": "B", "year": None},
        {"id": "c", "title": "C", "year": 1},
        {"id": "d", "title": None, "year": 2},
    ]


def test_a_given_null_overwrites(graph):
    after = graph.apply(GraphDelta(nodes={"Movie": {"id": ["a"], "title": [None]}}))
    assert nodes(after)[0] == {"id": "a", "title": None, "year": 1990}


def test_a_new_property_is_null_for_everyone_else(graph):
    after = graph.apply(GraphDelta(nodes={"Movie": {"id": ["b"], "tags": [["x"]]}}))
    assert [row["tags"] for row in nodes(after)] == [None, ["x"], None]


def test_a_property_that_was_null_everywhere_takes_the_type_of_its_first_values():
    movies = {"id": ["a", "b"], "plot": [None, None]}
    one = KnowledgeGraph.from_tables({"User": {"id": [1]}, "Movie": movies}, {}, SCHEMA)
    after = one.apply(GraphDelta(nodes={"Movie": {"id": ["b", "c"], "plot": ["P", "Q"]}}))
    assert [row["plot"] for row in nodes(after)] == [None, "P", "Q"]


def test_another_width_of_a_property_is_converted(graph):
    change = pa.table({"id": ["a"], "year": pa.array([1], pa.int8()), "title": ["Z"]})
    after = graph.apply(GraphDelta(nodes={"Movie": change}))
    assert after.attributes["Movie"].schema == graph.attributes["Movie"].schema


def test_numbers_that_were_all_whole_may_become_fractions_but_codes_may_not(graph):
    half = GraphDelta(nodes={"Movie": {"id": ["a", "d"], "year": [1990.5, None]}})
    with pytest.raises(GraphError, match=r"Movie\.year holds int64, the change has double"):
        graph.apply(half)
    schema = replace(SCHEMA, numeric={"Movie": ("year",)})
    numeric = KnowledgeGraph(schema, graph.vocabularies, graph.attributes, graph.edges)
    assert [row["year"] for row in nodes(numeric.apply(half))] == [1990.5, None, 2000.0, None]
    with pytest.raises(GraphError, match=r"Movie\.year holds whole numbers that are too large"):
        numeric.apply(GraphDelta(nodes={"Movie": {"id": ["b"], "year": [2**53 + 1]}})).apply(half)
    whole = GraphDelta(nodes={"Movie": {"id": ["a"], "year": [1991.0]}})
    assert numeric.apply(whole).attributes["Movie"].schema.field("year").type == pa.int64()


def test_a_polars_frame_changes_a_graph(graph):
    frame = pl.DataFrame({"id": ["a", "d"], "title": ["AA", "DD"]})
    after = graph.apply(GraphDelta(nodes={"Movie": frame}))
    assert [row["title"] for row in nodes(after)] == ["AA", "B", "C", "DD"]


def test_a_property_of_another_type_is_refused(graph):
    with pytest.raises(GraphError, match=r"Movie\.year holds int64, the change has string"):
        graph.apply(GraphDelta(nodes={"Movie": {"id": ["a"], "year": ["old"]}}))


def test_nodes_join_an_empty_type():
    one = KnowledgeGraph.from_tables({"User": {"id": []}, "Movie": {"id": []}}, {}, SCHEMA)
    after = one.apply(
        GraphDelta(
            nodes={"User": {"id": [7]}, "Movie": {"id": ["a"], "title": ["A"]}},
            edges={RATED: {"source": [7], "target": ["a"], "weight": [2]}},
        )
    )
    assert (nodes(after), edges(after)) == ([{"id": "a", "title": "A"}], [(7, "a", 2)])
    assert after.users.is_int


def test_a_new_type_comes_with_its_table_or_from_its_edges(graph):
    directed = {"source": ["a", "b"], "target": ["Mann", "Mann"]}
    bare = graph.apply(GraphDelta(edges={BY: directed}))
    assert nodes(bare, "Person") == [{"id": "Mann"}]
    people = {"Person": {"id": ["Ott", "Mann"], "born": [1, 2]}}
    full = graph.apply(GraphDelta(nodes=people, edges={BY: directed}))
    assert edges(full, BY) == [("a", "Mann"), ("b", "Mann")]
    assert full.schema.edge_types == (NEXT, BY)


def test_a_new_type_may_be_both_ends_of_its_edges(graph):
    knows = ("Person", "KNOWS", "Person")
    after = graph.apply(GraphDelta(edges={knows: {"source": ["x", "y"], "target": ["y", "z"]}}))
    assert sorted(after.vocabularies["Person"]) == ["x", "y", "z"]
    assert edges(after, knows) == [("x", "y"), ("y", "z")]


# Edges


def test_a_new_edge_joins_and_a_known_one_gets_the_new_weight(graph):
    change = {"source": [2, 1], "target": ["a", "a"], "weight": [9, 8]}
    after = graph.apply(GraphDelta(edges={RATED: change}))
    assert sorted(edges(after)) == [(1, "a", 8), (1, "b", 4), (2, "a", 9), (2, "c", 5)]


def test_the_last_of_equal_edges_in_a_delta_holds(graph):
    change = {"source": [2, 2, 2], "target": ["a", "a", "a"], "weight": [1, 2, 3]}
    after = graph.apply(GraphDelta(edges={RATED: change}))
    assert edges(after)[3:] == [(2, "a", 3)]


def test_new_nodes_and_edges_between_them_come_in_one_delta(graph):
    delta = GraphDelta(
        nodes={"User": {"id": [3]}, "Movie": {"id": ["d"]}},
        edges={
            RATED: {"source": [3], "target": ["d"], "weight": [1]},
            NEXT: {"source": ["d"], "target": ["c"]},
        },
    )
    after = graph.apply(delta)
    assert edges(after)[-1] == (3, "d", 1)
    assert edges(after, NEXT)[-1] == ("d", "c")


def test_the_same_additions_twice_are_the_same_graph(graph):
    delta = GraphDelta(
        nodes={"Movie": {"id": ["a", "d"], "title": ["AA", "D"]}},
        edges={RATED: {"source": [1, 2], "target": ["a", "d"], "weight": [1, 2]}},
    )
    once = graph.apply(delta)
    assert same(once.apply(delta), once)
    assert not same(once, graph)


@pytest.mark.parametrize("change", [{}, {"weight": [1], "time": [2]}])
def test_edges_with_and_without_weight_or_time_do_not_mix(graph, change):
    delta = GraphDelta(edges={RATED: {"source": [1], "target": ["a"]} | change})
    with pytest.raises(GraphError, match=r"edges in the graph have (a weight|no time), those of"):
        graph.apply(delta)


def test_an_edge_to_a_missing_node_is_refused(graph):
    delta = GraphDelta(edges={RATED: {"source": [1], "target": ["x"], "weight": [1]}})
    with pytest.raises(DanglingEdgeError, match="Movie 'x'"):
        graph.apply(delta)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_weight_that_is_not_finite_is_refused(graph, bad):
    weight = pa.array([bad], pa.float64())
    delta = GraphDelta(edges={RATED: {"source": [1], "target": ["a"], "weight": weight}})
    with pytest.raises(GraphError, match="1 values are null, NaN or infinite"):
        graph.apply(delta)


# Removals


def test_a_removed_node_takes_its_edges_of_every_type_with_it(graph):
    after = graph.apply(GraphDelta(removed_nodes={"Movie": ["b"]}))
    assert [row["id"] for row in nodes(after)] == ["a", "c"]
    assert edges(after) == [(1, "a", 3), (2, "c", 5)]
    assert edges(after, NEXT) == []


@pytest.mark.parametrize("make", [list, tuple, pa.array, np.array])
def test_removed_keys_come_in_any_container(graph, make):
    after = graph.apply(GraphDelta(removed_nodes={"User": make([1])}))
    assert list(after.users) == [2]
    assert edges(after) == [(2, "c", 5)]


def test_users_and_items_removed_together_leave_the_right_edges(graph):
    after = graph.apply(GraphDelta(removed_nodes={"User": [2], "Movie": ["a"]}))
    assert edges(after) == [(1, "b", 4)]
    assert edges(after, NEXT) == [("c", "b")]


def test_a_node_removed_and_given_in_one_delta_starts_anew(graph):
    delta = GraphDelta(nodes={"Movie": {"id": ["a"], "year": [7]}}, removed_nodes={"Movie": ["a"]})
    after = graph.apply(delta)
    assert nodes(after)[2] == {"id": "a", "title": None, "year": 7}
    assert "a" not in [target for _, target, _ in edges(after)]


def test_a_removed_edge_leaves_its_nodes(graph):
    after = graph.apply(GraphDelta(removed_edges={RATED: {"source": [1], "target": ["a"]}}))
    assert edges(after) == [(1, "b", 4), (2, "c", 5)]
    assert len(after.items) == 3


def test_an_edge_removed_and_given_in_one_delta_is_replaced(graph):
    ends = {"source": [1], "target": ["a"]}
    delta = GraphDelta(edges={RATED: ends | {"weight": [9]}}, removed_edges={RATED: ends})
    assert sorted(edges(graph.apply(delta)))[0] == (1, "a", 9)


def test_all_nodes_of_a_type_may_be_removed(graph):
    after = graph.apply(GraphDelta(removed_nodes={"User": [1, 2]}))
    assert (len(after.users), len(after.interactions)) == (0, 0)
    assert list(after.apply(GraphDelta(nodes={"User": {"id": [8]}})).users) == [8]


def test_what_is_not_there_cannot_be_removed(graph):
    with pytest.raises(UnknownNodeError, match="User 9 is not among the 2 known"):
        graph.apply(GraphDelta(removed_nodes={"User": [9]}))
    with pytest.raises(GraphError, match=r"no nodes of type 'Person'; there are \['Movie', 'User"):
        graph.apply(GraphDelta(removed_nodes={"Person": ["x"]}))
    with pytest.raises(GraphError, match=r"1 edge to remove cannot be found, e\.g\. \{'source': 2"):
        graph.apply(GraphDelta(removed_edges={RATED: {"source": [2], "target": ["a"]}}))
    with pytest.raises(GraphError, match=r"no edges .*DIRECTED_BY.* to remove; there are"):
        graph.apply(GraphDelta(removed_edges={BY: {"source": ["a"], "target": ["x"]}}))


# What a delta refuses by itself


def test_one_key_as_a_string_is_no_list_of_keys():
    with pytest.raises(TypeError, match="expected a list of User keys to remove, got the string"):
        GraphDelta(removed_nodes={"User": "u9"})
    with pytest.raises(TypeError, match=r"list of User keys to remove, got int 9; write \[9\] if"):
        GraphDelta(removed_nodes={"User": 9})


def test_one_value_in_place_of_a_column_names_type_and_column():
    expected = r"delta nodes Movie: expected a list as column 'id', with one .* per row, got int 1;"
    with pytest.raises(TypeError, match=expected):
        GraphDelta(nodes={"Movie": {"id": 1, "title": "x"}})
    expected = r"RATED.*: expected a list as column 'source', .* string 'u12'; write \['u12'\]"
    with pytest.raises(TypeError, match=expected):
        GraphDelta(edges={RATED: {"source": "u12", "target": ["a"]}})


def test_an_edge_type_that_is_no_triple_is_refused():
    with pytest.raises(SchemaError, match=r"edges are named \(source, relation, target\)"):
        GraphDelta(edges={("User", "Movie"): {"source": [1], "target": [1]}})


def test_a_key_that_comes_twice_is_refused(graph):
    with pytest.raises(DuplicateKeyError, match="for example 'd' in rows"):
        graph.apply(GraphDelta(nodes={"Movie": {"id": ["d", "d"]}}))


def test_keys_of_another_type_are_refused(graph):
    with pytest.raises(AlignmentError, match="Movie: keys are str, the new ones are int"):
        graph.apply(GraphDelta(nodes={"Movie": {"id": [5]}}))


def test_tables_without_key_or_ends_are_refused(graph):
    with pytest.raises(MissingColumnError, match=r"expected the columns \['id'\]"):
        graph.apply(GraphDelta(nodes={"Movie": {"title": ["x"]}}))
    for name in ("edges", "removed_edges"):
        with pytest.raises(MissingColumnError, match=r"expected the columns \['target'\]"):
            graph.apply(GraphDelta(**{name: {RATED: {"source": [1]}}}))


# Sharing


def test_what_did_not_change_is_shared(graph):
    after = graph.apply(GraphDelta(nodes={"User": {"id": [3]}}))
    assert after.vocabularies["Movie"] is graph.vocabularies["Movie"]
    assert after.attributes["Movie"] is graph.attributes["Movie"]
    assert after.edges[RATED] is graph.edges[RATED]


def test_two_deltas_from_one_graph_do_not_see_each_others_nodes(graph):
    left = graph.apply(GraphDelta(nodes={"Movie": {"id": ["l1", "l2"]}}))
    right = graph.apply(GraphDelta(nodes={"Movie": {"id": ["r1"]}}))
    assert ("r1" in left.items, "l1" in right.items, "l1" in graph.items) == (False,) * 3
    assert (left.items.row("l2"), right.items.row("r1")) == (4, 3)
    both = right.apply(GraphDelta(nodes={"Movie": {"id": ["l1"]}}))
    assert list(both.items)[3:] == ["r1", "l1"]
    with pytest.raises(DanglingEdgeError, match="Movie 'l1'"):
        right.apply(GraphDelta(edges={NEXT: {"source": ["l1"], "target": ["a"]}}))


def test_a_delta_cannot_be_changed():
    delta = GraphDelta(nodes={"User": {"id": [1]}})
    assert delta
    with pytest.raises(TypeError):
        delta.nodes["Movie"] = None
