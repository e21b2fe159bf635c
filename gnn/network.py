"""A trained graph network: from the features and the links of nodes to vectors, gains and biases.

Nothing in it belongs to a user or an item, so both may come after training. Only the nodes that
nobody recommends (genres, actors) have rows of their own, and one that is new has a zero row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from gnn.groups import SparseRows
from gnn.sampler import Block
from kg.schema import EdgeType
from kg.settings import check_above, check_at_least

MODELS = ("sage", "gat", "rgcn", "hgt")
"""Names of the networks: GraphSAGE, GAT, R-GCN, HGT."""

DECODERS = ("cosine", "dot", "distmult")
"""How a user and an item make a score."""

MASKS = 1021
"""Dropout masks drawn for a layer; a node has the one of its row modulo this prime."""


Features = np.ndarray | tuple[np.ndarray, SparseRows]
"""Of all nodes of a type: float32 ``[num_nodes, width]``, in memory or mapped, and sparse ones."""

Read = torch.Tensor | tuple[torch.Tensor, SparseRows]
"""Those of some nodes, on the device."""


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of a graph network and of its training.

    Args:
        model: one of :data:`MODELS`.
        dim: length of the vectors that come out.
        hidden_channels: width of the states inside.
        fanouts: neighbours drawn per relation, at the seeds first; one layer for each.
        heads: of attention (gat, hgt), a divisor of ``hidden_channels``.
        dropout: share of every update that is dropped in training.
        decoder: ``cosine`` (a_u a_i cos + b_i with learnt gains), ``dot``, or ``distmult``.
        interactions: whether interactions are passed along, too. Where they are not, every node is
            embedded as if it were cold.
        cold_share: share of the users and items of a batch that lose their interactions.
        batch_size: positive pairs of a step.
        epochs: at most.
        learning_rate: of AdamW at its highest; it falls to zero along a cosine.
        weight_decay: of AdamW.
        num_negatives: random items that every batch adds to its own.
        num_hard: items ranked high by the last epoch that every pair gets as further negatives.
        clip: largest norm of a gradient.
        held_out: share of the users and of the items that training holds out as cold to know when
            to stop; 0: all epochs are run, on all nodes. A tenth of MovieLens 100K is too few to
            tell the best epoch, see docs/measured.md.
        patience: epochs without a better NDCG@20 on those before training stops.
        refit: whether a second training then has all nodes, and as many epochs as were best.
        triple_loss: ``None``, or ``transe``, ``distmult``, ``rotate``: links as a further task.
        triple_weight: its weight in the loss.
        num_triples: links of a step, at most a tenth of all.
        mixed_precision: whether the layers run in bfloat16.

    Raises:
        ValueError: a value is out of range.
    """

    model: str = "sage"
    dim: int = 64
    hidden_channels: int = 64
    fanouts: tuple[int, ...] = (10, 10)
    heads: int = 4
    dropout: float = 0.05
    decoder: str = "cosine"
    interactions: bool = True
    cold_share: float = 0.5
    batch_size: int = 512
    epochs: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    num_negatives: int = 256
    num_hard: int = 0
    clip: float = 1.0
    held_out: float = 0.0
    patience: int = 5
    refit: bool = True
    triple_loss: str | None = None
    triple_weight: float = 0.1
    num_triples: int = 512
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        # A list comes from JSON.
        object.__setattr__(self, "fanouts", tuple(self.fanouts))
        choices = {
            "model": MODELS,
            "decoder": DECODERS,
            "triple_loss": (None, "transe", "distmult", "rotate"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        check_at_least(
            1,
            dim=self.dim,
            hidden_channels=self.hidden_channels,
            heads=self.heads,
            batch_size=self.batch_size,
            epochs=self.epochs,
            patience=self.patience,
        )
        for name in ("dropout", "cold_share", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)!r}")
        check_at_least(
            0,
            num_negatives=self.num_negatives,
            num_hard=self.num_hard,
            num_triples=self.num_triples,
            triple_weight=self.triple_weight,
            weight_decay=self.weight_decay,
        )
        check_above(0, learning_rate=self.learning_rate, clip=self.clip)
        if not self.fanouts or any(f < 1 and f != -1 for f in self.fanouts):
            raise ValueError(f"fanouts must be at least 1, or -1 for all, got {self.fanouts!r}")
        if self.hidden_channels % self.heads or self.hidden_channels % 2:
            raise ValueError(
                f"hidden_channels must be even and a multiple of heads ({self.heads}), got "
                f"{self.hidden_channels}"
            )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """From what :meth:`to_dict` gave.

        Raises:
            ValueError: a name is unknown.
        """
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise ValueError(f"a network has no settings {sorted(unknown)}")
        return cls(**values)


class TypedNetwork(nn.Module):
    """Input maps, layers and heads.

    Args:
        config: settings.
        widths: width of the features of every type that has some.
        num_rows: nodes of every type that has rows of its own; never users or items.
        edge_types: relations that are passed along, both directions.
        user: type of the users.
        item: type of the items.
        sparse_widths: width of the sparse features of every type that has some beside the others.
    """

    def __init__(
        self,
        config: NetworkConfig,
        widths: Mapping[str, int],
        num_rows: Mapping[str, int],
        edge_types: Sequence[EdgeType],
        user: str,
        item: str,
        sparse_widths: Mapping[str, int] | None = None,
    ) -> None:
        from gnn.layers import TypedLayer

        super().__init__()
        if own := {user, item} & set(num_rows):
            raise ValueError(f"{sorted(own)} must have no rows of their own, only features")
        self.config, self.user, self.item = config, user, item
        self.widths, self.num_rows = dict(widths), dict(num_rows)
        self.sparse_widths = dict(sparse_widths or {})
        self.node_types = tuple(sorted(set(widths) | set(num_rows)))
        there = set(self.node_types)  # a type without nodes has no states
        self.edge_types = tuple(sorted(e for e in edge_types if {e[0], e[2]} <= there))
        channels = config.hidden_channels
        self._place = {t: i for i, t in enumerate(self.node_types)}
        self.inputs = nn.ModuleDict(
            {str(self._place[t]): nn.Linear(w, channels) for t, w in widths.items()}
        )
        # As many columns as there are words: they start at nothing, or the rare ones were noise.
        self.sparse = nn.ParameterDict(
            {
                str(self._place[t]): nn.Parameter(torch.zeros(w, channels))
                for t, w in self.sparse_widths.items()
            }
        )
        self.rows = nn.ModuleDict(
            {str(self._place[t]): nn.Embedding(n, channels) for t, n in num_rows.items()}
        )
        for table in self.rows.values():
            nn.init.normal_(table.weight, std=channels**-0.5)  # pyright: ignore
        self.layers = nn.ModuleList(
            TypedLayer(config.model, channels, self.node_types, self.edge_types, config.heads)
            for _ in config.fanouts
        )
        self.vector_heads = nn.ModuleList(nn.Linear(channels, config.dim) for _ in range(2))
        self.gain_heads = nn.ModuleList(nn.Linear(channels, 1) for _ in range(2))
        for head in self.gain_heads:
            nn.init.zeros_(head.weight)  # pyright: ignore
            nn.init.constant_(head.bias, 2.5)  # pyright: ignore
        self.bias_head = nn.Linear(channels, 1)
        nn.init.zeros_(self.bias_head.weight)
        self.relation = nn.Parameter(torch.ones(config.dim))

    def start(self, node_type: str, features: Read | None, rows: torch.Tensor) -> torch.Tensor:
        """First states of some nodes, ``[n, channels]``.

        Args:
            node_type: of the nodes.
            features: ``[n, width]`` and sparse ones, where the type has any.
            rows: in the graph, int64 ``[n]``; rows that came after training have none of their own.
        """
        place = str(self._place[node_type])
        parts = []
        if place in self.inputs:
            if features is None:
                raise ValueError(f"{node_type} had features at training, and has none now")
            dense, sparse = features if isinstance(features, tuple) else (features, None)
            parts.append(self.inputs[place](dense))
            if sparse is None and place in self.sparse:
                raise ValueError(f"{node_type} had sparse features at training, and has none now")
            if sparse is not None and self.sparse_widths.get(node_type) != sparse.width:
                raise ValueError(
                    f"{node_type} has {sparse.width} sparse features, and had "
                    f"{self.sparse_widths.get(node_type, 0)} at training"
                )
            if sparse is not None:
                parts.append(sparse.matmul(self.sparse[place]))
        if place in self.rows:
            table = self.rows[place].weight
            assert isinstance(table, torch.Tensor)
            own = table.new_zeros(len(rows), table.shape[1])
            known = rows < len(table)
            own[known] = table[rows[known]]
            parts.append(own)
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def states(
        self,
        x_dict: Mapping[str, Read],
        rows: Mapping[str, torch.Tensor],
        blocks: Sequence[Block],
        dropout_seed: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """States of the targets of the last block, ``[num_targets, channels]`` by type.

        Args:
            x_dict: features of the sources of the first block, by type.
            rows: their rows in the graph.
            blocks: a layer each.
            dropout_seed: of the updates that are dropped; ``None``: none are.
        """
        x = {t: self.start(t, x_dict.get(t), at) for t, at in rows.items() if t in self._place}
        for number, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
            masks = None
            if dropout_seed is not None and self.config.dropout:
                masks = self._masks(dropout_seed + number, rows, block)
            x = layer(x, block, masks)
        return x

    def _masks(
        self, seed: int, rows: Mapping[str, torch.Tensor], block: Block
    ) -> dict[str, torch.Tensor]:
        """Dropout that follows from seed and row alone, whatever the company of a node."""
        keep = 1 - self.config.dropout
        drawn = np.random.default_rng(seed).random((MASKS, self.config.hidden_channels)) < keep
        table = torch.from_numpy(drawn.astype(np.float32) / np.float32(keep))
        return {
            t: table.to(at.device)[(at[: block.num_targets.get(t, 0)] + self._place[t]) % MASKS]
            for t, at in rows.items()
            if t in self._place
        }

    def user_vectors(self, states: torch.Tensor) -> torch.Tensor:
        """a_u u / |u| of users with these states, ``[n, dim]``."""
        return self._vectors(states, 0)

    def item_vectors(self, states: torch.Tensor) -> torch.Tensor:
        """a_i i / |i| of items with these states, ``[n, dim]``."""
        return self._vectors(states, 1)

    def item_biases(self, states: torch.Tensor) -> torch.Tensor:
        """b_i, ``[n]``."""
        return self.bias_head(states).squeeze(1)

    def _vectors(self, states: torch.Tensor, side: int) -> torch.Tensor:
        z = self.vector_heads[side](states)
        if self.config.decoder == "cosine":
            gain = nn.functional.softplus(self.gain_heads[side](states))
            return gain * nn.functional.normalize(z, dim=1)
        if self.config.decoder == "distmult" and side == 0:
            return z * self.relation
        return z


def features_of(
    features: Mapping[str, Features], rows: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, Read]:
    """The features of some rows, read from memory or from a mapped file, on the device.

    Args:
        features: of all nodes, by type.
        rows: wanted, by type.
        device: where they go.
    """
    out: dict[str, Read] = {}
    for node_type, at in rows.items():
        if node_type in features:
            dense, sparse = split(features[node_type])
            some = torch.from_numpy(np.asarray(dense[at.cpu().numpy()], np.float32)).to(device)
            out[node_type] = some if sparse is None else (some, sparse.take(at.cpu()).to(device))
    return out


def split(features: Features) -> tuple[np.ndarray, SparseRows | None]:
    """Those that are dense, and the sparse ones."""
    return features if isinstance(features, tuple) else (features, None)
