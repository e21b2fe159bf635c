import numpy as np
import pytest
import torch

from gnn.data import Adjacency
from gnn.ridge import gram
from gnn.weighting import cold_folds, cold_loss, cold_ndcg, learn_weights, make_fold

USERS, ITEMS, KINDS = 60, 90, 6
CPU = torch.device("cpu")


def kinds(num_nodes):
    """One-hot of the kind of every node; users like items of their own kind."""
    return np.eye(KINDS, dtype=np.float32)[np.arange(num_nodes) % KINDS]


@pytest.fixture(scope="module")
def problem():
    """Grams of a group that tells the kind of an item and of one that is noise; each's users."""
    rng = np.random.default_rng(0)
    chance = np.where(kinds(USERS) @ kinds(ITEMS).T > 0, 0.5, 0.01)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < chance)
    informative = kinds(ITEMS) + rng.normal(0, 0.05, (ITEMS, KINDS))
    raws = [
        torch.from_numpy(g.astype(np.float32)) for g in (informative, rng.normal(size=(90, 40)))
    ]
    grams = torch.stack([gram(raw / raw.norm() * ITEMS**0.5) for raw in raws])
    return grams, Adjacency.from_pairs(item, user, ITEMS, USERS)


def folds_of(problem, **options):
    _, links = problem
    return cold_folds(links, np.arange(ITEMS), 6, np.random.default_rng(0), CPU, **options)


def learnt(problem, steps, judged_every=100):
    folds = folds_of(problem)
    return learn_weights(problem[0], folds, steps=steps, rate=0.3, judged_every=judged_every)


def loss_of(weights, problem, folds):
    """The same loss with predictions by a plain ridge on the others alone, and sharpness e."""
    kernel = torch.tensordot(torch.from_numpy(weights).float(), problem[0], dims=1)
    losses = []
    for fold in folds:
        system = kernel[fold.others][:, fold.others] + torch.eye(len(fold.others))
        cross = kernel[fold.nodes][:, fold.others]
        predicted = cross @ torch.linalg.solve(system, fold.targets)
        log_chance = (np.e * fold.contexts @ predicted.T).log_softmax(dim=1)
        losses.append(-log_chance[fold.context, fold.node])
    return torch.cat(losses).mean().item()


def test_an_informative_group_gets_more_weight_than_noise_and_the_loss_falls(problem):
    start, found = learnt(problem, 0), learnt(problem, 12)
    np.testing.assert_allclose(start, np.exp(-3), rtol=1e-6)
    assert found[0] > 10 * found[1]
    folds = folds_of(problem)
    assert loss_of(found, problem, folds) < loss_of(start, problem, folds) - 0.2


def test_the_loss_is_that_of_ridge_on_the_other_nodes(problem):
    weights, folds = np.array([0.3, 0.1]), folds_of(problem)
    log_weights = torch.from_numpy(np.log(weights)).float()
    loss, *_ = cold_loss(log_weights, torch.ones(()), problem[0], folds)
    assert loss == pytest.approx(loss_of(weights, problem, folds), rel=1e-4)


def test_every_node_and_every_positive_is_hidden_once(problem):
    _, links = problem
    folds = folds_of(problem)
    assert sorted(torch.cat([f.nodes for f in folds]).tolist()) == list(range(ITEMS))
    assert sum(len(f.context) for f in folds) == len(links.indices)
    for fold in folds:
        assert not set(fold.nodes.tolist()) & set(fold.others.tolist())


@pytest.mark.parametrize("users", [False, True])
def test_nothing_in_a_fold_depends_on_the_interactions_of_its_hidden_nodes(problem, users):
    _, links = problem
    fold = folds_of(problem, users=users)[0]
    hidden = np.isin(np.arange(ITEMS), fold.nodes.numpy())
    # The hidden nodes' interactions are replaced by others: targets and contexts stay.
    rng = np.random.default_rng(1)
    sources = np.concatenate([links.sources[~hidden[links.sources]], rng.choice(fold.nodes, 300)])
    targets = np.concatenate([links.indices[~hidden[links.sources]], rng.integers(0, USERS, 300)])
    other = Adjacency.from_pairs(sources, targets, ITEMS, USERS)
    again = folds_of((problem[0], other), users=users)[0]
    torch.testing.assert_close(again.targets, fold.targets)
    # Of users, only those with a positive in the fold are kept; the new ones reach all of them.
    exact = "donot_use_mm_for_euclid_dist"
    gap = torch.cdist(fold.contexts, again.contexts, compute_mode=exact).min(dim=1).values
    assert gap.max() < 1e-6
    assert len(again.contexts) == USERS


def test_the_best_judged_step_is_kept(problem):
    folds = folds_of(problem)

    def quality(weights):
        return cold_ndcg(torch.from_numpy(np.log(weights)).float(), problem[0], folds)

    every = [quality(learnt(problem, steps)) for steps in (2, 4, 6, 8)]
    assert quality(learnt(problem, 8, judged_every=2)) == pytest.approx(max(every), abs=1e-6)


def test_ndcg_is_the_one_worked_out_by_hand():
    # Items 0, 1, 2 are hidden; what they are predicted to be is what items 3, 4, 5 are.
    same = torch.eye(3).repeat(2, 2)[None] * 1e6
    predicted = torch.tensor([[0.9, 0.5], [0.1, 0.4], [0.3, 0.6]])
    likes = Adjacency.from_pairs(np.array([0, 2, 1]), np.array([0, 0, 1]), 3, 2)
    fold = make_fold(np.arange(3), np.arange(3, 6), predicted, torch.eye(2), likes)
    # Context 0 ranks 0, 2, 1 and likes 0 and 2; context 1 ranks 2, 0, 1 and likes 1.
    assert cold_ndcg(torch.zeros(1), same, [fold]) == pytest.approx((1 + 1 / np.log2(4)) / 2)


@pytest.mark.parametrize("nodes_choose", [False, True])
def test_the_gradient_of_the_cold_loss_is_that_of_autograd(nodes_choose):
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(12, width))) for width in (2, 5, 1)]
    grams = torch.stack([x @ x.T for x in features])
    targets, contexts = (torch.from_numpy(rng.normal(size=(n, 3))) for n in (7, 8))
    node, context = np.nonzero(rng.random((5, 8)) < 0.4)
    links = Adjacency.from_pairs(node, context, 5, 8)
    inside, outside = np.arange(5) * 2, np.setdiff1d(np.arange(12), np.arange(5) * 2)
    fold = make_fold(inside, outside, targets, contexts, links, nodes_choose=nodes_choose)
    log_weights = torch.tensor([-1.0, 0.3, -2.0], dtype=torch.float64, requires_grad=True)
    sharpness = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    kernel = torch.tensordot(log_weights.exp(), grams, dims=1)
    system = kernel[outside][:, outside] + torch.eye(7, dtype=torch.float64)
    predicted = kernel[inside][:, outside] @ torch.linalg.solve(system, targets)
    log_chance = (sharpness.exp() * fold.scores(predicted)).log_softmax(dim=1)
    loss = -log_chance[fold.pairs].mean()
    loss.backward()
    found = cold_loss(log_weights.detach(), sharpness.detach(), grams, [fold])
    assert found[0] == pytest.approx(loss.item())
    np.testing.assert_allclose(found[1], log_weights.grad, rtol=1e-6)
    np.testing.assert_allclose(found[2], sharpness.grad, rtol=1e-6)


def test_a_single_node_cannot_be_hidden_and_leaves_the_weights_equal():
    links = Adjacency.from_pairs(np.zeros(3, np.int64), np.arange(3), 1, 3)
    folds = cold_folds(links, np.arange(1), 2, np.random.default_rng(0), CPU)
    found = learn_weights(torch.ones(2, 1, 1), folds, steps=4, rate=0.3, judged_every=2)
    np.testing.assert_allclose(found, np.exp(-3), rtol=1e-6)


def test_embeddings_that_are_not_numbers_stop_the_training():
    links = Adjacency.from_pairs(np.arange(4), np.arange(4), 4, 4)
    fold = make_fold(np.arange(4), np.arange(4), torch.full((4, 4), torch.nan), torch.eye(4), links)
    with pytest.raises(FloatingPointError, match="loss of the group weights is nan at step 1"):
        learn_weights(torch.eye(4)[None], [fold], steps=3, rate=0.3, judged_every=2)
