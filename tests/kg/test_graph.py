import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kg import Edges, GraphDelta, KnowledgeGraph, Schema, Vocabulary
from kg.errors import (
    AlignmentError,
    DanglingEdgeError,
    DuplicateKeyError,
    GraphError,
    MissingColumnError,
    SchemaError,
)
from kg.graph import in_row_order

RATED = ("User", "RATED", "Movie")
BY = ("Movie", "DIRECTED_BY", "Person")
SCHEMA = Schema(user="User", item="Movie", interaction=RATED, positive_weight=4)
USERS = {"id": [5, 7], "age": [30, None]}
MOVIES = {"id": ["a", "b", "c"], "title": ["A", "B", "C"]}
RATINGS = {
    "source": [7, 5, 5, 7],
    "target": ["a", "b", "a", "a"],
    "weight": [4, 5, 3, 5],
    "time": [10, 20, 30, 40],
}


def graph(users=USERS, movies=MOVIES, ratings=RATINGS, schema=SCHEMA, **more):
    edges = {} if ratings is None else {RATED: ratings}
    return KnowledgeGraph.from_tables({"User": users, "Movie": movies}, edges, schema, **more)


# Reading


def test_tables_come_back_as_they_went_in():
    one = graph()
    assert one.node_table("Movie").to_pydict() == MOVIES
    assert one.node_table("User").to_pydict() == USERS
    assert one.edge_table(RATED).to_pydict() == RATINGS


@pytest.mark.parametrize("make", [pa.table, pd.DataFrame, pl.DataFrame])
def test_frames_of_any_maker_give_the_same_graph(make):
    one = graph(make({"id": [5, 7]}), make(MOVIES), make(RATINGS))
    assert one.node_table("Movie").to_pydict() == MOVIES
    assert one.edge_table(RATED).to_pydict() == RATINGS
    assert list(one.users) == [5, 7]


def test_edges_hold_rows_weights_and_times():
    edges = graph().interactions
    assert edges.index.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert edges.index.dtype == np.int64
    assert edges.weight.tolist() == [4, 5, 3, 5]
    assert edges.time.tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("index", "time"),
    [([[0, 0, 1, 1], [0, 2, 1, 1]], [7, 9, 8, 3]), ([[1, 0, 1, 0], [1, 2, 1, 0]], [8, 9, 3, 7])],
)
@pytest.mark.parametrize("rows_per_block", [1, 2, 65_536])
def test_parallel_edges_are_in_the_order_of_their_times(index, time, rows_per_block, monkeypatch):
    monkeypatch.setattr("kg.graph.ROWS_PER_BLOCK", rows_per_block)
    ordered = in_row_order(Edges(np.array(index), time=np.array(time)))
    assert ordered.index.tolist() == [[0, 0, 1, 1], [0, 2, 1, 1]]
    assert ordered.time.tolist() == [7, 9, 3, 8]


def test_edges_in_order_are_not_copied():
    edges = Edges(np.array([[0, 1, 1], [2, 1, 1]]), time=np.array([5, 4, 4]))
    assert in_row_order(edges) is edges


def test_of_several_positives_of_a_pair_the_highest_weight_counts():
    ends = {"source": ["u1", "u1", "u1", "u2"], "target": ["m1", "m2", "m1", "m1"]}
    nodes = {"User": {"id": ["u1", "u2"]}, "Movie": {"id": ["m1", "m2"]}}

    def weights(weight, least):
        schema = Schema(
            user="User", item="Movie", interaction=("User", "SAW", "Movie"), positive_weight=least
        )
        table = ends if weight is None else ends | {"weight": weight}
        made = KnowledgeGraph.from_tables(nodes, {("User", "SAW", "Movie"): table}, schema)
        found = made.positive_weights()
        assert found is None or len(found) == made.positives().shape[1]
        return None if found is None else found.tolist()

    assert weights([4, 5, 6, 1], 4) == [6, 5]
    assert weights([3, 5, 4, 1], 4) == [4, 5]
    assert weights([5, 5, 4, 1], None) == [5, 5, 1]
    assert weights(None, None) is None
    assert weights([4, 5, 5, 1], 4) is None  # all pairs are alike
    assert weights([1, 1, 1, 1], 4) is None  # there is none


def test_interactions_of_a_pair_are_counted_and_the_last_time_is_kept():
    seen = {"source": [1, 0, 1, 1], "target": ["b", "a", "a", "b"], "time": [3, 9, 5, 1]}
    schema = Schema(user="User", item="Movie", interaction=("User", "SAW", "Movie"))
    nodes = {"User": {"id": [0, 1]}, "Movie": {"id": ["a", "b"]}}
    made = KnowledgeGraph.from_tables(nodes, {schema.interaction: seen}, schema)
    counted = made.with_interactions_counted()
    edges = counted.interactions
    assert edges.index.tolist() == [[1, 0, 1], [1, 0, 0]]  # in the order of the first of each
    assert (edges.weight.tolist(), edges.time.tolist()) == ([2, 1, 1], [3, 9, 5])
    assert counted.positive_weights().tolist() == [1, 1, 2]
    assert np.array_equal(counted.positives(), made.positives())

    alike = KnowledgeGraph.from_tables(
        nodes, {schema.interaction: seen | {"weight": [7, 7, 7, 7]}}, schema
    )
    assert alike.with_interactions_counted().interactions.weight.tolist() == [2, 1, 1]
    rated = KnowledgeGraph.from_tables(
        nodes, {schema.interaction: seen | {"weight": [7, 7, 1, 7]}}, schema
    )
    with pytest.raises(GraphError, match="weights, from 1 to 7, which counts would replace"):
        rated.with_interactions_counted()
    none = KnowledgeGraph.from_tables(nodes, {}, schema).with_interactions_counted()
    assert len(none.interactions) == 0


def test_positives_are_distinct_pairs_from_the_positive_weight_on():
    assert graph().positives().tolist() == [[0, 1], [1, 0]]
    all_count = Schema(user="User", item="Movie", interaction=RATED)
    assert graph(schema=all_count).positives().tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_positive_weight_without_weights_is_an_error():
    one = graph(ratings={"source": [5], "target": ["a"]})
    with pytest.raises(GraphError, match="positive_weight is 4, and the interactions have no wei"):
        one.positives()


def test_keys_and_weights_may_have_other_names():
    schema = Schema(
        user="User", item="Movie", interaction=RATED, key={"Movie": "movieId"}, weight="stars"
    )
    one = graph(
        movies={"movieId": ["a"], "id": [3]},
        ratings={"source": [5], "target": ["a"], "stars": [2]},
        schema=schema,
    )
    assert one.node_table("Movie").to_pydict() == {"movieId": ["a"], "id": [3]}
    assert one.edge_table(RATED).to_pydict() == {"source": [5], "target": ["a"], "stars": [2]}


def test_a_type_without_a_table_gets_its_nodes_from_edges_in_order_of_appearance():
    directed = {"source": ["b", "a", "c"], "target": ["Mann", "Ott", "Mann"]}
    nodes = {"User": USERS, "Movie": MOVIES}
    one = KnowledgeGraph.from_tables(nodes, {RATED: RATINGS, BY: directed}, SCHEMA)
    assert list(one.vocabularies["Person"]) == ["Mann", "Ott"]
    assert one.node_table("Person").to_pydict() == {"id": ["Mann", "Ott"]}
    assert one.schema.edge_types == (BY,)


def test_counts_are_by_type_or_of_all():
    one = graph()
    assert (one.num_nodes("Movie"), one.num_nodes()) == (3, 5)
    assert (one.num_edges(RATED), one.num_edges()) == (4, 4)
    assert repr(one) == "KnowledgeGraph(nodes {User: 2, Movie: 3}, edges {User-RATED-Movie: 4})"


def test_an_empty_graph_is_a_graph():
    one = graph({"id": []}, {"id": []}, None)
    assert (one.num_nodes(), one.num_edges(), len(one.interactions)) == (0, 0, 0)
    assert one.positives().shape == (2, 0)


def test_no_interactions_at_all_is_a_graph():
    for ratings in (None, {"source": [], "target": []}):
        one = graph(ratings=ratings)
        assert len(one.interactions) == 0
        assert one.positives().shape == (2, 0)


# What is refused


def test_a_key_that_comes_twice_is_an_error():
    with pytest.raises(DuplicateKeyError, match=r"Movie: 1 keys occur .* 'a' in rows \[0, 2\]"):
        graph(movies={"id": ["a", "b", "a"]})


def test_a_null_key_is_an_error():
    with pytest.raises(GraphError, match=r"Movie: 1 keys are null, in rows \[1\]"):
        graph(movies={"id": ["a", None]})


def test_five_and_the_string_five_in_one_type_are_an_error():
    with pytest.raises(GraphError, match=r"User nodes: the column 'id' has no single type .* make"):
        graph(users={"id": [5, "5"]})
    frame = pd.DataFrame({"id": [5, "5"]})
    with pytest.raises(GraphError, match="User nodes: a column has no single type"):
        graph(users=frame)


def test_one_value_in_place_of_a_column_is_an_error():
    with pytest.raises(TypeError, match="Movie nodes: expected a list as column 'title', with one"):
        graph(movies={"id": ["a"], "title": "A"})


def test_an_edge_to_a_missing_node_names_rows_and_key():
    with pytest.raises(DanglingEdgeError, match=r"1 name a .* rows \[1\] \(for example Movie 'x'"):
        graph(ratings={"source": [5, 5], "target": ["a", "x"]})
    with pytest.raises(DanglingEdgeError, match=r"for example User 6\); add the nodes or pass"):
        graph(ratings={"source": [6], "target": ["a"]})


@pytest.mark.parametrize("times", [1, 100], ids=["few", "many"])
def test_an_edge_that_names_a_number_as_a_string_is_told_apart(times):
    ratings = {"source": ["5"] * times, "target": ["a"] * times}
    with pytest.raises(DanglingEdgeError, match="keys of User are int, these are str; convert"):
        graph(ratings=ratings)


def test_edges_to_missing_nodes_may_be_skipped_and_are_counted():
    ratings = {"source": [5, 6, 7], "target": ["a", "a", "x"], "weight": [1, 2, 3]}
    one = graph(ratings=ratings, on_dangling="skip")
    assert one.edge_table(RATED).to_pydict() == {"source": [5], "target": ["a"], "weight": [1]}
    assert dict(one.skipped) == {RATED: 2}
    with pytest.raises(ValueError, match="on_dangling must be 'error' or 'skip', got 'ignore'"):
        graph(on_dangling="ignore")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None])
def test_a_weight_that_is_not_finite_is_an_error(bad):
    ratings = {"source": [5, 5], "target": ["a", "b"], "weight": [1.0, bad]}
    with pytest.raises(GraphError, match=r"RATED.*weight: 1 values .* in rows \[1\]"):
        graph(ratings=ratings)


def test_a_null_end_of_an_edge_is_an_error():
    with pytest.raises(GraphError, match=r"edges, target: 1 keys are null, in rows \[0\]"):
        graph(ratings={"source": [5], "target": pa.array([None], pa.string())})


def test_a_float_end_of_an_edge_is_an_error():
    with pytest.raises(GraphError, match="source: keys must be integers or strings, got double"):
        graph(ratings={"source": [5.0], "target": ["a"]})


@pytest.mark.parametrize("absent", ["source", "target"])
def test_an_edge_table_without_an_end_is_an_error(absent):
    ratings = {k: v for k, v in RATINGS.items() if k != absent}
    with pytest.raises(MissingColumnError, match=rf"RATED.*expected the columns \['{absent}'\]"):
        graph(ratings=ratings)
    advice = (
        r"got \['user', 'film'\]; rename the columns that hold the keys of the two nodes to 'so"
    )
    with pytest.raises(MissingColumnError, match=advice):
        graph(ratings={"user": [5], "film": ["a"]})


def test_a_node_table_without_its_key_is_an_error():
    expected = (
        r"Movie nodes: expected the columns \['id'\], got \['movieId', 'title'\]; "
        r"name the column of keys by Schema\(key={'Movie': 'movieId'}\), or rename it"
    )
    with pytest.raises(MissingColumnError, match=expected):
        graph(movies={"movieId": [1], "title": ["A"]})


def test_a_graph_without_the_user_type_is_an_error():
    with pytest.raises(SchemaError, match=r"no nodes of type 'User' came, only \['Movie'\]"):
        KnowledgeGraph.from_tables({"Movie": MOVIES}, {}, SCHEMA)


@pytest.mark.parametrize("name", ["RATED", ("User", "Movie"), ["User", "RATED", "Movie"]])
def test_an_edge_type_that_is_no_triple_is_an_error(name):
    edges = {tuple(name) if isinstance(name, list) and len(name) != 3 else "RATED": RATINGS}
    with pytest.raises(SchemaError, match=r"edges are named \(source, relation, target\)"):
        KnowledgeGraph.from_tables({"User": USERS, "Movie": MOVIES}, edges, SCHEMA)


# The values themselves


def test_edges_of_unequal_arrays_are_refused():
    with pytest.raises(AlignmentError, match=r"edge index: expected \[2, num_edges\], got \[3, 1"):
        Edges(np.zeros((3, 1)))
    with pytest.raises(AlignmentError, match=r"edge weight: expected \[2\], got \[1\]"):
        Edges(np.zeros((2, 2)), weight=np.ones(1))


def test_selecting_edges_takes_weight_and_time_along():
    some = graph().interactions.select(np.array([True, False, False, True]))
    assert some.index.tolist() == [[1, 1], [0, 0]]
    assert (some.weight.tolist(), some.time.tolist()) == ([4, 5], [10, 40])


@pytest.mark.parametrize("few", [True, False])
def test_edges_that_touch_nodes_are_found_also_among_those_that_came_behind(few):
    rng = np.random.default_rng(0)
    every = Edges(rng.integers(0, 50, (2, 400)), rng.random(400))
    edges = every.select(np.arange(100))
    wanted = np.array([3, 17, 60] if few else [*range(40), 60])
    for stop in range(100, 401, 50):
        if stop > 100:
            edges = edges.followed_by(every.select(np.arange(stop - 50, stop)))
        for end in (0, 1):
            at, which = edges.touching(end, wanted)
            assert sorted(at) == np.flatnonzero(np.isin(every.index[end, :stop], wanted)).tolist()
            assert (wanted[which] == edges.index[end, at]).all()
    assert edges.bounds == every.bounds
    assert edges.weight.tolist() == every.weight.tolist()


def test_properties_must_have_a_row_per_key():
    nodes = {"User": Vocabulary("User", [1]), "Movie": Vocabulary("Movie", [1, 2])}
    tables = {"User": pa.table({"x": [1]}), "Movie": pa.table({"x": [1]})}
    with pytest.raises(AlignmentError, match="Movie: 2 keys and 1 rows of properties"):
        KnowledgeGraph(SCHEMA, nodes, tables, {})


@pytest.mark.parametrize("row", [-1, 3])
def test_an_edge_row_out_of_range_is_refused(row):
    one = graph()
    with pytest.raises(DanglingEdgeError, match="a row of Movie is out of range"):
        one.with_edges(RATED, Edges(np.array([[0], [row]])))


def test_replacing_edges_shares_the_rest():
    one = graph()
    two = one.with_edges(RATED, Edges(np.empty((2, 0))))
    assert (len(one.interactions), len(two.interactions)) == (4, 0)
    assert two.vocabularies["Movie"] is one.vocabularies["Movie"]
    assert two.attributes["Movie"] is one.attributes["Movie"]


def test_a_graph_cannot_be_changed():
    one = graph()
    with pytest.raises(AttributeError):
        one.schema = None
    with pytest.raises(TypeError):
        one.edges[RATED] = None


# Importing


def test_importing_kg_brings_no_heavy_package():
    heavy = "torch", "transformers", "pandas", "networkx", "scipy", "sklearn", "neo4j", "ladybug"
    program = f"import kg, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_kg_takes_less_than_600_milliseconds():
    def seconds():  # of processor time, which is the wall time of a quiet machine
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import kg"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.6


# What a schema names, and what it leaves out


@pytest.mark.parametrize("role", ["weight", "time"])
def test_a_weight_or_time_that_is_named_and_not_there_is_an_error(role):
    ratings = {"source": [5], "target": ["a"], "stars": [2]}
    schema = replace(SCHEMA, **{role: "sterne"})
    with pytest.raises(MissingColumnError, match=rf"names 'sterne' as {role}, .*'target', 'stars'"):
        graph(ratings=ratings, schema=schema)
    assert len(graph(ratings={"source": [], "target": []}, schema=schema).interactions) == 0


def test_columns_of_interactions_that_nothing_uses_are_told(caplog):
    ratings = {"source": [5], "target": ["a"], "stars": [2], "time": [7]}
    one = graph(ratings=ratings)
    (told,) = caplog.messages
    assert "the columns ['stars'] are not used" in told
    assert "weight='stars'" in told
    change = {"source": [5], "target": ["b"], "note": ["x"], "time": [8]}
    one.apply(GraphDelta(edges={RATED: change}))
    assert "the columns ['note'] are not used" in caplog.messages[1]


def test_columns_that_are_used_are_not_told(caplog):
    schema = replace(SCHEMA, weight="stars", time="day")
    graph(ratings={"source": [5], "target": ["a"], "stars": [2], "day": [1]}, schema=schema)
    assert caplog.messages == []


@pytest.mark.parametrize("role", ["text", "numeric", "categorical"])
def test_a_role_of_a_property_or_type_that_is_not_there_is_an_error(role):
    with pytest.raises(SchemaError, match=rf"Movie\.titel as {role}, .* there are \['id'"):
        graph(schema=replace(SCHEMA, **{role: {"Movie": ("titel",)}}))
    with pytest.raises(SchemaError, match=r"properties of 'Film', .* only \['Movie', 'User'\]"):
        graph(schema=replace(SCHEMA, **{role: {"Film": ("title",)}}))


def test_lists_of_keys_are_an_edge_to_each():
    edges = {BY: {"source": ["a", "b", "c"], "target": [["x", "y"], [], None]}}
    one = KnowledgeGraph.from_tables(
        {"User": USERS, "Movie": MOVIES}, {RATED: RATINGS, **edges}, SCHEMA
    )
    assert one.edge_table(BY).to_pydict() == {"source": ["a", "a"], "target": ["x", "y"]}


def test_keys_of_two_kinds_in_edges_without_nodes_are_told():
    other = "Movie", "ABOUT", "Person"
    edges = {BY: {"source": ["a"], "target": ["x"]}, other: {"source": ["a"], "target": [1]}}
    with pytest.raises(GraphError, match="Person keys are whole numbers in some edges"):
        KnowledgeGraph.from_tables(
            {"User": USERS, "Movie": MOVIES}, {RATED: RATINGS, **edges}, SCHEMA
        )


@pytest.mark.parametrize(
    ("nodes", "edges", "schema", "told"),
    [
        (pd.DataFrame(MOVIES), {}, SCHEMA, "nodes must map node types to tables, got DataFrame"),
        ({"Movie": MOVIES}, [RATINGS], SCHEMA, "edges must map .* to tables, got list"),
        ({"Movie": MOVIES}, {}, {"user": "User"}, "must be a kg.Schema, got dict; Schema.from"),
    ],
)
def test_what_is_no_set_of_tables_is_told(nodes, edges, schema, told):
    with pytest.raises(TypeError, match=told):
        KnowledgeGraph.from_tables(nodes, edges, schema)
    with pytest.raises(TypeError, match="delta nodes must map types"):
        GraphDelta(nodes=[MOVIES])  # pyright: ignore
