import networkx as nx
import pytest

from kg import KnowledgeGraph, Schema
from kg.convert import from_networkx, to_networkx
from kg.errors import GraphError, SchemaError
from kg.toy import toy_graph

SCHEMA = Schema(user="User", item="Movie", interaction=("User", "RATED", "Movie"))
RATED = ("User", "RATED", "Movie")


def small():
    return KnowledgeGraph.from_tables(
        {
            "User": {"id": ["a", "b"], "age": [30, None]},
            "Movie": {"id": [1, 2], "tags": [["x", "y"], []]},
        },
        {
            RATED: {"source": ["a", "a"], "target": [1, 1], "weight": [4.0, 5.0], "time": [7, 8]},
            ("Movie", "SEQUEL", "Movie"): {"source": [2], "target": [1]},
        },
        SCHEMA,
    )


def edge_rows(graph, edge_type):
    return sorted(map(str, graph.edge_table(edge_type).to_pylist()))


def test_nodes_are_named_by_type_and_key_and_carry_known_properties():
    out = to_networkx(small())
    assert out.nodes["User", "a"] == {"age": 30}
    assert out.nodes["User", "b"] == {}
    assert out.nodes["Movie", 1] == {"tags": ["x", "y"]}


def test_edges_carry_relation_weight_and_time_and_parallel_ones_stay_apart():
    out = to_networkx(small())
    rated = out.get_edge_data(("User", "a"), ("Movie", 1))
    assert list(rated.values()) == [
        {"relation": "RATED", "weight": 4.0, "time": 7},
        {"relation": "RATED", "weight": 5.0, "time": 8},
    ]
    sequel = out.get_edge_data(("Movie", 2), ("Movie", 1))
    assert list(sequel.values()) == [{"relation": "SEQUEL"}]


@pytest.mark.parametrize("graph", [small(), toy_graph()], ids=["small", "toy"])
def test_there_and_back_is_the_same_graph(graph):
    back = from_networkx(to_networkx(graph), graph.schema)
    assert set(back.edge_types) == set(graph.edge_types)
    for node_type in graph.node_types:
        assert back.vocabularies[node_type] == graph.vocabularies[node_type]
        assert back.node_table(node_type).to_pylist() == graph.node_table(node_type).to_pylist()
    for edge_type in graph.edge_types:
        assert edge_rows(back, edge_type) == edge_rows(graph, edge_type)


def test_attributes_that_share_a_name_with_networkx_arguments_survive():
    nodes = {"User": {"id": ["a"], "key": ["k"], "node_type": ["n"], "attr": [1]}, "Movie": None}
    nodes["Movie"] = {"id": [1], "u_for_edge": [2]}
    rated = {"source": ["a"], "target": [1]}
    graph = KnowledgeGraph.from_tables(nodes, {RATED: rated}, SCHEMA)
    back = from_networkx(to_networkx(graph), SCHEMA)
    assert back.node_table("User").to_pylist() == graph.node_table("User").to_pylist()
    assert back.node_table("Movie").to_pylist() == graph.node_table("Movie").to_pylist()


def test_a_plain_digraph_with_node_type_and_relation_attributes_is_read():
    theirs = nx.DiGraph()
    theirs.add_node("ann", node_type="User", age=3)
    theirs.add_node("heat", node_type="Movie")
    theirs.add_edge("ann", "heat", relation="RATED", weight=5, comment="dropped")
    graph = from_networkx(theirs, SCHEMA)
    assert graph.node_table("User").to_pylist() == [{"age": 3, "id": "ann"}] or (
        graph.node_table("User").to_pylist() == [{"id": "ann", "age": 3}]
    )
    assert graph.edge_table(RATED).to_pylist() == [
        {"source": "ann", "target": "heat", "weight": 5.0}
    ]


def test_a_string_key_of_a_multigraph_is_its_relation():
    theirs = nx.MultiDiGraph()
    theirs.add_edge(("User", 1), ("Movie", 2), key="RATED")
    assert from_networkx(theirs, SCHEMA).edge_table(RATED).to_pylist() == [
        {"source": 1, "target": 2}
    ]


def test_the_key_column_of_the_schema_is_used():
    schema = Schema(user="User", item="Movie", interaction=RATED, key={"Movie": "movieId"})
    theirs = nx.MultiDiGraph()
    theirs.add_edge(("User", 1), ("Movie", 2), key="RATED")
    assert from_networkx(theirs, schema).node_table("Movie").to_pylist() == [{"movieId": 2}]


def test_a_node_without_a_type_is_named():
    theirs = nx.MultiDiGraph()
    theirs.add_node("ann")
    with pytest.raises(GraphError, match=r"the node 'ann' has no type; name it \(node_type, key\)"):
        from_networkx(theirs, SCHEMA)


def test_an_edge_without_a_relation_is_named():
    theirs = nx.MultiDiGraph()
    theirs.add_edge(("User", 1), ("Movie", 2))
    with pytest.raises(GraphError, match=r"from \('User', 1\) to \('Movie', 2\) has no relation"):
        from_networkx(theirs, SCHEMA)


def test_an_undirected_graph_is_refused():
    with pytest.raises(GraphError, match="expected a directed networkx graph"):
        from_networkx(nx.MultiGraph(), SCHEMA)


def test_an_empty_networkx_graph_has_no_users():
    with pytest.raises(SchemaError, match="no nodes of type 'User' came"):
        from_networkx(nx.MultiDiGraph(), SCHEMA)


def test_a_property_of_several_types_is_named():
    theirs = nx.MultiDiGraph()
    theirs.add_node(("User", 1), age=3)
    theirs.add_node(("User", 2), age="old")
    with pytest.raises(GraphError, match="User nodes: 'age' has values of several types"):
        from_networkx(theirs, SCHEMA)
