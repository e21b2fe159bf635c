"""The weight of every feature group, learnt by playing cold: no validation set is needed.

Every node is predicted as if it had no interactions, V_loo = V - (H V) / diag(H) with
H = (sum_g w_g K_g + I)^-1, and what the other side chooses among the predictions is compared with
what it chose in truth. The loss is a softmax; its steps are judged by NDCG.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from gnn.adam import Adam
from gnn.data import Adjacency
from gnn.heads import warm_half_step

log = logging.getLogger(__name__)

NUM_FOLDS = 4
"""Nodes play cold a quarter at a time."""

LIST_LENGTH = 20
"""Length of the lists whose NDCG judges the steps."""

_START = -3.0


@dataclass(frozen=True, eq=False)
class Fold:
    """Nodes that play cold together, and the other side as it is without them.

    Args:
        nodes: positions of these nodes, int64 ``[f]``.
        contexts: embeddings of the other side, ``[m, k]``.
        context: row of the contexts of every positive pair, int64 ``[num_pairs]``.
        node: its place among ``nodes``, int64 ``[num_pairs]``.
    """

    nodes: torch.Tensor
    contexts: torch.Tensor
    context: torch.Tensor
    node: torch.Tensor


def cold_folds(
    links: Adjacency,
    rows: np.ndarray,
    targets: torch.Tensor,
    precision: float,
    rng: np.random.Generator,
) -> list[Fold]:
    """Some nodes in folds, each with the other side as it would be had it never seen its nodes.

    A user's plain embedding has seen the very items that play cold, which makes any feature that
    tells single items apart look good: group weights learnt on it were worse by .008 +- .001 in
    NDCG@20 of cold items on the validation parts of three splits of Last.fm. It is the same with
    items and cold users: where only friends tell of a user, .009 +- .003 (made-up tastes, four
    seeds).

    Args:
        links: positives among the nodes of everyone who looks, over all warm nodes.
        rows: nodes that take part, int64 ``[n]``.
        targets: embeddings of all warm nodes, ``[num_nodes, k]``.
        precision: of the half step of those who look.
        rng: draws the folds.
    """
    fold = rng.integers(0, NUM_FOLDS, links.num_targets)
    back = links.transpose()
    out = []
    for number in range(NUM_FOLDS):
        hidden = fold == number
        inside = np.flatnonzero(hidden[rows])
        chosen = back.take(rows[inside])
        if not len(chosen.indices):
            continue
        seen = targets * torch.from_numpy(~hidden).to(targets)[:, None]
        contexts = warm_half_step(links.only(~hidden), seen, None, precision)
        out.append(_fold(inside, contexts, chosen))
    return out


def one_fold(links: Adjacency, contexts: torch.Tensor) -> list[Fold]:
    """All nodes together, looked at by contexts as they are: as much arithmetic as in folds.

    Args:
        links: each node's positives among the contexts.
        contexts: ``[m, k]``.
    """
    return [_fold(np.arange(len(links)), contexts, links)]


def _fold(nodes: np.ndarray, contexts: torch.Tensor, links: Adjacency) -> Fold:
    """Only contexts with a positive among the nodes are kept."""
    seen, place = np.unique(links.indices, return_inverse=True)
    nodes_, seen_, place_, sources = (
        torch.from_numpy(x).to(contexts.device) for x in (nodes, seen, place, links.sources)
    )
    return Fold(nodes_, contexts[seen_], place_, sources)


def learn_weights(
    grams: torch.Tensor,
    targets: torch.Tensor,
    folds: list[Fold],
    *,
    steps: int,
    rate: float,
    judged_every: int = 6,
    among_contexts: bool = False,
) -> np.ndarray:
    """The group weights under which left-out nodes are found best, float64 ``[num_groups]``.

    The loss is the full softmax over items: what a user chooses among the left-out items, or what
    a left-out user chooses among the items. (A softmax over left-out users, the same with the roles
    swapped, was worse for cold users: by .0026 +- .0009 in NDCG@20 on the validation parts of five
    splits of MovieLens 100K.) A lower loss is not always a better list, hence the judging.

    Args:
        grams: inner products within every group, ``[num_groups, n, n]``.
        targets: embeddings V of the nodes, ``[n, k]``.
        folds: who looks at whom; without any, the weights are those of the start.
        steps: Adam steps.
        rate: their learning rate.
        judged_every: the NDCG of left-out nodes is measured after every so many steps, and the
            weights with the best one are returned.
        among_contexts: whether the contexts are the items, and the left-out nodes users.

    Raises:
        FloatingPointError: the loss is no number.
    """
    log_weights = torch.full((len(grams),), _START, device=grams.device)
    sharpness = torch.ones((), device=grams.device)
    adam = Adam([log_weights, sharpness], rate)
    best, chosen = -1.0, log_weights.clone()
    for step in range(1, steps + 1) if folds else ():
        loss, *gradients = cold_loss(
            log_weights, sharpness, grams, targets, folds, over=0 if among_contexts else 1
        )
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of the group weights is {loss} at step {step}")
        adam.step(gradients)
        log.debug("group weights, step %d: loss %.4f", step, loss)
        if step % judged_every == 0 or step == steps:
            inverse = _inverse(log_weights, grams)
            left_out = targets - (inverse @ targets) / _diagonal(inverse)
            found = left_out_ndcg(left_out, folds, among_contexts)
            log.debug("group weights, step %d: NDCG %.4f", step, found)
            if found > best:
                best, chosen = found, log_weights.clone()
    return chosen.exp().double().cpu().numpy()


def cold_loss(
    log_weights: torch.Tensor,
    sharpness: torch.Tensor,
    grams: torch.Tensor,
    targets: torch.Tensor,
    folds: list[Fold],
    over: int = 1,
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss of the left-out predictions, and its gradients by log weights and sharpness.

    With S = sum_g w_g K_g + I, H = S^-1, B = H V, d = diag(H) and P = V - B / d, the loss is
    -(1/|T|) sum over pairs of log softmax of e^h U P', over nodes or contexts. The gradient by S is
    -H (G_B B' + diag(g_d) H) with G_B = -G_P / d and g_d = rowsum(G_P * B) / d^2, which takes
    half the arithmetic of differentiating the inverse.

    Args:
        log_weights: log w_g, ``[num_groups]``.
        sharpness: h.
        grams: K_g, ``[num_groups, n, n]``.
        targets: V, ``[n, k]``.
        folds: contexts U and pairs.
        over: axis of the softmax: 1 over a fold's nodes, 0 over its contexts.
    """
    inverse = _inverse(log_weights, grams)
    diagonal = _diagonal(inverse)
    dual = inverse @ targets
    left_out = targets - dual / diagonal
    total = sum(len(fold.context) for fold in folds)
    by_left_out = torch.zeros_like(targets)
    by_sharpness = torch.zeros_like(sharpness)
    loss = 0.0
    for fold in folds:
        logits = sharpness.exp() * (fold.contexts @ left_out[fold.nodes].T)  # [m, f]
        chooser = fold.context if over else fold.node
        choices = torch.bincount(chooser, minlength=logits.shape[1 - over]).to(logits)
        choices = choices.unsqueeze(over)
        top = logits.logsumexp(dim=over, keepdim=True)
        loss += float((choices * top).sum() - logits[fold.context, fold.node].sum()) / total
        by_logit = (logits - top).exp_().mul_(choices)
        ones = torch.ones_like(fold.node, dtype=by_logit.dtype)
        by_logit.index_put_((fold.context, fold.node), -ones, accumulate=True).div_(total)
        by_sharpness += (by_logit * logits).sum()
        by_left_out[fold.nodes] += sharpness.exp() * (by_logit.T @ fold.contexts)
    by_dual = -by_left_out / diagonal
    by_diagonal = (by_left_out * dual).sum(dim=1) / diagonal[:, 0] ** 2
    by_system = -inverse @ (by_dual @ dual.T + by_diagonal[:, None] * inverse)
    by_weight = torch.einsum("gij,ij->g", grams, by_system)
    return loss, by_weight * log_weights.exp(), by_sharpness


def left_out_ndcg(left_out: torch.Tensor, folds: list[Fold], among_contexts: bool = False) -> float:
    """Mean NDCG of the lists that contexts make of the left-out nodes of their fold.

    Args:
        left_out: predictions of all nodes, ``[n, k]``.
        folds: who looks at whom.
        among_contexts: whether instead left-out nodes make lists of the contexts.
    """
    gains = []
    for fold in folds:
        scores = fold.contexts @ left_out[fold.nodes].T  # [m, f]
        truth = torch.zeros_like(scores)
        truth[fold.context, fold.node] = 1.0
        if among_contexts:
            wanted = truth.any(dim=0)
            scores, truth = scores.T[wanted], truth.T[wanted]
        gains.append(list_gains(scores, truth))
    return float(torch.cat(gains).mean())


def list_gains(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """NDCG of the list of every row, ``[n]``.

    Args:
        scores: ``[n, m]``.
        truth: 1 for what is wanted and 0 elsewhere, ``[n, m]``; a 1 at least in every row.
    """
    k = min(LIST_LENGTH, scores.shape[1])
    discount = 1 / torch.arange(2, k + 2, device=scores.device).log2()
    hits = truth.gather(1, scores.topk(k, dim=1).indices)
    ideal = truth.sum(dim=1).long().clamp(max=k)
    return (hits @ discount) / discount.cumsum(0)[ideal - 1]


def _inverse(log_weights: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
    system = torch.tensordot(log_weights.exp(), grams, dims=1)
    system.diagonal().add_(1.0)
    return torch.cholesky_inverse(torch.linalg.cholesky(system))


def _diagonal(inverse: torch.Tensor) -> torch.Tensor:
    return inverse.diagonal().clone()[:, None]
