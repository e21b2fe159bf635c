"""How much of what a node lacks it is charged with: less where it had no time to collect it."""

from __future__ import annotations

import numpy as np
import torch

CONFIDENCE = 0.95
"""An item counts as young only as far as that is at least so certain."""

ENOUGH = 0.5
"""Who was there for this share of all interactions is fully exposed."""

FEW = 3.0
"""A user with so many interactions is half exposed."""


def exposure_by_time(nodes: np.ndarray, times: np.ndarray, num_nodes: int) -> np.ndarray:
    """Exposure omega of every node, float64 ``[num_nodes]`` between 0 and 1.

    Time is counted in interactions: x is the share of all interactions that came no earlier than
    the node's first. Were its n interactions spread evenly over the share omega that it was there
    for, the first would come within the last x of them with probability (x / omega)^n. The value is
    the largest omega at which that is still 1 - CONFIDENCE, x (1 - CONFIDENCE)^(-1/n), over ENOUGH
    and at most 1. So a single early interaction says nothing, a hundred within the last day say
    "new". Most items have exposure 1.

    Args:
        nodes: row of the node of every interaction, int64 ``[num_interactions]``.
        times: when it happened, int64 ``[num_interactions]``, in any unit.
        num_nodes: how many nodes there are; one without interactions has exposure 0.
    """
    counts = np.bincount(nodes, minlength=num_nodes)
    first = np.full(num_nodes, np.iinfo(np.int64).max)
    np.minimum.at(first, nodes, times)
    earlier = np.searchsorted(np.sort(times), first, side="left")
    share = 1 - earlier / max(len(times), 1)
    wider = (1 - CONFIDENCE) ** (-1 / np.maximum(counts, 1))
    return np.where(counts > 0, np.minimum(share * wider / ENOUGH, 1.0), 0.0)


def exposure_by_count(counts: torch.Tensor, few: float) -> torch.Tensor:
    """Exposure omega of nodes by their number of interactions n, n^3 / (n^3 + few^3).

    Who chose one thing has not turned down all others, but just come; and what was chosen once may
    be new, or little known here. (While training, items are charged in full, or cold ones would be
    taken for such with few.) From 3.2 times ``few`` on the value is above .97: what an active
    user lacks does say something, and costs quality to forget.

    Args:
        counts: n of every node, float ``[num_nodes]``.
        few: how many are half an exposure, above 0.

    Returns:
        ``[num_nodes]`` between 0 and 1.
    """
    cubed = counts**3
    return cubed / (cubed + few**3)
