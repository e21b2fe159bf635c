"""The scorer r_ui = a_u a_i cos(u, i) + b_u + c_u b_i, and the protocol that all scorers share.

b_i lifts new items among known ones, and c_u, between 0 and 1, is how well a user is known: what is
right for those whose tastes are known would bury under new items what a new user will like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse


class Scorer(Protocol):
    """Whatever gives every pair of a user and an item a score."""

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Scores, float32 ``[len(users), len(items)]``; higher is better.

        Args:
            users: rows of users, int64.
            items: rows of items, int64.
        """
        ...


def cosine_plus_bias(
    users: np.ndarray,
    items: np.ndarray,
    user_gain: np.ndarray,
    item_gain: np.ndarray,
    user_bias: np.ndarray,
    item_bias: np.ndarray,
    familiarity: np.ndarray | float = 1.0,
) -> np.ndarray:
    """r_ui = a_u a_i cos(u, i) + b_u + c_u b_i of every pair, ``[num_users, num_items]``.

    Args:
        users: ``[num_users, dim]``.
        items: ``[num_items, dim]``.
        user_gain: a_u, ``[num_users]``.
        item_gain: a_i, ``[num_items]``.
        user_bias: b_u, ``[num_users]``.
        item_bias: b_i, ``[num_items]``.
        familiarity: c_u, ``[num_users]``, or one number for all.

    The cosine with a zero vector is 0.
    """
    cosine = unit_rows(users) @ unit_rows(items).T
    gains = user_gain[:, None] * item_gain[None, :]
    counted = np.broadcast_to(familiarity, len(users))[:, None] * item_bias[None, :]
    return gains * cosine + user_bias[:, None] + counted


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows to length 1; a zero row stays zero."""
    length = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return matrix / np.where(length > 0, length, 1)


@dataclass(frozen=True, eq=False)
class CosineBiasScorer:
    """The scorer over embeddings whose length is the gain: a_u = |u|, a_i = |i|.

    The product a_u a_i cos(u, i) is then the dot product, which is how it is computed.

    Args:
        users: ``[num_users, dim]``.
        items: ``[num_items, dim]``.
        item_bias: b_i, ``[num_items]``; b_u is 0.
        familiarity: c_u, float32 ``[num_users]``; ``None``: 1 for all.
    """

    users: np.ndarray
    items: np.ndarray
    item_bias: np.ndarray
    familiarity: np.ndarray | None = None

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        bias = self.share_of_bias(users)[:, None] * self.item_bias[items]
        return self.users[users] @ self.items[items].T + bias

    def share_of_bias(self, users: np.ndarray) -> np.ndarray:
        """c_u of some users, float32 ``[len(users)]``."""
        if self.familiarity is None:
            return np.ones(len(users), np.float32)
        return self.familiarity[users]


@dataclass(frozen=True, eq=False)
class MatrixScorer:
    """Scores that were worked out beforehand.

    Args:
        matrix: float32 ``[num_users, num_items]``.
    """

    matrix: np.ndarray

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        return self.matrix[np.ix_(users, items)]


@dataclass(frozen=True, eq=False)
class ProductScorer:
    """Dot products of two matrices of rows.

    Args:
        users: ``[num_users, dim]``.
        items: ``[num_items, dim]``.
    """

    users: np.ndarray
    items: np.ndarray

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        return self.users[users] @ self.items[items].T


@dataclass(frozen=True, eq=False)
class HistoryScorer:
    """What a user has, times what that says of every item.

    Args:
        users: sparse ``[num_users, dim]``: the history, or attributes.
        items: ``[dim, num_items]``, an array or sparse.
    """

    users: sparse.csr_matrix
    items: np.ndarray | sparse.csr_matrix | sparse.csc_matrix

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        found = self.users[users] @ self.items[:, items]
        return found.toarray() if sparse.issparse(found) else np.asarray(found)
