"""Training of the rating head: sweeps of half steps whose priors are leave-one-out ridge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gnn.adam import Adam
from gnn.data import Adjacency, NodeInputs
from gnn.groups import OneHot, Raw
from gnn.propagate import Propagation, fit_propagation, root_mean_square
from gnn.rating_head import (
    HISTORY,
    Beliefs,
    RatedSide,
    RatingHead,
    RatingRows,
    history_raws,
    posterior,
    prior,
)
from gnn.raws import gram, select_rows
from gnn.ridge import Ridge, ridge
from kg.settings import check_above, check_at_least

log = logging.getLogger(__name__)

FIRST_NOISE, FIRST_BIAS, FIRST_FACTOR, FIRST_SPREAD = 0.7, 0.2, 0.15, 0.3
"""To start from, in standard units: variance of the noise, of the priors of biases and of factors,
and spread of the items' factors. With a third of the last two small sets may lose their factors."""

_BLOCK_PAIRS = 2**18


@dataclass(frozen=True)
class RatingConfig:
    """Settings of the rating head; one set serves all graphs.

    Args:
        dim: factors of a node beside its bias, at most a quarter of the warm nodes of a side. More
            gained nothing on MovieLens 100K, as variances that are learnt switch them off.
        sweeps: sweeps over both sides.
        half_history: with so many ratings a prior is half that of a cold node, half that of a node
            whose history counts.
        weight_steps: Adam steps on the group weights.
        weight_rate: their learning rate.
        weight_nodes: at most so many warm nodes take part in those steps.

    Raises:
        ValueError: a value is out of range.
    """

    dim: int = 8
    sweeps: int = 14
    half_history: float = 2.0
    weight_steps: int = 12
    weight_rate: float = 0.3
    weight_nodes: int = 500

    def __post_init__(self) -> None:
        check_at_least(1, dim=self.dim, sweeps=self.sweeps, weight_nodes=self.weight_nodes)
        check_at_least(0, weight_steps=self.weight_steps)
        check_above(0, half_history=self.half_history, weight_rate=self.weight_rate)


class _Side:
    """One side while it is trained.

    Args:
        inputs: of all nodes.
        warm: rows of those with a rating.
        ratings: theirs, as positions among the warm nodes of the other side.
        links: the same links, as rows of the graph.
        dim: number of factors.
        config: settings.
        device: where the arithmetic happens.
    """

    def __init__(
        self,
        inputs: NodeInputs,
        warm: np.ndarray,
        ratings: RatingRows,
        links: Adjacency,
        dim: int,
        config: RatingConfig,
        device: torch.device,
    ) -> None:
        self.inputs, self.warm, self.ratings, self.links = inputs, warm, ratings, links
        self.config = config
        self.features = fit_propagation(inputs, warm)
        self.history = fit_history(links)
        raws = self.features.raw(inputs, warm, device)
        self.raws = raws, [*raws, *history_raws(self.history, links, device)]
        degrees = torch.from_numpy(links.degrees).to(device)[:, None]
        self.share = degrees / (degrees + config.half_history)
        self.prior = torch.zeros(len(warm), 1 + dim, device=device)
        self.variance = torch.full((1 + dim,), FIRST_FACTOR, device=device)
        self.variance[0] = FIRST_BIAS
        self.beliefs = Beliefs(self.prior, torch.diag_embed(self.prior + 0.01))
        self.ridges: list[Ridge] = []

    def step(self, other: _Side, noise: float) -> None:
        """A half step against the other side."""
        precision = (1 / self.variance).expand_as(self.prior)
        self.beliefs = posterior(self.ratings, other.beliefs, self.prior, precision, noise)

    def learn(self) -> None:
        """Priors from features by leave-one-out ridge, and how far from them the vectors are."""
        mean = self.beliefs.mean
        if not self.ridges:
            scales = (*self.features.scales, *self.history.scales)
            for raws in self.raws:
                some = scales[: len(raws)]
                weights = least_squares_weights(raws, some, mean, self.config)
                self.ridges.append(ridge(raws, some, weights))
        cold, warm = (each.left_out(mean) for each in self.ridges)
        self.prior = (1 - self.share) * cold + self.share * warm
        spread = self.beliefs.covariance.diagonal(dim1=1, dim2=2)
        self.variance = ((mean - self.prior) ** 2 + spread).mean(dim=0).clamp(min=1e-6)

    def frozen(self, offset: float) -> RatedSide:
        """The side as it is now."""
        cold, warm = self.ridges
        return RatedSide(
            self.features,
            self.history,
            cold.tables(self.beliefs.mean),
            warm.tables(self.beliefs.mean),
            cold.leverage.float(),
            warm.leverage.float(),
            offset,
            self.config.half_history,
            self.variance,
            self.warm,
            self.beliefs,
        )


def train_ratings(
    user_inputs: NodeInputs,
    item_inputs: NodeInputs,
    pairs: np.ndarray,
    ratings: np.ndarray,
    config: RatingConfig,
    *,
    device: torch.device,
    progress: Callable[[str], None] = log.debug,
) -> RatingHead:
    """Everything the rating head learns; nothing is random.

    Args:
        user_inputs: inputs of all users.
        item_inputs: inputs of all items.
        pairs: int64 ``[2, num_ratings]`` rows of user and item.
        ratings: float64 ``[num_ratings]``.
        config: settings.
        device: where the arithmetic happens.
        progress: called with a sentence at every step.

    Raises:
        ValueError: there are no ratings.
    """
    if not len(ratings):
        raise ValueError("there are no ratings to train on; add interactions with weights")
    centre, scale = float(ratings.mean()), float(ratings.std()) or 1.0
    warm_users, user = np.unique(pairs[0], return_inverse=True)
    warm_items, item = np.unique(pairs[1], return_inverse=True)
    shape = len(warm_users), len(warm_items)
    dim = max(1, min(config.dim, min(shape) // 4))
    of_users = RatingRows.of(user, item, (ratings - centre) / scale, *shape)
    of_items = of_users.transpose()
    progress("features of ratings")
    users, items = (
        _Side(inputs, warm, rows, _as_rows(rows.links, others, num_others), dim, config, device)
        for inputs, warm, rows, others, num_others in (
            (user_inputs, warm_users, of_users, warm_items, len(item_inputs)),
            (item_inputs, warm_items, of_items, warm_users, len(user_inputs)),
        )
    )
    start = torch.from_numpy(first_factors(of_users, dim)).to(device)
    items.beliefs = Beliefs(start, items.beliefs.covariance)
    noise = FIRST_NOISE
    for sweep in range(config.sweeps):
        progress(f"ratings, sweep {sweep + 1} of {config.sweeps}")
        for side, other in ((users, items), (items, users)):
            side.step(other, noise)
            if sweep >= 2 or sweep == config.sweeps - 1:
                side.learn()
        noise = remaining(of_users, users.beliefs, items.beliefs)

    progress("ratings, last half steps")
    cold_users, cold_items = (s.ridges[0].left_out(s.beliefs.mean) for s in (users, items))
    user_offset = mean_residual(of_users, cold_users, items.beliefs.mean)
    item_offset = mean_residual(of_users, users.beliefs.mean, cold_items)
    user_side, item_side = users.frozen(user_offset), items.frozen(item_offset)
    # Items are embedded against users as anyone can work them out again.
    mean, precision = prior(user_side, user_inputs, warm_users, users.links, device)
    known = posterior(of_users, item_side.reference, mean, precision, noise)
    user_side = replace(user_side, reference=known)
    bounds = float(ratings.min()), float(ratings.max())
    return RatingHead(user_side, item_side, centre, scale, noise, *bounds)


def fit_history(links: Adjacency) -> Propagation:
    """The group of what nodes have ratings with; empty where no two nodes share any.

    Args:
        links: of the warm nodes, as rows of the graph.
    """
    places = np.arange(len(links))
    inputs = NodeInputs(places, relations={HISTORY: links})
    group = OneHot.fit(HISTORY, (HISTORY,), inputs, places)
    scale = root_mean_square(group.raw(inputs, places, torch.device("cpu")))
    return Propagation((group,), (scale,)) if scale > 0 else Propagation((), ())


def first_factors(ratings: RatingRows, dim: int) -> np.ndarray:
    """Vectors [0, f] of the items to start from, float32 ``[num_items, 1 + dim]``.

    Leading singular vectors of what damped biases leave of the ratings; a pair counts less the more
    ratings its user and item have.
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    user, item, shape = ratings.links.sources, ratings.links.indices, ratings.shape
    counts = [np.bincount(x, minlength=n) for x, n in zip((user, item), shape, strict=True)]
    bias = [np.zeros(n) for n in shape]
    for _ in range(5):
        for own, (rows, others) in enumerate(((user, item), (item, user))):
            rest = ratings.values - bias[1 - own][others]
            bias[own] = np.bincount(rows, rest, shape[own]) / (counts[own] + 5)
    rest = ratings.values - bias[0][user] - bias[1][item]
    weight = [1 / np.sqrt(n + 10) for n in counts]
    values = rest * weight[0][user] * weight[1][item]
    matrix = csr_matrix((values, (user, item)), shape=shape)
    steps: Any = 4  # for pyright, which takes the default of n_iter, 'auto', for its type
    _, _, right = randomized_svd(matrix, dim, n_iter=steps, random_state=0)
    out = np.zeros((shape[1], 1 + dim), np.float32)
    factors = right.T / weight[1][:, None]
    out[:, 1:] = FIRST_SPREAD * factors / max(float(factors.std()), 1e-12)
    return out


def mean_residual(ratings: RatingRows, users: torch.Tensor, items: torch.Tensor) -> float:
    """Mean of rating minus prediction over all pairs."""
    return float((_residuals(ratings, users, items)).mean())


def remaining(ratings: RatingRows, users: Beliefs, items: Beliefs) -> float:
    """Expected squared residual over all pairs, the uncertainty of both vectors included."""
    u, v = users.mean, items.mean
    pairs = _pairs(ratings, u.device)
    total = (_residuals(ratings, u, v).double() ** 2).sum()
    spreads = []
    for mean, covariance in ((v, users.covariance), (u, items.covariance)):
        z = mean.clone()
        z[:, 0] = 1.0
        spreads.append((z, covariance))
    for start in range(0, len(ratings.values), _BLOCK_PAIRS):
        i, j = (x[start : start + _BLOCK_PAIRS] for x in pairs)
        (zv, su), (zu, sv) = spreads
        total += torch.einsum("na,nab,nb->", zv[j], su[i], zv[j]).double()
        total += torch.einsum("na,nab,nb->", zu[i], sv[j], zu[i]).double()
        total += (su[i][:, 1:, 1:] * sv[j][:, 1:, 1:]).sum().double()
    return max(float(total) / len(ratings.values), 1e-6)


def least_squares_weights(
    raws: Sequence[Raw], scales: Sequence[float], targets: torch.Tensor, config: RatingConfig
) -> np.ndarray:
    """The weight of every group under which left-out vectors are predicted best, ``[num_groups]``.

    Mean squared error of the leave-one-out predictions, the bias and the factors each divided by
    their spread; at most ``weight_nodes`` nodes take part, evenly spaced.
    """
    rows = np.unique(np.linspace(0, len(targets) - 1, config.weight_nodes).astype(np.int64))
    grams = torch.stack(
        [gram(select_rows(raw, rows)) / s**2 for raw, s in zip(raws, scales, strict=True)]
    )
    y = targets[torch.from_numpy(rows).to(targets.device)].clone()
    y[:, :1] /= y[:, :1].std(correction=0).clamp(min=1e-6)
    y[:, 1:] /= y[:, 1:].std(correction=0).clamp(min=1e-6)
    log_weights = torch.full((len(raws),), -3.0, device=targets.device)
    adam = Adam([log_weights], config.weight_rate)
    for _ in range(config.weight_steps):
        _, gradient = left_out_error(log_weights, grams, y)
        adam.step([gradient])
    return log_weights.exp().double().cpu().numpy()


def left_out_error(
    log_weights: torch.Tensor, grams: torch.Tensor, targets: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Mean squared error of the left-out predictions, and its gradient by log weights.

    With S = sum_g w_g K_g + I, H = S^-1, B = H Y, d = diag(H) the errors are E = B / d, and the
    gradient of their square by S is -(H G B' + H diag(g) H) with G = 2 E / d and
    g = -2 rowsum(E^2) / d.

    Args:
        log_weights: log w_g, ``[num_groups]``.
        grams: K_g, ``[num_groups, n, n]``.
        targets: Y, ``[n, k]``.
    """
    weights = log_weights.exp()
    system = torch.tensordot(weights, grams, dims=1)
    system.diagonal().add_(1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    diagonal = inverse.diagonal().clone()[:, None]
    dual = inverse @ targets
    errors = dual / diagonal
    by_dual = 2 * errors / diagonal
    by_diagonal = -2 * (errors**2).sum(dim=1) / diagonal[:, 0]
    by_system = -((inverse @ by_dual) @ dual.T + (inverse * by_diagonal) @ inverse)
    by_weight = torch.einsum("gij,ij->g", grams, by_system) / targets.numel()
    return float((errors**2).mean()), by_weight * weights


def _residuals(ratings: RatingRows, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    i, j = _pairs(ratings, users.device)
    values = torch.from_numpy(ratings.values).to(users)
    product = torch.cat(
        [
            (users[i[s : s + _BLOCK_PAIRS], 1:] * items[j[s : s + _BLOCK_PAIRS], 1:]).sum(dim=1)
            for s in range(0, len(values), _BLOCK_PAIRS)
        ]
    )
    return values - users[i, 0] - items[j, 0] - product


def _pairs(ratings: RatingRows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    links = ratings.links
    return torch.from_numpy(links.sources).to(device), torch.from_numpy(links.indices).to(device)


def _as_rows(links: Adjacency, warm: np.ndarray, num_nodes: int) -> Adjacency:
    """Links to positions among warm nodes, as rows of the graph."""
    return Adjacency(links.indptr, warm[links.indices], num_nodes)
