"""The scorer for a store that only knows cosines: one vector per item, one per user, same order.

With ``x_i = [a_i i/|i|, b_i, pad_i]``, padded so that all items are equally long, and
``q_u = [a_u u/|u|, c_u, 0]``,

    cos(q_u, x_i) = (r_ui - b_u) / (|q_u| |x_i|)

where both lengths do not depend on the item: so the order by cosine is the order by score.

Source: Bachrach et al. (2014), Speeding up the Xbox recommender system using a Euclidean
transformation for inner-product spaces, section 3.2; ours carries a bias, and takes a length from a
coarse grid, so that one longer item does not change the vectors of all the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kg.errors import AlignmentError

STEPS_PER_DOUBLING = 4
"""Lengths are powers of ``2 ** (1 / 4)``: at most 19% longer than the longest item."""


@dataclass(frozen=True, eq=False)
class FoldedItems:
    """Items as vectors of one length.

    Args:
        matrix: float32 ``[num_items, dim + 2]``.
        length: of every row.
    """

    matrix: np.ndarray
    length: float


def fold_items(vectors: np.ndarray, bias: np.ndarray, length: float | None = None) -> FoldedItems:
    """Item vectors whose cosine with :func:`fold_users` orders them by score.

    Args:
        vectors: item embeddings, whose length is the gain a_i, ``[num_items, dim]``.
        bias: b_i, ``[num_items]``.
        length: of every row, at least that of the longest item with its bias; by default the next
            step of a grid, so that it rarely changes when items are added.

    Raises:
        AlignmentError: there is not one bias per item.
        ValueError: ``length`` is shorter than an item.
    """
    vectors, bias = np.asarray(vectors, np.float64), np.asarray(bias, np.float64)
    if bias.shape != (len(vectors),):
        raise AlignmentError(f"bias: expected [{len(vectors)}], got {list(bias.shape)}")
    squares = (vectors**2).sum(axis=1) + bias**2
    longest = math.sqrt(squares.max(initial=0.0))
    steps = math.ceil(math.log2(longest) * STEPS_PER_DOUBLING) if longest > 0 else 0
    wanted = math.pow(2, steps / STEPS_PER_DOUBLING) if length is None else length
    if wanted < longest * (1 - 1e-9):
        raise ValueError(f"length must be at least that of the longest item, {longest}: {length}")
    pad = np.sqrt(np.maximum(wanted**2 - squares, 0.0))
    matrix = np.concatenate([vectors, bias[:, None], pad[:, None]], axis=1)
    return FoldedItems(matrix.astype(np.float32), wanted)


def fold_users(vectors: np.ndarray, familiarity: np.ndarray | float = 1.0) -> np.ndarray:
    """Query vectors for :func:`fold_items`, float32 ``[num_users, dim + 2]``.

    Args:
        vectors: user embeddings, whose length is the gain a_u, ``[num_users, dim]``.
        familiarity: c_u, how much of an item's bias counts, ``[num_users]``, or one for all.
    """
    vectors = np.asarray(vectors, np.float32)
    shares, zeros = np.broadcast_to(familiarity, len(vectors)), np.zeros((len(vectors), 1))
    return np.concatenate([vectors, shares[:, None], zeros], axis=1).astype(np.float32)


def scores_of_cosines(cosines: np.ndarray, query: np.ndarray, length: float) -> np.ndarray:
    """r_ui - b_u from cosines: what a store's similarity means in the engine's own units.

    Args:
        cosines: between -1 and 1; Neo4j's similarity ``s`` is ``(1 + cosine) / 2``.
        query: a row of :func:`fold_users`.
        length: of the folded items.
    """
    return np.asarray(cosines) * float(np.linalg.norm(query.astype(np.float64))) * length
