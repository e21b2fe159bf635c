"""The embedding of one new node on a CPU, in numpy: what a request waits for.

The same features, prior and half step as in :mod:`gnn.groups` and :mod:`gnn.infer`, which serve any
number of nodes on any device. Of a single node most of their time goes into starting some two
hundred small tensor operations; here a row costs a few microseconds a group and two passes over the
tables of the text. Nothing is copied or kept: the arrays are views of the trained tensors.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from gnn.data import NodeInputs
from gnn.groups import (
    NEIGHBOUR_SHARE,
    Category,
    Constant,
    FeatureGroup,
    Gaussians,
    NeighbourOneHot,
    NeighbourText,
    OneHot,
    Text,
    TextKernel,
    known,
    leads_to_warm,
    vectors_of,
)
from gnn.heads import ALPHA
from gnn.infer import warm_positions
from gnn.prominence import Prominence
from gnn.train import TrainedSide
from gnn.words import Terms

FIRST = np.zeros(1, np.int64)
"""Position of the only node."""

Row = np.ndarray | tuple[np.ndarray, np.ndarray] | None
"""Features of one node: all, ``[width]``, or columns and values of some, or ``None``: all zero."""


def embed_single(
    side: TrainedSide,
    inputs: NodeInputs,
    positives: np.ndarray,
    other: TrainedSide,
    vectors: torch.Tensor,
    strengths: np.ndarray | None = None,
) -> np.ndarray:
    """The embedding of one node that was not there at training, float32 ``[k]``.

    Args:
        side: of the node, on a CPU.
        inputs: of this node alone.
        positives: distinct rows of the other side; a node without any gets its prior.
        other: the other side.
        vectors: its current embeddings, for rows that were not warm at training.
        strengths: of the positives, float32 ``[num_positives]``; ``None``: all are 1.
    """
    prior = single_prior(side, inputs)
    if not len(positives):
        return prior
    seen = _rotated(other, vectors, positives)
    return _posterior(prior, seen, strengths, other, side.precision)


def single_prior(side: TrainedSide, inputs: NodeInputs) -> np.ndarray:
    """What the features of one node say, float32 ``[k]``; see :func:`gnn.infer.priors`."""
    out = np.zeros(side.reference.shape[1], np.float32)
    texts: dict[int, np.ndarray] = {}
    for group, table in zip(side.propagation.groups, side.table_views, strict=True):
        row = single_row(group, inputs, texts)
        if isinstance(row, np.ndarray):
            out += row @ table
        elif row is not None:
            columns, values = row
            out += values @ table[columns]
    return out


def single_row(group: FeatureGroup, inputs: NodeInputs, texts: dict[int, np.ndarray]) -> Row:
    """What ``group.raw`` says of the only node of these inputs, float32.

    Args:
        group: a feature group.
        inputs: of one node.
        texts: its centred texts by the id of their group, which several groups start from.
    """
    match group:
        case OneHot():
            found = [columns for _, _, columns in group.columns_of_one(inputs)]
            return _weighted(found, group.idf) if found else None
        case NeighbourOneHot():
            rows = _warm_neighbours(group, inputs)
            found = [known(group.column, rows), known(group.column, inputs.rows)]
            return _weighted(found, group.idf)
        case Gaussians():
            return group.bumps(inputs.numeric[group.numeric])[0]
        case Category():
            columns = group.columns_of(inputs.categorical[group.categorical][0])
            return np.array(columns, np.int64), np.ones(len(columns), np.float32)
        case Constant():
            return np.ones(1, np.float32)
        case Prominence():
            itself = bool(leads_to_warm(inputs.rows, group.warm)[0])
            return group.bumps(group.measures_of_one(inputs.relations, itself))[0]
        case Text():
            return _own_text(group, inputs, texts)
        case TextKernel():
            text = _own_text(group.text, inputs, texts)
            width = group.frequencies.shape[1]
            waves = np.zeros(2 * width, np.float32)
            if text.any():
                phase = text @ group.frequencies
                np.cos(phase, out=waves[:width])
                np.sin(phase, out=waves[width:])
            return waves
        case Terms():
            columns, values = group.weighted(inputs.wording(FIRST)[0] if inputs.wording else "")
            return (columns, _unit(values)) if len(columns) else None
        case NeighbourText():
            return _neighbour_text(group, inputs, texts)
    # A kind that has no short way of its own yet.
    raw = group.raw(inputs, FIRST, torch.device("cpu"))
    return (raw if isinstance(raw, torch.Tensor) else raw.to_dense())[0].numpy()


def _own_text(group: Text, inputs: NodeInputs, texts: dict[int, np.ndarray]) -> np.ndarray:
    if id(group) not in texts:
        texts[id(group)] = _centred(vectors_of(inputs, group.source)[0], group.mean)
    return texts[id(group)]


def _centred(vector: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The vector minus the mean, to unit length; zero stays zero."""
    return _unit(vector - mean) if vector.any() else np.zeros_like(mean)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(math.sqrt(float(vector @ vector)), 1e-12)


def _neighbour_text(
    group: NeighbourText, inputs: NodeInputs, texts: dict[int, np.ndarray]
) -> np.ndarray:
    out = np.zeros_like(group.text.mean)
    rows = _warm_neighbours(group, inputs)
    for vector in group.text.peers(inputs, rows) if len(rows) else ():
        out += _centred(vector, group.text.mean) / np.float32(len(rows))
    if not group.blend:
        return out
    return _unit(_own_text(group.text, inputs, texts) + np.float32(NEIGHBOUR_SHARE) * out)


def _warm_neighbours(group: NeighbourText | NeighbourOneHot, inputs: NodeInputs) -> np.ndarray:
    links = inputs.same_type.get(group.relation)
    if links is None:
        return np.empty(0, np.int64)
    return links.indices[leads_to_warm(links.indices, group.warm)]


def _weighted(found: list[np.ndarray], idf: np.ndarray) -> Row:
    columns = found[0] if len(found) == 1 else np.concatenate(found)
    columns = columns[columns >= 0]
    return (columns, _unit(idf[columns])) if len(columns) else None


def _rotated(other: TrainedSide, vectors: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """What a new node sees of its positives, in the eigenbasis of F'F, ``[n, k]``."""
    positions = warm_positions(other, rows)
    z = other.rotated.numpy()[positions]
    late = positions < 0
    if late.any():
        z[late] = vectors.numpy()[rows[late]] @ other.spectrum.vectors.numpy()
    return z


def _posterior(
    prior: np.ndarray,
    z: np.ndarray,
    strengths: np.ndarray | None,
    other: TrainedSide,
    precision: float,
) -> np.ndarray:
    """The half step of :mod:`gnn.heads` for one node with exposure n / (n + rho)."""
    basis, values = other.spectrum.vectors.numpy(), other.spectrum.values.numpy()
    rho, alpha = np.float32(precision), np.float32(ALPHA)
    omega = np.float32(len(z) / (len(z) + precision))
    diagonal = omega * values + rho
    total = z.sum(axis=0) if strengths is None else strengths @ z
    right = rho * (prior @ basis) + (omega + alpha) * total
    if len(z) > len(values):
        return basis @ np.linalg.solve(alpha * (z.T @ z) + np.diag(diagonal), right)
    scaled = z / diagonal
    inner = scaled @ z.T
    inner.flat[:: len(z) + 1] += 1 / alpha
    out = right / diagonal
    return basis @ (out - np.linalg.solve(inner, z @ out) @ scaled)
