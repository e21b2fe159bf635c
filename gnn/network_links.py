"""Links of the graph as a further task of a network: which tail fits a head and a relation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from gnn.losses import TripleLoss
from gnn.network import NetworkConfig
from gnn.parallel import place
from gnn.typed import REVERSE, TypedGraph
from kg.schema import EdgeType


class LinkTask:
    """Random links of every batch, and the loss of telling their tails.

    Args:
        graph: its relations that are no reverse ones are asked for.
        config: with a ``triple_loss``.
        seed: of the relations' start.
        device: where the states are.
    """

    def __init__(
        self, graph: TypedGraph, config: NetworkConfig, seed: int, device: torch.device
    ) -> None:
        assert config.triple_loss is not None
        self.graph, self.device, self.most = graph, device, config.num_triples
        self.edge_types = [e for e in graph.edge_types if not e[1].startswith(REVERSE)]
        self.counts = np.array([len(graph.edges[e]) for e in self.edge_types])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.triples = TripleLoss(
                config.triple_loss, max(len(self.edge_types), 1), config.hidden_channels
            ).to(device)

    def draw(self, rng: np.random.Generator) -> dict[EdgeType, np.ndarray]:
        """Random links of every relation by its share of all, as rows of head and tail."""
        total = int(self.counts.sum())
        if not total:
            return {}
        # Links that are asked for are not passed along, so most must stay.
        number = min(self.most, max(1, total // 10))
        drawn = rng.multinomial(number, self.counts / total)
        out = {}
        for edge_type, number, count in zip(self.edge_types, drawn, self.counts, strict=True):
            if number:
                edges = self.graph.edges[edge_type]
                at = np.unique(rng.integers(count, size=number))
                tails = np.searchsorted(edges.indptr.numpy(), at, side="right") - 1
                out[edge_type] = np.stack([edges.indices.numpy()[at], tails])
        return out

    def loss(
        self,
        states: Mapping[str, torch.Tensor],
        rows: Mapping[str, np.ndarray],
        triples: Mapping[EdgeType, np.ndarray],
    ) -> torch.Tensor:
        """This process's share of the mean loss of some links, a relation to each in turn.

        Args:
            states: by type, ``[len(rows[type]), channels]``.
            rows: whose states these are, ascending.
            triples: what :meth:`draw` gave, at least one.
        """
        total = torch.zeros((), device=self.device)
        count = sum(ends.shape[1] for ends in triples.values())
        rank, world = place()
        for number, edge_type in enumerate(self.edge_types):
            if edge_type not in triples or number % world != rank:
                continue
            heads, tails = triples[edge_type]
            known = self._linked(edge_type, heads, tails)
            np.fill_diagonal(known, False)
            at_heads, at_tails, known = (
                torch.from_numpy(values).to(self.device)
                for values in (
                    np.searchsorted(rows[edge_type[0]], heads),
                    np.searchsorted(rows[edge_type[2]], tails),
                    known,
                )
            )
            head_states, tail_states = (
                states[edge_type[0]][at_heads],
                states[edge_type[2]][at_tails],
            )
            total = total + self.triples(head_states, number, tail_states, known)
        # Every process takes part in every backward pass, also one that has no relation of its own.
        zero = sum((state.sum() * 0 for state in states.values()), torch.zeros_like(total))
        return (total + zero) / count

    def _linked(self, edge_type: EdgeType, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """Whether there is a link from each head to each tail, bool ``[num_heads, num_tails]``."""
        edges = self.graph.edges[edge_type]
        starts, indices = edges.indptr.numpy(), edges.indices.numpy()
        return np.stack([np.isin(heads, indices[starts[t] : starts[t + 1]]) for t in tails], axis=1)
