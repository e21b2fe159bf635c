"""Embeddings of any node, seen or not, without training."""

from __future__ import annotations

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import Raw
from gnn.heads import ALPHA, Spectrum, rotated_half_step, spd_solve
from gnn.raws import apply
from gnn.train import TrainedSide, warm_precision

_BLOCK_ROWS = 16_384
"""So many nodes at once get their features on a GPU."""

_CPU_BLOCK_ROWS = 512
"""The same on a CPU, where features that stay in the cache take three quarters of the time."""


def priors(
    side: TrainedSide, inputs: NodeInputs, rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """What the features of these nodes say, float32 ``[n, k]``; in blocks, whatever ``n``."""
    step = _CPU_BLOCK_ROWS if device.type == "cpu" else _BLOCK_ROWS
    blocks = [rows[s : s + step] for s in range(0, len(rows), step)]
    parts = [apply(side.propagation.raw(inputs, block, device), side.tables) for block in blocks]
    return torch.cat(parts) if parts else side.reference.new_zeros(0, side.reference.shape[1])


def warm_positions(side: TrainedSide, rows: np.ndarray) -> np.ndarray:
    """Position of every row among the warm rows at training, -1 for the others, int64 ``[n]``."""
    order = side.warm_order
    at = np.searchsorted(side.warm, rows, sorter=order)
    at = order[np.minimum(at, len(order) - 1)]
    return np.where(side.warm[at] == rows, at, -1)


def precisions(
    side: TrainedSide, rows: np.ndarray, degrees: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Precision rho and exposure omega of some nodes, float32 ``[n]`` each.

    A node that was warm at training has the precision of its leave-one-out prior, and the exposure
    of the interactions that it has now; any other has exposure n / (n + rho), so that it is not
    charged with negatives that it never had the time to collect.
    """
    reference = side.reference
    positions = warm_positions(side, rows)
    n = torch.from_numpy(degrees).to(reference)
    rho = torch.full_like(n, side.precision)
    omega = n / (n + rho)
    if (warm := torch.from_numpy(positions >= 0).to(reference.device)).any():
        at = torch.from_numpy(positions[positions >= 0]).to(reference.device)
        rho[warm] = warm_precision(side.precision, side.leverage[at])
        omega[warm] = side.exposed(n[warm], at)
    return rho, omega


def rotated_rows(side: TrainedSide, vectors: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """What the other side sees of these nodes: training's reference, or the current vector.

    Returns:
        float32 ``[len(rows), k]``, in the eigenbasis of F'F.
    """
    positions = warm_positions(side, rows)
    out = side.rotated[torch.from_numpy(positions).to(vectors.device)]
    if len(late := np.flatnonzero(positions < 0)):
        now = vectors[torch.from_numpy(rows[late]).to(vectors.device)]
        out[torch.from_numpy(late).to(vectors.device)] = now @ side.spectrum.vectors
    return out


def posteriors(
    side: TrainedSide,
    rows: np.ndarray,
    prior: torch.Tensor,
    links: Adjacency,
    rotated: torch.Tensor,
    spectrum: Spectrum,
) -> torch.Tensor:
    """Embeddings of some nodes from their priors and interactions, float32 ``[n, k]``.

    Args:
        side: of these nodes.
        rows: of these nodes.
        prior: ``[n, k]``; a node without interactions keeps it exactly.
        links: their positives, as rows of ``rotated``.
        rotated: what this side is embedded against, in the eigenbasis of F'F.
        spectrum: of the other side's training reference.
    """
    degrees = links.degrees
    busy = np.flatnonzero(degrees)
    if not len(busy):
        return prior
    at = torch.from_numpy(busy).to(prior.device)
    rho, omega = precisions(side, rows[busy], degrees[busy])
    out = prior.clone()
    out[at] = rotated_half_step(links.take(busy), rotated, spectrum, prior[at], rho, omega)
    return out


def embedding_parts(
    side: TrainedSide,
    rows: np.ndarray,
    raws: list[Raw],
    links: Adjacency,
    rotated: torch.Tensor,
    spectrum: Spectrum,
) -> torch.Tensor:
    """Embeddings as exact sums: one part per feature group, the last from the interactions.

    Every part goes through the same A^-1, so ``parts.sum(dim=1)`` is the embedding.

    Returns:
        float32 ``[n, num_groups + 1, k]``.
    """
    prior_parts = torch.stack(
        [
            raw @ table if isinstance(raw, torch.Tensor) else raw.matmul(table)
            for raw, table in zip(raws, side.tables, strict=True)
        ],
        dim=1,
    )  # [n, num_groups, k]
    n, _, k = prior_parts.shape
    out = torch.cat([prior_parts, prior_parts.new_zeros(n, 1, k)], dim=1)
    degrees = links.degrees
    busy = np.flatnonzero(degrees)
    rho, omega = precisions(side, rows[busy], degrees[busy])
    strengths = _strengths(links, rotated)
    for place, row in enumerate(busy.tolist()):
        linked = links.indices[links.indptr[row] : links.indptr[row + 1]]
        z = rotated[torch.from_numpy(linked).to(rotated.device)]
        diagonal = omega[place] * spectrum.values + rho[place]
        priors_ = rho[place] * (prior_parts[row] @ spectrum.vectors)
        strength = strengths[links.indptr[row] : links.indptr[row + 1], None]
        total = (strength * z).sum(dim=0, keepdim=True)
        right = torch.cat([priors_, (omega[place] + ALPHA) * total])
        out[row] = _solved(z, diagonal, right) @ spectrum.vectors.T
    return out


def split_posterior(
    side: TrainedSide,
    rows: np.ndarray,
    parts: torch.Tensor,
    links: Adjacency,
    rotated: torch.Tensor,
    spectrum: Spectrum,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding of one node as an exact sum over parts of its prior and its positives.

    Args:
        side: of the node.
        rows: its row, ``[1]``.
        parts: of its prior, ``[num_parts, k]``.
        links: its positives, at least one, as rows of ``rotated``.
        rotated: what it is embedded against, in the eigenbasis of F'F.
        spectrum: of the other side's training reference.

    Returns:
        What becomes of every part, ``[num_parts, k]``, and what each positive adds,
        ``[num_positives, k]``.
    """
    rho, omega = precisions(side, rows, links.degrees)
    z = rotated[torch.from_numpy(links.indices).to(rotated.device)]
    pulls = (omega + ALPHA) * _strengths(links, rotated)[:, None] * z
    right = torch.cat([rho * (parts @ spectrum.vectors), pulls])
    solved = _solved(z, omega * spectrum.values + rho, right) @ spectrum.vectors.T
    return solved[: len(parts)], solved[len(parts) :]


def _strengths(links: Adjacency, like: torch.Tensor) -> torch.Tensor:
    """How strong every link is, ``[num_links]``."""
    if links.values is None:
        return like.new_ones(len(links.indices))
    return torch.from_numpy(links.values).to(like)


def _solved(z: torch.Tensor, diagonal: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(diag + alpha z'z)^-1 of several right sides, ``[num_rights, k]``, by Woodbury."""
    if len(z) > len(diagonal):
        system = torch.addmm(torch.diag(diagonal), z.T, z, alpha=ALPHA)
        return spd_solve(system, right.T).T
    scaled = z / diagonal
    inner = scaled @ z.T
    inner.diagonal().add_(1 / ALPHA)
    y = right / diagonal
    return y - spd_solve(inner, z @ y.T).T @ scaled
