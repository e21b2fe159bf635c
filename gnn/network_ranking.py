"""Who a network ranks high: held-out cold nodes tell when to stop, and hard negatives are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.network_infer import Vectors
from gnn.weighting import Fold, left_out_ndcg

LEAST_HELD_OUT = 5
"""With fewer held-out nodes on a side than this, training runs all epochs."""

_BLOCK_USERS = 1024
"""So many users at most rank all items at once."""

_BLOCK_SCORES = 2**23
"""So many scores at most are there at once, or those of one user."""

HARD_POOL = 100
"""Hard negatives are drawn from so many items, those ranked highest for a user."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Users and items that training never sees chosen.

    Args:
        users: rows, sorted; none where there are too few.
        items: rows, sorted; none where there are too few.
        taught: the positives of the others, ``[2, num_pairs]``.
    """

    users: np.ndarray
    items: np.ndarray
    taught: np.ndarray

    @classmethod
    def draw(cls, positives: np.ndarray, rate: float, seed: int) -> HeldOut:
        """A share of the warm users and of the warm items at random; none if nothing were left."""
        rng = np.random.default_rng([seed, 7])
        sides = []
        for rows in positives:
            warm = np.unique(rows)
            count = int(rate * len(warm))
            chosen = np.sort(rng.choice(warm, count, replace=False))
            sides.append(chosen if count >= LEAST_HELD_OUT else np.empty(0, np.int64))
        cold = np.isin(positives[0], sides[0]) | np.isin(positives[1], sides[1])
        if cold.all():
            return cls.none(positives)
        return cls(sides[0], sides[1], np.ascontiguousarray(positives[:, ~cold]))

    @classmethod
    def none(cls, positives: np.ndarray) -> HeldOut:
        """Nobody: all positives are taught."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), positives)

    @property
    def any(self) -> bool:
        """Whether there are nodes to judge by."""
        return bool(len(self.users) or len(self.items))

    def ndcg(self, vectors: Vectors, positives: np.ndarray) -> float:
        """Mean NDCG@20 of held-out items for known users and of known items for held-out users.

        NaN where none is held out.
        """
        cold_user, cold_item = (
            np.isin(rows, of) for rows, of in zip(positives, (self.users, self.items), strict=True)
        )
        found = [
            ranked_ndcg(vectors, positives[:, cold_item & ~cold_user], self.items),
            ranked_ndcg(vectors, positives[:, cold_user & ~cold_item], np.unique(self.taught[1])),
        ]
        found = [f for f in found if not math.isnan(f)]
        return float(np.mean(found)) if found else math.nan


def ranked_ndcg(vectors: Vectors, pairs: np.ndarray, candidates: np.ndarray) -> float:
    """Mean NDCG@20 of users' lists of some items; NaN where no pair is among these.

    Args:
        vectors: of all users and items.
        pairs: what the users chose, rows ``[2, num_pairs]``.
        candidates: rows of the items, sorted.
    """
    pairs = pairs[:, np.isin(pairs[1], candidates)]
    if not pairs.shape[1]:
        return math.nan
    pairs = pairs[:, np.argsort(pairs[0], kind="stable")]
    who, starts, context = np.unique(pairs[0], return_index=True, return_inverse=True)
    users = torch.cat([vectors.users[torch.from_numpy(who)], torch.ones(len(who), 1)], dim=1)
    items = torch.cat([vectors.items, vectors.biases[:, None]], dim=1)
    nodes = torch.from_numpy(candidates)
    node = torch.from_numpy(np.searchsorted(candidates, pairs[1]))
    ends = np.append(starts, pairs.shape[1])
    folds, block = [], _block_of(len(candidates))
    for first in range(0, len(who), block):
        last = min(first + block, len(who))
        some = slice(ends[first], ends[last])
        rows = torch.from_numpy(context[some] - first)
        folds.append(Fold(nodes, users[first:last], rows, node[some]))
    return left_out_ndcg(items, folds)


def _block_of(num_items: int) -> int:
    """How many users rank so many items at once."""
    return min(_BLOCK_USERS, max(1, _BLOCK_SCORES // max(num_items, 1)))


def hard_items(vectors: Vectors, links: Adjacency) -> np.ndarray:
    """For every user the best ranked warm items that are no positive, ``[num_users, pool]``.

    Args:
        vectors: of all users and items.
        links: every user's positives; the warm items are those among them.
    """
    warm = np.unique(links.indices)
    pool = min(HARD_POOL, len(warm))
    out = np.zeros((len(links), pool), np.int64)
    at = torch.from_numpy(warm)
    for rows in torch.arange(len(links)).split(_block_of(len(warm))):
        scores = vectors.users[rows] @ vectors.items[at].T + vectors.biases[at]
        of = links.take(rows.numpy())
        chosen = torch.from_numpy(np.searchsorted(warm, of.indices))
        scores[torch.from_numpy(of.sources), chosen] = -torch.inf
        out[rows.numpy()] = warm[scores.topk(pool).indices.numpy()]
    return out
