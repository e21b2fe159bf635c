from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnn.groups import SparseRows
from gnn.network import MODELS, NetworkConfig
from gnn.network_data import NetworkData
from gnn.network_infer import Vectors, all_vectors
from gnn.network_ranking import HeldOut, ranked_ndcg
from gnn.network_train import train_network
from gnn.parallel import own_device
from gnn.typed import Incoming, TypedGraph
from kg.errors import SavedFileError, TrainingError
from tests.gnn.tastes import tastes, with_rare_relation

CPU = torch.device("cpu")
SMALL = NetworkConfig(
    hidden_channels=16,
    dim=8,
    heads=2,
    epochs=4,
    batch_size=128,
    num_negatives=16,
    fanouts=(4, 4),
    held_out=0.1,
)

LONGER = replace(SMALL, epochs=12, learning_rate=0.02, num_negatives=4, batch_size=64)


@pytest.fixture(scope="module")
def data() -> NetworkData:
    return tastes()


def vectors(network, data) -> Vectors:
    return all_vectors(network, data.passed(network.config), data.features, CPU)


@pytest.mark.parametrize("model", MODELS)
def test_items_that_nobody_has_chosen_go_to_those_who_share_their_taste(model, data):
    found = train_network(data, replace(LONGER, model=model))
    cold = np.setdiff1d(np.arange(60), data.positives[1])
    assert len(cold) == 12
    pairs = np.array([(u, i) for u in range(80) for i in cold if u % 4 == i % 4]).T
    # By chance it would be .5; a few seeds of the attention models end at .8.
    made = vectors(found.network, data)
    assert ranked_ndcg(made, pairs, cold) > 0.75
    have_spread(made)
    rated = found.history[found.best_epoch]["ndcg"]
    assert rated == max(h["ndcg"] for h in found.history)


def test_what_words_alone_tell_is_learnt(data):
    taste = torch.arange(60) % 4
    words = SparseRows(torch.arange(61), taste, torch.ones(60), 4)
    features = {**data.features, "item": (np.ones((60, 1), np.float32), words)}
    graph = TypedGraph({"user": 80, "item": 60}, {})
    wordy = replace(data, graph=graph, features=features)
    found = train_network(wordy, LONGER)
    cold = np.arange(48, 60)
    pairs = np.array([(u, i) for u in range(80) for i in cold if u % 4 == i % 4]).T
    assert ranked_ndcg(vectors(found.network, wordy), pairs, cold) > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "dot"},
        {"decoder": "distmult", "triple_loss": "distmult"},
        {"num_hard": 2, "triple_loss": "transe"},
        {"interactions": False, "cold_share": 0.0, "triple_loss": "rotate"},
        {"mixed_precision": True},
    ],
)
def test_every_option_learns_the_tastes_and_embeddings_keep_their_spread(options, data):
    found = train_network(data, replace(LONGER, **options))
    assert found.history[found.best_epoch]["ndcg"] > 0.8
    have_spread(vectors(found.network, data))


def have_spread(made: Vectors) -> None:
    """No collapse: the tastes span several directions."""
    for x in (made.users, made.items):
        unit = torch.nn.functional.normalize(x, dim=1)
        shares = torch.linalg.svdvals(unit - unit.mean(dim=0)) ** 2
        assert shares.sum() / len(x) > 0.2
        assert shares[0] / shares.sum() < 0.9


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_network(model, data):
    config = replace(SMALL, model=model, epochs=2)
    first, again, other = (
        train_network(data, config, seed=s).network.state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["bias_head.weight"], other["bias_head.weight"])


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(data, tmp_path):
    whole = train_network(data, SMALL)

    class Stop(Exception):
        pass

    def stop(kind: str, numbers: dict[str, float]) -> None:
        if kind == "step" and numbers["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        train_network(data, SMALL, checkpoint=tmp_path / "c", progress=stop)
    rest = train_network(data, SMALL, checkpoint=tmp_path / "c")
    assert [h["loss"] for h in rest.history] == [h["loss"] for h in whole.history]
    state, expected = rest.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    with pytest.raises(SavedFileError, match=r"holds a training that differs in \['seed'\]"):
        train_network(data, SMALL, seed=5, checkpoint=tmp_path / "c")
    with pytest.raises(SavedFileError, match=r"differs in \['epochs'\]"):
        train_network(data, SMALL, stop_after=2, checkpoint=tmp_path / "c")
    turned = {t: f[::-1].copy() for t, f in data.features.items()}
    with pytest.raises(SavedFileError, match=r"differs in \['features'\]"):
        train_network(replace(data, features=turned), SMALL, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("at", [(3, "epoch"), (4, "step"), (5, "step")])
def test_the_refit_has_all_nodes_and_goes_on_after_a_stop(at, data, tmp_path):
    config = replace(SMALL, held_out=0.2, epochs=4, patience=9)
    searched = train_network(data, replace(config, refit=False))
    told: list[tuple[str, dict[str, float]]] = []
    whole = train_network(data, config, progress=lambda *what: told.append(what))
    losses = [[h["loss"] for h in found.history] for found in (searched, whole)]
    assert losses[0] == losses[1]
    fewer = train_network(data, replace(config, held_out=0.0), stop_after=len(whole.refit))
    assert [h["loss"] for h in fewer.history] == [h["loss"] for h in whole.refit]
    assert (searched.best_epoch, searched.refit) == (whole.best_epoch, [])
    assert len(whole.refit) == whole.best_epoch + 1 >= 2
    epochs = [numbers for kind, numbers in told if kind == "epoch"]
    assert [n["epoch"] for n in epochs] == list(range(4 + len(whole.refit)))
    assert ["ndcg" in n for n in epochs] == [True] * 4 + [False] * len(whole.refit)
    steps = [sum(n["epoch"] == e for kind, n in told if kind == "step") for e in (0, 4)]
    taught = HeldOut.draw(data.positives, 0.2, 0).taught.shape[1]
    assert steps == [-(-taught // 128), -(-data.positives.shape[1] // 128)]

    class Stop(Exception):
        pass

    def stop(kind: str, numbers: dict[str, float]) -> None:
        if (numbers["epoch"], kind) == at:
            raise Stop

    with pytest.raises(Stop):
        train_network(data, config, checkpoint=tmp_path / "c", progress=stop)
    for _ in range(2):  # the second has nothing left to do
        rest = train_network(data, config, checkpoint=tmp_path / "c")
        assert [h["loss"] for h in rest.history] == losses[1]
        assert [h["loss"] for h in rest.refit] == [h["loss"] for h in whole.refit]
        state, expected = rest.network.state_dict(), whole.network.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_loss_that_is_no_number_stops_with_the_batch_and_the_checkpoint_stays(data, tmp_path):
    features = {t: f.copy() for t, f in data.features.items()}
    broken = replace(data, features=features)

    def poison(kind: str, numbers: dict[str, float]) -> None:
        if kind == "epoch" and numbers["epoch"] == 1:
            features["item"][:] = np.nan

    with pytest.raises(TrainingError, match=r"epoch 2, step 0 of \d+ \(the pairs from user row"):
        train_network(broken, SMALL, checkpoint=tmp_path / "c", progress=poison)
    rest = train_network(data, SMALL, checkpoint=tmp_path / "c")
    assert len(rest.history) == 4
    assert np.isfinite([h["loss"] for h in rest.history]).all()


def test_weights_that_are_no_good_after_the_last_step_are_not_kept(data, tmp_path):
    steep = replace(SMALL, learning_rate=1e30, batch_size=10**6, held_out=0.0, epochs=2)
    with pytest.raises(
        TrainingError, match=r"nan after the step, in epoch 0, step 0 of 1 .* or lower"
    ):
        train_network(data, steep, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_features_of_held_out_nodes_that_are_no_numbers_are_told(data):
    config = replace(SMALL, held_out=0.2)
    gone = HeldOut.draw(data.positives, 0.2, 0).users
    features = {t: f.copy() for t, f in data.features.items()}
    features["user"][gone] = np.nan
    told = rf"of {len(gone)} of 80 user nodes is no number, of those in rows \[{gone[0]}, "
    with pytest.raises(TrainingError, match=told):
        train_network(replace(data, features=features), config)


def test_steps_are_counted_through_a_refit_and_a_stop(data, tmp_path):
    config = replace(SMALL, epochs=2, held_out=0.2)
    told: list[dict[str, float]] = []

    class Stop(Exception):
        pass

    def tell(kind: str, numbers: dict[str, float]) -> None:
        if kind == "step":
            told.append(numbers)
        elif numbers["epoch"] == 1 and not stopped:
            stopped.append(True)
            raise Stop

    stopped: list[bool] = []
    with pytest.raises(Stop):
        train_network(data, config, checkpoint=tmp_path / "c", progress=tell)
    told = [n for n in told if n["epoch"] == 0]
    train_network(data, config, checkpoint=tmp_path / "c", progress=tell)
    assert [n["number"] for n in told] == list(range(len(told)))
    searched = [n for n in told if n["epoch"] < 2]
    assert {n["of"] for n in searched} == {len(searched)}
    assert {n["of"] for n in told[len(searched) :]} == {len(told)}


SHARED = replace(SMALL, epochs=3, triple_loss="distmult", num_triples=1, num_hard=2)
"""One link a step: one process has no genre in its share; and not every step meets a studio."""

TWO = """
import json, sys, torch
import torch.distributed as dist
from pathlib import Path
from gnn.network_train import train_network
from gnn.parallel import FirstProcessError, told_bytes
from kg.errors import SavedFileError
from tests.gnn.tastes import with_rare_relation
from tests.gnn.test_network_train import SHARED
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, data = dist.get_rank(), with_rare_relation()
own = Path(sys.argv[1]) / f"rank {rank}"
def stop_at(epoch):
    def stop(kind, numbers):
        if kind == "step" and numbers["epoch"] == epoch:
            raise InterruptedError
    try:
        train_network(data, SHARED, checkpoint=own, progress=stop)
    except InterruptedError:
        pass
stop_at(2)
there = own.exists()
stop_at(4)
found = train_network(data, SHARED, checkpoint=own)
try:
    train_network(data, SHARED, seed=1, checkpoint=own)
except SavedFileError as error:
    refused = str(error)
def forbidden():
    raise PermissionError("no right to read it")
try:
    told_bytes(forbidden, torch.device("cpu"))
except FirstProcessError as error:
    failed = str(error)
one = train_network(data, SHARED, seed=0 if rank == 0 else 7, checkpoint=own)
alone = train_network(data, SHARED, checkpoint=own if rank == 0 else None)
dist.destroy_process_group()
told = {"there": there, "history": found.history, "refit": found.refit}
told["refused"], told["failed"] = refused, failed
told["together"], told["alone"] = len(one.history), len(alone.history)
own.with_suffix(".json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What two processes, each with a folder of its own, tell of a training that was stopped."""
    folder, root = tmp_path_factory.mktemp("two"), Path(__file__).parents[2]
    (folder / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(folder / "two.py"), str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank {rank}.json").read_text()) for rank in range(2)]


def test_two_processes_come_to_what_one_does_also_when_they_were_stopped(ranks):
    one = train_network(with_rare_relation(), SHARED)
    assert len(one.refit) == 3  # stopped in its second epoch, the fifth of all
    for told in ranks:
        for where, name, error in (
            ("history", "loss", 1e-5),
            ("history", "ndcg", 1e-3),
            ("refit", "loss", 1e-5),
        ):
            np.testing.assert_allclose(
                [h[name] for h in told[where]], [h[name] for h in getattr(one, where)], atol=error
            )


def test_the_first_process_alone_writes_and_reads_the_checkpoint_and_all_refuse_alike(ranks):
    assert [told["there"] for told in ranks] == [True, False]
    assert [len(told["history"]) for told in ranks] == [3, 3]
    for told in ranks:
        assert "holds a training that differs in ['seed']" in told["refused"]


def test_what_goes_wrong_in_the_first_process_is_told_to_all_and_nobody_waits(ranks):
    for told in ranks:
        assert (
            told["failed"] == "the first process failed with PermissionError: no right to read it"
        )
        assert told["together"] == 3  # the first one compares: none goes on without the other
        assert told["alone"] == 3  # only the first has the folder


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    assert own_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device() == torch.device("cuda:3")


def test_features_may_lie_in_a_file(data, tmp_path):
    mapped = {}
    for node_type, values in data.features.items():
        np.save(tmp_path / f"{node_type}.npy", values)
        mapped[node_type] = np.load(tmp_path / f"{node_type}.npy", mmap_mode="r")
    config = replace(SMALL, epochs=1)
    ours, theirs = (
        train_network(d, config).history[0]["loss"] for d in (data, replace(data, features=mapped))
    )
    assert ours == theirs


def test_training_stops_when_cold_nodes_are_ranked_no_better(data):
    config = replace(SMALL, epochs=60, patience=2)
    found = train_network(data, config)
    assert len(found.history) < 60
    assert len(found.history) == found.best_epoch + 3


def test_one_user_and_one_item_are_enough():
    graph = TypedGraph({"user": 1, "item": 1}, {})
    ones = {"user": np.ones((1, 1), np.float32), "item": np.ones((1, 1), np.float32)}
    data = NetworkData(graph, ones, np.zeros((2, 1), np.int64), ("user", "rated", "item"))
    found = train_network(data, replace(SMALL, epochs=2))
    assert len(found.history) == 2
    empty = replace(data, positives=np.empty((2, 0), np.int64))
    with pytest.raises(ValueError, match="there are no positive interactions to train on"):
        train_network(empty, SMALL)
    with pytest.raises(ValueError, match="stop_after must be at least 1, got 0"):
        train_network(data, SMALL, stop_after=0)


def test_supervised_links_are_never_passed_along():
    # Features say nothing and every user likes one item only: what is left is the link itself.
    num = 40
    graph = TypedGraph({"user": num, "item": num}, {})
    ones = {t: np.ones((num, 1), np.float32) for t in ("user", "item")}
    pairs = np.stack([np.arange(num), np.arange(num)])
    data = NetworkData(graph, ones, pairs, ("user", "rated", "item"))
    config = replace(SMALL, epochs=4, held_out=0.0, cold_share=0.0, batch_size=num)
    found = train_network(data, config)
    assert found.history[-1]["loss"] > 0.9 * np.log(num)


def test_edges_from_some_nodes_are_left_out():
    times = np.array([9.0, 1.0, 5.0])
    edges = Incoming.from_edges(np.array([4, 2, 3]), np.array([1, 0, 1]), 3, times)
    graph = TypedGraph({"item": 5, "genre": 3}, {("item", "in", "genre"): edges})
    assert graph.without_sources({"genre": np.array([0])}).edges == graph.edges
    left = graph.without_sources({"item": np.array([3, 0])}).edges["item", "in", "genre"]
    assert left.indptr.tolist() == [0, 1, 2, 2]
    assert left.indices.tolist() == [2, 4]
    assert left.times is not None
    assert left.times.tolist() == [1.0, 9.0]


def test_held_out_nodes_are_judged_without_their_own_echo(data, monkeypatch):
    # Genres pass on what items give them, so a held-out item would hear itself.
    found = []
    monkeypatch.setattr(
        "gnn.network_train.all_vectors",
        lambda network, graph, *rest: found.append(graph) or all_vectors(network, graph, *rest),
    )
    edges = {**data.graph.edges, ("item", "again", "item"): loops(60)}
    looped = replace(data, graph=replace(data.graph, edges=edges))
    train_network(looped, replace(SMALL, epochs=1, held_out=0.2))
    held = HeldOut.draw(data.positives, 0.2, 0)
    assert len(held.items) == 9
    for edge_type in (("item", "has", "genre"), ("item", "again", "item")):
        sources = found[0].edges[edge_type].indices.numpy()
        assert set(sources) == set(range(60)) - set(held.items)


def loops(count: int) -> Incoming:
    return Incoming.from_edges(np.arange(count), np.arange(count), count)


def test_edges_arrive_sorted_by_target_and_time():
    edges = Incoming.from_edges(
        np.array([4, 2, 3]), np.array([1, 0, 1]), 3, np.array([9.0, 1.0, 5.0])
    )
    assert edges.indptr.tolist() == [0, 1, 3, 3]
    assert edges.indices.tolist() == [2, 3, 4]
    assert edges.times is not None
    assert edges.times.tolist() == [1.0, 5.0, 9.0]
