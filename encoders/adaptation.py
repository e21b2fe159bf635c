"""An encoder taught by the graph: LoRA or AdaLoRA on its facts, then on its users' tastes.

The result is a small folder that ``TransformerEncoder(model, adapter=folder)`` merges into the
model: a frozen encoder like any other, whose vectors are cached under the adapter's hash. Training
may be stopped at any moment; run again, it goes on from its last checkpoint. Whether it helps has
to be measured: ``benchmarks/quality/adaptation.py`` does so for the development sets.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from encoders.base import EncoderError, NodeTexts, is_empty
from encoders.texts import node_texts
from encoders.weights import ADAPTER_CARD, ADAPTER_FILES, MINILM, find_model
from kg.errors import how_to_install
from kg.files import MANIFEST, write_atomically, write_folder
from kg.graph import KnowledgeGraph

logger = logging.getLogger(__name__)

METHODS = ("lora", "adalora")
_KIND, _VERSION = "text encoder adapter", 1


@dataclass(frozen=True)
class Stage:
    """How long and how fast one of the two stages learns.

    Args:
        steps: most steps of the optimiser; 0 leaves the stage out.
        batch_size: edges or items a batch.
        accumulate: batches whose gradients are added up for a step.
        learning_rate: at its peak, after the warm-up; falls to 0 over the rest of the steps.
        warm_up: part of the steps over which the rate rises.
        weight_decay: of AdamW.
        temperature: cosines are divided by it in the loss.
        examine_every: steps between two exams on held-out items.
        patience: exams without a better mark after which the stage ends.
    """

    steps: int = 60
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 5e-4
    warm_up: float = 0.1
    weight_decay: float = 0.01
    temperature: float = 0.05
    examine_every: int = 20
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "examine_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps < 0 or not 0 <= self.warm_up <= 1:
            raise ValueError("steps must be 0 or more, and warm_up from 0 to 1")
        if self.learning_rate <= 0 or self.temperature <= 0:
            raise ValueError("learning_rate and temperature must be above 0")


@dataclass(frozen=True)
class AdaptationConfig:
    """All settings of an adaptation; one TOML file holds them.

    Args:
        model: a folder or a name, as for :class:`encoders.TransformerEncoder`.
        method: ``lora``, or ``adalora``, which finds out which layers need how many dimensions.
        rank: dimensions of each layer's change (for adalora: on average).
        alpha: the change counts ``alpha / rank`` times.
        dropout: of the change's input.
        layers: how many of the upper layers change; the fewer, the faster; 0 for all.
        max_tokens: texts are cut there while learning, not when encoding.
        held_out: part of the items that no batch asks for, on which the exams are.
        seed: of batches, held-out items and the start.
        triples: first stage, on the graph's facts.
        tastes: second stage, on interactions.
    """

    model: str = MINILM
    method: str = "lora"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    layers: int = 3
    max_tokens: int = 96
    held_out: float = 0.1
    seed: int = 0
    triples: Stage = field(default_factory=Stage)
    tastes: Stage = field(default_factory=lambda: Stage(steps=100, batch_size=96))

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        if self.rank < 1 or self.layers < 0 or self.max_tokens < 4 or not 0 < self.held_out < 1:
            raise ValueError(
                "rank must be at least 1, layers 0 or more, max_tokens at least 4, and held_out "
                f"between 0 and 1, got {self.rank}, {self.layers}, {self.max_tokens}, "
                f"{self.held_out}"
            )

    @classmethod
    def read(cls, path: str | Path) -> AdaptationConfig:
        """The settings in a TOML file; those it leaves out have their defaults.

        Raises:
            ValueError: the file is no TOML, or an entry is unknown or out of range.
        """
        try:
            given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(given)
        except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> AdaptationConfig:
        """The settings that :meth:`to_dict` returned, or a part of them.

        Raises:
            ValueError: an entry is unknown or out of range.
        """
        values = dict(_known(given, cls, "the settings"))
        for name in ("triples", "tastes"):
            if name in values:
                default = getattr(cls(), name)
                values[name] = replace(default, **_known(values[name], Stage, name))
        return cls(**values)

    def write(self, path: str | Path) -> None:
        """Write the settings as TOML, atomically."""
        import tomli_w

        write_atomically(Path(path), tomli_w.dumps(self.to_dict()).encode())

    def to_dict(self) -> dict[str, Any]:
        """The settings as TOML and JSON hold them."""
        return asdict(self)


def adapt(
    graph: KnowledgeGraph,
    folder: str | Path,
    config: AdaptationConfig | None = None,
    *,
    texts: Mapping[str, NodeTexts] | None = None,
    start: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Teach an encoder what a graph knows, and write what it learnt to a folder.

    Both stages stop early by an exam on held-out items, and keep the state with the best mark: if
    none is better than the model was, the result encodes as the model does. Stopped half-way, a
    second call goes on from the last exam; called again when done, it returns at once.

    Args:
        graph: its facts and positives. For an honest evaluation give a training graph.
        folder: where adapter, settings and card go, whole or not at all.
        config: settings.
        texts: of nodes by type, as they will be encoded; by default :func:`node_texts` of the types
            with text properties.
        start: folder of an adapter of the same settings of layers to begin with, in place of zero.
        device: as for :class:`encoders.TransformerEncoder`.
        progress: show a bar.

    Returns:
        The card: what it was trained on, the marks of each stage, and how long it took.

    Raises:
        EncoderError: the model cannot be loaded, or peft is not installed.
        ValueError: the graph has nothing to learn from, or another adapter is in the folder.
    """
    config, folder = config or AdaptationConfig(), Path(folder)
    if texts is None:
        texts = {t: node_texts(graph, t) for t in graph.node_types if graph.schema.text.get(t)}
    item = graph.schema.item
    if item not in texts or all(map(is_empty, texts[item])):
        raise ValueError(f"{item} has no texts to learn from; name text properties in the schema")
    mark = _fingerprint(graph, texts, config, start)
    if done := _done(folder, mark):
        return done
    from encoders.learning import Learner

    with _explained_absence():
        learner = Learner(config, find_model(config.model), device, start)
    held_out = _held_out(texts[item], config)
    checkpoint = folder.with_name(f"{folder.name}.checkpoint.safetensors")
    began, stages = (time.perf_counter(), time.process_time()), learner.resume(checkpoint, mark)
    for name, stage in (("triples", config.triples), ("tastes", config.tastes)):
        if stage.steps:
            lesson = _lesson(name, graph, texts, held_out, stage)
            stages[name] = learner.learn(name, lesson, stage, checkpoint, mark, stages, progress)
    card = {
        "base_model": config.model,
        "base_weights": learner.base_weights,
        "fingerprint": mark,
        "config": config.to_dict(),
        "trained_on": {
            "nodes": {t: graph.num_nodes(t) for t in graph.node_types},
            "edges": {"-".join(e): graph.num_edges(e) for e in graph.edge_types},
            "positives": int(graph.positives().shape[1]),
            "held_out_items": len(held_out),
        },
        "stages": stages,
        "seconds_of_last_run": round(time.perf_counter() - began[0], 1),
        "cpu_seconds_of_last_run": round(time.process_time() - began[1], 1),
    }
    _write(learner, card, folder)
    checkpoint.unlink(missing_ok=True)
    return card


def _lesson(
    name: str,
    graph: KnowledgeGraph,
    texts: Mapping[str, NodeTexts],
    held_out: np.ndarray,
    stage: Stage,
) -> Any:
    from encoders.lessons import TasteLesson, TripleLesson

    if name == "triples":
        return TripleLesson(graph, texts, held_out, stage.batch_size)
    return TasteLesson(graph, texts[graph.schema.item], held_out, stage.batch_size)


def _held_out(texts: NodeTexts, config: AdaptationConfig) -> np.ndarray:
    """Rows of the items kept for the exams."""
    rng = np.random.default_rng(config.seed)
    return np.sort(rng.permutation(len(texts))[: max(1, round(config.held_out * len(texts)))])


def _write(learner: Any, card: dict[str, Any], folder: Path) -> None:
    def write_files(place: Path) -> None:
        with tempfile.TemporaryDirectory() as saved:
            learner.save(Path(saved))
            for name in ADAPTER_FILES:
                shutil.copyfile(Path(saved) / name, place / name)
        (place / ADAPTER_CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")

    write_folder(folder, write_files, kind=_KIND, version=_VERSION)


def _done(folder: Path, mark: str) -> dict[str, Any] | None:
    """The card of a finished adapter of just this graph and these settings."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        card = json.loads((folder / ADAPTER_CARD).read_text(encoding="utf-8"))
        if card["fingerprint"] == mark:
            return card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no readable adapter ({error!r}); move it away") from error
    raise ValueError(
        f"{folder} holds an adapter of another graph, text or setting; move it away or name "
        "another folder"
    )


def _fingerprint(
    graph: KnowledgeGraph,
    texts: Mapping[str, NodeTexts],
    config: AdaptationConfig,
    start: str | Path | None,
) -> str:
    """Equal only where the same would be learnt from the same."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for node_type in sorted(texts):
        digest.update(json.dumps([node_type, *texts[node_type]]).encode())
    for edge_type in sorted(graph.edge_types):
        digest.update("\0".join(edge_type).encode())
        digest.update(np.ascontiguousarray(graph.edges[edge_type].index).tobytes())
    digest.update(graph.positives().tobytes())
    if start is not None:
        digest.update((Path(start) / ADAPTER_FILES[1]).read_bytes())
    return digest.hexdigest()


def _known(given: Any, kind: type, what: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a table of names and values, got {given!r}")
    names = [f.name for f in fields(kind)]
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"unknown entry {unknown[0]!r} in {what}; known: {names}")
    return given


class _explained_absence:
    """Says what to install where peft is absent."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise EncoderError(
                f"peft is needed to adapt ({error}); {how_to_install('adapt')}"
            ) from error
