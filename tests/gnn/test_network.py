from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn.groups import SparseRows
from gnn.network import MASKS, MODELS, NetworkConfig, TypedNetwork, features_of
from gnn.network_data import NetworkData, build_network
from gnn.network_infer import all_states, all_vectors, some_states
from gnn.sampler import sample
from gnn.typed import Incoming, TypedGraph

CPU = torch.device("cpu")
RATED = ("user", "rated", "item")


def config(model: str = "sage", **options) -> NetworkConfig:
    options = {"hidden_channels": 16, "dim": 8, "heads": 2, **options}
    return NetworkConfig(model, **options)


def odd_data(rng: np.random.Generator) -> NetworkData:
    """Isolated nodes, a type without features, one without nodes, self-loops, edges twice."""
    num = {"user": 12, "item": 15, "genre": 4, "nothing": 0}
    ends = rng.integers(0, [[15], [4]], (2, 20))
    ends = np.concatenate([ends, ends[:, :3]], axis=1)  # twice
    ends = ends[:, ends[0] < 13]  # items 13 and 14 are linked to nothing
    loops = np.array([[0, 1, 1, 2], [0, 1, 2, 3]])
    edges = {
        ("item", "has", "genre"): Incoming.from_edges(ends[0], ends[1], 4),
        ("genre", "rev_has", "item"): Incoming.from_edges(ends[1], ends[0], 15),
        ("item", "like", "item"): Incoming.from_edges(loops[0], loops[1], 15),
        ("user", "knows", "user"): Incoming.from_edges(np.array([0]), np.array([1]), 12),
        ("nothing", "of", "item"): Incoming.from_edges(*np.empty((2, 0), np.int64), 15),
    }
    two_each = 2 * torch.arange(-1, 15).clamp(min=0)  # but for the first
    words = SparseRows(two_each, torch.from_numpy(rng.integers(6, size=28)), torch.ones(28), 6)
    features = {
        "user": rng.normal(size=(12, 3)).astype(np.float32),
        "item": (rng.normal(size=(15, 5)).astype(np.float32), words),
    }
    pairs = np.unique(rng.integers(0, [[12], [12]], (2, 40)), axis=1)
    return NetworkData(TypedGraph(num, edges), features, pairs, RATED)


@pytest.fixture
def data() -> NetworkData:
    return odd_data(np.random.default_rng(0))


@pytest.mark.parametrize("model", MODELS)
def test_a_few_nodes_from_their_neighbourhood_equal_the_full_pass(model, data):
    network = with_words(build_network(data, config(model), 0))
    graph = data.with_interactions(data.positives)
    whole = all_states(network, graph, data.features, CPU)[-1]
    for node_type, rows in {"user": [1, 3], "item": [0, 14], "genre": [2]}.items():
        at = torch.tensor(rows)
        some = some_states(network, graph, data.features, {node_type: at}, CPU)[node_type]
        np.testing.assert_allclose(some, whole[node_type][at], atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_all_nodes_are_computed_block_by_block(model, data, monkeypatch):
    network = with_words(build_network(data, config(model), 0))
    graph = data.with_interactions(data.positives)
    whole = all_states(network, graph, data.features, CPU)[-1]
    drawn: list[int] = []

    def watched(*arguments, **options):
        found = sample(*arguments, **options)
        drawn.append(sum(e.shape[1] for e in found.blocks[0].edge_index.values()))
        return found

    monkeypatch.setattr("gnn.network_infer.sample", watched)
    monkeypatch.setattr("gnn.network_infer._BLOCK_EDGES", 5)
    in_blocks = all_states(network, graph, data.features, CPU)[-1]
    for node_type, states in whole.items():
        np.testing.assert_allclose(in_blocks[node_type], states, atol=1e-5)
    degrees = [torch.diff(e.indptr) for e in graph.edges.values()]
    most = sum(int(d.max()) for d in degrees if len(d))
    assert len(drawn) > 12
    assert max(drawn) <= max(5, most)
    assert sum(drawn) == len(network.layers) * sum(
        len(graph.edges[e]) for e in network.edge_types if e in graph.edges
    )


def with_words(network: TypedNetwork) -> TypedNetwork:
    """What words say starts at zero; here it is something."""
    for table in network.sparse.values():
        torch.nn.init.normal_(table)
    return network.eval()


def test_words_change_the_state_of_those_who_have_them(data):
    network = build_network(data, config(), 0).eval()
    graph = TypedGraph(data.graph.num_nodes, {})
    without = all_states(network, graph, data.features, CPU)[-1]["item"]
    there = all_states(with_words(network), graph, data.features, CPU)[-1]["item"]
    same = (there - without).abs().amax(dim=1) < 1e-6
    assert same.tolist() == [True] + [False] * 14
    dense, _ = data.features["item"]
    with pytest.raises(ValueError, match="item had sparse features at training, and has none now"):
        all_states(network, graph, {**data.features, "item": dense}, CPU)
    plain = build_network(replace(data, features={**data.features, "item": dense}), config(), 0)
    with pytest.raises(ValueError, match="item has 6 sparse features, and had 0 at training"):
        all_states(plain, graph, data.features, CPU)


@pytest.mark.parametrize("model", MODELS)
def test_states_do_not_depend_on_the_order_of_relations(model, data):
    network = build_network(data, config(model), 0).eval()
    graph = data.passed(network.config)
    whole = all_states(network, graph, data.features, CPU)[-1]["item"]
    edges = list(graph.edges.items())
    for order in (edges, edges[::-1]):
        other = TypedGraph(graph.num_nodes, dict(order))
        drawn = sample(other, {"item": torch.arange(15)}, [-1, -1], seed=0)
        x_dict = features_of(data.features, drawn.nodes, CPU)
        with torch.no_grad():
            states = network.states(x_dict, drawn.nodes, drawn.blocks)
        np.testing.assert_allclose(states["item"], whole, atol=1e-5)


def test_hgt_is_that_of_pyg(data):
    from torch_geometric.nn import HGTConv  # the layers are an extra

    conv = build_network(data, config("hgt"), 0).layers[0].get_submodule("convs.0")
    assert isinstance(conv, HGTConv)
    theirs = HGTConv(16, 16, (conv.node_types, conv.edge_types), heads=2)
    theirs.load_state_dict(conv.state_dict())
    sizes = {"n0": 4, "n1": 15, "n2": 12}
    rng = torch.Generator().manual_seed(0)
    x_dict = {t: torch.randn(n, 16, generator=rng) for t, n in sizes.items()}
    edges = {
        e: torch.stack([torch.randint(sizes[end], (9,), generator=rng) for end in (e[0], e[2])])
        for e in conv.edge_types[1:]
    }
    found = []
    for one in (conv, theirs):
        out = one(x_dict, edges)
        loss = sum((x**2).sum() for x in out.values())
        gradient = torch.autograd.grad(loss, one.k_rel.weight)
        found.append([*(out[t].detach() for t in sorted(out)), *gradient])
    for ours, other in zip(*found, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_odd_node_has_a_finite_state_of_its_own(model, data):
    network = build_network(data, config(model), 0).eval()
    graph = data.with_interactions(data.positives)
    states = all_states(network, graph, data.features, CPU)[-1]
    assert {t: len(s) for t, s in states.items()} == {"user": 12, "item": 15, "genre": 4}
    for of_type in states.values():
        assert torch.isfinite(of_type).all()
        assert len(torch.unique(of_type, dim=0)) == len(of_type)


@pytest.mark.parametrize("model", MODELS)
def test_links_change_a_state_and_isolated_nodes_keep_theirs(model, data):
    network = build_network(data, config(model), 0).eval()
    without = TypedGraph(data.graph.num_nodes, {})
    linked, alone = (
        all_states(network, graph, data.features, CPU)[-1]["item"]
        for graph in (data.graph, without)
    )
    same = (linked - alone).abs().amax(dim=1) < 1e-5
    assert same[13:].all()
    assert not same[data.graph.edges["genre", "rev_has", "item"].indptr.diff() > 0].any()


@pytest.mark.parametrize("model", MODELS)
def test_a_type_may_be_absent_when_nodes_are_embedded(model, data):
    network = build_network(data, config(model), 0).eval()
    num = {t: n for t, n in data.graph.num_nodes.items() if t != "genre"}
    edges = {e: i for e, i in data.graph.edges.items() if "genre" not in e}
    states = all_states(network, TypedGraph(num, edges), data.features, CPU)[-1]
    assert set(states) == {"user", "item"}
    nobody = TypedGraph({"item": num["item"]}, {})
    users, items, biases = all_vectors(network, nobody, data.features, CPU)
    assert (len(users), len(items), len(biases)) == (0, num["item"], num["item"])


def test_an_entity_that_came_after_training_adds_nothing(data):
    network = build_network(data, config(), 0)
    start = network.start("genre", None, torch.tensor([1, 4, 7]))
    assert start[0].abs().sum() > 0
    assert not start[1:].any()


def test_users_and_items_have_no_rows_of_their_own(data):
    network = build_network(data, config(), 0)
    assert set(network.num_rows) == {"genre"}
    with pytest.raises(ValueError, match=r"\['item'\] must have no rows of their own"):
        TypedNetwork(config(), {"user": 1}, {"item": 3}, [], "user", "item")
    only_users = NetworkData(data.graph, {"user": data.features["user"]}, data.positives, RATED)
    with pytest.raises(ValueError, match="item has no features; give at least a constant column"):
        build_network(only_users, config(), 0)


def test_dropout_follows_from_seed_and_row_alone(data):
    network = build_network(data, config(dropout=0.5), 0)
    rows = {"user": torch.tensor([3, 5, 3 + MASKS])}

    class Targets:
        num_targets = {"user": 3}  # noqa: RUF012

    masks = network._masks(7, rows, Targets())["user"]  # pyright: ignore
    again = network._masks(7, {"user": rows["user"][1:2]}, Targets())["user"]  # pyright: ignore
    assert torch.equal(masks[1], again[0])
    assert torch.equal(masks[0], masks[2])
    assert set(masks.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gcn"}, "model must be one of"),
        ({"decoder": "mlp"}, "decoder must be one of"),
        ({"triple_loss": "hole"}, "triple_loss must be one of"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"fanouts": (0,)}, "fanouts must be at least 1, or -1 for all"),
        ({"hidden_channels": 30}, r"even and a multiple of heads \(4\), got 30"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**options)


def test_settings_come_back_from_json():
    import json

    ours = config("hgt", fanouts=(5, 5))
    assert NetworkConfig.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
    with pytest.raises(ValueError, match=r"a network has no settings \['width'\]"):
        NetworkConfig.from_dict({"width": 3})
