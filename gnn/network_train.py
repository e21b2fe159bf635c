"""Training of a graph network: mini-batches of choices, nodes played cold, early stop.

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
from typing import Any

import numpy as np
import torch

from gnn.network import NetworkConfig, TypedNetwork
from gnn.network_batch import ChoiceTask
from gnn.network_checkpoint import Progress, read_progress, write_progress
from gnn.network_data import NetworkData, build_network
from gnn.network_infer import Vectors, all_vectors
from gnn.network_links import LinkTask
from gnn.network_ranking import HeldOut, hard_items
from gnn.parallel import place, summed, summed_gradients, told
from gnn.typed import TypedGraph
from kg.errors import TrainingError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network after training.

    Args:
        network: with the weights of the best epoch, in evaluation mode.
        history: of every epoch the loss, the NDCG@20 on held-out cold nodes (NaN without any) and
            the seconds it took.
        best_epoch: whose weights these are, from 0.
    """

    network: TypedNetwork
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


def train_network(
    data: NetworkData,
    config: NetworkConfig,
    *,
    seed: int = 0,
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
        device: where the arithmetic happens; the CPU by default.
        checkpoint: folder that gets the state after every epoch; where it holds one of the same
            data, settings and seed, training goes on from there. Of several processes the first
            one writes and reads it, the others need not have it.
        progress: called with ``"step"`` or ``"epoch"`` and the numbers so far.

    Raises:
        ValueError: there are no positives, or users or items have no features.
        TrainingError: the loss is no number; the message names the batch, and the checkpoint of the
            last epoch stays.
        SavedFileError: the checkpoint is of other data or settings.
    """
    if not data.positives.shape[1]:
        raise ValueError("there are no positive interactions to train on; add some")
    run = _Run(data, config, seed, device or torch.device("cpu"), progress or _silent)
    return run.train(None if checkpoint is None else Path(checkpoint))


class _Run:
    """One training: what stays the same from step to step."""

    def __init__(
        self,
        data: NetworkData,
        config: NetworkConfig,
        seed: int,
        device: torch.device,
        progress: Callable[[str, dict[str, float]], None],
    ) -> None:
        self.data, self.config, self.seed, self.device = data, config, seed, device
        self.progress = progress
        self.held_out = HeldOut.draw(data.positives, config.held_out, seed)
        self.pairs = self.held_out.taught
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
        self.steps = max(1, math.ceil(self.pairs.shape[1] / config.batch_size))

    def train(self, folder: Path | None) -> TrainedNetwork:
        config, parameters = self.config, self.parameters
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        state = Progress(self._fingerprint(), 0, [], -1, {})
        found = read_progress(folder, state.fingerprint, parameters, optimizer, self.device)
        if found is not None:
            state = found
            log.info("training goes on after epoch %d, from %s", state.epoch, folder)
        if state.epoch == 0:
            state.best = _copied(parameters)
        while state.epoch < config.epochs and not self._enough(state):
            began = time.perf_counter()
            losses = self._epoch(state.epoch, optimizer, folder)
            entry = {
                "loss": float(np.mean(losses)),
                "ndcg": self._ndcg(),
                "seconds": time.perf_counter() - began,
            }
            best = max((h["ndcg"] for h in state.history), default=-math.inf)
            state.history.append(entry)
            if not entry["ndcg"] <= best:  # a NaN is better, too: the last epoch counts then
                state.best_epoch, state.best = state.epoch, _copied(parameters)
            self.progress("epoch", {"epoch": state.epoch, **entry})
            state.epoch += 1
            if folder is not None and place()[0] == 0:
                write_progress(folder, state, parameters, optimizer)
        with torch.no_grad():
            for name, value in state.best.items():
                parameters[name].copy_(value)
        return TrainedNetwork(self.network.eval(), state.history, max(state.best_epoch, 0))

    def _epoch(
        self, epoch: int, optimizer: torch.optim.Optimizer, folder: Path | None
    ) -> list[float]:
        """A step for every batch; their losses."""
        hard = self._hard_items(epoch)
        losses = []
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
            self.progress("step", {"epoch": epoch, "step": step, "loss": loss})
        return losses

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pairs.shape[1])
        size = self.config.batch_size
        for step in range(self.steps):
            yield self.pairs[:, order[step * size : (step + 1) * size]]

    def _enough(self, state: Progress) -> bool:
        has_check = len(self.held_out.users) or len(self.held_out.items)
        return bool(has_check) and state.epoch - 1 - state.best_epoch >= self.config.patience

    def _rate(self, step: int) -> float:
        """Along a cosine from the highest to zero, after a short rise."""
        total = self.config.epochs * self.steps
        rise = min(1.0, (step + 1) / max(total // 50, 1))
        return self.config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / total))

    def _check(
        self,
        loss: float,
        norm: float,
        pairs: np.ndarray,
        epoch: int,
        step: int,
        folder: Path | None,
    ) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = (
            f"; the checkpoint of epoch {epoch - 1} stays in {folder}" if folder and epoch else ""
        )
        raise TrainingError(
            f"the loss is {loss} and its gradient {norm} in epoch {epoch}, step {step} of "
            f"{self.steps} (the pairs from user row {pairs[0, 0]}, item row {pairs[1, 0]} to user "
            f"row {pairs[0, -1]}, item row {pairs[1, -1]}); look at the features of these nodes, "
            f"or lower learning_rate (it is {self.config.learning_rate}){kept}"
        )

    def _fingerprint(self) -> dict[str, Any]:
        config = self.config.to_dict() | {"fanouts": list(self.config.fanouts)}
        return {"config": config, "seed": self.seed, **self.data.checksums()}

    def _hard_items(self, epoch: int) -> np.ndarray | None:
        if not self.config.num_hard or epoch == 0:
            return None
        found = torch.from_numpy(hard_items(self._vectors(self.task.graph), self.task.links))
        return told(found.to(self.device)).cpu().numpy()

    def _ndcg(self) -> float:
        found = self.held_out.ndcg(self._vectors(self.judged), self.data.positives)
        return float(told(torch.tensor(found, dtype=torch.float64, device=self.device)))

    def _vectors(self, graph: TypedGraph) -> Vectors:
        return all_vectors(self.network, graph, self.data.features, self.device)


def _copied(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def _silent(what: str, numbers: dict[str, float]) -> None:
    log.debug("%s: %s", what, numbers)
