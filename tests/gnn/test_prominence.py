from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn.atoms import prior_atoms
from gnn.data import Adjacency, NodeInputs
from gnn.prominence import Prominence
from gnn.propagate import Propagation
from gnn.single import single_row

CPU = torch.device("cpu")
WARM = np.arange(4)
CAST = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 1), (4, 0), (4, 1), (4, 2)]
GENRE = [(0, 3), (1, 3), (2, 4), (4, 3)]


def links(pairs, num_nodes=5, num_targets=6):
    source, target = np.array(pairs, np.int64).reshape(-1, 2).T
    return Adjacency.from_pairs(source, target, num_nodes, num_targets)


@pytest.fixture
def inputs():
    return NodeInputs(np.arange(5), relations={"CAST": links(CAST), "GENRE": links(GENRE)})


def alone(inputs, row):
    """The inputs of one node."""
    relations = {name: one.take(np.array([row])) for name, one in inputs.relations.items()}
    return NodeInputs(np.array([row]), relations=relations)


def test_measures_are_of_how_many_other_warm_nodes_have_the_entities(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    # Of the cast 0 three warm nodes have entity 0 and two entity 1; of genre 3 there are two.
    log = np.log1p
    expected = {
        0: ([(log(2) + log(1)) / 2, log(2), log(2)], [log(1), log(1), log(1)]),
        1: ([log(2), log(2), log(1)], [log(1), log(1), log(1)]),
        2: ([log(2), log(2), log(1)], [0, 0, 0]),
        3: ([log(1), log(1), log(1)], [0, 0, 0]),
        # A cold node is not among those counted: all three, both, and none.
        4: ([(log(3) + log(2)) / 3, log(3), log(2)], [log(2), log(2), log(1)]),
    }
    found = group.measures(inputs, np.arange(5))
    for row, (cast, genre) in expected.items():
        both = np.mean([cast, genre], axis=0)
        np.testing.assert_allclose(found[row], [*cast, *genre, *both], err_msg=str(row))


def test_a_cold_node_has_the_features_of_a_warm_one_with_the_same_others(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    # A twin of node 1 that came later would count node 1; without node 1 it has its features.
    without = Prominence.fit("prominence", list(inputs.relations), inputs, np.array([0, 2, 3]))
    twin = replace(without, mean=group.mean, spread=group.spread)
    np.testing.assert_array_equal(
        twin.raw(inputs, np.array([1]), CPU), group.raw(inputs, np.array([1]), CPU)
    )


def test_no_rows_have_no_features(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    assert group.raw(inputs, np.empty(0, np.int64), CPU).shape == (0, 45)


def test_entities_that_came_later_are_known_to_nobody(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    links_of_new = {"CAST": links([(0, 0), (0, 9)], 1, 12)}
    new = NodeInputs(np.array([7]), relations=links_of_new)
    cast = group.measures(new, np.array([0]))[0, :3]
    np.testing.assert_allclose(cast, [np.log1p(3) / 2, np.log1p(3), np.log1p(1)])


def test_there_is_no_group_where_all_are_alike():
    both = NodeInputs(np.arange(2), relations={"A": links([(0, 0), (1, 0)], 2)})
    assert Prominence.fit("prominence", list(both.relations), both, np.arange(2)) is None
    assert Prominence.fit("prominence", [], NodeInputs(np.arange(2)), np.arange(2)) is None


def test_one_node_has_the_same_features_alone(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    every = group.raw(inputs, np.arange(5), CPU).numpy()
    for row in range(5):
        np.testing.assert_array_equal(single_row(group, alone(inputs, row), {}), every[row])


@pytest.mark.parametrize("row", range(5))
def test_a_link_is_worth_what_goes_with_it_and_the_rest_is_told_apart(inputs, row):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.normal(size=(len(group.mean) * 5, 3)).astype(np.float32))
    one = alone(inputs, row)
    found = prior_atoms(Propagation((group,), (1.0,)), [table], one)

    def value(some):
        given = {
            name: links([(0, e) for n, e in some if n == name], 1) for name in inputs.relations
        }
        some_links = NodeInputs(np.array([row]), relations=given)
        return (group.raw(some_links, np.array([0]), CPU) @ table)[0]

    here = [(n, int(e)) for n, one_links in one.relations.items() for e in one_links.indices]
    expected = {link: value(here) - value([x for x in here if x != link]) for link in here}
    parts = dict(zip(found.sources, found.vectors, strict=True))
    for source, vector in parts.items():
        if source.part != "prominence":
            wanted = expected.pop((source.relation, source.row))
            np.testing.assert_allclose(vector, wanted, atol=1e-5)
    for left in expected.values():  # those that say nothing are not told
        np.testing.assert_allclose(left, 0, atol=1e-6)
    np.testing.assert_allclose(sum(parts.values()), value(here), atol=1e-5)


def test_a_node_without_links_has_one_part(inputs):
    group = Prominence.fit("prominence", list(inputs.relations), inputs, WARM)
    table = torch.ones(len(group.mean) * 5, 2)
    lonely = NodeInputs(np.array([7]), relations={"CAST": links([], 1)})
    found = prior_atoms(Propagation((group,), (1.0,)), [table], lonely)
    assert [source.part for source in found.sources] == ["prominence"]
    features = group.raw(lonely, np.array([0]), CPU)
    np.testing.assert_allclose(found.vectors[0], features.sum(), rtol=1e-6)


def test_many_links_add_up_to_the_features(inputs):
    many = links(
        [(0, e) for e in range(40)] + [(n, e) for n in range(1, 5) for e in range(9)], 5, 40
    )
    given = NodeInputs(np.arange(5), relations={"CAST": many, "GENRE": inputs.relations["GENRE"]})
    group = Prominence.fit("prominence", list(given.relations), given, WARM)
    table = torch.from_numpy(
        np.random.default_rng(1).normal(size=(len(group.mean) * 5, 4)).astype(np.float32)
    )
    found = prior_atoms(Propagation((group,), (1.0,)), [table], alone(given, 0))
    whole = (group.raw(given, np.array([0]), CPU) @ table)[0]
    np.testing.assert_allclose(found.vectors.sum(dim=0), whole, atol=1e-4)
