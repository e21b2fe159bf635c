from __future__ import annotations

import numpy as np
import pytest
import torch

from gnn.losses import TripleLoss, choice_loss


def test_the_loss_of_a_choice_is_a_softmax_over_the_candidates():
    users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    none = torch.zeros(1, 2, dtype=torch.bool)
    loss = choice_loss(
        users, items, torch.tensor([0.0, 0.5]), torch.zeros(2), torch.tensor([0]), none
    )
    np.testing.assert_allclose(loss, -np.log(np.exp(2) / (np.exp(2) + np.exp(0.5))), rtol=1e-6)


def test_other_choices_of_a_user_are_no_negatives_and_the_own_one_always_counts():
    users, items = torch.ones(1, 1), torch.tensor([[1.0], [5.0], [0.0]])
    hidden = torch.tensor([[True, True, False]])
    loss = choice_loss(users, items, torch.zeros(3), torch.zeros(3), torch.tensor([0]), hidden)
    np.testing.assert_allclose(loss, -np.log(np.e / (np.e + 1)), rtol=1e-6)


def test_the_correction_makes_the_sampled_loss_that_of_all_items():
    # Items drawn with known chance: the expected gradient leads to the true log shares.
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.3, 0.1])
    biases = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([biases], lr=0.4)
    in_batch = 1 - (1 - shares) ** 3
    for step in range(1000):
        chosen = rng.choice(3, 3, p=shares)
        there = np.isin(np.arange(3), chosen)
        optimizer.param_groups[0]["lr"] = 0.4 / (1 + step / 100)
        optimizer.zero_grad()
        choice_loss(
            torch.zeros(3, 1),
            torch.zeros(3, 1),
            biases,
            torch.from_numpy(np.log(in_batch)).float(),
            torch.from_numpy(chosen),
            torch.from_numpy(np.tile(~there, (3, 1))),
        ).backward()
        optimizer.step()
    learnt = torch.softmax(biases.detach(), 0).numpy()
    plain = shares / in_batch / (shares / in_batch).sum()
    assert abs(learnt - shares).max() < abs(learnt - plain).max()
    assert (np.diff(learnt) < 0).all()


def test_hard_negatives_join_those_of_their_pair_alone():
    users, items = torch.ones(2, 1), torch.tensor([[0.0], [1.0], [2.0]])
    hidden = torch.tensor([[False, True, True], [False, True, True]])
    args = (torch.zeros(3), torch.zeros(3), torch.tensor([0, 0]), hidden)
    loss = choice_loss(users, items, *args, hard=torch.tensor([[1], [2]]))
    np.testing.assert_allclose(loss, np.log(1 + np.e) + np.log(1 + np.e**2), rtol=1e-6)
    chosen_too = torch.tensor([[True], [False]])
    loss = choice_loss(users, items, *args, hard=torch.tensor([[1], [2]]), hard_hidden=chosen_too)
    np.testing.assert_allclose(loss, np.log(1 + np.e**2), rtol=1e-6)


@pytest.mark.parametrize("kind", ["transe", "distmult", "rotate"])
def test_a_relation_is_learnt_from_its_triples(kind):
    torch.manual_seed(0)
    heads = torch.nn.functional.normalize(torch.randn(30, 8), dim=1)
    real, imaginary = heads.chunk(2, dim=1)
    tails = {
        "transe": heads + torch.linspace(-0.3, 0.3, 8),
        "distmult": heads * torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]),
        "rotate": torch.cat([-imaginary, real], dim=1),
    }[kind]
    loss = TripleLoss(kind, 1, 8)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    known = torch.zeros(30, 30, dtype=torch.bool)
    first = None
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(heads, 0, tails, known)
        first = first or float(value.detach())
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.5 * first
    assert (loss.scores(heads, 0, tails).argmax(dim=1) == torch.arange(30)).float().mean() > 0.9
