"""Heads in closed form: implicit ALS half steps with a prior.

The other side's matrix is F, a node's positives z, their strengths t (see :mod:`gnn.strength`), its
prior p, precision rho, exposure omega, and its embedding

    x = (omega F'F + rho I + alpha F_z'F_z)^-1 ((omega + alpha) sum_z t F + rho p).

Source: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets, eq.
4, here with a prior in place of zero and an exposure in front of the unobserved pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gnn.data import Adjacency

ALPHA = 10.0
"""How much more a positive weighs than a pair that was not observed."""

_BATCH_FLOATS = 2**24
"""Size of the largest block that a half step gathers on a GPU."""

_CPU_BATCH_FLOATS = 2**19
"""The same on a CPU, where a block that stays in the cache is done in two thirds of the time."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvectors ``[k, k]`` and eigenvalues ``[k]`` of F'F, which make a half step cheap."""

    vectors: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Spectrum:
        """Of F'F, computed in float64."""
        double = matrix.double()
        values, vectors = torch.linalg.eigh(double.T @ double)
        return cls(vectors.to(matrix.dtype), values.clamp(min=0).to(matrix.dtype))


def half_step(
    links: Adjacency,
    other: torch.Tensor,
    spectrum: Spectrum,
    prior: torch.Tensor | None,
    precision: torch.Tensor,
    exposure: torch.Tensor,
    alpha: float = ALPHA,
) -> torch.Tensor:
    """Embeddings of some nodes given their positives, float ``[n, k]``.

    Args:
        links: each node's positives, as rows of ``other``.
        other: embeddings of the other side, ``[num_other, k]``.
        spectrum: of F'F of the other side's warm rows at training.
        prior: ``[n, k]``, or ``None`` for zero.
        precision: rho of every node, ``[n]``, positive.
        exposure: omega of every node, ``[n]``, between 0 and 1.
        alpha: weight of a positive.
    """
    rotated = other @ spectrum.vectors
    return rotated_half_step(links, rotated, spectrum, prior, precision, exposure, alpha)


def rotated_half_step(
    links: Adjacency,
    other: torch.Tensor,
    spectrum: Spectrum,
    prior: torch.Tensor | None,
    precision: torch.Tensor,
    exposure: torch.Tensor,
    alpha: float = ALPHA,
) -> torch.Tensor:
    """A half step where the other side's rows are in the eigenbasis already; see above."""
    # The row of zeros at the end is what shorter lists of positives are filled up with.
    rotated = torch.cat([other, other.new_zeros(1, other.shape[1])])
    right = prior @ spectrum.vectors * precision[:, None] if prior is not None else None
    degrees = links.degrees
    order = np.argsort(degrees, kind="stable")
    out = torch.zeros(len(links), other.shape[1], dtype=other.dtype, device=other.device)
    most = _CPU_BATCH_FLOATS if other.device.type == "cpu" else _BATCH_FLOATS
    start = 0
    while start < len(order):
        stop = _batch_end(degrees, order, start, other.shape[1], most)
        rows = order[start:stop]
        at = torch.from_numpy(rows).to(other.device)
        p = None if right is None else right[at]
        out[at] = _solve(
            links.take(rows), rotated, spectrum.values, p, precision[at], exposure[at], alpha
        )
        start = stop
    return out @ spectrum.vectors.T


def _solve(
    links: Adjacency,
    rotated: torch.Tensor,
    values: torch.Tensor,
    right: torch.Tensor | None,
    precision: torch.Tensor,
    exposure: torch.Tensor,
    alpha: float,
) -> torch.Tensor:
    n, k = len(links), rotated.shape[1]
    width = int(links.degrees.max(initial=0))
    diagonal = exposure[:, None] * values + precision[:, None]  # [n, k]
    if not width:
        return (right if right is not None else torch.zeros_like(diagonal)) / diagonal
    at = links.sources, np.arange(len(links.indices)) - np.repeat(links.indptr[:-1], links.degrees)
    index = np.full((n, width), len(rotated) - 1, np.int64)
    index[at] = links.indices
    z = rotated[torch.from_numpy(index).to(rotated.device)]  # [n, width, k]
    if links.values is None:
        total = z.sum(dim=1)
    else:
        strength = np.zeros((n, 1, width), np.float32)
        strength[:, 0][at] = links.values
        total = (torch.from_numpy(strength).to(z) @ z)[:, 0]
    b = (exposure + alpha)[:, None] * total
    b = b if right is None else b + right
    if width > k:
        a = alpha * z.transpose(1, 2) @ z + torch.diag_embed(diagonal)
        return spd_solve(a, b[:, :, None])[:, :, 0]
    # Woodbury with Y = Z D^-1/2: D^-1/2 (c - Y' (I / alpha + Y Y')^-1 Y c), c = D^-1/2 b
    root = diagonal.sqrt()
    c = (b / root)[:, :, None]
    z.div_(root[:, None, :])
    inner = z @ z.transpose(1, 2)
    inner.diagonal(dim1=1, dim2=2).add_(1 / alpha)
    t = spd_solve(inner, z @ c)  # [n, width, 1]
    return (c - z.transpose(1, 2) @ t)[:, :, 0] / root


def spd_solve(system: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve positive definite systems, ``[..., n, n]`` and ``[..., n, m]``.

    Cholesky takes half the arithmetic of LU, whose batched form torch runs in several threads over
    an MKL that now and then rejects it ("Parameter 6 was incorrect on entry to SLASWP").
    """
    return torch.cholesky_solve(right, torch.linalg.cholesky(system))


def _batch_end(degrees: np.ndarray, order: np.ndarray, start: int, k: int, most: int) -> int:
    """Rows of similar degree whose padded block fits."""
    first = max(int(degrees[order[start]]), 1)
    stop = start + 1
    limit = max(first * 5 // 4, first + 4)
    while stop < len(order):
        width = max(int(degrees[order[stop]]), 1)
        if width > limit or (stop + 1 - start) * width * max(k, width) > most:
            break
        stop += 1
    return stop


def implicit_als(
    links: Adjacency,
    k: int,
    precision: float,
    rng: np.random.Generator,
    device: torch.device,
    alpha: float = ALPHA,
    sweeps: int = 5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """User and item factors of plain implicit ALS, ``[num_users, k]`` and ``[num_items, k]``.

    Some sweeps from a normal(0, 0.1) start on the warm block.
    """
    back = links.transpose()
    start = rng.normal(0, 0.1, (links.num_targets, k)).astype(np.float32)
    items = torch.from_numpy(start).to(device)
    users = items
    for _ in range(sweeps):
        users = warm_half_step(links, items, None, precision, alpha)
        items = warm_half_step(back, users, None, precision, alpha)
    return users, items


def warm_half_step(
    links: Adjacency,
    other: torch.Tensor,
    prior: torch.Tensor | None,
    precision: float,
    alpha: float = ALPHA,
    exposure: torch.Tensor | None = None,
) -> torch.Tensor:
    """A half step with one precision for all nodes, and exposure 1 where none is given."""
    ones = torch.ones(len(links), dtype=other.dtype, device=other.device)
    omega = ones if exposure is None else exposure
    return half_step(links, other, Spectrum.of(other), prior, precision * ones, omega, alpha)
