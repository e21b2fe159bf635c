"""Training of a graph network: mini-batches of choices, nodes played cold, early stop.

Where nodes are held out to tell how many epochs are right, they are too many to do without, so a
second training has all nodes and as many epochs.

Everything drawn at random follows from the seed, the epoch and the step: a run that was stopped and
resumed, and one in several processes (see :mod:`gnn.parallel`), goes the way of an unbroken one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from gnn.network import NetworkConfig, TypedNetwork
from gnn.network_batch import ChoiceTask
from gnn.network_checkpoint import Progress, Saved, read_progress, write_progress
from gnn.network_data import NetworkData, build_network
from gnn.network_infer import Vectors, all_vectors
from gnn.network_links import LinkTask
from gnn.network_ranking import HeldOut, hard_items
from gnn.parallel import place, summed, summed_gradients, told
from gnn.typed import TypedGraph
from kg.errors import TrainingError
from kg.settings import check_at_least

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network after training.

    Args:
        network: after the refit, or else with the weights of the best epoch; in evaluation mode.
        history: of every epoch the loss, the NDCG@20 on held-out cold nodes (NaN without any) and
            the seconds it took.
        best_epoch: the epoch of the highest NDCG, from 0; the last one where there is none.
        refit: of every epoch on all nodes the loss and the seconds; empty without a refit.
    """

    network: TypedNetwork
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    refit: list[dict[str, float]] = field(default_factory=list)


def train_network(
    data: NetworkData,
    config: NetworkConfig,
    *,
    seed: int = 0,
    stop_after: int | None = None,
    device: torch.device | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[str, dict[str, float]], None] | None = None,
) -> TrainedNetwork:
    """Train a network to tell which items a user chose, cold ones included.

    Under ``torchrun``, after ``torch.distributed.init_process_group``, the processes share the
    work of every batch and come to the result of one process, to rounding.

    Args:
        data: what to train on.
        config: settings.
        seed: of weights, batches, neighbours, dropout and held-out nodes.
        stop_after: so many of ``config.epochs`` at most, over which the learning rate would fall to
            zero; ``None``: all. As in the refit: the rate at an epoch that was the best is the one
            at which it was.
        device: where the arithmetic happens; the CPU by default.
        checkpoint: folder that gets the state after every epoch; where it holds one of the same
            data, settings and seed, training goes on from there. Of several processes the first
            one writes and reads it, the others need not have it.
        progress: called with ``"step"`` or ``"epoch"`` and the numbers so far; the epochs of a
            refit are counted on, and have no NDCG. ``step`` counts in an epoch, ``number`` from the
            start, ``of`` says how many there are at most.

    Raises:
        ValueError: there are no positives, users or items have no features, or ``stop_after`` is
            below 1.
        TrainingError: the loss is no number, before a step or after the last one of an epoch; the
            message names the batch, and the checkpoint of the last epoch stays. Or the vector of a
            node is none, where all are made to judge or to find hard negatives.
        SavedFileError: the checkpoint is of other data or settings.
    """
    most = config.epochs if stop_after is None else min(stop_after, config.epochs)
    check_at_least(1, stop_after=most)
    if not data.positives.shape[1]:
        raise ValueError("there are no positive interactions to train on; add some")
    device, progress = device or torch.device("cpu"), progress or _silent
    folder = None if checkpoint is None else Path(checkpoint)
    settings = config.to_dict() | {"fanouts": list(config.fanouts)}
    fingerprint = {"config": settings, "seed": seed, "epochs": most, **data.checksums()}
    saved = read_progress(folder, fingerprint, device)
    if saved is not None:
        searched = 0 if saved.progress.search is None else len(saved.progress.search[0])
        log.info(
            "training goes on after %d epochs, from %s", searched + saved.progress.epoch, folder
        )
    held_out = HeldOut.draw(data.positives, config.held_out, seed)
    search = None if saved is None else saved.progress.search
    if search is None:
        run = _Run(data, config, seed, device, progress, held_out)
        begun = Progress(fingerprint, 0, [], -1, {})
        state = run.train(begun, saved, folder, most)
        history, best_epoch = search = state.history, max(state.best_epoch, 0)
        if not config.refit or not held_out.any:
            return TrainedNetwork(run.network.eval(), history, best_epoch)
        saved = None
        del run  # its graph and its optimizer
    history, best_epoch = search
    before = len(history), len(history) * _steps(held_out.taught, config)
    run = _Run(data, config, seed, device, progress, HeldOut.none(data.positives), *before)
    begun = Progress(fingerprint, 0, [], -1, {}, search)
    state = run.train(begun, saved, folder, best_epoch + 1)
    refit = [{k: v for k, v in h.items() if k != "ndcg"} for h in state.history]
    return TrainedNetwork(run.network.eval(), history, best_epoch, refit)


class _Run:
    """One training: what stays the same from step to step."""

    def __init__(
        self,
        data: NetworkData,
        config: NetworkConfig,
        seed: int,
        device: torch.device,
        progress: Callable[[str, dict[str, float]], None],
        held_out: HeldOut,
        epochs_before: int = 0,
        steps_before: int = 0,
    ) -> None:
        self.data, self.config, self.seed, self.device = data, config, seed, device
        self.progress, self.held_out = progress, held_out
        self.epochs_before, self.steps_before = epochs_before, steps_before
        self.pairs = held_out.taught
        self.network = build_network(data, config, seed).to(device)
        links = LinkTask(data.graph, config, seed, device) if config.triple_loss else None
        self.task = ChoiceTask(data, self.pairs, self.network, links, device)
        # A cold node gives no messages: its own features must not come back to it.
        silent = {data.user: self.held_out.users, data.item: self.held_out.items}
        self.judged = self.task.graph.without_sources(silent)
        self.parameters = dict(self.network.named_parameters())
        if links is not None:
            named = links.triples.named_parameters()
            self.parameters |= {f"triples.{name}": p for name, p in named}
        self.steps = _steps(self.pairs, config)

    def train(
        self, state: Progress, saved: Saved | None, folder: Path | None, epochs: int
    ) -> Progress:
        """Go on from where a training was, or from the start; the best parameters are in place.

        Args:
            state: at the start.
            saved: what a checkpoint of this training holds.
            folder: of the checkpoint.
            epochs: to be run at most; the learning rate falls as over ``config.epochs``.
        """
        config, parameters = self.config, self.parameters
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        if saved is not None:
            state = saved.restore(parameters, optimizer)
        if state.epoch == 0:
            state.best = _copied(parameters)
        while state.epoch < epochs and not self._enough(state):
            began = time.perf_counter()
            losses = self._epoch(state.epoch, epochs, optimizer, folder)
            entry = {"loss": float(np.mean(losses)), "ndcg": self._ndcg()}
            entry["seconds"] = time.perf_counter() - began
            best = max((h["ndcg"] for h in state.history), default=-math.inf)
            state.history.append(entry)
            if not entry["ndcg"] <= best:  # a NaN is better, too: the last epoch counts then
                state.best_epoch, state.best = state.epoch, _copied(parameters)
            told = {k: v for k, v in entry.items() if k != "ndcg" or state.search is None}
            self.progress("epoch", {"epoch": self.epochs_before + state.epoch, **told})
            state.epoch += 1
            if folder is not None and place()[0] == 0:
                write_progress(folder, state, parameters, optimizer)
        with torch.no_grad():
            for name, value in state.best.items():
                parameters[name].copy_(value)
        return state

    def _epoch(
        self, epoch: int, epochs: int, optimizer: torch.optim.Optimizer, folder: Path | None
    ) -> list[float]:
        """A step for every batch; their losses."""
        hard = self._hard_items(epoch)
        losses = []
        pairs, step = self.pairs, 0
        for step, pairs in enumerate(self._batches(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = self._rate(epoch * self.steps + step)
            optimizer.zero_grad()
            rng = np.random.default_rng([self.seed, epoch, step, 1])
            own = self.task.loss(pairs, rng, hard)
            own.backward()
            loss = float(summed(own))
            summed_gradients(self.parameters.values())
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
            self._check(loss, float(norm), pairs, epoch, step, folder)
            optimizer.step()
            losses.append(loss)
            numbers: dict[str, float] = {
                "epoch": self.epochs_before + epoch,
                "step": step,
                "loss": loss,
                "number": self.steps_before + epoch * self.steps + step,
                "of": self.steps_before + epochs * self.steps,
            }
            self.progress("step", numbers)
        with torch.no_grad():  # the last step may have led to weights that are no good
            again = self.task.loss(pairs, np.random.default_rng([self.seed, epoch, step, 1]), hard)
            self._check(float(summed(again)), None, pairs, epoch, step, folder)
        return losses

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pairs.shape[1])
        size = self.config.batch_size
        for step in range(self.steps):
            yield self.pairs[:, order[step * size : (step + 1) * size]]

    def _enough(self, state: Progress) -> bool:
        return self.held_out.any and state.epoch - 1 - state.best_epoch >= self.config.patience

    def _rate(self, step: int) -> float:
        """Along a cosine from the highest to zero, after a short rise."""
        total = self.config.epochs * self.steps
        rise = min(1.0, (step + 1) / max(total // 50, 1))
        return self.config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / total))

    def _check(
        self,
        loss: float,
        norm: float | None,
        pairs: np.ndarray,
        epoch: int,
        step: int,
        folder: Path | None,
    ) -> None:
        """Raise unless the loss, and before a step the norm of its gradient, are numbers."""
        if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
            return
        where = "after the step, in" if norm is None else f"and its gradient {norm} in"
        epoch += self.epochs_before
        kept = (
            f"; the checkpoint of epoch {epoch - 1} stays in {folder}" if folder and epoch else ""
        )
        raise TrainingError(
            f"the loss is {loss} {where} epoch {epoch}, step {step} of "
            f"{self.steps} (the pairs from user row {pairs[0, 0]}, item row {pairs[1, 0]} to user "
            f"row {pairs[0, -1]}, item row {pairs[1, -1]}); look at the features of these nodes, "
            f"or lower learning_rate (it is {self.config.learning_rate}){kept}"
        )

    def _hard_items(self, epoch: int) -> np.ndarray | None:
        if not self.config.num_hard or epoch == 0:
            return None
        found = torch.from_numpy(hard_items(self._vectors(self.task.graph), self.task.links))
        return told(found.to(self.device)).cpu().numpy()

    def _ndcg(self) -> float:
        if not self.held_out.any:
            return math.nan
        found = self.held_out.ndcg(self._vectors(self.judged), self.data.positives)
        return float(told(torch.tensor(found, dtype=torch.float64, device=self.device)))

    def _vectors(self, graph: TypedGraph) -> Vectors:
        return all_vectors(self.network, graph, self.data.features, self.device)


def _steps(pairs: np.ndarray, config: NetworkConfig) -> int:
    """Of an epoch."""
    return max(1, math.ceil(pairs.shape[1] / config.batch_size))


def _copied(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def _silent(what: str, numbers: dict[str, float]) -> None:
    log.debug("%s: %s", what, numbers)
