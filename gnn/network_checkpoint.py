"""The state of a training on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gnn.parallel import told_bytes
from kg.errors import SavedFileError
from kg.files import read_folder, write_folder

KIND, VERSION = "training of a graph network", 3


@dataclass(eq=False)
class Progress:
    """How far a training has come.

    Args:
        fingerprint: of data, settings and seed.
        epoch: how many are done.
        history: numbers of each.
        best_epoch: the best so far, -1 before the first.
        best: parameters after it, by name.
        search: history and best epoch of the training with held-out nodes, where this is the one
            on all nodes that follows it.
    """

    fingerprint: dict[str, Any]
    epoch: int
    history: list[dict[str, float]]
    best_epoch: int
    best: dict[str, torch.Tensor]
    search: tuple[list[dict[str, float]], int] | None = None


@dataclass(frozen=True, eq=False)
class Saved:
    """What a checkpoint holds.

    Args:
        progress: how far the training had come.
        now: parameters, by name.
        optimizer: what it remembers, by what that is and name of the parameter.
    """

    progress: Progress
    now: dict[str, torch.Tensor]
    optimizer: dict[tuple[str, str], torch.Tensor]

    def restore(
        self, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> Progress:
        """Put parameters and optimizer back to where they were; how far that was."""
        with torch.no_grad():
            for name, value in self.now.items():
                parameters[name].copy_(value)
        for (key, name), value in self.optimizer.items():
            at = "cpu" if key == "step" else parameters[name].device
            optimizer.state[parameters[name]][key] = value.to(at)
        device = {name: p.device for name, p in parameters.items()}
        best = {name: value.to(device[name]) for name, value in self.progress.best.items()}
        return replace(self.progress, best=best)


def write_progress(
    folder: Path,
    state: Progress,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, the best ones, and what the optimizer remembers; all of it or nothing."""
    from safetensors.torch import save_file

    tensors = {f"now/{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    meta = {
        "fingerprint": state.fingerprint,
        "epoch": state.epoch,
        "history": state.history,
        "best_epoch": state.best_epoch,
        "search": state.search,
    }

    def write(at: Path) -> None:
        save_file(tensors, at / "state.safetensors")
        (at / "progress.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    write_folder(folder, write, kind=KIND, version=VERSION)


def read_progress(
    folder: Path | None, fingerprint: dict[str, Any], device: torch.device
) -> Saved | None:
    """What the folder holds; ``None`` if there is none.

    Of several processes the first one reads, compares and tells the others, so all go on from one
    epoch, or none does, wherever the folder lies; the others need not know it.

    Raises:
        SavedFileError: the folder is incomplete, or of other data, settings or seed.
        FirstProcessError: the first of several processes failed to read it for another reason.
    """
    from safetensors.torch import load

    def read(at: Path) -> bytes:
        meta = json.loads((at / "progress.json").read_text(encoding="utf-8"))
        theirs = dict(meta["fingerprint"])
        if differ := sorted(k for k in fingerprint if theirs.get(k) != fingerprint[k]):
            raise SavedFileError(
                f"{folder} holds a training that differs in {differ}; give another folder, or "
                "remove it"
            )
        return json.dumps(meta).encode() + b"\n" + (at / "state.safetensors").read_bytes()

    def what_is_there() -> bytes | None:
        if folder is None or not folder.exists():
            return None
        return read_folder(folder, read, kind=KIND, version=VERSION)

    found = told_bytes(what_is_there, device)
    if found is None:
        return None
    described, _, packed = found.partition(b"\n")
    meta, sorts = json.loads(described), {"now": {}, "best": {}, "optimizer": {}}
    for name, value in load(packed).items():
        sort, _, rest = name.partition("/")
        sorts[sort][rest] = value
    search = meta["search"] and (list(meta["search"][0]), int(meta["search"][1]))
    progress = Progress(
        fingerprint,
        int(meta["epoch"]),
        list(meta["history"]),
        int(meta["best_epoch"]),
        sorts["best"],
        search,
    )
    remembered = {}
    for name, value in sorts["optimizer"].items():
        key, _, owner = name.partition("/")
        remembered[key, owner] = value
    return Saved(progress, sorts["now"], remembered)
