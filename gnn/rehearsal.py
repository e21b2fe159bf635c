"""Training done again with something left out: what then comes is what comes of new nodes.

A left-out prediction of a trained engine is not that. Where items have few interactions, their
vectors are mostly what features predict, those of their neighbours too, and after three sweeps
each neighbour carries something of the item that plays cold; users were fitted to all of these.
Packages that had played cold were scored by .88 on average by people who maintain them, and by .51
when they had truly not been there; a lift found so was half of what it should have been.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.exposure import FEW, exposure_by_count
from gnn.groups import Raw
from gnn.heads import implicit_als, warm_half_step
from gnn.popularity import drawn_popularity, with_popularity
from gnn.raws import apply, select_rows
from gnn.ridge import Ridge

MAX_DIM = 128
"""Embedding size in a rehearsal; larger ones come to the same lifts and take twice as long."""

ALS_SWEEPS = 2
"""Of plain ALS in a rehearsal; five come to the same lifts."""

SWEEPS = 2
"""Joint sweeps of ridge and ALS in a rehearsal; three come to the same lifts."""


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """All that training had found before it made embeddings.

    Args:
        links: each warm user's positives among the warm items.
        users: predicts the users' factors from features.
        items: likewise, with its scale.
        item_raws: raw features of the warm items.
        k: embedding size of the training; at most :data:`MAX_DIM` is used.
        als: precision of plain ALS.
        user_precision: rho of the users' prior.
        item_precision: rho of the items' prior.
        exposure: omega of the items by time, ``[num_items]``.
        few_share: with so many interactions, as a share of the mean, an item is half exposed.
        popularity_scale: how far the popularity that features foretell is believed.
    """

    links: Adjacency
    users: Ridge
    items: Ridge
    item_raws: list[Raw]
    k: int
    als: float
    user_precision: float
    item_precision: float
    exposure: torch.Tensor
    few_share: float
    popularity_scale: float

    def without(self, hidden: np.ndarray, rng: np.random.Generator) -> Rehearsed:
        """What comes of training without some interactions.

        Precisions, weights and scales stay as they were found with all of them, and so do raw
        features: where a user's features tell of what friends chose, they tell of all of it.

        Args:
            hidden: which of the links are left out, bool ``[num_links]``.
            rng: of the ALS start.
        """
        links = self.links.select(~hidden)
        counts = np.bincount(links.indices, minlength=links.num_targets)
        kept, gone = np.flatnonzero(counts), np.flatnonzero(counts == 0)
        place = np.cumsum(counts > 0) - 1
        links = replace(links, indices=place[links.indices], num_targets=len(kept))
        back = links.transpose()
        ridge = self.items.without(gone)
        exposure = self.exposure[torch.from_numpy(kept).to(self.exposure.device)]
        degrees, item_degrees = (
            torch.from_numpy(side.degrees).to(exposure) for side in (links, back)
        )
        user_exposure = exposure_by_count(degrees, FEW)

        def users_from(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            left_out = self.users.left_out(u)
            return warm_half_step(links, v, left_out, self.user_precision, exposure=user_exposure)

        k = min(self.k, MAX_DIM)
        u, v = implicit_als(links, k, self.als, rng, exposure.device, sweeps=ALS_SWEEPS)
        for _ in range(SWEEPS):
            left_out = ridge.left_out(v)
            v = warm_half_step(back, u, left_out, self.item_precision, exposure=exposure)
            u = users_from(v, u)
        u = users_from(v, u)
        known = v.mean(dim=0), u.mean(dim=0), self.popularity_scale
        tables, left_out = ridge.tables(v), ridge.left_out(v)
        tables, left_out = with_popularity(tables, *known), drawn_popularity(left_out, *known)
        omega = exposure * exposure_by_count(
            item_degrees, self.few_share * float(item_degrees.mean())
        )
        items = u.new_zeros(len(counts), k)
        items[torch.from_numpy(kept).to(u.device)] = warm_half_step(
            back, u, left_out, self.item_precision, exposure=omega
        )
        raws = [select_rows(raw, gone) for raw in self.item_raws]
        items[torch.from_numpy(gone).to(u.device)] = apply(raws, tables)
        return Rehearsed(u, items, tables, counts == 0)


@dataclass(frozen=True, eq=False)
class Rehearsed:
    """What a rehearsal came to.

    Args:
        users: embeddings of the warm users, ``[num_users, k]``.
        items: of the warm items, ``[num_items, k]``; of those with nothing left, what their
            features say.
        tables: raw features of items to that, a ``[width_g, k]`` per group.
        cold: which items have nothing left, bool ``[num_items]``.
    """

    users: torch.Tensor
    items: torch.Tensor
    tables: list[torch.Tensor]
    cold: np.ndarray
