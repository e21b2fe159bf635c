"""How strong a positive is: what it is taken for in place of 1, by its weight.

A rating of 5 says more than one of 4, and a thousand plays more than ten. How much more, their
sizes do not tell, and scales differ: so a weight counts by its rank among those of all positives.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.heads import implicit_als
from gnn.hidden import Hidden

log = logging.getLogger(__name__)

SHARE = 0.25
"""The strongest positives are taken for so much more than 1, the weakest for so much less.

NDCG@20 of known items, plain ALS and validation parts: films +.006, +.003 and +.005 (three splits),
artists +.009 and +.012 (two; by the rank among a user's own). With .125 films gain less, with .5
artists no more; the engine finds both less well with .4. Ranks among the user's own positives are
better for artists by .002 and level for films, but with each rating a user adds all others would
change.
"""

MOST_KNOTS = 1024
"""So many different weights are told apart; between them strength is interpolated."""

ERRORS = 3
"""Strengths are not used where hidden interactions are found worse by so many standard errors.

Plain ALS tells weights that mislead from others, but not how much these help in the engine: on
articles and FilmTrust it finds -.002 +- .003 and -.004 +- .004 (four and three splits), where the
engine's known items gain .008 and .005.
"""

MAX_DIM, SWEEPS = 128, 3
"""Of the plain ALS that tells it."""


@dataclass(frozen=True, eq=False)
class Strengths:
    """What a positive of any weight is taken for.

    Args:
        weights: ascending, float64 ``[num_knots]``.
        values: at these, ascending, float64 ``[num_knots]`` within 1 - share and 1 + share. Their
            mean over the positives that they were made of is 1.
    """

    weights: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, weights: np.ndarray, share: float) -> Strengths:
        """By the mean rank r of a weight among all, between 0 and 1: 1 + share (2 r - 1).

        Args:
            weights: of all positives, at least one, ``[num_positives]``.
            share: how far the strongest and the weakest are from 1, at least 0 and below 1.
        """
        distinct, counts = np.unique(weights, return_counts=True)
        rank = (np.cumsum(counts) - counts / 2) / len(weights)
        if len(distinct) > MOST_KNOTS:
            kept = np.unique(np.searchsorted(rank, np.linspace(rank[0], rank[-1], MOST_KNOTS)))
            distinct, rank = distinct[kept], rank[kept]
        return cls(distinct.astype(np.float64), 1 + share * (2 * rank - 1))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Of some positives, float32 ``[n]``; beyond the knots as at the last one."""
        return np.interp(weights, self.weights, self.values).astype(np.float32)


def may_count(
    links: Adjacency, k: int, precision: float, rng: np.random.Generator, device: torch.device
) -> bool:
    """Whether plain ALS finds hidden interactions no worse, by :data:`ERRORS`, with strengths.

    Weights may mean anything: where they are places on a list, the lowest is the best.

    Args:
        links: each user's positives among the items, with strengths.
        k: embedding size; at most :data:`MAX_DIM` is used.
        precision: of the ALS.
        rng: draws what is hidden and the start of ALS.
        device: where the arithmetic happens.
    """
    hidden = Hidden.draw(links, rng)
    if hidden is None:
        return True
    start = int(rng.integers(2**63))
    found = []
    for visible in (hidden.visible, replace(hidden.visible, values=None)):
        some = min(k, MAX_DIM), precision, np.random.default_rng(start), device
        users, items = implicit_als(visible, *some, sweeps=SWEEPS)
        found.append(hidden.gains(users[torch.from_numpy(hidden.judges).to(device)], items))
    more = found[0] - found[1]
    error = float(more.std() / len(more) ** 0.5)
    log.info("strengths of positives: NDCG of hidden ones %+.4f +- %.4f", more.mean(), error)
    return bool(more.mean() >= -ERRORS * error)
