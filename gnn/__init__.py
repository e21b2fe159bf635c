"""Graph to arrays: propagation over the typed graph, closed-form heads, export to PyG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnn.data import to_hetero_data

__all__ = ["to_hetero_data"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gnn' has no attribute {name!r}")
    from gnn import data

    return getattr(data, name)
