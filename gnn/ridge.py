"""Ridge from weighted feature groups to embeddings, with leave-one-out predictions.

With Phi = [sqrt(w_g) Phi_g] and K = Phi Phi', H = (K + I)^-1: the prediction of every row as if it
had not been there is V - (H V) / diag(H). Up to MAX_DUAL rows, K + I is inverted, or Phi'Phi + I
where there are few columns for the rows; beyond, where there are many, :mod:`gnn.iterative` solves
for V.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from gnn.groups import Raw, SparseRows
from gnn.iterative import IterativeRidge
from gnn.raws import (
    device_of,
    gram,
    product,
    rows_of,
    select_rows,
    side_by_side,
    transposed,
    width_of,
)

MAX_DUAL = 8192
"""Up to so many rows ridge is solved in the rows, which takes some 20 s on one core then."""

FEW_ROWS, MAX_WIDTH = 4096, 1024
"""Beyond so many rows, and up to so many columns, in the columns."""

_BLOCK_ROWS = 8192


class Ridge(Protocol):
    """A linear smoother of targets, with one row of features per target."""

    @property
    def leverage(self) -> torch.Tensor:
        """Share of every row's own target in its prediction, 0 to 1, ``[n]``."""
        ...

    def left_out(self, targets: torch.Tensor) -> torch.Tensor:
        """Every row of the targets ``[n, k]`` predicted from the others, ``[n, k]``."""
        ...

    def tables(self, targets: torch.Tensor) -> list[torch.Tensor]:
        """Raw features to predictions of the targets ``[n, k]``, a ``[width_g, k]`` per group."""
        ...

    def without(self, rows: np.ndarray) -> Ridge:
        """Of the other rows alone, as if some distinct ones, ``[m]``, had never been there."""
        ...


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A ridge whose predictions are drawn to the mean of the targets.

    A prediction P becomes m + s (P - m), which orders cold items as before for every user: m is
    what all have in common. (The users of one cold item it does not.) The smoother that this is
    has the leverage s h.

    Args:
        ridge: whose first group is a constant 1.
        scale: s, 0 to 1.

    Source: Copas (1983), Regression, prediction and shrinkage.
    """

    ridge: Ridge
    scale: float

    @property
    def leverage(self) -> torch.Tensor:
        """Share of every row's own target in its prediction, 0 to 1, ``[n]``."""
        return self.scale * self.ridge.leverage

    def left_out(self, targets: torch.Tensor) -> torch.Tensor:
        """Every row of the targets ``[n, k]`` predicted from the others, ``[n, k]``."""
        return self.drawn(self.ridge.left_out(targets), targets)

    def drawn(self, left_out: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Left-out predictions of the ridge itself, drawn to the mean of the targets."""
        if self.scale == 1:
            return left_out
        # From h x + (1 - h) l, drawn to m, less s h x, by 1 - s h.
        kept = self.scale * (1 - self.ridge.leverage) / (1 - self.leverage).clamp(min=1e-6)
        mean = targets.mean(dim=0)
        return mean + kept.to(targets)[:, None] * (left_out - mean)

    def tables(self, targets: torch.Tensor) -> list[torch.Tensor]:
        """Raw features to predictions of the targets ``[n, k]``, a ``[width_g, k]`` per group."""
        constant, *others = (self.scale * table for table in self.ridge.tables(targets))
        return [constant + (1 - self.scale) * targets.mean(dim=0), *others]

    def without(self, rows: np.ndarray) -> Shrunk:
        """Of the other rows alone, as if some distinct ones, ``[m]``, had never been there."""
        return Shrunk(self.ridge.without(rows), self.scale)


class DualRidge:
    """Ridge solved in the rows, float64.

    Args:
        raws: raw features of the warm rows, a block per group.
        scales: what each group is divided by.
        weights: w_g of every group.
    """

    def __init__(self, raws: list[Raw], scales: tuple[float, ...], weights: np.ndarray) -> None:
        self.raws = raws
        self.factors = [w / s**2 for w, s in zip(weights.tolist(), scales, strict=True)]
        system = torch.eye(len(raws[0]), dtype=torch.float64, device=device_of(raws))
        for block in side_by_side(raws, self.factors):
            system.add_(gram(block.raw), alpha=block.factor)
        lower = torch.linalg.cholesky(system)
        del system
        self.inverse = torch.cholesky_inverse(lower)
        self.leverage = (1 - self.inverse.diagonal()).clamp(0, 1)

    def left_out(self, targets: torch.Tensor) -> torch.Tensor:
        """Every row of the targets ``[n, k]`` predicted from the others, ``[n, k]``."""
        double = targets.double()
        dual = self.inverse @ double
        return (double - dual / self.inverse.diagonal()[:, None]).to(targets.dtype)

    def tables(self, targets: torch.Tensor) -> list[torch.Tensor]:
        """Raw features to predictions of the targets ``[n, k]``, a ``[width_g, k]`` per group.

        Scales and weights are in them.
        """
        dual = (self.inverse @ targets.double()).float()
        return [
            f * product(transposed(raw), dual)
            for f, raw in zip(self.factors, self.raws, strict=True)
        ]

    def without(self, rows: np.ndarray) -> DualRidge:
        """Of the other rows alone, as if some distinct ones, ``[m]``, had never been there.

        With g for the rows and r for the others, (K_rr + I)^-1 = H_rr - H_rg H_gg^-1 H_gr.
        """
        others = np.setdiff1d(np.arange(len(self.inverse)), rows)
        at, kept = (torch.from_numpy(x).to(self.inverse.device) for x in (rows, others))
        across = self.inverse[kept][:, at]
        own = torch.linalg.cholesky(self.inverse[at][:, at])
        out = copy(self)
        out.raws = [select_rows(raw, others) for raw in self.raws]
        out.inverse = self.inverse[kept][:, kept] - across @ torch.cholesky_solve(across.T, own)
        out.leverage = (1 - out.inverse.diagonal()).clamp(0, 1)
        return out


class PrimalRidge:
    """Ridge solved in the columns, summed over blocks of rows.

    Args:
        raws: raw features of the warm rows, a block per group.
        scales: what each group is divided by.
        weights: w_g of every group.
    """

    def __init__(self, raws: list[Raw], scales: tuple[float, ...], weights: np.ndarray) -> None:
        self.raws = raws
        self.factors = [w**0.5 / s for w, s in zip(weights.tolist(), scales, strict=True)]
        self.widths = [width_of(raw) for raw in raws]
        system = torch.eye(sum(self.widths), dtype=torch.float64, device=device_of(raws))
        for block in self._blocks():
            features = self._features(block).double()
            system += features.T @ features
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        parts = []
        for block in self._blocks():
            features = self._features(block).double()
            parts.append(((features @ self.inverse) * features).sum(dim=1))
        self.leverage = torch.cat(parts).clamp(0, 1)

    def left_out(self, targets: torch.Tensor) -> torch.Tensor:
        """Every row of the targets ``[n, k]`` predicted from the others, ``[n, k]``."""
        weights = self._weights(targets)
        kept = (1 - self.leverage.float()).clamp(min=1e-6)[:, None]
        return torch.cat(
            [
                (self._features(block) @ weights - (1 - kept[block]) * targets[block]) / kept[block]
                for block in self._blocks()
            ]
        )

    def tables(self, targets: torch.Tensor) -> list[torch.Tensor]:
        """Raw features to predictions of the targets ``[n, k]``, a ``[width_g, k]`` per group.

        Scales and weights are in them.
        """
        parts = self._weights(targets).split(self.widths)
        return [factor * part for factor, part in zip(self.factors, parts, strict=True)]

    def without(self, rows: np.ndarray) -> PrimalRidge:
        """Of the other rows alone, as if some distinct ones, ``[m]``, had never been there.

        With A^-1 for the inverse and F for the features of the rows, it becomes
        A^-1 + A^-1 F' (I - F A^-1 F')^-1 F A^-1 (Sherman, Morrison and Woodbury), and the leverage
        grows by as much as that says.
        """
        if not len(rows):
            return self
        others = np.setdiff1d(np.arange(len(self.leverage)), rows)
        some = copy(self)
        some.raws = [select_rows(raw, rows) for raw in self.raws]
        gone = torch.cat([some._features(block) for block in some._blocks()]).double()
        carried = gone @ self.inverse  # [m, width]
        inner = torch.eye(len(rows), dtype=torch.float64, device=gone.device) - carried @ gone.T
        factor = torch.linalg.cholesky(inner)
        half = torch.linalg.solve_triangular(factor, carried, upper=False)
        out = copy(self)
        out.raws = [select_rows(raw, others) for raw in self.raws]
        out.inverse = self.inverse + half.T @ half
        kept = torch.from_numpy(others).to(gone.device)
        more = [
            (out._features(block).double() @ half.T).square().sum(dim=1) for block in out._blocks()
        ]
        out.leverage = (self.leverage[kept] + torch.cat(more)).clamp(0, 1)
        return out

    def _weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Features to predictions, ``[width, k]``."""
        width = len(self.inverse), targets.shape[1]
        right = torch.zeros(width, dtype=torch.float64, device=targets.device)
        for block in self._blocks():
            right += self._features(block).double().T @ targets[block].double()
        return (self.inverse @ right).float()

    def _blocks(self) -> list[slice]:
        starts = range(0, len(self.raws[0]), _BLOCK_ROWS)
        return [slice(s, min(s + _BLOCK_ROWS, len(self.raws[0]))) for s in starts]

    def _features(self, block: slice) -> torch.Tensor:
        out = []
        for factor, raw in zip(self.factors, self.raws, strict=True):
            part = rows_of(raw, block)
            out.append(factor * (part.to_dense() if isinstance(part, SparseRows) else part))
        return torch.cat(out, dim=1)


def ridge(raws: list[Raw], scales: tuple[float, ...], weights: np.ndarray) -> Ridge:
    """The cheapest way for this number of rows and columns."""
    rows = len(raws[0])
    if in_columns(rows, sum(width_of(raw) for raw in raws)):
        return PrimalRidge(raws, scales, weights)
    return (DualRidge if rows <= MAX_DUAL else IterativeRidge)(raws, scales, weights)


def in_columns(rows: int, width: int) -> bool:
    """Whether so many rows and columns are solved in the columns."""
    return rows > FEW_ROWS and width <= MAX_WIDTH
