"""A trained side as plain arrays and JSON, and back: what a saved engine is made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from gnn import groups as _groups
from gnn.propagate import Propagation
from gnn.train import TrainedSide
from gnn.words import Words
from kg.errors import SavedFileError

_GROUPS = {
    cls.kind: cls
    for cls in (
        _groups.Constant,
        _groups.Text,
        _groups.TextKernel,
        _groups.NeighbourText,
        _groups.OneHot,
        _groups.NeighbourOneHot,
        _groups.Gaussians,
        _groups.Category,
        Words,
    )
}


def side_to_state(side: TrainedSide) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON-able description and named arrays of a trained side."""
    arrays: dict[str, np.ndarray] = {
        "weights": side.weights,
        "warm": side.warm,
        "leverage": side.leverage.cpu().numpy(),
        "reference": side.reference.cpu().numpy(),
    }
    described = []
    for i, (group, table) in enumerate(zip(side.propagation.groups, side.tables, strict=True)):
        described.append(_flatten(group, f"group.{i}", arrays))
        arrays[f"group.{i}.table"] = table.cpu().numpy()
    meta = {
        "groups": described,
        "scales": side.propagation.scales,
        "precision": side.precision,
        "reliability": side.reliability,
    }
    return meta, arrays


def side_from_state(
    meta: dict[str, Any], arrays: dict[str, np.ndarray], device: torch.device
) -> TrainedSide:
    """The side that :func:`side_to_state` described.

    Raises:
        SavedFileError: an array or group is missing or of an unknown kind.
    """
    try:
        groups = tuple(
            _restore(entry, f"group.{i}", arrays) for i, entry in enumerate(meta["groups"])
        )
        tensors = {
            name: torch.from_numpy(arrays[name]).to(device) for name in ("leverage", "reference")
        }
        tables = [
            torch.from_numpy(arrays[f"group.{i}.table"]).to(device) for i in range(len(groups))
        ]
        propagation = Propagation(groups, tuple(meta["scales"]))
        return TrainedSide(
            propagation,
            arrays["weights"],
            tables,
            meta["precision"],
            arrays["warm"],
            reliability=meta["reliability"],
            **tensors,
        )
    except KeyError as error:
        raise SavedFileError(f"the saved engine lacks {error}; save it again") from error


def _flatten(group: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": group.kind}
    for field in fields(group):
        value = getattr(group, field.name)
        name = f"{prefix}.{field.name}"
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif is_dataclass(value):
            out[field.name] = _flatten(value, name, arrays)
        elif isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
            out[field.name] = len(value)
            arrays.update({f"{name}.{i}": part for i, part in enumerate(value)})
        else:
            out[field.name] = value
    return out


def _restore(entry: dict[str, Any], prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    cls = _GROUPS[entry["kind"]]
    values: dict[str, Any] = {}
    for field in fields(cls):
        name, value = f"{prefix}.{field.name}", entry.get(field.name)
        if name in arrays:
            values[field.name] = arrays[name]
        elif isinstance(value, dict):
            values[field.name] = _restore(value, name, arrays)
        elif isinstance(value, list):
            values[field.name] = tuple(value)
        elif f"{name}.0" in arrays and isinstance(value, int):
            values[field.name] = tuple(arrays[f"{name}.{i}"] for i in range(value))
        else:
            values[field.name] = value
    return cls(**values)
