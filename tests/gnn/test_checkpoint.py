import json

import numpy as np
import pytest
import torch

from gnn.checkpoint import side_from_state, side_to_state
from gnn.data import NodeInputs, node_inputs
from gnn.groups import Gaussians
from gnn.infer import priors
from gnn.popularity import with_popularity
from gnn.ridge import DualRidge, Shrunk
from gnn.train import TrainConfig, train
from kg.errors import SavedFileError
from kg.toy import toy_graph

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def both():
    """Two trained sides, that of the items with a group of every kind, and inputs for that."""
    graph = toy_graph(num_cold_items=8)
    text = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    plain = node_inputs(graph, "Movie", text)
    tags = [["odd", "very"] if row % 3 else [] for row in range(80)]
    items = NodeInputs(
        **(vars(plain) | {"categorical": {"tags": tags}, "vectors": {"image": text}})
    )
    users, rng = node_inputs(graph, "User", None), np.random.default_rng(0)
    trained = train(users, items, graph.positives(), TrainConfig(), rng=rng, device=CPU)
    return trained, items


@pytest.fixture(scope="module")
def made(both):
    """The items' side, and inputs for it."""
    trained, items = both
    return trained.items, items


def test_a_side_comes_back_from_json_and_arrays_and_embeds_identically(made):
    side, items = made
    meta, arrays = side_to_state(side)
    again = side_from_state(json.loads(json.dumps(meta)), arrays, CPU)
    assert again.propagation.names == side.propagation.names
    assert [type(g) for g in again.propagation.groups] == [type(g) for g in side.propagation.groups]
    assert {g.kind for g in side.propagation.groups} >= {"constant", "category", "gaussians"}
    one, other = (priors(s, items, items.rows, CPU) for s in (side, again))
    assert torch.equal(one, other)
    assert torch.equal(again.leverage, side.leverage)
    assert torch.equal(again.reference, side.reference)
    assert (again.precision, again.reliability) == (side.precision, side.reliability)
    np.testing.assert_array_equal(again.warm, side.warm)
    np.testing.assert_array_equal(again.weights, side.weights)


def test_what_is_saved_is_plain_arrays_and_json(made):
    meta, arrays = side_to_state(made[0])
    assert all(isinstance(a, np.ndarray) and a.dtype.kind in "fib" for a in arrays.values())
    assert json.loads(json.dumps(meta)).keys() == meta.keys()


def test_a_missing_array_or_an_unknown_kind_of_group_is_an_error(made):
    meta, arrays = side_to_state(made[0])
    some = {name: a for name, a in arrays.items() if name != "leverage"}
    with pytest.raises(SavedFileError, match="the saved engine lacks 'leverage'; save it again"):
        side_from_state(meta, some, CPU)
    strange = meta | {"groups": [{"kind": "hologram"}, *meta["groups"][1:]]}
    with pytest.raises(SavedFileError, match="has a feature group of kind 'hologram'"):
        side_from_state(strange, arrays, CPU)


def test_arrays_with_a_row_per_node_are_numbers_of_nodes_or_can_be_worked_out_again(both):
    trained, items = both
    side = trained.items
    _, arrays = side_to_state(side)
    sizes = {len(side.warm), len(items)}
    per_node = {name.split(".")[-1] for name, a in arrays.items() if {*a.shape[:1]} & sizes}
    assert per_node <= {"warm", "column", "idf", "table", "leverage", "exposure", "reference"}
    # Leverage follows from features, tables from features and the embeddings at training.
    raws = side.propagation.raw(items, side.warm, CPU)
    ridge = Shrunk(DualRidge(raws, side.propagation.scales, side.weights), side.prior_scale)
    np.testing.assert_allclose(ridge.leverage, side.leverage, atol=1e-5)
    mean, common = side.reference.mean(dim=0), trained.users.reference.mean(dim=0)
    tables = with_popularity(ridge.tables(side.reference), mean, common, side.popularity_scale)
    for again, table in zip(tables, side.tables, strict=True):
        np.testing.assert_allclose(again, table, atol=1e-5)


def test_what_was_saved_before_there_were_scales_or_a_rank_of_numbers_is_as_it_was(made):
    side, items = made
    meta, arrays = side_to_state(side)
    before = dict(meta, groups=[dict(group) for group in meta["groups"]])
    del before["prior_scale"], before["popularity_scale"]
    numbers = [group for group in before["groups"] if group["kind"] == "gaussians"]
    for group in numbers:
        del group["ranked"]
    loaded = side_from_state(before, arrays, CPU)
    assert (loaded.prior_scale, loaded.popularity_scale) == (1.0, 1.0)
    assert numbers
    for group in loaded.propagation.groups:
        if isinstance(group, Gaussians):
            assert group.raw(items, side.warm, CPU).shape == (len(side.warm), 10)
