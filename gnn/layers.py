"""One layer of message passing over a typed graph: GraphSAGE, GAT, R-GCN or HGT.

The convolutions are PyTorch Geometric's. Around every one lie the same residual and norm, so a node
without neighbours keeps what it had, and a type without arriving edges stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from gnn.sampler import Block
from kg.errors import DependencyError, how_to_install
from kg.schema import EdgeType

try:
    from torch_geometric.nn import GATv2Conv, HGTConv, RGCNConv, SAGEConv
except ImportError as error:
    raise DependencyError(
        f"graph networks need torch-geometric: {how_to_install('pyg')}"
    ) from error

NUM_BASES = 8
"""Matrices that the relations of an R-GCN share."""


class _ByType(nn.Module):
    """Rows times the matrix of their type, in the place of HGTConv's ``HeteroLinear``.

    That one writes the types one after another into one array, and its backward pass copies all of
    the array for each of them: on MovieLens 100K two thirds of an epoch and more.

    Args:
        weight: ``[num_types, channels, channels]``.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """``[n, channels]``, of rows that are sorted by type."""
        parts = x.split(types.bincount(minlength=len(self.weight)).tolist())
        return torch.cat([part @ w for part, w in zip(parts, self.weight.unbind(), strict=True)])


class TypedLayer(nn.Module):
    """x + relu(norm(messages + W x)) for the targets of a block.

    Args:
        model: one of :data:`gnn.network.MODELS`.
        channels: width of a state, before and after.
        node_types: all that can occur.
        edge_types: all that can occur; others are ignored.
        heads: of attention, a divisor of ``channels``.

    Source: Hamilton et al. (2017), Inductive representation learning on large graphs, algorithm 1;
    Brody et al. (2022), How attentive are graph attention networks, eq. (7); Schlichtkrull et al.
    (2018), Modeling relational data with graph convolutional networks, eq. (2) and (3); Hu et al.
    (2020), Heterogeneous graph transformer, eq. (3) to (5).
    """

    def __init__(
        self,
        model: str,
        channels: int,
        node_types: Sequence[str],
        edge_types: Sequence[EdgeType],
        heads: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.node_types = tuple(node_types)
        self.edge_types = tuple(edge_types)
        self.number = {e: i for i, e in enumerate(self.edge_types)}
        # Types are numbered, as their names may hold what a module's name may not.
        self.own = nn.ModuleList(nn.Linear(channels, channels) for _ in self.node_types)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in self.node_types)
        if model == "sage":
            self.convs = nn.ModuleList(
                SAGEConv((channels, channels), channels, root_weight=False, bias=False)
                for _ in self.edge_types
            )
        elif model == "gat":
            self.convs = nn.ModuleList(
                GATv2Conv(
                    (channels, channels), channels // heads, heads, add_self_loops=False, bias=False
                )
                for _ in self.edge_types
            )
        elif model == "rgcn":
            count = max(len(self.edge_types), 1)
            bases = min(NUM_BASES, count)
            self.convs = nn.ModuleList(
                [RGCNConv(channels, channels, count, bases, root_weight=False, bias=False)]
            )
        else:  # hgt
            names = [f"n{i}" for i in range(len(self.node_types))]
            index = {t: names[i] for i, t in enumerate(self.node_types)}
            self.renamed = {
                e: (index[e[0]], f"r{i}", index[e[2]]) for i, e in enumerate(self.edge_types)
            }
            metadata = (names, list(self.renamed.values()))
            conv = HGTConv(channels, channels, metadata, heads)
            for name in ("k_rel", "v_rel"):
                conv.add_module(name, _ByType(getattr(conv, name).weight))
            self.convs = nn.ModuleList([conv])

    def forward(
        self,
        x_dict: Mapping[str, torch.Tensor],
        block: Block,
        masks: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """States of the targets, ``[num_targets, channels]`` by type.

        Args:
            x_dict: states of the sources, the targets first, ``[num_sources, channels]``.
            block: who is linked to whom.
            masks: what the updates of the targets are multiplied by (dropout), by type.
        """
        # In the order of the types, which HGTConv takes for granted.
        edges = {
            e: block.edge_index[e]
            for e in self.edge_types
            if e in block.edge_index and block.edge_index[e].shape[1]
            if e[0] in x_dict and e[2] in x_dict
        }
        messages = self._messages(x_dict, block, edges)
        out = {}
        for place, node_type in enumerate(self.node_types):
            count = block.num_targets.get(node_type, 0)
            if node_type not in x_dict or not count:
                continue
            x = x_dict[node_type][:count]
            update = self.own[place](x)
            if node_type in messages:
                update = update + messages[node_type]
            update = torch.relu(self.norms[place](update))
            out[node_type] = x + (update * masks[node_type] if masks else update)
        return out

    def _messages(
        self,
        x_dict: Mapping[str, torch.Tensor],
        block: Block,
        edges: dict[EdgeType, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        if not edges:
            return {}
        if self.model == "rgcn":
            return self._of_one_graph(x_dict, block, edges)
        if self.model == "hgt":
            names = {t: f"n{i}" for i, t in enumerate(self.node_types)}
            renamed = {self.renamed[e]: index for e, index in edges.items()}
            out = self.convs[0]({names[t]: x for t, x in x_dict.items()}, renamed)
            # HGTConv also changes nodes that nothing arrives at; here they get no message.
            messages = {}
            for node_type in {e[2] for e in edges}:
                count = block.num_targets[node_type]
                reached = out[names[node_type]].new_zeros(count, 1)
                for edge_type, index in edges.items():
                    if edge_type[2] == node_type:
                        reached[index[1]] = 1
                messages[node_type] = out[names[node_type]][:count] * reached
            return messages
        sums: dict[str, torch.Tensor] = {}
        for edge_type, index in edges.items():
            source, _, target = edge_type
            pair = (x_dict[source], x_dict[target][: block.num_targets[target]])
            message = self.convs[self.number[edge_type]](pair, index)
            sums[target] = sums[target] + message if target in sums else message
        return sums

    def _of_one_graph(
        self,
        x_dict: Mapping[str, torch.Tensor],
        block: Block,
        edges: dict[EdgeType, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        start, offsets = 0, {}
        for node_type, x in x_dict.items():
            offsets[node_type] = start
            start += len(x)
        index = torch.cat(
            [
                torch.stack([at[0] + offsets[e[0]], at[1] + offsets[e[2]]])
                for e, at in edges.items()
            ],
            dim=1,
        )
        kinds = torch.cat([torch.full_like(at[0], self.number[e]) for e, at in edges.items()])
        out = self.convs[0](torch.cat(list(x_dict.values())), index, kinds)
        arriving = {e[2] for e in edges}
        return {t: out[offsets[t] : offsets[t] + block.num_targets[t]] for t in arriving}
