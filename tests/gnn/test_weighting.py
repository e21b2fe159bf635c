import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.heads import warm_half_step
from gnn.raws import gram
from gnn.ridge import DualRidge
from gnn.weighting import cold_folds, cold_loss, learn_weights, left_out_ndcg, one_fold

USERS, ITEMS, KINDS = 60, 90, 6


def kinds(num_nodes):
    """One-hot of the kind of every node; users like items of their own kind."""
    return np.eye(KINDS, dtype=np.float32)[np.arange(num_nodes) % KINDS]


@pytest.fixture(scope="module")
def problem():
    """A group that tells the kind of an item, one that is noise, item vectors, positives."""
    rng = np.random.default_rng(0)
    chance = np.where(kinds(USERS) @ kinds(ITEMS).T > 0, 0.5, 0.01)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < chance)
    informative = kinds(ITEMS) + rng.normal(0, 0.05, (ITEMS, KINDS))
    groups = informative, rng.normal(size=(ITEMS, 40))
    raws = [torch.from_numpy(g.astype(np.float32)) for g in groups]
    raws = [raw / raw.norm() * ITEMS**0.5 for raw in raws]
    links = Adjacency.from_pairs(user, item, USERS, ITEMS)
    return raws, torch.from_numpy(kinds(ITEMS)), links


def grams_of(problem):
    return torch.stack([gram(raw) for raw in problem[0]])


def folds_of(problem, seed=0):
    _, items, links = problem
    return cold_folds(links, np.arange(ITEMS), items, 1.0, np.random.default_rng(seed))


def learnt(problem, steps, **options):
    _, items, _ = problem
    return learn_weights(
        grams_of(problem), items, folds_of(problem), steps=steps, rate=0.3, **options
    )


def loss_of(weights, problem):
    """The same loss from the leave-one-out predictions of :mod:`gnn.ridge`, with sharpness e."""
    raws, items, _ = problem
    left_out = DualRidge(raws, (1.0, 1.0), weights).left_out(items)
    losses = []
    for fold in folds_of(problem):
        log_chance = (np.e * fold.contexts @ left_out[fold.nodes].T).log_softmax(dim=1)
        losses.append(-log_chance[fold.context, fold.node])
    return torch.cat(losses).mean().item()


def test_an_informative_group_gets_more_weight_than_noise_and_the_loss_falls(problem):
    start, found = learnt(problem, 0), learnt(problem, 12)
    np.testing.assert_allclose(start, np.exp(-3), rtol=1e-6)
    assert found[0] > 10 * found[1]
    assert loss_of(found, problem) < loss_of(start, problem) - 0.2


def test_the_loss_is_that_of_ridge_without_the_node(problem):
    _, items, _ = problem
    weights = np.array([0.3, 0.1])
    log_weights = torch.from_numpy(np.log(weights)).float()
    loss, *_ = cold_loss(log_weights, torch.ones(()), grams_of(problem), items, folds_of(problem))
    assert loss == pytest.approx(loss_of(weights, problem), rel=1e-4)


def test_a_fold_shows_users_who_never_saw_its_items(problem):
    _, items, links = problem
    fold = folds_of(problem)[0]
    hidden = np.zeros(ITEMS, bool)
    hidden[fold.nodes.numpy()] = True
    users = np.unique(links.take(np.arange(USERS)).only(hidden).sources)
    without = items * torch.from_numpy(~hidden).float()[:, None]
    expected = warm_half_step(links.only(~hidden), without, None, 1.0)[torch.from_numpy(users)]
    torch.testing.assert_close(fold.contexts, expected)
    assert sum(len(f.nodes) for f in folds_of(problem)) == ITEMS
    assert sum(len(f.context) for f in folds_of(problem)) == len(links.indices)


def test_the_best_judged_step_is_kept(problem):
    _, items, _ = problem
    grams, folds = grams_of(problem), folds_of(problem)

    def quality(weights):
        system = torch.tensordot(torch.from_numpy(weights).float(), grams, dims=1)
        inverse = torch.linalg.inv(system + torch.eye(ITEMS))
        return left_out_ndcg(items - (inverse @ items) / inverse.diagonal()[:, None], folds)

    every = [quality(learnt(problem, n, judged_every=n)) for n in (2, 4, 6, 8)]
    kept = quality(learnt(problem, 8, judged_every=2))
    assert kept == pytest.approx(max(every), abs=1e-6)


def test_left_out_ndcg_is_the_one_worked_out_by_hand():
    links = Adjacency.from_pairs(np.array([0, 2, 1]), np.array([0, 0, 1]), 3, 2)
    contexts = torch.eye(2)
    left_out = torch.tensor([[0.9, 0.5], [0.1, 0.4], [0.3, 0.6]])
    # Context 0 ranks 0, 2, 1 and likes 0 and 2; context 1 ranks 2, 0, 1 and likes 1.
    expected = (1 + 1 / np.log2(4)) / 2
    assert left_out_ndcg(left_out, one_fold(links, contexts)) == pytest.approx(expected)
    # Nodes 0, 1 and 2 like 0, 1 and 0 and rank them 0, 1; 1, 0; and 1, 0.
    expected = (1 + 1 + 1 / np.log2(3)) / 3
    found = left_out_ndcg(left_out, one_fold(links, contexts), among_contexts=True)
    assert found == pytest.approx(expected)


def test_a_fold_that_nobody_looks_at_is_left_out():
    links = Adjacency.from_pairs(np.array([0]), np.array([2]), 1, 40)
    targets = torch.ones(40, 2)
    rng = np.random.default_rng(0)
    (fold,) = cold_folds(links, np.arange(40), targets, 1.0, rng)
    assert 2 in fold.nodes
    grams, nobody = torch.ones(1, 3, 3), np.array([0, 1, 3])
    assert cold_folds(links, nobody, targets, 1.0, rng) == []
    assert learn_weights(grams, targets[:3], [], steps=6, rate=0.3) == pytest.approx(np.exp(-3.0))


@pytest.mark.parametrize("over", [0, 1])
def test_the_gradient_of_the_cold_loss_is_that_of_autograd(over):
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(12, width))) for width in (2, 5, 1)]
    grams = torch.stack([x @ x.T for x in features])
    targets, contexts = (torch.from_numpy(rng.normal(size=(n, 3))) for n in (12, 8))
    context, node = np.nonzero(rng.random((8, 12)) < 0.3)
    (fold,) = one_fold(Adjacency.from_pairs(node, context, 12, 8), contexts)
    log_weights = torch.tensor([-1.0, 0.3, -2.0], dtype=torch.float64, requires_grad=True)
    sharpness = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    inverse = torch.linalg.inv(
        torch.tensordot(log_weights.exp(), grams, dims=1) + torch.eye(12, dtype=torch.float64)
    )
    left_out = targets - (inverse @ targets) / inverse.diagonal()[:, None]
    log_chance = (sharpness.exp() * fold.contexts @ left_out.T).log_softmax(dim=over)
    loss = -log_chance[fold.context, fold.node].mean()
    loss.backward()
    problem = grams, targets, [fold]
    found = cold_loss(log_weights.detach(), sharpness.detach(), *problem, over=over)
    assert found[0] == pytest.approx(loss.item())
    np.testing.assert_allclose(found[1], log_weights.grad, rtol=1e-6)
    np.testing.assert_allclose(found[2], sharpness.grad, rtol=1e-6)


def test_embeddings_that_are_not_numbers_stop_the_training():
    links = Adjacency.from_pairs(np.arange(4), np.arange(4), 4, 4)
    grams, nan = torch.eye(4)[None], torch.full((4, 4), torch.nan)
    with pytest.raises(FloatingPointError, match="loss of the group weights is nan at step 1"):
        learn_weights(grams, nan, one_fold(links, torch.eye(4)), steps=3, rate=0.3)
