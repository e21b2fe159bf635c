"""What priors are worth to nodes with interactions, learnt from hidden ones.

How far embeddings may leave their priors is told by a precision on each side. Where features tell
much of tastes, or a node has few interactions for the noise in them, the prior must be held on to;
elsewhere the interactions must win. How many interactions there are on average does not tell which
it is, and neither does how well features predict factors.

The weights of item groups are learnt for cold items, for which only the order of predictions
counts. Where tastes are strong and items have few interactions, such predictions lie much too far
apart for priors, and known items are found worse than without any features; hence the scale of the
items' prior.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.exposure import exposure_by_count
from gnn.heads import implicit_als, warm_half_step
from gnn.hidden import Hidden
from gnn.ridge import Ridge, Shrunk

log = logging.getLogger(__name__)

STEP = 10**0.5
"""Precisions are tried this factor apart."""

AHEAD = 2
"""So many steps may pass together before they must have been worth it.

One step is often too small to tell: on Debian's packages the items' precision and the users' have
to change together, and each alone gains less than a standard error.
"""

ACROSS_ERRORS = 2
"""One precision up and the other down at once, where no step alone helps, must gain by so many.

It gains .005 on libraries that few programs use, and then .004 by one more step, which comes to
.02 for known ones. On two splits of films it gains .002 and .003, between one error and two; there
known ones of the validation parts lose .003.
"""

FURTHEST = 4
"""At most so many such steps from where the search starts, up or down."""

SCALE_STEP = 0.5
"""Scales of the items' prior are tried this factor apart, from 1 down in :data:`FURTHEST` steps."""

FEW_SHARES = 0.4, 0.2
"""Tried for known items: with this share of the mean interactions they are half exposed."""

MAX_DIM = 128
"""Embedding size of the search; larger ones come to the same precisions and take longer."""

ALS_SWEEPS = 3
"""Of plain ALS in the search; five come to the same."""

SWEEPS = 3
"""Of items and users in the search, as training has before its last one.

After fewer, priors that lie too far apart have not yet done all their harm. In NDCG@20, validation
parts, known articles were found after one by .263 instead of .283 (two splits), after two by .276
instead of .291, where readings count by how often (four).
"""


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the search.

    Args:
        ridge: predicts its factors from features.
        exposure: omega of every node, ``[n]``.
        precision: rho that the search starts from.
        fixed: whether it stays at that.
    """

    ridge: Ridge
    exposure: torch.Tensor
    precision: float
    fixed: bool


class Worth(NamedTuple):
    """What priors are worth.

    Args:
        users: rho of the users' prior.
        items: rho of the items' prior.
        item_scale: how far the items' prior is from its mean, as a share of what ridge predicts.
        few_share: with this share of the mean interactions of an item a known one is half exposed.
    """

    users: float
    items: float
    item_scale: float
    few_share: float = FEW_SHARES[0]


def learn_worth(
    links: Adjacency,
    users: Side,
    items: Side,
    k: int,
    als: float,
    rng: np.random.Generator,
    item_scale: float | None = None,
    few_share: float | None = None,
) -> Worth:
    """The precisions, the scale and the exposure with which hidden interactions are found best.

    A tenth of the interactions is hidden. From factors that plain ALS makes of the others, some
    sweeps of half steps with priors make embeddings; the NDCG of the lists that users then have of
    what they have not chosen is what counts. From the start the search goes to the best neighbour,
    one step up or down of either precision or of the scale, and from there to its best, as long as
    users find more; where none is better, one precision may go up and the other down. It stays
    where that is more by a standard error of the paired difference, after :data:`AHEAD` steps at
    the latest, less what can be taken back without losing as much. Then the exposure of known items
    is tried.
    An item with few interactions has the benefit of the doubt that it may be new, as far as that
    costs no more than two standard errors: where many items stay at few, it costs much.

    Args:
        links: each user's positives among the items.
        users: their side.
        items: theirs.
        k: embedding size; at most :data:`MAX_DIM` is used.
        als: precision of plain ALS.
        rng: draws what is hidden, who judges, and the start of ALS.
        item_scale: of the items' prior; ``None``: searched from 1.
        few_share: of the exposure; ``None``: one of :data:`FEW_SHARES`.
    """
    scale = 1.0 if item_scale is None else item_scale
    share = FEW_SHARES[0] if few_share is None else few_share
    start = Worth(users.precision, items.precision, scale, share)
    free = not users.fixed, not items.fixed, item_scale is None
    search = None
    if any(free) or few_share is None:
        search = _Search.prepare(links, users, items, min(k, MAX_DIM), als, rng)
    if search is None:
        return start

    def worth(at: tuple[int, ...]) -> Worth:
        up_users, up_items, down = at
        return Worth(
            start.users * STEP**up_users,
            start.items * STEP**up_items,
            scale * SCALE_STEP**down,
            share,
        )

    @cache
    def gains(at: tuple[int, ...]) -> torch.Tensor:
        found = search.gains(worth(at))
        log.debug("%s: NDCG %.4f", worth(at), found.mean())
        return found

    here: tuple[int, ...] = (0, 0, 0)
    ahead, steps = here, 0
    while steps < AHEAD:
        for near, errors in ((_neighbours(ahead, free), 0), (_across(ahead, free), ACROSS_ERRORS)):
            best = max(near, key=lambda at: gains(at).mean(), default=ahead)
            if _clear(gains(best) - gains(ahead), errors):
                break
        else:
            break
        ahead, steps = best, steps + 1
        if _clear(gains(ahead) - gains(here)):
            here, steps = ahead, 0
    # Of steps that were worth it together each must be worth it beside the others.
    while back := [at for at in _nearer(here) if not _clear(gains(here) - gains(at))]:
        here = max(back, key=lambda at: gains(at).mean())
    chosen = worth(here)
    if few_share is not None:
        return chosen
    tried = search.exposed_gains(chosen, FEW_SHARES)
    log.debug("exposures: NDCG %s", [f"{found.mean():.4f}" for found in tried])
    best = max(tried, key=lambda found: float(found.mean()))
    fine = (s for s, found in zip(FEW_SHARES, tried, strict=True) if not _clear(best - found, 2))
    return chosen._replace(few_share=next(fine))


def _clear(more: torch.Tensor, errors: float = 1) -> bool:
    """Whether judges gain by more than so many standard errors."""
    return bool(more.mean() > errors * more.std() / len(more) ** 0.5)


def _neighbours(here: tuple[int, ...], free: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """One step up or down in each coordinate that is free; the scale only goes down from 1."""
    for axis, lowest in enumerate((-FURTHEST, -FURTHEST, 0)):
        for step in (-1, 1) if free[axis] else ():
            if lowest <= here[axis] + step <= FURTHEST:
                yield (*here[:axis], here[axis] + step, *here[axis + 1 :])


def _across(here: tuple[int, ...], free: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """One precision a step up and the other one down: from a ridge every single step leads down."""
    users, items, down = here
    for step in (-1, 1) if free[0] and free[1] else ():
        if max(abs(users + step), abs(items - step)) <= FURTHEST:
            yield users + step, items - step, down


def _nearer(here: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One step back towards the start in each coordinate that has left it."""
    for axis, at in enumerate(here):
        if at:
            yield (*here[:axis], at - (1 if at > 0 else -1), *here[axis + 1 :])


@dataclass(frozen=True, eq=False)
class _Search:
    """What every try has in common."""

    users: Side
    items: Side
    chosen: Hidden
    user_factors: torch.Tensor
    user_prior: torch.Tensor
    item_factors: torch.Tensor

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
        if (chosen := Hidden.draw(links, rng)) is None:
            return None
        device = users.exposure.device
        u, v = implicit_als(chosen.visible, k, als, rng, device, sweeps=ALS_SWEEPS)
        return cls(users, items, chosen, u, users.ridge.left_out(u), v)

    @cached_property
    def back(self) -> Adjacency:
        """The visible interactions from the items' end."""
        return self.chosen.visible.transpose()

    @cached_property
    def item_prior(self) -> torch.Tensor:
        """What the items' features say of their factors."""
        return self.items.ridge.left_out(self.item_factors)

    def gains(self, worth: Worth) -> torch.Tensor:
        """NDCG of every judge's list, ``[num_judges]``."""
        users, items, _ = self._embedded(worth, self.chosen.judges)
        return self.chosen.gains(users, items)

    def exposed_gains(self, worth: Worth, few_shares: Sequence[float]) -> list[torch.Tensor]:
        """The same for some exposures, which count in a last half step as they do in training."""
        users, items, prior = self._embedded(worth)
        judges = users[torch.from_numpy(self.chosen.judges).to(users.device)]
        counts = torch.from_numpy(self.back.degrees).to(items)
        out = []
        for share in few_shares:
            omega = self.items.exposure * exposure_by_count(counts, share * float(counts.mean()))
            items = warm_half_step(self.back, users, prior, worth.items, exposure=omega)
            out.append(self.chosen.gains(judges, items))
        return out

    def _embedded(
        self, worth: Worth, rows: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Some users or all, the items, and the items' prior."""
        shrunk = Shrunk(self.items.ridge, worth.item_scale)
        users, items = self.user_factors, self.item_factors
        user_prior, item_prior = self.user_prior, self.item_prior
        exposure = self.items.exposure
        for _ in range(SWEEPS - 1):
            drawn = shrunk.drawn(item_prior, items)
            items = warm_half_step(self.back, users, drawn, worth.items, exposure=exposure)
            users = warm_half_step(
                self.chosen.visible, items, user_prior, worth.users, exposure=self.users.exposure
            )
            item_prior = self.items.ridge.left_out(items)
            user_prior = self.users.ridge.left_out(users)
        drawn = shrunk.drawn(item_prior, items)
        items = warm_half_step(self.back, users, drawn, worth.items, exposure=exposure)
        rows = np.arange(len(users)) if rows is None else rows
        at = torch.from_numpy(rows).to(items.device)
        users = warm_half_step(
            self.chosen.visible.take(rows),
            items,
            user_prior[at],
            worth.users,
            exposure=self.users.exposure[at],
        )
        return users, items, drawn
