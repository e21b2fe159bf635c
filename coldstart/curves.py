"""Quality as a function of how many training interactions a node has.

It sets scorers side by side, bin by bin. From one bin to the next the nodes differ, and so does
how much of each is held out: all of a cold node, a tenth or so of a warm one, whose list of 20 is
then harder to fill with right answers. How quality moves as the *same* nodes get interactions is
measured by ``benchmarks/quality/interactions.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coldstart.scorer import Scorer
from coldstart.splits import TEST, VAL, WARM, Split, Task, positions_of

SIDES = ("users", "items")
"""Users rank the warm items, and items rank the warm users: neither needs a lift."""


class Binned(NamedTuple):
    """Quality of the nodes with so many training interactions.

    Args:
        least: fewest training interactions of a node that is counted here.
        most: most of them.
        nodes: how many nodes were judged; over several splits, on average.
        ndcg: mean over them; over several splits, the mean of their means.
        error: standard error of that mean, over nodes or over splits; NaN for one node.
    """

    least: int
    most: int
    nodes: float
    ndcg: float
    error: float

    @property
    def label(self) -> str:
        """``0``, ``1`` or ``4-7``."""
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


class Point(NamedTuple):
    """One scorer on the nodes with so many training interactions, on one split.

    Args:
        scorer: its name.
        side: ``users`` or ``items``.
        split: its name.
        binned: what was found.
    """

    scorer: str
    side: str
    split: str
    binned: Binned


@dataclass(frozen=True, eq=False)
class Transposed:
    """A scorer of which items ask for users.

    Args:
        scorer: of users and items.
    """

    scorer: Scorer

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``, where ``users`` are rows of items."""
        return self.scorer.score(items, users).T


def side_task(split: Split, side: str, part: str = TEST) -> Task:
    """All nodes of a side with a held-out positive rank the warm nodes of the other side.

    Args:
        split: nodes that it keeps cold for the other part take no part.
        side: ``users`` or ``items``; of the latter the task's ``users`` are rows of items, and its
            candidates rows of users.
        part: ``val`` or ``test``.
    """
    here = SIDES.index(side)
    parts = (split.user_part, split.item_part)
    pairs, known = split.pairs, split.pair_part == "train"
    warm = np.zeros(len(parts[1 - here]), bool)
    warm[split.train[1 - here]] = True
    candidates = np.flatnonzero(warm & (parts[1 - here] == WARM))
    own = parts[here][pairs[here]]
    held_out = ((split.pair_part == part) & (own == WARM)) | (own == part)
    held_out &= np.isin(pairs[1 - here], candidates)
    known |= (split.pair_part == VAL) & (part == TEST)
    nodes = np.unique(pairs[here, held_out])
    turned = pairs if side == "users" else pairs[::-1]
    relevant = positions_of(turned[:, held_out], nodes, candidates)
    excluded = positions_of(turned[:, known], nodes, candidates)
    return Task(
        f"by_{side}", part, nodes, candidates, relevant, excluded, np.zeros(len(candidates), bool)
    )


def points_of(quality: np.ndarray, nodes: np.ndarray, split: Split, side: str) -> list[Binned]:
    """Quality of the nodes with 0, 1, 2 to 3, 4 to 7 and so on training interactions.

    Args:
        quality: of each node, ``[num_nodes]``.
        nodes: their rows.
        split: who was trained on.
        side: ``users`` or ``items``.
    """
    trained = np.bincount(split.train[SIDES.index(side)], minlength=nodes.max(initial=0) + 1)
    bins = np.ceil(np.log2(trained[nodes] + 1)).astype(np.int64)
    points = []
    for number in np.unique(bins).tolist():
        some = quality[bins == number]
        error = some.std(ddof=1) / len(some) ** 0.5 if len(some) > 1 else float("nan")
        least, most = (2 ** (number - 1), 2**number - 1) if number else (0, 0)
        points.append(Binned(least, most, len(some), float(some.mean()), float(error)))
    return points


def curve(points: Iterable[Point], side: str, scorer: str) -> list[Binned]:
    """The points of a scorer over all splits, by number of training interactions.

    The error is over the splits; in a bin that only one split has, over its nodes.
    """
    by_bin: dict[tuple[int, int], list[Binned]] = {}
    for point in points:
        if (point.side, point.scorer) == (side, scorer):
            by_bin.setdefault(point.binned[:2], []).append(point.binned)
    out = []
    for ends, some in sorted(by_bin.items()):
        values = np.array([binned.ndcg for binned in some])
        several = len(some) > 1
        error = values.std(ddof=1) / len(some) ** 0.5 if several else some[0].error
        nodes = float(np.mean([binned.nodes for binned in some]))
        out.append(Binned(*ends, nodes, float(values.mean()), float(error)))
    return out
