"""A saved engine: Parquet for the graph, safetensors for arrays, JSON for the rest; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coldstart.feedback import FeedbackConfig, Heard
from coldstart.rating import RatingSource
from gnn.checkpoint import head_from_state, head_to_state, side_from_state, side_to_state
from gnn.encoding import by_kind, name_of
from gnn.network import NetworkConfig
from gnn.rating_head import RatingHead
from gnn.ratings import RatingConfig
from gnn.strength import Strengths
from gnn.train import TrainConfig
from kg.errors import SavedFileError
from kg.files import read_folder, read_graph_files, write_folder, write_graph_files
from kg.vectors import NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from encoders.base import TextEncoder
    from gnn.encoding import GraphEncoder

KIND, VERSION = "cold-start engine", 3


def save_engine(engine: ColdStartEngine, folder: Path) -> None:
    """Write the engine atomically, with checksums."""
    write_folder(folder, lambda at: _write(engine, at), kind=KIND, version=VERSION)


def load_engine(
    folder: Path,
    encoder: TextEncoder | None,
    graph_encoders: Sequence[GraphEncoder],
    device: torch.device,
) -> ColdStartEngine:
    """The engine in a folder; see :meth:`coldstart.engine.ColdStartEngine.load`."""

    def read(at: Path) -> ColdStartEngine:
        return _read(at, encoder, tuple(graph_encoders), device)

    return read_folder(folder, read, kind=KIND, version=VERSION)


def _read(
    folder: Path,
    encoder: TextEncoder | None,
    graph_encoders: tuple[GraphEncoder, ...],
    device: torch.device,
) -> ColdStartEngine:
    from safetensors.numpy import load_file

    from coldstart.engine import ColdStartEngine, EngineConfig

    meta = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / "arrays.safetensors")
    if "newness" not in arrays or "few" not in meta.get("items", ()):
        raise SavedFileError(
            f"{folder}: this engine was saved in a format before version {VERSION}, whose "
            "embeddings of new items, or of such with few interactions, are others; fit it again"
        )
    graph = read_graph_files(folder / "graph")
    try:
        config = EngineConfig(
            propagation=TrainConfig(**meta["config"]["propagation"]),
            cold_boost=meta["config"]["cold_boost"],
            ratings=RatingConfig(**meta["config"].get("ratings", {})),
            feedback=FeedbackConfig(**meta["config"].get("feedback", {})),
            **_network_settings(meta["config"]),
        )
        heard = Heard.from_json(meta.get("heard", ()))
        ratings = RatingSource()
        if meta.get("ratings") is not None:
            ratings.head = head_from_state(meta["ratings"], _under(arrays, "ratings"), device)
        graph_encoders = _encoders_of(meta.get("graph_encoders", ()), graph_encoders)
        sides = [
            side_from_state(meta[name], _under(arrays, name), device, graph_encoders)
            for name in ("users", "items")
        ]
        texts = {
            t: NodeEmbeddings(graph.vocabularies[t], arrays[f"text.{i}"])
            for i, t in enumerate(meta["texts"])
        }
        ready = {
            t: {
                name: NodeEmbeddings(graph.vocabularies[t], arrays[f"vectors.{t}.{i}"])
                for i, name in enumerate(names)
            }
            for t, names in meta.get("vectors", {}).items()
        }
        boost, description = meta["cold_boost"], meta["encoder"]
        gain = meta.get("cold_gain", 1.0)
        if "familiarity" not in arrays:  # before: users got all of a lift b, and items a gain of it
            gain *= 1 + (2.5 if "cold_gain" in meta else 5) * max(boost, 0.0)
            arrays["familiarity"] = np.ones(len(graph.users), np.float32)
        half = meta.get("half_familiar", 0.0)
        vectors = [
            torch.from_numpy(arrays[name]).to(device)
            for name in ("user_vectors", "item_vectors", "newness", "familiarity")
        ]
        feature_edges = tuple(tuple(e) for e in meta["feature_edges"])
        strengths = None
        if "strength.weights" in arrays:  # not before weights counted, nor where they do not
            strengths = Strengths(arrays["strength.weights"], arrays["strength.values"])
    except (KeyError, TypeError) as error:
        raise SavedFileError(
            f"{folder}: engine.json lacks or misnames {error}; save again"
        ) from error
    if encoder is None and description is not None:
        from encoders.base import encoder_from

        encoder = encoder_from(description, folder / "encoder")
    users, items = sides
    user_vectors, item_vectors, newness, familiarity = vectors
    return ColdStartEngine(
        graph,
        config,
        texts,
        users,
        items,
        user_vectors,
        item_vectors,
        newness,
        familiarity,
        boost,
        half,
        gain,
        feature_edges,
        encoder,
        graph_encoders=graph_encoders,
        vectors=ready,
        ratings=ratings,
        heard=heard,
        strengths=strengths,
    )


def _write(engine: ColdStartEngine, folder: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "user_vectors": engine.user_vectors.cpu().numpy(),
        "item_vectors": engine.item_vectors.cpu().numpy(),
        "newness": engine.newness.cpu().numpy(),
        "familiarity": engine.familiarity.cpu().numpy(),
    }
    meta: dict[str, Any] = {
        "config": asdict(engine.config),
        "cold_boost": engine.cold_boost,
        "half_familiar": engine.half_familiar,
        "cold_gain": engine.cold_gain,
        "feature_edges": engine.feature_edges,
        "texts": list(engine.texts),
        "vectors": {t: list(named) for t, named in engine.vectors.items()},
        "encoder": None,
        "graph_encoders": [
            {"class": name_of(type(own)), "kinds": [kind.kind for kind in own.kinds]}  # pyright: ignore
            for own in engine.graph_encoders
        ],
        "ratings": None,
        "heard": engine.heard.to_json(),
    }
    for i, vectors in enumerate(engine.texts.values()):
        arrays[f"text.{i}"] = vectors.matrix
    for t, named in engine.vectors.items():
        for i, vectors in enumerate(named.values()):
            arrays[f"vectors.{t}.{i}"] = vectors.matrix
    for name, side in (("users", engine.users), ("items", engine.items)):
        meta[name], own = side_to_state(side)
        arrays |= {f"{name}/{key}": value for key, value in own.items()}
    if (head := _rating_head(engine)) is not None:
        meta["ratings"], own = head_to_state(head)
        arrays |= {f"ratings/{key}": value for key, value in own.items()}
    if engine.strengths is not None:
        arrays["strength.weights"] = engine.strengths.weights
        arrays["strength.values"] = engine.strengths.values
    if engine.encoder is not None:
        meta["encoder"] = engine.encoder.describe()
        (folder / "encoder").mkdir()
        engine.encoder.save(folder / "encoder")
    (folder / "graph").mkdir()
    write_graph_files(engine.graph, folder / "graph")
    save_file(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "arrays.safetensors"
    )
    (folder / "engine.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _encoders_of(
    recorded: Sequence[Mapping[str, Any]], given: Sequence[GraphEncoder]
) -> tuple[GraphEncoder, ...]:
    """Of the graph encoders given, those that the engine was fitted with.

    One of another name will do if its groups have the same kinds: a class may be renamed.

    Raises:
        SavedFileError: one is not there.
    """
    ours = by_kind(())
    names = [type(encoder).__name__ for encoder in given]
    kinds = set(by_kind(given)) - set(ours)
    wanted: set[str] = set()
    for entry in recorded:
        module, _, name = entry["class"].rpartition(".")
        own = set(entry["kinds"]) - set(ours)
        wanted |= {name} | own
        if name not in names and not (own and own <= kinds):
            raise SavedFileError(
                f"the saved engine was fitted with the graph encoder {entry['class']}, which makes "
                f"feature groups of kind {entry['kinds']}, and {names or 'none'} came; give it "
                f"again: load(..., graph_encoders=[{name}(...)]), or at a command "
                f"--graph-encoder-class {module}:{name}"
            )
    return tuple(e for e in given if wanted & {type(e).__name__, *by_kind([e])} - set(ours))


def _network_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that came after the first engines were saved."""
    names = ("graph_encoder", "network_folds", "approximate_from")
    found = {name: config[name] for name in names if name in config}
    if "network" in config:
        found["network"] = NetworkConfig.from_dict(config["network"])
    return found


def _rating_head(engine: ColdStartEngine) -> RatingHead | None:
    """The rating head; ``None`` where it can be trained as well from what is saved anyway."""
    source = engine.ratings
    basis = source.basis
    if basis is not None and basis.graph.interactions.weight is not None:
        return source.head_of(engine)  # what it is to be trained on is not saved
    return source.head


def _under(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
