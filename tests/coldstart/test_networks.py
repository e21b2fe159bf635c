from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.engine import ColdStartEngine, EngineConfig
from coldstart.networks import network_data, network_family, network_scorer, train_scorer
from coldstart.training_data import TrainingData
from gnn.network import NetworkConfig
from gnn.network_infer import all_states
from gnn.network_train import train_network
from gnn.networked import Networked
from kg.delta import GraphDelta
from kg.toy import toy_graph

SMALL = NetworkConfig(
    hidden_channels=16, dim=8, heads=2, epochs=6, learning_rate=0.02, batch_size=128, held_out=0.1
)


@pytest.fixture(scope="module")
def graph():
    return toy_graph(num_cold_items=12, num_cold_users=8)


def fitted(graph, encoder: str) -> ColdStartEngine:
    config = EngineConfig(graph_encoder=encoder, network=SMALL, network_folds=2)
    return ColdStartEngine.fit(graph, config, texts={})


@pytest.fixture(scope="module")
def engine(graph):
    return fitted(graph, "sage")


def share_of_own_taste(engine: ColdStartEngine, users: range) -> float:
    cold = [f"m{i}" for i in range(68, 80)]
    found = engine.recommend([f"u{u}" for u in users], 3, candidates=cold, evidence=False)
    return float(np.mean(found.user_rows % 4 == found.item_rows % 4))


@pytest.mark.parametrize("encoder", ["sage", "propagation+hgt"])
def test_cold_items_go_to_those_of_their_taste(graph, engine, encoder):
    engine = engine if encoder == "sage" else fitted(graph, encoder)
    assert encoder.split("+")[-1] in engine.items.propagation.names
    assert share_of_own_taste(engine, range(52)) > 0.9


def test_known_nodes_are_recomputed_from_their_own_fold(engine):
    for node_type, keys in {"Movie": ["m0", "m5", "m70"], "User": ["u3", "u59"]}.items():
        again = engine.recomputed(node_type, keys).matrix
        np.testing.assert_allclose(again, engine.embed(node_type, keys).matrix, atol=1e-5)


def test_a_new_film_equals_itself_had_it_been_there(graph, engine):
    genres = graph.edges["Movie", "HAS_GENRE", "Genre"].index
    genre = graph.vocabularies["Genre"][int(genres[1][genres[0] == 70][0])]
    links = {("Movie", "HAS_GENRE", "Genre"): [genre]}
    year = graph.node_table("Movie")["year"][70].as_py()
    drafted = engine.embed_new("Movie", links=links, properties={"year": year})
    delta = GraphDelta(
        nodes={"Movie": {"id": ["new"], "year": [year]}},
        edges={("Movie", "HAS_GENRE", "Genre"): {"source": ["new"], "target": [genre]}},
    )
    grown = engine.update(delta, texts={})
    np.testing.assert_allclose(grown.embed("Movie", ["new"]).matrix[0], drafted, atol=1e-5)
    untouched = grown.embed("Movie", ["m3", "m70"]).matrix
    assert np.array_equal(untouched, engine.embed("Movie", ["m3", "m70"]).matrix)


def test_an_engine_with_networks_comes_back_from_disk(engine, tmp_path):
    engine.save(tmp_path / "e")
    again = ColdStartEngine.load(tmp_path / "e")
    assert again.config == engine.config
    fresh, theirs = (e.recomputed("Movie", ["m1", "m70"]).matrix for e in (again, engine))
    np.testing.assert_allclose(fresh, theirs, atol=1e-6)


def test_the_parts_of_a_score_add_up_with_the_network_among_them(engine):
    found = engine.recommend(["u1"], 5)
    parts = {n: v for n, v in found.evidence.items() if n.startswith("part_")}
    assert "part_sage" in parts
    np.testing.assert_allclose(sum(parts.values()), found.scores, atol=1e-4)
    assert engine.explain("u1", "m70").score == pytest.approx(
        float(engine.score(["u1"], ["m70"])[0, 0]), abs=1e-5
    )


def test_removing_people_leaves_the_vectors_of_the_others(engine):
    left = engine.update(GraphDelta(removed_nodes={"User": ["u0", "u7"]}))
    for key in ("u8", "u58"):
        before, after = (e.recomputed("User", [key]).matrix for e in (engine, left))
        np.testing.assert_allclose(after, before, atol=1e-5)
    group = left.users.propagation.groups[-1]
    assert isinstance(group, Networked)
    assert len(group.folds) == 58
    left = engine.update(GraphDelta(removed_nodes={"Movie": ["m0", "m69"]}))
    before, after = (e.recomputed("Movie", ["m68", "m79"]).matrix for e in (engine, left))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_network_alone_scores_like_any_scorer(graph):
    data = TrainingData(graph, {})
    scorer, found = train_scorer(data, SMALL)
    scores = scorer.score(np.arange(52), np.arange(68, 80))
    own = np.arange(52)[:, None] % 4 == np.arange(68, 80)[None] % 4
    assert scores[own].mean() > scores[~own].mean() + 0.5
    prepared = network_data(data)
    again = network_scorer(train_network(prepared, SMALL).network, prepared)
    np.testing.assert_array_equal(
        again.score(np.arange(3), np.arange(9)), scorer.score(np.arange(3), np.arange(9))
    )
    assert found.history


def test_a_network_alone_takes_nodes_that_came_after_it_was_trained(graph):
    then = TrainingData(graph, {})
    prepared = network_data(then)
    network = train_network(prepared, replace(SMALL, interactions=False)).network
    genres = graph.edges["Movie", "HAS_GENRE", "Genre"].index
    genre = graph.vocabularies["Genre"][int(genres[1][genres[0] == 70][0])]
    same = {"id": ["m70 again"], "year": [graph.node_table("Movie")["year"][70].as_py()]}
    delta = GraphDelta(
        nodes={"Movie": same, "Genre": {"id": ["a new one"]}},
        edges={
            ("Movie", "HAS_GENRE", "Genre"): {
                "source": ["m70 again", "m71"],
                "target": [genre, "a new one"],
            },
            # A film that was cold is warm now, and another is known to one more.
            graph.schema.interaction: {
                "source": ["u0", "u1"],
                "target": ["m72", "m0"],
                "weight": [5, 5],
                "time": [999, 999],
            },
        },
    )
    now = network_data(TrainingData(graph.apply(delta), {}), like=then)
    before, after = network_scorer(network, prepared), network_scorer(network, now)
    users, items = np.arange(60), np.setdiff1d(np.arange(80), [71])
    np.testing.assert_allclose(
        after.score(users, items), before.score(users, items), rtol=1e-5, atol=1e-5
    )
    new = after.score(np.arange(52), np.array([80]))[:, 0]
    own = np.arange(52) % 4 == 70 % 4
    assert new[own].min() > new[~own].max()
    fewer = graph.apply(GraphDelta(removed_nodes={"Genre": [genre]}))
    with pytest.raises(ValueError, match="Genre: nodes that the network was trained with are gone"):
        network_data(TrainingData(fewer, {}), like=then)


def test_a_family_begins_no_setting_when_its_time_is_over(graph):
    settings = {"a": SMALL, "b": SMALL, "c": SMALL}
    found = network_family(settings, seconds=0.0)(TrainingData(graph, {}))
    assert list(found) == ["a"]


def test_a_fold_that_takes_every_interaction_learns_from_none():
    from gnn.crossfit import cross_fitted

    graph = toy_graph(num_users=4, num_items=8)
    data = TrainingData(graph, {})
    one_user = graph.positives()[:, graph.positives()[0] == 0]
    inputs = data.inputs("User"), data.inputs("Movie")
    users, _ = cross_fitted(graph, *inputs, one_user, SMALL, folds=2, device=torch.device("cpu"))
    own = users.networks[int(users.folds[0])]
    # Weights as they were made: no step was taken on what the user chose.
    at = own.names.index("gain_heads.0.bias")
    assert own.values[at].tolist() == [2.5]
    assert users.networks[0].values[at].tolist() != [2.5]


@pytest.mark.parametrize(("held_out", "trainings"), [(0.0, 3), (0.3, 4)])
def test_epochs_are_searched_for_only_where_nodes_are_held_out(graph, held_out, trainings):
    from gnn.crossfit import cross_fitted

    data, told = TrainingData(graph, {}), []
    config = replace(SMALL, epochs=1, held_out=held_out)
    inputs, cpu = (data.inputs("User"), data.inputs("Movie")), torch.device("cpu")
    cross_fitted(
        graph, *inputs, graph.positives(), config, folds=2, device=cpu, progress=told.append
    )
    assert len(told) == trainings  # a sentence for each epoch
    assert ("search" in told[0]) == (held_out > 0)


def test_nodes_of_a_fold_give_no_messages_to_what_its_network_sees(graph, monkeypatch):
    from gnn import crossfit

    seen = []

    def spy(network, passed, *rest):
        seen.append(passed)
        return all_states(network, passed, *rest)

    monkeypatch.setattr(crossfit, "all_states", spy)
    data = TrainingData(graph, {})
    inputs, positives = (data.inputs("User"), data.inputs("Movie")), graph.positives()
    config, device = replace(SMALL, epochs=1), torch.device("cpu")
    groups = crossfit.cross_fitted(graph, *inputs, positives, config, folds=2, device=device)
    everything, *without = seen
    assert len(without) == 2
    for group in groups:
        leaving = [e for e in everything.edges if e[0] == group.node_type]
        for fold, passed in enumerate(without, start=1):
            for edge_type in leaving:
                before, after = (g.edges[edge_type].indices.numpy() for g in (everything, passed))
                expected = before[group.folds[before] != fold]
                assert sorted(after) == sorted(expected)
                assert len(expected) < len(before)


@pytest.mark.parametrize("encoder", ["gcn", "sage+hgt", "sage+sage", ""])
def test_an_unknown_graph_encoder_is_refused(encoder):
    with pytest.raises(ValueError, match="graph_encoder must be one of"):
        EngineConfig(graph_encoder=encoder)
