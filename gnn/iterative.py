"""Ridge on many rows and columns by conjugate gradients: nothing is projected or left out.

With K = Phi Phi' as in :mod:`gnn.ridge`, (K + I) B = V is solved for the targets V. A product with
K reads the features twice. Few are needed, as M = Q Q' + D, which is easy to invert, is near K + I:
Q Q' has the leading directions of K, by a randomised Nystroem approximation, and D what its
diagonal lacks. Of H = (K + I)^-1 only the diagonal is asked for: that of M^-1 is known, and the
difference is estimated by random signs.

Sources: Hestenes and Stiefel (1952), Methods of conjugate gradients; Frangella, Tropp and Udell
(2021), Randomized Nystroem preconditioning; Bekas, Kokiopoulou and Saad (2007), An estimator for
the diagonal of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import numpy as np
import torch

from gnn.groups import Raw
from gnn.raws import (
    Block,
    product,
    select_rows,
    side_by_side,
    square_norms,
    transposed,
    width_of,
)

RANK = 512
"""Directions of K that M has; with half of them it takes a third more steps."""

PROBES = 64
"""Random signs per row that are drawn at a time."""

ERROR = 0.05
"""They are drawn until the diagonal of H has this relative error, as a root mean square.

On graphs small enough to invert K + I, too, what was drawn once, for an error of 3 to 5%, costs
.0007 +- .0001 in NDCG@20 on cold films (validation parts of three splits), on artists and articles
nothing.
"""

MAX_DRAWS = 8
"""But at most so often: where features tell nearly all of a row, its entry in H is small."""

TOP = 32
"""Directions of M that are projected out twice, as rounding of a large one hides the small ones."""

TOLERANCE = 1e-2
"""Largest residual of a column of B, as a share of the column of V.

Left-out predictions are within .007 of the exact ones then, as a share of how far these are from
the targets, which is less than what the diagonal's errors make.
"""

MAX_STEPS = 200

_BLOCK_FLOATS, _BLOCK_ROWS, _FEWEST_COLUMNS = 2**24, 8192, 32

_CPU_COLUMNS = 64
"""At most so many at a time on a CPU, where rows of 64 are read from the cache."""


class IterativeRidge:
    """Ridge that is solved for every target anew, in float32.

    A target that is asked for again, or one near it, takes fewer steps: they start where the last
    ones ended.

    Args:
        raws: raw features of the rows, a block per group.
        scales: what each group is divided by.
        weights: w_g of every group.
        seed: of the random directions and signs.
    """

    def __init__(
        self, raws: list[Raw], scales: tuple[float, ...], weights: np.ndarray, seed: int = 0
    ) -> None:
        factors = [w / s**2 for w, s in zip(weights.tolist(), scales, strict=True)]
        self.seed = seed
        self.widths = [width_of(raw) for raw in raws]
        self._read(side_by_side(raws, factors))
        rank = min(RANK, len(self.squares))
        drawn = np.random.default_rng(seed).standard_normal((len(self.squares), rank), np.float32)
        directions = torch.linalg.qr(self._sketch(torch.from_numpy(drawn).to(self.squares))).Q
        del drawn
        sketch = self._sketch(directions)
        core = torch.zeros(rank, rank, dtype=torch.float64, device=sketch.device)
        for start in range(0, len(sketch), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            core += directions[block].double().T @ sketch[block].double()
        del directions
        if not bool(torch.isfinite(core).all()):
            raise FloatingPointError("ridge: a feature or weight is no number, or far out of scale")
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        clear = values > 1e-6 * values[-1]
        self._prepare(sketch @ (vectors[:, clear] / values[clear].sqrt()).float())

    def left_out(self, targets: torch.Tensor) -> torch.Tensor:
        """Every row of the targets ``[n, k]`` predicted from the others, ``[n, k]``."""
        return targets - self._solved(targets) / (1 - self.leverage)[:, None]

    def tables(self, targets: torch.Tensor) -> list[torch.Tensor]:
        """Raw features to predictions of the targets ``[n, k]``, a ``[width_g, k]`` per group.

        Scales and weights are in them.
        """
        dual = self._solved(targets)
        out: dict[int, torch.Tensor] = {}
        for block, back in zip(self.blocks, self.backs, strict=True):
            tables = product(back, dual).split([self.widths[group] for group in block.groups])
            for group, part, table in zip(block.groups, block.parts, tables, strict=True):
                out[group] = part * table
        return [out[group] for group in range(len(self.widths))]

    def without(self, rows: np.ndarray) -> IterativeRidge:
        """Of the other rows alone, as if some distinct ones, ``[m]``, had never been there."""
        others = np.setdiff1d(np.arange(len(self.squares)), rows)
        at = torch.from_numpy(others).to(self.squares.device)
        out = copy(self)
        out._read([block._replace(raw=select_rows(block.raw, others)) for block in self.blocks])
        out._prepare(self.axes[at] * self.sizes.sqrt() / self.shrink[at])
        return out

    def _read(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.backs = [transposed(block.raw) for block in blocks]
        self.last: torch.Tensor | None = None
        squares = [block.factor * square_norms(block.raw) for block in blocks]
        self.squares = torch.stack(squares).sum(dim=0)  # the diagonal of K

    def _prepare(self, leading: torch.Tensor) -> None:
        """All that M^-1 needs, and the leverage.

        With D^-1/2 Q = U S^1/2 R, for axes U and a rotation R, it is D^-1/2 (I + U S U')^-1 D^-1/2.

        Args:
            leading: Q, ``[n, rank]``.
        """
        rest = (self.squares - leading.square().sum(dim=1)).clamp(min=0)
        self.shrink = (1 + rest).rsqrt()[:, None]  # D^-1/2
        orthonormal, upper = torch.linalg.qr(leading * self.shrink)
        left, roots, _ = torch.linalg.svd(upper.double())
        self.axes, self.sizes = orthonormal @ left.float(), roots.float() ** 2  # U, S
        gone = self.axes.square() @ (self.sizes / (1 + self.sizes))
        self.leverage = 1 - self._diagonal(self.shrink[:, 0] ** 2 * (1 - gone))

    def _diagonal(self, near: torch.Tensor) -> torch.Tensor:
        """Of H, ``[n]``, from that of M^-1, ``near`` it."""
        rng = np.random.default_rng(self.seed)
        total, squares, found = torch.zeros_like(near), torch.zeros_like(near), near
        for draws in range(1, MAX_DRAWS + 1):
            signs = torch.from_numpy(rng.integers(0, 2, (len(near), PROBES), np.int8)).to(near)
            signs = 2 * signs - 1
            start = self._near(signs)
            apart = signs * (self._solve(signs, start) - start)
            total += apart.sum(dim=1)
            squares += apart.square().sum(dim=1)
            number = draws * PROBES
            mean = total / number
            found = (near + mean).clamp(1 / (1 + self.squares), torch.ones_like(near))
            variance = (squares / number - mean**2) / number
            if float((variance / found**2).mean()) <= ERROR**2:
                break
        return found

    def _near(self, x: torch.Tensor) -> torch.Tensor:
        """M^-1 x."""
        x = x * self.shrink
        along = self.axes.T @ x
        x = x - self.axes @ along
        top = self.axes[:, :TOP]  # the largest come first
        x -= top @ (top.T @ x)
        x += self.axes @ (along / (1 + self.sizes)[:, None])
        return x * self.shrink

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """K x."""
        out = torch.zeros_like(x)
        for block, back in zip(self.blocks, self.backs, strict=True):
            out.add_(product(block.raw, product(back, x)), alpha=block.factor)
        return out

    def _sketch(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        for at in self._columns(x):
            out[:, at] = self._product(x[:, at])
        return out

    def _columns(self, matrix: torch.Tensor) -> Iterator[slice]:
        """Some columns at a time, so few that a product with the widest block stays small."""
        longest = max(len(matrix), *(width_of(block.raw) for block in self.blocks))
        step = max(_FEWEST_COLUMNS, _BLOCK_FLOATS // longest)
        if matrix.device.type == "cpu":
            step = min(step, _CPU_COLUMNS)
        yield from (slice(at, at + step) for at in range(0, matrix.shape[1], step))

    def _solved(self, targets: torch.Tensor) -> torch.Tensor:
        """B of (K + I) B = V, ``[n, k]``, from the last one of this shape or else from M^-1 V."""
        start = self.last
        if start is None or start.shape != targets.shape:
            start = self._near(targets)
        self.last = self._solve(targets, start)
        return self.last

    def _solve(self, targets: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(targets)
        for at in self._columns(targets):
            size = targets[:, at].abs().amax(dim=0)
            size = torch.where(size > 0, size, 1)
            found[:, at] = self._descend(targets[:, at] / size, start[:, at] / size) * size
        return found

    def _descend(self, targets: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Conjugate gradients from what is near, for columns of entries up to 1."""
        length = targets.norm(dim=0)
        residual = targets - found - self._product(found)
        if not bool((residual.norm(dim=0) <= length).all()):  # what was solved last was far away
            found = self._near(targets)
            residual = targets - found - self._product(found)
        tiny = torch.finfo(targets.dtype).tiny
        direction, before = torch.zeros_like(targets), targets.new_ones(targets.shape[1])
        for _ in range(MAX_STEPS):
            if bool((residual.norm(dim=0) <= TOLERANCE * length).all()):
                return found
            near = self._near(residual)
            now = (residual * near).sum(dim=0)
            direction = near + now / before.clamp(min=tiny) * direction
            moved = direction + self._product(direction)
            size = now / (direction * moved).sum(dim=0).clamp(min=tiny)
            found = found + size * direction
            residual = residual - size * moved
            before = now
        worst = float((residual.norm(dim=0) / length.clamp(min=tiny)).max())
        raise FloatingPointError(
            f"after {MAX_STEPS} steps ridge is {worst:.2g} of a target away from it, and "
            f"{TOLERANCE:.2g} is wanted; is a feature or target no number, or far out of scale?"
        )
