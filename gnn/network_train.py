"""Training of a graph network: mini-batches of choices, nodes played cold, early stop.

Everything drawn at random follows from the seed, the epoch and the step: a run that was stopped and
resumed, and one in several processes (see :mod:`gnn.parallel`), goes the way of an unbroken one.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.losses import TripleLoss, choice_loss
from gnn.network import NetworkConfig, TypedNetwork, features_of
from gnn.network_checkpoint import Progress, read_progress, write_progress
from gnn.network_infer import all_states
from gnn.parallel import gathered, place, share, summed, summed_gradients, told
from gnn.sampler import sample
from gnn.typed import REVERSE, Incoming, TypedGraph, reverse_type
from kg.errors import TrainingError
from kg.schema import EdgeType

log = logging.getLogger(__name__)

CUT = 20
"""Length of the lists whose NDCG tells when to stop."""

LEAST_HELD_OUT = 5
"""With fewer held-out nodes on a side than this, training runs all epochs."""


@dataclass(frozen=True, eq=False)
class NetworkData:
    """What a network is trained on and embeds.

    Args:
        graph: relations in both directions, interactions apart.
        features: float32 ``[num_nodes, width]`` by type, arrays or memory maps; users and items
            must have some, other types may.
        positives: distinct rows of user and item, int64 ``[2, num_pairs]``.
        interaction: edge type of the positives.
    """

    graph: TypedGraph
    features: Mapping[str, np.ndarray]
    positives: np.ndarray
    interaction: EdgeType

    @property
    def user(self) -> str:
        """Type of the users."""
        return self.interaction[0]

    @property
    def item(self) -> str:
        """Type of the items."""
        return self.interaction[2]

    def with_interactions(self, pairs: np.ndarray) -> TypedGraph:
        """The graph with these pairs as edges in both directions."""
        num, edges = self.graph.num_nodes, dict(self.graph.edges)
        edges[self.interaction] = Incoming.from_edges(pairs[0], pairs[1], num[self.item])
        back = Incoming.from_edges(pairs[1], pairs[0], num[self.user])
        edges[reverse_type(self.interaction)] = back
        return TypedGraph(num, edges)


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


def build_network(data: NetworkData, config: NetworkConfig, seed: int) -> TypedNetwork:
    """An untrained network for some data; the same seed gives the same weights.

    Raises:
        ValueError: users or items have no features.
    """
    for role in (data.user, data.item):
        if role not in data.features:
            raise ValueError(
                f"{role} has no features; give at least a constant column, float32 [num_nodes, 1]"
            )
    widths = {t: f.shape[1] for t, f in data.features.items()}
    rows = {
        t: n for t, n in data.graph.num_nodes.items() if t not in (data.user, data.item) and n > 0
    }
    edge_types = set(data.graph.edges)
    if config.interactions:
        edge_types |= {data.interaction, reverse_type(data.interaction)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TypedNetwork(config, widths, rows, sorted(edge_types), data.user, data.item)


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
            data, settings and seed, training goes on from there.
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
        num = data.graph.num_nodes
        self.num_users, self.num_items = num[data.user], num[data.item]
        self.held_users, self.held_items = _held_out(data.positives, config.held_out, seed)
        u, i = data.positives
        cold = np.isin(u, self.held_users) | np.isin(i, self.held_items)
        self.pairs = np.ascontiguousarray(data.positives[:, ~cold])
        if not self.pairs.shape[1]:  # everything hangs on the nodes held out
            self.held_users = self.held_items = np.empty(0, np.int64)
            self.pairs = data.positives
        self.links = Adjacency.from_pairs(
            self.pairs[0], self.pairs[1], self.num_users, self.num_items
        )
        self.back = self.links.transpose()
        self.warm_items = np.unique(self.pairs[1])
        passed = data.with_interactions(self.pairs) if config.interactions else data.graph
        self.graph, self.graph_there = passed, passed.to(device)
        self.network = build_network(data, config, seed).to(device)
        self.forward_types = [e for e in data.graph.edge_types if not e[1].startswith(REVERSE)]
        self.triples = None
        if config.triple_loss and self.forward_types:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.triples = TripleLoss(
                    config.triple_loss, len(self.forward_types), config.hidden_channels
                ).to(device)
        self.steps = max(1, math.ceil(self.pairs.shape[1] / config.batch_size))
        chance = self.back.degrees / self.pairs.shape[1]
        expected = chance * min(config.batch_size, self.pairs.shape[1])
        expected[self.warm_items] += config.num_negatives / len(self.warm_items)
        # P(at least one draw); an item is among the candidates once, however often it is drawn.
        self.log_chance = np.log(np.maximum(-np.expm1(-expected), 1e-9)).astype(np.float32)

    # --- the loop -------------------------------------------------------------------------------

    def train(self, folder: Path | None) -> TrainedNetwork:
        config = self.config
        parameters = dict(self.network.named_parameters())
        if self.triples is not None:
            parameters |= {f"triples.{n}": p for n, p in self.triples.named_parameters()}
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        state = Progress(self._fingerprint(), 0, [], -1, {})
        if folder is not None and folder.exists():
            state = read_progress(folder, state.fingerprint, parameters, optimizer)
            log.info("training goes on after epoch %d, from %s", state.epoch, folder)
        if state.epoch == 0:
            state.best = _copied(parameters)
        while state.epoch < config.epochs and not self._enough(state):
            began = time.perf_counter()
            hard = self._hard_items(state.epoch)
            self.network.train()
            losses = []
            for step, pairs in enumerate(self._batches(state.epoch)):
                rate = self._rate(state.epoch * self.steps + step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                loss = self._step(pairs, state.epoch, step, hard)
                summed_gradients(parameters.values())
                norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
                self._check(loss, float(norm), pairs, state.epoch, step, folder)
                optimizer.step()
                losses.append(loss)
                self.progress("step", {"epoch": state.epoch, "step": step, "loss": loss})
            self.network.eval()
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

    def _enough(self, state: Progress) -> bool:
        has_check = len(self.held_users) or len(self.held_items)
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
        def of(values: np.ndarray) -> int:
            """A checksum, block by block, as the values may lie in a file."""
            sum_ = 0
            for start in range(0, len(values), 65_536):
                block = np.ascontiguousarray(values[start : start + 65_536])
                sum_ = zlib.crc32(block.tobytes(), sum_)
            return sum_

        edges = sorted(self.data.graph.edges.items())
        return {
            "config": self.config.to_dict() | {"fanouts": list(self.config.fanouts)},
            "seed": self.seed,
            "positives": of(self.data.positives.T),
            "nodes": dict(sorted(self.data.graph.num_nodes.items())),
            "edges": {" ".join(e): [of(i.indptr.numpy()), of(i.indices.numpy())] for e, i in edges},
            "features": {t: of(f) for t, f in sorted(self.data.features.items())},
        }

    # --- one step -------------------------------------------------------------------------------

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pairs.shape[1])
        size = self.config.batch_size
        for step in range(self.steps):
            yield self.pairs[:, order[step * size : (step + 1) * size]]

    def _step(self, pairs: np.ndarray, epoch: int, step: int, hard: np.ndarray | None) -> float:
        config, data = self.config, self.data
        rng = np.random.default_rng([self.seed, epoch, step, 1])
        drawn = rng.choice(self.warm_items, config.num_negatives)
        candidates = np.unique(np.concatenate([pairs[1], drawn]))
        hard_items = None
        wanted = candidates
        if hard is not None:
            hard_items = hard[
                pairs[0][:, None],
                rng.integers(hard.shape[1], size=(pairs.shape[1], config.num_hard)),
            ]
            wanted = np.union1d(candidates, hard_items)
        rows = {data.user: np.unique(pairs[0]), data.item: wanted}
        triples = self._triples(rng)
        for (source, _, target), ends in triples.items():
            for kind, at in ((source, ends[0]), (target, ends[1])):
                rows[kind] = np.union1d(rows.get(kind, np.empty(0, np.int64)), at)
        states = self._states(rows, pairs, triples, rng)
        loss = self._choices(states, rows, pairs, candidates, hard_items)
        if triples:
            loss = loss + config.triple_weight * self._links(states, rows, triples)
        loss.backward()
        return float(summed(loss))

    def _states(
        self,
        rows: Mapping[str, np.ndarray],
        pairs: np.ndarray,
        triples: Mapping[EdgeType, np.ndarray],
        rng: np.random.Generator,
    ) -> dict[str, torch.Tensor]:
        config = self.config
        exclude: dict[EdgeType, np.ndarray] = dict(triples)
        if config.interactions:
            exclude[self.data.interaction] = self._not_passed(rows, pairs, rng)
        both = self._in_all_relations(exclude)
        mine = {t: share(torch.from_numpy(at)) for t, at in rows.items()}
        drawn = sample(
            self.graph_there,
            {t: at.to(self.device) for t, at in mine.items()},
            config.fanouts,
            seed=int(rng.integers(2**31)),
            exclude={e: torch.from_numpy(ends).to(self.device) for e, ends in both.items()},
        )
        x_dict = features_of(self.data.features, drawn.nodes, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.mixed_precision):
            own = self.network.states(
                x_dict, drawn.nodes, drawn.blocks, dropout_seed=int(rng.integers(2**31))
            )
        # A share may have no node of a type; the backward pass must reach it all the same.
        none = torch.zeros(0, config.hidden_channels, device=self.device, requires_grad=True)
        return {t: gathered(own.get(t, none).float(), len(rows[t])) for t in rows}

    def _in_all_relations(
        self, exclude: Mapping[EdgeType, np.ndarray]
    ) -> dict[EdgeType, np.ndarray]:
        """Pairs that no relation between their types may tell, in whatever direction."""
        parts: dict[EdgeType, list[np.ndarray]] = {}
        for (source, _, target), ends in exclude.items():
            for other in self.graph.edges:
                if (other[0], other[2]) == (source, target):
                    parts.setdefault(other, []).append(ends)
                if (other[0], other[2]) == (target, source):
                    parts.setdefault(other, []).append(ends[::-1])
        return {e: np.concatenate(some, axis=1) for e, some in parts.items()}

    def _not_passed(
        self, rows: Mapping[str, np.ndarray], pairs: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The pairs to be told, and all pairs of the nodes that are played cold."""
        out = [pairs]
        for kind, links, flip in (
            (self.data.user, self.links, False),
            (self.data.item, self.back, True),
        ):
            cold = rows[kind][rng.random(len(rows[kind])) < self.config.cold_share]
            of = links.take(cold)
            ends = np.stack([cold[of.sources], of.indices])
            out.append(ends[::-1] if flip else ends)
        return np.concatenate(out, axis=1)

    def _choices(
        self,
        states: Mapping[str, torch.Tensor],
        rows: Mapping[str, np.ndarray],
        pairs: np.ndarray,
        candidates: np.ndarray,
        hard_items: np.ndarray | None,
    ) -> torch.Tensor:
        data, network = self.data, self.network
        mine = share(torch.arange(pairs.shape[1])).numpy()
        user_rows, item_rows = rows[data.user], rows[data.item]
        at_users = np.searchsorted(user_rows, pairs[0][mine])
        users = network.user_vectors(states[data.user])[self._there(at_users)]
        items = network.item_vectors(states[data.item])
        biases = network.item_biases(states[data.item])
        # A row of `hidden` per user of the batch, then per pair: what else the user has chosen.
        of = self.links.take(user_rows)
        known = np.zeros((len(user_rows), len(item_rows)), bool)
        where = np.searchsorted(item_rows, of.indices)
        where[where == len(item_rows)] = 0
        there = item_rows[where] == of.indices
        known[of.sources[there], where[there]] = True
        hidden = known[at_users] | ~np.isin(item_rows, candidates)[None, :]
        chosen = np.searchsorted(item_rows, pairs[1][mine])
        hard = hard_hidden = None
        if hard_items is not None:  # someone who has chosen nearly all has hardly any
            places = np.searchsorted(item_rows, hard_items[mine])
            hard = self._there(places)
            hard_hidden = self._there(known[at_users[:, None], places])
        loss = choice_loss(
            users,
            items,
            biases,
            torch.from_numpy(self.log_chance[item_rows]).to(self.device),
            self._there(chosen),
            torch.from_numpy(hidden).to(self.device),
            hard=hard,
            hard_hidden=hard_hidden,
        )
        return loss / pairs.shape[1]

    def _there(self, places: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(places).to(self.device)

    # --- links as a further task ----------------------------------------------------------------

    def _triples(self, rng: np.random.Generator) -> dict[EdgeType, np.ndarray]:
        """Random links of every relation by its share of all, as rows of head and tail."""
        if self.triples is None:
            return {}
        counts = np.array([len(self.graph.edges[e]) for e in self.forward_types])
        if not counts.sum():
            return {}
        # Links that are asked for are not passed along, so most must stay.
        number = min(self.config.num_triples, max(1, int(counts.sum()) // 10))
        drawn = rng.multinomial(number, counts / counts.sum())
        out = {}
        for edge_type, number, count in zip(self.forward_types, drawn, counts, strict=True):
            if number:
                edges = self.graph.edges[edge_type]
                at = np.unique(rng.integers(count, size=number))
                tails = np.searchsorted(edges.indptr.numpy(), at, side="right") - 1
                out[edge_type] = np.stack([edges.indices.numpy()[at], tails])
        return out

    def _links(
        self,
        states: Mapping[str, torch.Tensor],
        rows: Mapping[str, np.ndarray],
        triples: Mapping[EdgeType, np.ndarray],
    ) -> torch.Tensor:
        assert self.triples is not None
        total = torch.zeros((), device=self.device)
        count = sum(ends.shape[1] for ends in triples.values())
        rank, world = place()
        for place_, edge_type in enumerate(self.forward_types):
            if edge_type not in triples or place_ % world != rank:
                continue
            heads, tails = triples[edge_type]
            known = self._linked(edge_type, heads, tails)
            np.fill_diagonal(known, False)
            total = total + self.triples(
                states[edge_type[0]][self._there(np.searchsorted(rows[edge_type[0]], heads))],
                place_,
                states[edge_type[2]][self._there(np.searchsorted(rows[edge_type[2]], tails))],
                torch.from_numpy(known).to(self.device),
            )
        # Every process takes part in every backward pass, also one that has no relation of its own.
        zero = sum((state.sum() * 0 for state in states.values()), torch.zeros_like(total))
        return (total + zero) / count

    def _linked(self, edge_type: EdgeType, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """Whether there is a link from each head to each tail, bool ``[num_heads, num_tails]``."""
        edges = self.graph.edges[edge_type]
        starts, indices = edges.indptr.numpy(), edges.indices.numpy()
        return np.stack([np.isin(heads, indices[starts[t] : starts[t + 1]]) for t in tails], axis=1)

    # --- who is ranked how ----------------------------------------------------------------------

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Users, items and biases of items as the network embeds them now, on the CPU."""
        was = self.network.training
        states = all_states(self.network.eval(), self.graph, self.data.features, self.device)[-1]
        self.network.train(was)
        with torch.no_grad():
            users = self.network.user_vectors(states[self.data.user].to(self.device)).cpu()
            at_items = states[self.data.item].to(self.device)
            items = self.network.item_vectors(at_items).cpu()
            return users, items, self.network.item_biases(at_items).cpu()

    def _hard_items(self, epoch: int) -> np.ndarray | None:
        """For every user the best ranked warm items that are no positive, ``[num_users, pool]``."""
        if not self.config.num_hard or epoch == 0:
            return None
        users, items, biases = self.vectors()
        pool = min(HARD_POOL, len(self.warm_items))
        out = np.zeros((self.num_users, pool), np.int64)
        at = torch.from_numpy(self.warm_items)
        position = np.full(self.num_items, -1, np.int64)
        position[self.warm_items] = np.arange(len(self.warm_items))
        for rows in torch.arange(self.num_users).split(1024):
            scores = users[rows] @ items[at].T + biases[at]
            of = self.links.take(rows.numpy())
            scores[
                torch.from_numpy(of.sources), torch.from_numpy(position[of.indices])
            ] = -torch.inf
            out[rows.numpy()] = self.warm_items[scores.topk(pool).indices.numpy()]
        return told(torch.from_numpy(out).to(self.device)).cpu().numpy()

    def _ndcg(self) -> float:
        """Mean NDCG@20 of held-out items for warm users and of warm items for held-out users."""
        users, items, biases = self.vectors()
        u, i = self.data.positives
        cold_user, cold_item = np.isin(u, self.held_users), np.isin(i, self.held_items)
        found = []
        if len(self.held_items):
            pairs = self.data.positives[:, cold_item & ~cold_user]
            found.append(_ndcg(users, items, biases, pairs, self.held_items))
        if len(self.held_users):
            pairs = self.data.positives[:, cold_user & ~cold_item]
            found.append(_ndcg(users, items, biases, pairs, self.warm_items))
        found = [f for f in found if not math.isnan(f)]
        mean = float(np.mean(found)) if found else math.nan
        return float(told(torch.tensor(mean, dtype=torch.float64, device=self.device)))


HARD_POOL = 100
"""Hard negatives are drawn from so many items, those ranked highest for a user."""


def _ndcg(
    users: torch.Tensor,
    items: torch.Tensor,
    biases: torch.Tensor,
    pairs: np.ndarray,
    candidates: np.ndarray,
) -> float:
    who, row = np.unique(pairs[0], return_inverse=True)
    if not len(who) or not len(candidates):
        return math.nan
    order = np.sort(candidates)
    relevant = np.zeros((len(who), len(order)), bool)
    column = np.searchsorted(order, pairs[1])
    column[column == len(order)] = 0
    there = order[column] == pairs[1]
    relevant[row[there], column[there]] = True
    at = torch.from_numpy(order)
    scores = users[torch.from_numpy(who)] @ items[at].T + biases[at]
    k = min(CUT, len(order))
    hits = np.take_along_axis(relevant, scores.topk(k).indices.numpy(), axis=1)
    discount = 1 / np.log2(np.arange(k) + 2)
    ideal = np.cumsum(discount)[np.minimum(relevant.sum(axis=1), k) - 1]
    some = relevant.any(axis=1)
    return float(((hits @ discount)[some] / ideal[some]).mean()) if some.any() else math.nan


def _held_out(positives: np.ndarray, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 7])
    out = []
    for rows in positives:
        warm = np.unique(rows)
        count = int(rate * len(warm))
        chosen = np.sort(rng.choice(warm, count, replace=False))
        out.append(chosen if count >= LEAST_HELD_OUT else np.empty(0, np.int64))
    return out[0], out[1]


def _copied(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def _silent(what: str, numbers: dict[str, float]) -> None:
    log.debug("%s: %s", what, numbers)
