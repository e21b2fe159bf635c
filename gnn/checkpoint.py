"""A trained side as plain arrays and JSON, and back: what a saved engine is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from gnn.encoding import GraphEncoder, by_kind
from gnn.propagate import Propagation
from gnn.rating_head import Beliefs, RatedSide, RatingHead
from gnn.train import TrainedSide
from kg.errors import SavedFileError

_HEAD_NUMBERS = ("mean", "scale", "noise", "lowest", "highest")
_SIDE_TENSORS = ("cold_leverage", "warm_leverage", "variance")


def side_to_state(side: TrainedSide) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON-able description and named arrays of a trained side."""
    arrays: dict[str, np.ndarray] = {
        "weights": side.weights,
        "warm": side.warm,
        "leverage": side.leverage.cpu().numpy(),
        "exposure": side.exposure.cpu().numpy(),
        "reference": side.reference.cpu().numpy(),
    }
    for i, table in enumerate(side.tables):
        arrays[f"group.{i}.table"] = table.cpu().numpy()
    meta = {
        "groups": _described(side.propagation, "group", arrays),
        "scales": side.propagation.scales,
        "precision": side.precision,
        "reliability": side.reliability,
        "few": side.few,
        "prior_scale": side.prior_scale,
        "popularity_scale": side.popularity_scale,
    }
    return meta, arrays


def side_from_state(
    meta: dict[str, Any],
    arrays: dict[str, np.ndarray],
    device: torch.device,
    encoders: Sequence[GraphEncoder] = (),
) -> TrainedSide:
    """The side that :func:`side_to_state` described.

    Args:
        meta: the description.
        arrays: by name.
        device: where tensors go.
        encoders: that made feature groups besides ours.

    Raises:
        SavedFileError: an array or group is missing or of an unknown kind.
    """
    try:
        propagation = _propagation(meta["groups"], meta["scales"], "group", arrays, encoders)
        tensors = {
            name: torch.from_numpy(arrays[name]).to(device)
            for name in ("leverage", "reference", "exposure")
        }
        count = len(propagation.groups)
        tables = [torch.from_numpy(arrays[f"group.{i}.table"]).to(device) for i in range(count)]
        return TrainedSide(
            propagation,
            arrays["weights"],
            tables,
            meta["precision"],
            arrays["warm"],
            reliability=meta["reliability"],
            few=meta["few"],
            prior_scale=meta.get("prior_scale", 1.0),  # there was none at first
            popularity_scale=meta.get("popularity_scale", 1.0),  # likewise
            **tensors,
        )
    except KeyError as error:
        raise SavedFileError(f"the saved engine lacks {error}; save it again") from error


def head_to_state(head: RatingHead) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON-able description and named arrays of a rating head."""
    meta: dict[str, Any] = {name: getattr(head, name) for name in _HEAD_NUMBERS}
    arrays: dict[str, np.ndarray] = {}
    for name, side in (("users", head.users), ("items", head.items)):
        tensors = {key: getattr(side, key) for key in _SIDE_TENSORS}
        tensors |= {f"cold.{i}": table for i, table in enumerate(side.cold_tables)}
        tensors |= {f"warm.{i}": table for i, table in enumerate(side.warm_tables)}
        tensors["mean"], tensors["covariance"] = side.reference.mean, side.reference.covariance
        arrays |= {f"{name}.{key}": tensor.cpu().numpy() for key, tensor in tensors.items()}
        arrays[f"{name}.rows"] = side.warm
        meta[name] = {
            "features": _described(side.features, f"{name}.features", arrays),
            "feature_scales": side.features.scales,
            "history": _described(side.history, f"{name}.history", arrays),
            "history_scales": side.history.scales,
            "offset": side.offset,
            "half_history": side.half_history,
        }
    return meta, arrays


def head_from_state(
    meta: dict[str, Any], arrays: dict[str, np.ndarray], device: torch.device
) -> RatingHead:
    """The rating head that :func:`head_to_state` described.

    Raises:
        SavedFileError: an array or group is missing or of an unknown kind.
    """
    try:
        users, items = (
            _rated_side(name, meta[name], arrays, device) for name in ("users", "items")
        )
        return RatingHead(users, items, **{name: meta[name] for name in _HEAD_NUMBERS})
    except KeyError as error:
        raise SavedFileError(f"the saved rating head lacks {error}; save again") from error


def _rated_side(
    name: str, meta: dict[str, Any], arrays: dict[str, np.ndarray], device: torch.device
) -> RatedSide:
    features, history = (
        _propagation(meta[which], meta[scales], f"{name}.{which}", arrays)
        for which, scales in (("features", "feature_scales"), ("history", "history_scales"))
    )

    def tensor(key: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{name}.{key}"]).to(device)

    count = len(features.groups)
    return RatedSide(
        features,
        history,
        [tensor(f"cold.{i}") for i in range(count)],
        [tensor(f"warm.{i}") for i in range(count + len(history.groups))],
        offset=meta["offset"],
        half_history=meta["half_history"],
        warm=arrays[f"{name}.rows"],
        reference=Beliefs(tensor("mean"), tensor("covariance")),
        **{key: tensor(key) for key in _SIDE_TENSORS},
    )


def _described(
    propagation: Propagation, prefix: str, arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    return [_flatten(group, f"{prefix}.{i}", arrays) for i, group in enumerate(propagation.groups)]


def _propagation(
    described: list[dict[str, Any]],
    scales: list[float],
    prefix: str,
    arrays: dict[str, np.ndarray],
    encoders: Sequence[GraphEncoder] = (),
) -> Propagation:
    classes = by_kind(encoders)
    groups = [_restore(e, f"{prefix}.{i}", arrays, classes) for i, e in enumerate(described)]
    return Propagation(tuple(groups), tuple(scales))


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
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            out[field.name] = [
                _flatten(part, f"{name}.{i}", arrays) for i, part in enumerate(value)
            ]
        else:
            out[field.name] = value
    return out


def _restore(
    entry: dict[str, Any], prefix: str, arrays: dict[str, np.ndarray], classes: dict[str, type]
) -> Any:
    cls = classes.get(entry["kind"])
    if cls is None:
        raise SavedFileError(
            f"the saved engine has a feature group of kind {entry['kind']!r}, which is none of "
            f"{sorted(classes)}; give the encoder that made it, load(..., graph_encoders=[...])"
        )
    values: dict[str, Any] = {}
    for field in fields(cls):
        name, value = f"{prefix}.{field.name}", entry.get(field.name)
        if name in arrays:
            values[field.name] = arrays[name]
        elif isinstance(value, dict):
            values[field.name] = _restore(value, name, arrays, classes)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            values[field.name] = tuple(
                _restore(part, f"{name}.{i}", arrays, classes) for i, part in enumerate(value)
            )
        elif isinstance(value, list):
            values[field.name] = tuple(value)
        elif f"{name}.0" in arrays and isinstance(value, int):
            values[field.name] = tuple(arrays[f"{name}.{i}"] for i in range(value))
        elif field.name in entry or field.default is MISSING:  # else it was saved before its time
            values[field.name] = value
    return cls(**values)
