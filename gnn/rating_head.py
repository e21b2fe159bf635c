"""The rating head as frozen values: any node's bias and factors from features, history and ratings.

In standard units a rating is r = b_u + b_i + f_u . f_i + noise. Every node has one vector
x = [b, f] with a Gaussian prior, whose mean its features say, and a Gaussian posterior, which one
half step makes from its own ratings:

    precision = diag(1 / v) + (1 / s2) sum_j E[z_j z_j'],    z_j = [1, f_j]
    mean = precision^-1 (prior / v + (1 / s2) sum_j (E[z_j] (r_j - E[b_j]) - Cov[z_j, b_j]))

The expectations are over the other side's posteriors, so that a node about which little is known
says little about its neighbours. Source: Lim and Teh (2007), Variational Bayesian approach to movie
rating prediction, section 3; ours has the bias in the vector and a prior from features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import Raw
from gnn.propagate import Propagation
from gnn.raws import apply

HISTORY = "history"
"""Name of the feature group that says what a node has ratings with, whatever they are."""

_BLOCK_ROWS = 16_384


@dataclass(frozen=True, eq=False)
class RatingRows:
    """The ratings of some nodes.

    Args:
        links: whom they have ratings with.
        values: a rating per link, float64 ``[num_links]``.
    """

    links: Adjacency
    values: np.ndarray

    @classmethod
    def of(
        cls, own: np.ndarray, other: np.ndarray, values: np.ndarray, num_own: int, num_other: int
    ) -> RatingRows:
        """Ratings in any order; of a pair that comes more than once, the mean."""
        ids = own.astype(np.int64) * max(num_other, 1) + other
        _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
        mean = np.bincount(place, values, minlength=len(counts)) / counts
        return cls(Adjacency.from_pairs(own, other, num_own, num_other), mean)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of these nodes and of those on the other side."""
        return len(self.links), self.links.num_targets

    def transpose(self) -> RatingRows:
        """The same ratings seen from the other side."""
        own, other = self.links.sources, self.links.indices
        return RatingRows.of(other, own, self.values, *self.shape[::-1])

    def block(self, start: int, stop: int) -> RatingRows:
        """The ratings of the nodes from ``start`` to ``stop``."""
        begin, end = self.links.indptr[start], self.links.indptr[stop]
        indptr = self.links.indptr[start : stop + 1] - begin
        links = Adjacency(indptr, self.links.indices[begin:end], self.links.num_targets)
        return RatingRows(links, self.values[begin:end])


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What is believed of the vectors x = [b, f] of some nodes, float32.

    Args:
        mean: ``[n, 1 + dim]``.
        covariance: ``[n, 1 + dim, 1 + dim]``.
    """

    mean: torch.Tensor
    covariance: torch.Tensor


@dataclass(frozen=True, eq=False)
class RatedSide:
    """All that is needed for the vector of any node of one side; no parameter belongs to a node.

    Args:
        features: feature groups.
        history: the group of what a node has ratings with; none where no two nodes share any.
        cold_tables: raw features to the prior of a node without ratings, ``[width_g, 1 + dim]``.
        warm_tables: raw features and history to the prior of a node with many.
        cold_leverage: of the warm nodes in the ridge without history, float32 ``[num_warm]``.
        warm_leverage: of the warm nodes in the ridge with history.
        offset: added to the bias of a node without ratings. Nodes that are rated often are better
            than the mean node, and people rate what they like, so that the mean rating of a cold
            node is not that of the mean node.
        half_history: with so many ratings the prior is half one, half the other.
        variance: v of the prior, float32 ``[1 + dim]``.
        warm: rows of the nodes with a rating at training, int64 ``[num_warm]``.
        reference: their vectors, which the other side is embedded against.
    """

    features: Propagation
    history: Propagation
    cold_tables: list[torch.Tensor]
    warm_tables: list[torch.Tensor]
    cold_leverage: torch.Tensor
    warm_leverage: torch.Tensor
    offset: float
    half_history: float
    variance: torch.Tensor
    warm: np.ndarray
    reference: Beliefs

    @cached_property
    def warm_order(self) -> np.ndarray:
        """Positions of the warm rows in ascending order of row."""
        return np.argsort(self.warm, kind="stable")

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Position of every row among the warm rows, -1 for the others, int64 ``[n]``."""
        order = self.warm_order
        at = np.searchsorted(self.warm, rows, sorter=order)
        at = order[np.minimum(at, len(order) - 1)]
        return np.where(self.warm[at] == rows, at, -1)


@dataclass(frozen=True, eq=False)
class RatingHead:
    """What was learnt from ratings, in standard units (rating - mean) / scale.

    Args:
        users: the users' side.
        items: the items' side.
        mean: of the ratings.
        scale: their standard deviation.
        noise: variance of a rating that remains, in standard units.
        lowest: the lowest rating; none lower is predicted.
        highest: the highest.
    """

    users: RatedSide
    items: RatedSide
    mean: float
    scale: float
    noise: float
    lowest: float
    highest: float

    def rate(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Ratings mean + b_u + b_i + |f_u| |f_i| cos(f_u, f_i) of all pairs, in their own scale.

        Args:
            users: vectors [b, f], ``[num_users, 1 + dim]``.
            items: vectors, ``[num_items, 1 + dim]``.
        """
        standard = users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T
        return (self.mean + self.scale * standard).clamp(self.lowest, self.highest)


def prior(
    side: RatedSide,
    inputs: NodeInputs,
    places: np.ndarray,
    links: Adjacency,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and precision of the priors of some nodes, float32 ``[n, 1 + dim]`` each.

    The prior mean is (1 - a) cold + a warm with a = n / (n + half_history) for n ratings, so that
    it moves smoothly as they come. Each of the two is a leave-one-out prediction for a node that
    was warm at training, (p - h x) / (1 - h) with leverage h, which contains the node's own vector
    x. Solved for x this is a plain prior with another mean and a higher precision; no trace of the
    node has to be kept.

    Args:
        side: of the nodes.
        inputs: of some nodes.
        places: positions of the nodes among those.
        links: whom each of them has ratings with by now, as rows of the graph.
        device: where the arithmetic happens.
    """
    raws = side.features.raw(inputs, places, device)
    cold = apply(raws, side.cold_tables)
    warm = apply([*raws, *history_raws(side.history, links, device)], side.warm_tables)
    degrees = torch.from_numpy(links.degrees).to(cold)[:, None]
    share = degrees / (degrees + side.half_history)
    at = side.positions(inputs.rows[places])
    known = torch.from_numpy(at >= 0).to(device)
    at = torch.from_numpy(np.maximum(at, 0)).to(device)
    kept_cold, kept_warm = (
        torch.where(known, 1 - leverage[at], 1.0).clamp(min=1e-4)[:, None]
        for leverage in (side.cold_leverage, side.warm_leverage)
    )
    mean = (1 - share) * cold / kept_cold + share * warm / kept_warm
    mean[:, :1] += (1 - share) * side.offset
    own = (1 - share) * (1 / kept_cold - 1) + share * (1 / kept_warm - 1)  # h / (1 - h)
    return mean / (1 + own), (1 + own) / side.variance


def history_raws(history: Propagation, links: Adjacency, device: torch.device) -> list[Raw]:
    """The history features of nodes with these links, as rows of the graph."""
    places = np.arange(len(links))
    return history.raw(NodeInputs(places, relations={HISTORY: links}), places, device)


def posterior(
    ratings: RatingRows,
    other: Beliefs,
    mean: torch.Tensor,
    precision: torch.Tensor,
    noise: float,
) -> Beliefs:
    """The half step: beliefs about some nodes from their priors and ratings.

    Args:
        ratings: in standard units, as rows of ``other``; a node without any keeps its prior.
        other: beliefs about the other side.
        mean: of the priors, ``[n, 1 + dim]``.
        precision: of the priors, ``[n, 1 + dim]``.
        noise: s2.
    """
    x, covariance = other.mean.double(), other.covariance.double()
    z = x.clone()
    z[:, 0] = 1.0
    spread = covariance.clone()
    spread[:, 0, :] = 0.0
    spread[:, :, 0] = 0.0
    second = (z[:, :, None] * z[:, None, :] + spread).flatten(1)  # [num_other, width^2]
    shared = covariance[:, :, 0].clone()  # Cov[z, b]
    shared[:, 0] = 0.0
    means, covariances = [mean[:0].float()], [other.covariance[:0]]
    for start in range(0, len(mean), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(mean))
        block = ratings.block(start, stop)
        p, rho = mean[start:stop].double(), precision[start:stop].double()
        index = torch.from_numpy(block.links.indices).to(x.device)
        indptr = torch.from_numpy(block.links.indptr).to(x.device)
        values = torch.from_numpy(block.values).to(x)
        system = torch.diag_embed(rho)
        right = rho * p
        if len(index):
            system += _sums(second, index, indptr).view_as(system) / noise
            weighted = _sums(z, index, indptr, values - x[index, 0])
            right += (weighted - _sums(shared, index, indptr)) / noise
        factor = torch.linalg.cholesky(system)
        # A node without ratings keeps its prior to the last bit.
        solved = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        busy = (indptr.diff() > 0)[:, None]
        means.append(torch.where(busy, solved, p).float())
        covariances.append(torch.cholesky_inverse(factor).float())
    return Beliefs(torch.cat(means), torch.cat(covariances))


def _sums(
    table: torch.Tensor,
    index: torch.Tensor,
    indptr: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(
        index, table, indptr, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
