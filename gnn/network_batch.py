"""The loss of a batch of choices: whose states it needs, what is passed along, who is negative."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.losses import choice_loss
from gnn.network import TypedNetwork, features_of
from gnn.network_data import NetworkData
from gnn.network_links import LinkTask
from gnn.parallel import gathered, share
from gnn.sampler import sample
from kg.schema import EdgeType


class ChoiceTask:
    """Which items did the users of a batch choose?

    Args:
        data: what the network is trained on.
        pairs: the positives that are taught, ``[2, num_pairs]``.
        network: on its device.
        link_task: a further task, if wanted.
        device: of the network.
    """

    def __init__(
        self,
        data: NetworkData,
        pairs: np.ndarray,
        network: TypedNetwork,
        link_task: LinkTask | None,
        device: torch.device,
    ) -> None:
        self.data, self.network, self.link_task, self.device = data, network, link_task, device
        self.config = config = network.config
        num = data.graph.num_nodes
        self.links = Adjacency.from_pairs(pairs[0], pairs[1], num[data.user], num[data.item])
        self.back = self.links.transpose()
        self.warm_items = np.unique(pairs[1])
        self.graph = data.with_interactions(pairs) if config.interactions else data.graph
        self.graph_there = self.graph.to(device)
        # P(at least one draw); an item is among the candidates once, however often it is drawn.
        missed = (1 - min(config.batch_size / pairs.shape[1], 1.0)) ** self.back.degrees
        missed[self.warm_items] *= (1 - 1 / len(self.warm_items)) ** config.num_negatives
        self.log_chance = np.log(np.maximum(1 - missed, 1e-9)).astype(np.float32)

    def loss(
        self, pairs: np.ndarray, rng: np.random.Generator, hard: np.ndarray | None
    ) -> torch.Tensor:
        """This process's share of the mean loss of a batch.

        Args:
            pairs: the batch, ``[2, num_pairs]``.
            rng: the same in every process.
            hard: items to draw hard negatives from, for every user; ``None``: there are none.
        """
        config, data = self.config, self.data
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
        triples = self.link_task.draw(rng) if self.link_task else {}
        for (source, _, target), ends in triples.items():
            for kind, at in ((source, ends[0]), (target, ends[1])):
                rows[kind] = np.union1d(rows.get(kind, np.empty(0, np.int64)), at)
        states = self._states(rows, pairs, triples, rng)
        loss = self._choices(states, rows, pairs, candidates, hard_items)
        if self.link_task and triples:
            loss = loss + config.triple_weight * self.link_task.loss(states, rows, triples)
        return loss

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
