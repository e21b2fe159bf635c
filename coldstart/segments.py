"""The nine segments: users and items by how many training interactions they have."""

from __future__ import annotations

import numpy as np

WARM_UP_MOST = 5
"""A node with more training interactions than this is warm, one with none is cold."""

CLASSES = ("cold", "warm_up", "warm")
"""What a node is, in the order of its training interactions."""

NINE = tuple(f"{users}_users_{items}_items" for users in CLASSES for items in CLASSES)
"""Users of one class rank the items of one class: ``cold_users_warm_up_items`` and so on."""


def class_of(num_interactions: np.ndarray) -> np.ndarray:
    """Position in :data:`CLASSES` of nodes with so many training interactions, int64."""
    return np.digitize(num_interactions, [1, WARM_UP_MOST + 1])


def ends_of(segment: str) -> tuple[str, str]:
    """The classes of users and items of one of the nine."""
    users, items = segment.removesuffix("_items").split("_users_")
    return users, items


def spoken(segment: str) -> str:
    """A segment for people: ``cold users x warm-up items``."""
    if segment not in NINE:
        return segment.replace("_", " ")
    users, items = ends_of(segment)
    return f"{users} users x {items} items".replace("_", "-")
