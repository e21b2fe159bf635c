"""One node at a time says what many at a time say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn.data import Adjacency, node_inputs
from gnn.groups import SparseRows
from gnn.infer import posteriors, priors, rotated_rows
from gnn.single import embed_single, single_row
from gnn.train import TrainConfig, train
from kg import GraphDelta
from kg.toy import toy_graph

CPU = torch.device("cpu")
FIRST = np.zeros(1, np.int64)


@pytest.fixture(scope="module")
def sides():
    """Inputs of one node, and the trained side and vectors, of films and of people.

    Every kind of group is there: also ready-made vectors, a category of several values, and what
    friends have seen. Some films and people came after training.
    """
    graph = toy_graph(num_cold_items=8, num_cold_users=6)
    rng = np.random.default_rng(0)
    text, image = (rng.normal(size=(n, 8)).astype(np.float32) for n in (90, 90))
    text[::7] = 0
    history = rng.normal(size=(70, 8)).astype(np.float32)
    history[::5] = 0

    def inputs(graph, node_type, rows=None):
        n = graph.num_nodes(node_type)
        if node_type == "Movie":
            return node_inputs(graph, "Movie", text[:n], rows=rows, vectors={"image": image[:n]})
        return node_inputs(graph, "User", None, rows=rows, peer_history=history.__getitem__)

    rng, config = np.random.default_rng(0), TrainConfig(max_dim=12)
    made = (inputs(graph, "User"), inputs(graph, "Movie"), graph.positives())
    trained = train(*made, config, rng=rng, device=CPU)
    grown = graph.apply(
        GraphDelta(
            nodes={"Movie": {"id": ["new"]}, "User": {"id": ["v"]}, "Genre": {"id": ["opera"]}},
            edges={
                ("Movie", "HAS_GENRE", "Genre"): {
                    "source": ["new"] * 3,
                    "target": ["space", "crime", "opera"],
                },
                ("Movie", "SIMILAR_TO", "Movie"): {
                    "source": ["new", "m4", "new"],
                    "target": ["m79", "new", "m7"],
                },
                ("User", "FRIEND_OF", "User"): {"source": ["v", "u3"], "target": ["u59", "v"]},
            },
        )
    )
    vectors = {
        t: priors(side, given, given.rows, CPU)
        for t, side in (("User", trained.users), ("Movie", trained.items))
        for given in [inputs(grown, t)]
    }
    sides = {"User": trained.users, "Movie": trained.items}
    return sides, vectors, lambda node_type, row: inputs(grown, node_type, np.array([row]))


@pytest.mark.parametrize(("node_type", "num_nodes"), [("Movie", 81), ("User", 61)])
def test_every_group_says_the_same_of_one_node(sides, node_type, num_nodes):
    trained, _, inputs_of = sides
    groups = trained[node_type].propagation.groups
    for row in range(num_nodes):
        inputs = inputs_of(node_type, row)
        for group in groups:
            raw = group.raw(inputs, FIRST, CPU)
            expected = raw.to_dense() if isinstance(raw, SparseRows) else raw
            found = single_row(group, inputs, {})
            if not isinstance(found, np.ndarray):
                columns, values = found or (FIRST[:0], np.zeros(0, np.float32))
                found = np.zeros(expected.shape[1], np.float32)
                np.add.at(found, columns, values)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[0], atol=2e-6, err_msg=group.name)


def test_all_kinds_of_groups_are_looked_at(sides):
    groups = [group for side in sides[0].values() for group in side.propagation.groups]
    assert {"image", "FRIEND_OF history"} <= {group.name for group in groups}
    kinds = {group.kind for group in groups}
    assert kinds == {
        "constant",
        "text",
        "text_kernel",
        "words",
        "pieces",
        "neighbour_text",
        "one_hot",
        "neighbour_one_hot",
        "prominence",
        "gaussians",
        "category",
    }


@pytest.mark.parametrize(("node_type", "other_type"), [("Movie", "User"), ("User", "Movie")])
@pytest.mark.parametrize("degree", [0, 1, 5, 40])
def test_one_node_is_embedded_as_many_are(sides, node_type, other_type, degree):
    trained, vectors, inputs_of = sides
    side, other = trained[node_type], trained[other_type]
    assert degree == 0 or degree < 12 or degree > other.reference.shape[1]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        row = len(vectors[node_type]) - 1
        positives = np.sort(rng.choice(len(vectors[other_type]), degree, replace=False))
        inputs = inputs_of(node_type, row)
        seen = rotated_rows(other, vectors[other_type], positives)
        links = Adjacency(np.array([0, degree]), np.arange(degree), degree)
        prior = priors(side, inputs, FIRST, CPU)
        expected = posteriors(side, inputs.rows, prior, links, seen, other.spectrum)[0]
        found = embed_single(side, inputs, positives, other, vectors[other_type])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


class Unheard:
    """A kind of group that came without a short way."""

    name = kind = "unheard"

    def raw(self, inputs, rows, device):
        return torch.full((len(rows), 1), 3.0)


def test_a_kind_without_a_short_way_goes_the_long_one(sides):
    inputs = sides[2]("Movie", 0)
    assert single_row(Unheard(), inputs, {}).tolist() == [3.0]


def test_vectors_of_training_that_are_not_given_are_an_error(sides):
    trained, vectors, inputs_of = sides
    inputs = replace(inputs_of("Movie", 80), vectors={})
    with pytest.raises(ValueError, match="no vectors 'image', which the engine was trained on"):
        embed_single(trained["Movie"], inputs, FIRST[:0], trained["User"], vectors["User"])
