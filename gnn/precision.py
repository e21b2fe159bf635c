"""How far embeddings may leave their priors: both precisions, learnt from hidden interactions.

Where features tell much of tastes, or a node has few interactions for the noise in them, the prior
must be held on to; elsewhere the interactions must win. How many interactions there are on average
does not tell which it is, and neither does how well features predict factors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.heads import implicit_als, warm_half_step
from gnn.weighting import list_gains

log = logging.getLogger(__name__)

HIDDEN_SHARE = 0.1
"""Share of the interactions that are hidden and asked for."""

STEP = 10**0.5
"""Precisions are tried this factor apart."""

FURTHEST = 4
"""At most so many such steps from where the search starts, up or down."""

MAX_DIM = 128
"""Embedding size of the search; larger ones come to the same precisions and take longer."""

ALS_SWEEPS = 3
"""Of plain ALS in the search; five come to the same."""

MAX_JUDGES = 4000
"""At most so many random users judge."""

_BLOCK_FLOATS = 2**24


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the search.

    Args:
        prior: leave-one-out predictions from features for factors ``[n, k]``.
        exposure: omega of every node, ``[n]``.
        precision: rho that the search starts from.
        fixed: whether it stays at that.
    """

    prior: Callable[[torch.Tensor], torch.Tensor]
    exposure: torch.Tensor
    precision: float
    fixed: bool


def learn_precisions(
    links: Adjacency, users: Side, items: Side, k: int, als: float, rng: np.random.Generator
) -> tuple[float, float]:
    """The precisions of users and items with which hidden interactions are found best.

    A tenth of the interactions is hidden. From factors that plain ALS makes of the others, one half
    step of the items and one of the users, each with its prior, make embeddings; the NDCG of the
    lists that users then have of what they have not chosen is what counts. From the start the
    search goes to the best neighbour, one step up or down on either side, as long as users find
    more there by more than a standard error of the paired difference.

    Args:
        links: each user's positives among the items.
        users: their side.
        items: theirs.
        k: embedding size; at most :data:`MAX_DIM` is used.
        als: precision of plain ALS.
        rng: draws what is hidden, who judges, and the start of ALS.

    Returns:
        rho of users and of items.
    """
    start = users.precision, items.precision
    if users.fixed and items.fixed:
        return start
    search = _Search.prepare(links, users, items, min(k, MAX_DIM), als, rng)
    if search is None:
        return start

    def precisions(at: tuple[int, int]) -> tuple[float, float]:
        return start[0] * STEP ** at[0], start[1] * STEP ** at[1]

    here, found = (0, 0), {(0, 0): search.gains(*start)}
    while True:
        near = [(here[0] + i, here[1] + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        for at in near:
            fixed = (at[0] and users.fixed) or (at[1] and items.fixed)
            if at not in found and not fixed and max(map(abs, at)) <= FURTHEST:
                found[at] = search.gains(*precisions(at))
                log.debug("precisions, steps %s: NDCG %.4f", at, found[at].mean())
        best = max((at for at in near if at in found), key=lambda at: found[at].mean())
        more = found[best] - found[here]
        if more.mean() <= more.std() / len(more) ** 0.5:
            return precisions(here)
        here = best


@dataclass(frozen=True, eq=False)
class _Search:
    """What every try has in common: ``visible`` and ``hidden`` are what users chose."""

    users: Side
    items: Side
    visible: Adjacency
    hidden: Adjacency
    judges: np.ndarray
    user_factors: torch.Tensor
    user_prior: torch.Tensor
    item_prior: torch.Tensor

    @classmethod
    def prepare(
        cls,
        links: Adjacency,
        users: Side,
        items: Side,
        k: int,
        als: float,
        rng: np.random.Generator,
    ) -> _Search | None:
        """``None`` where fewer than two users have something hidden and something left."""
        hide = rng.random(len(links.indices)) < HIDDEN_SHARE
        visible, hidden = links.select(~hide), links.select(hide)
        judges = np.flatnonzero((visible.degrees > 0) & (hidden.degrees > 0))
        if len(judges) < 2:
            return None
        if len(judges) > MAX_JUDGES:
            judges = np.sort(rng.choice(judges, MAX_JUDGES, replace=False))
        device = users.exposure.device
        u, v = implicit_als(visible, k, als, rng, device, sweeps=ALS_SWEEPS)
        return cls(users, items, visible, hidden, judges, u, users.prior(u), items.prior(v))

    @cached_property
    def back(self) -> Adjacency:
        """The visible interactions from the items' end."""
        return self.visible.transpose()

    def gains(self, user_precision: float, item_precision: float) -> torch.Tensor:
        """NDCG of every judge's list, ``[num_judges]``."""
        items = warm_half_step(
            self.back,
            self.user_factors,
            self.item_prior,
            item_precision,
            exposure=self.items.exposure,
        )
        at = torch.from_numpy(self.judges).to(items.device)
        users = warm_half_step(
            self.visible.take(self.judges),
            items,
            self.user_prior[at],
            user_precision,
            exposure=self.users.exposure[at],
        )
        out, rows = [], max(1, _BLOCK_FLOATS // len(items))
        for start in range(0, len(users), rows):
            some = self.judges[start : start + rows]
            scores = users[start : start + rows] @ items.T
            scores[_index(self.visible.take(some), items.device)] = -torch.inf
            truth = torch.zeros_like(scores)
            truth[_index(self.hidden.take(some), items.device)] = 1.0
            out.append(list_gains(scores, truth))
        return torch.cat(out)


def _index(links: Adjacency, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    sources, targets = (torch.from_numpy(x).to(device) for x in (links.sources, links.indices))
    return sources, targets
