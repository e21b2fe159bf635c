import numpy as np
import pytest

from kg.toy import TOY_SCHEMA, toy_graph


def test_the_same_seed_gives_the_same_graph_and_another_seed_another():
    one, two, other = toy_graph(3), toy_graph(3), toy_graph(4)
    for edge_type in one.edge_types:
        assert one.edge_table(edge_type).equals(two.edge_table(edge_type))
    assert one.node_table("Movie").equals(two.node_table("Movie"))
    assert not np.array_equal(one.interactions.index, other.interactions.index)


def test_positives_are_exactly_the_pairs_of_one_taste():
    graph = toy_graph()
    users, items = graph.positives()
    assert (users % 4 == items % 4).all()
    rejected = graph.interactions.index[:, graph.interactions.weight < 4]
    assert (rejected[0] % 4 != rejected[1] % 4).all()


def test_cold_users_and_items_have_no_interaction_but_all_other_relations():
    graph = toy_graph(num_cold_users=5, num_cold_items=7)
    users, items = graph.interactions.index
    assert set(users) == set(range(55))
    assert items.max() < 73
    assert set(range(73, 80)) <= set(graph.edges["Movie", "HAS_GENRE", "Genre"].index[0])
    assert set(range(55, 60)) <= set(graph.edges["User", "FRIEND_OF", "User"].index[0])


def test_friends_and_similar_films_share_their_taste():
    graph = toy_graph()
    for edge_type in (("Movie", "SIMILAR_TO", "Movie"), ("User", "FRIEND_OF", "User")):
        source, target = graph.edges[edge_type].index
        assert len(source)
        assert (source % 4 == target % 4).all()
        assert (source != target).all()


def test_every_property_that_the_schema_names_is_there():
    graph = toy_graph()
    for role in (TOY_SCHEMA.text, TOY_SCHEMA.numeric, TOY_SCHEMA.categorical):
        for node_type, names in role.items():
            assert set(names) <= set(graph.attributes[node_type].column_names)
    assert graph.attributes["Movie"]["year"].null_count == 4


def test_a_tiny_graph_works_and_one_without_warm_nodes_is_refused():
    assert toy_graph(num_users=4, num_items=4).num_edges(("User", "RATED", "Movie")) == 16
    with pytest.raises(ValueError, match="1 of each that is not cold"):
        toy_graph(num_users=4, num_items=8, num_cold_items=8)
