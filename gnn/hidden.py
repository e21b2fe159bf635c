"""Interactions that are hidden and asked for: what settings of training are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.weighting import list_gains

SHARE = 0.1
"""Share of the interactions that are hidden and asked for."""

MAX_JUDGES = 4000
"""At most so many random users judge."""

_BLOCK_FLOATS = 2**24


@dataclass(frozen=True, eq=False)
class Hidden:
    """What users chose, in two parts.

    Args:
        visible: links to train on.
        hidden: links to be found.
        judges: rows of the users who judge, ascending.
    """

    visible: Adjacency
    hidden: Adjacency
    judges: np.ndarray

    @classmethod
    def draw(cls, links: Adjacency, rng: np.random.Generator) -> Hidden | None:
        """``None`` where fewer than two users have something hidden and something left."""
        hide = rng.random(len(links.indices)) < SHARE
        visible, hidden = links.select(~hide), links.select(hide)
        judges = np.flatnonzero((visible.degrees > 0) & (hidden.degrees > 0))
        if len(judges) < 2:
            return None
        if len(judges) > MAX_JUDGES:
            judges = np.sort(rng.choice(judges, MAX_JUDGES, replace=False))
        return cls(visible, hidden, judges)

    def gains(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """NDCG of the lists of what the judges have not chosen, ``[num_judges]``.

        Args:
            users: embeddings of the judges.
            items: of all items.
        """
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
