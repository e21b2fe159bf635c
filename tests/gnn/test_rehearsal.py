from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn import rehearsal as module
from gnn.data import Adjacency
from gnn.raws import apply
from tests.gnn.test_train import trained as train_planted


@pytest.fixture(scope="module")
def trained():
    return train_planted()


def hidden_of(links, seed=0):
    """Every tenth interaction and all of every seventh item."""
    rng = np.random.default_rng(seed)
    return (links.indices % 7 == 0) | (rng.random(len(links.indices)) < 0.1)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_with_nothing_left_out_it_comes_to_what_training_came_to(scale, monkeypatch):
    monkeypatch.setattr(module, "ALS_SWEEPS", 5)
    monkeypatch.setattr(module, "SWEEPS", 3)
    trained = train_planted(item_popularity_scale=scale)
    rehearsal = trained.rehearsal
    nothing = np.zeros(len(rehearsal.links.indices), bool)
    found = rehearsal.without(nothing, np.random.default_rng(0))
    scores = found.users @ found.items.T
    expected = trained.user_embeddings @ trained.item_embeddings.T
    assert np.corrcoef(scores.flatten(), expected.flatten())[0, 1] > 0.99
    popular = found.items @ found.users.mean(dim=0)
    wanted = trained.item_embeddings @ trained.user_embeddings.mean(dim=0)
    torch.testing.assert_close(popular, wanted, atol=0.01, rtol=0.02)
    assert not found.cold.any()


def test_nothing_of_what_is_hidden_is_in_what_comes(trained):
    """The same hidden interactions with other items: everything is the same to the last bit."""
    rehearsal, links = trained.rehearsal, trained.rehearsal.links
    hidden = hidden_of(links)
    items = np.where(hidden, (links.indices + 13) % links.num_targets, links.indices)
    other = replace(rehearsal, links=Adjacency(links.indptr, items, links.num_targets))
    one, two = (r.without(hidden, np.random.default_rng(1)) for r in (rehearsal, other))
    assert torch.equal(one.users, two.users)
    assert torch.equal(one.items, two.items)
    np.testing.assert_array_equal(one.cold, two.cold)


def test_items_with_nothing_left_are_what_features_say_and_are_told(trained):
    rehearsal, links = trained.rehearsal, trained.rehearsal.links
    found = rehearsal.without(hidden_of(links), np.random.default_rng(0))
    gone = np.flatnonzero(found.cold)
    np.testing.assert_array_equal(gone, np.arange(0, links.num_targets, 7))
    said = apply(rehearsal.item_raws, found.tables)
    torch.testing.assert_close(found.items[gone], said[gone], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.items[1:7], said[1:7], atol=1e-2)
    wanted = found.users[torch.from_numpy(links.sources[hidden_of(links)])]
    scores = (wanted * found.items[torch.from_numpy(links.indices[hidden_of(links)])]).sum(dim=1)
    assert scores.mean() > 2 * (found.users @ found.items.T).mean()  # features tell of them


def test_embeddings_are_no_longer_than_a_rehearsal_needs(trained, monkeypatch):
    monkeypatch.setattr(module, "MAX_DIM", 5)
    links = trained.rehearsal.links
    found = trained.rehearsal.without(hidden_of(links), np.random.default_rng(0))
    assert (found.users.shape[1], found.items.shape[1]) == (5, 5)
    assert [table.shape[1] for table in found.tables] == [5] * len(found.tables)
