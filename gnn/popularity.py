"""How far new items are given the popularity that their features foretell.

All users have their mean in common, and those with few interactions little else. Along it lies the
popularity that features foretell of a new item, the same for everybody. Groups have one weight for
all directions, so where what is told of items tells tastes well and popularity badly, the latter is
mostly noise: on made-up data of that kind new items were found worse than by the nearest neighbours
of their texts, by .02 to .06 in NDCG@20. Known items have the same prior, so that a first
interaction makes no jump.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.exposure import FEW, exposure_by_count
from gnn.heads import warm_half_step
from gnn.weighting import NUM_FOLDS, list_gains

log = logging.getLogger(__name__)

SCALES = (1.0, 0.5, 0.25, 0.0)
"""Tried, the first of the best wins."""

DRAWS = 4
"""Items are dealt into folds so often, or until one scale is better than the others by two standard
errors."""

MAX_JUDGES, MAX_ITEMS = 4000, 5000
"""At most so many random users judge, and about so many items play cold at a time."""

_BLOCK_FLOATS = 2**23


def learn_popularity_scale(
    links: Adjacency,
    items: torch.Tensor,
    left_out: torch.Tensor,
    user_prior: torch.Tensor,
    common: torch.Tensor,
    precision: float,
    rng: np.random.Generator,
) -> float:
    """The share of foretold popularity with which left-out items are found best.

    A quarter of the items plays cold at a time, or fewer where they are many, looked at by users as
    they would be had they never seen them.

    Args:
        links: each user's positives among the items, at least one in all.
        items: embeddings, ``[num_items, k]``.
        left_out: of the items, predicted as if they were cold, ``[num_items, k]``.
        user_prior: ``[num_users, k]``.
        common: what users have in common, ``[k]``.
        precision: rho of the users' prior.
        rng: draws who judges, and the folds.
    """
    if len(links) > MAX_JUDGES:
        judges = np.sort(rng.choice(len(links), MAX_JUDGES, replace=False))
        links, user_prior = (
            links.take(judges),
            user_prior[torch.from_numpy(judges).to(items.device)],
        )
    num_folds = max(NUM_FOLDS, -(-links.num_targets // MAX_ITEMS))
    total = items.new_zeros(len(SCALES), len(links), dtype=torch.float64)
    count = total.new_zeros(len(links))
    best = 0
    for _ in range(DRAWS):
        fold = rng.integers(0, num_folds, links.num_targets)
        for number in range(NUM_FOLDS):
            cold = fold == number
            wanted = links.only(cold)
            some = np.flatnonzero(wanted.degrees)
            at = torch.from_numpy(some).to(items.device)
            seen = links.only(~cold).take(some)
            shown = items * torch.from_numpy(~cold).to(items)[:, None]
            omega = exposure_by_count(torch.from_numpy(seen.degrees).to(items), FEW)
            users = warm_half_step(seen, shown, user_prior[at], precision, exposure=omega)
            found = _gains(users, left_out, common, wanted.take(some), np.flatnonzero(cold))
            total[:, at] += found
            count[at] += 1
        asked = count > 0
        gains = total[:, asked] / count[asked]
        best = int(gains.mean(dim=1).argmax())
        log.debug("scales of popularity %s: NDCG %s", SCALES, gains.mean(dim=1).tolist())
        less = gains[best] - gains[torch.arange(len(SCALES), device=gains.device) != best]
        if (less.mean(dim=1) > 2 * less.std(dim=1, correction=0) / less.shape[1] ** 0.5).all():
            break
    return SCALES[best]


def _gains(
    users: torch.Tensor,
    left_out: torch.Tensor,
    common: torch.Tensor,
    wanted: Adjacency,
    cold: np.ndarray,
) -> torch.Tensor:
    """NDCG of every user's list of the cold items under every scale, ``[num_scales, n]``."""
    predicted = left_out[torch.from_numpy(cold).to(users.device)]
    popularity, share = predicted @ common, users @ _along(common)
    out = [users.new_zeros(len(SCALES), 0)]
    rows = max(1, _BLOCK_FLOATS // max(1, len(cold)))
    for start in range(0, len(users), rows):
        block = slice(start, start + rows)
        some = wanted.take(np.arange(len(wanted))[block])
        scores = users[block] @ predicted.T
        truth = torch.zeros_like(scores)
        places = some.sources, np.searchsorted(cold, some.indices)
        truth[tuple(torch.from_numpy(x).to(users.device) for x in places)] = 1.0
        told = torch.outer(share[block], popularity)
        found = [list_gains(scores - (1 - scale) * told, truth) for scale in SCALES]
        out.append(torch.stack(found))
    return torch.cat(out, dim=1)


def with_popularity(
    tables: Sequence[torch.Tensor], mean: torch.Tensor, common: torch.Tensor, scale: float
) -> list[torch.Tensor]:
    """Tables whose predictions lie nearer to the mean along what users have in common.

    Args:
        tables: raw features to predictions, of which the first feature is a constant 1.
        mean: of the embeddings, ``[k]``.
        common: ``[k]``.
        scale: of the distance from the mean in that direction.
    """
    along = (1 - scale) * _along(common)
    constant, *others = (table - torch.outer(table @ common, along) for table in tables)
    return [constant + (mean @ common) * along, *others]


def drawn_popularity(
    predictions: torch.Tensor, mean: torch.Tensor, common: torch.Tensor, scale: float
) -> torch.Tensor:
    """Predictions ``[n, k]`` as tables of :func:`with_popularity` make them; see there."""
    distance = (predictions - mean) @ common
    return predictions - (1 - scale) * torch.outer(distance, _along(common))


def _along(common: torch.Tensor) -> torch.Tensor:
    """Parallel to it, with an inner product of 1 with it."""
    return common / (common @ common).clamp(min=1e-12)
