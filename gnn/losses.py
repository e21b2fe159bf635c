"""Losses of graph networks: which item a user chose, and which links there are."""

from __future__ import annotations

import torch
from torch import nn


def choice_loss(
    users: torch.Tensor,
    items: torch.Tensor,
    biases: torch.Tensor,
    log_chance: torch.Tensor,
    chosen: torch.Tensor,
    hidden: torch.Tensor,
    hard: torch.Tensor | None = None,
    hard_hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over pairs of -log softmax of the chosen among the sampled items.

    Args:
        users: a vector per pair, ``[num_pairs, dim]``.
        items: candidates of all pairs, distinct, ``[num_items, dim]``.
        biases: of the candidates, ``[num_items]``.
        log_chance: log of the chance that a candidate is in a batch, ``[num_items]``; it is taken
            off, so that an item is not pushed down for being drawn often.
        chosen: place of every pair's item among the candidates, int64 ``[num_pairs]``.
        hidden: bool ``[num_pairs, num_items]``, other items that the user has chosen as well;
            they are no negatives.
        hard: places of further negatives of every pair, ``[num_pairs, num_hard]``; chosen for the
            user and so not corrected.
        hard_hidden: which of these are no negatives either, bool ``[num_pairs, num_hard]``.

    Source: Yi et al. (2019), Sampling-bias-corrected neural modeling for large corpus item
    recommendations, eq. (4) and (5); the chosen item is corrected as the others are.
    """
    logits = users @ items.T + biases - log_chance
    own = nn.functional.one_hot(chosen, len(items)).bool()
    logits = logits.masked_fill(hidden & ~own, -torch.inf)
    if hard is not None:
        further = (items[hard] @ users[:, :, None]).squeeze(2) + biases[hard]
        if hard_hidden is not None:
            further = further.masked_fill(hard_hidden, -torch.inf)
        logits = torch.cat([logits, further], dim=1)
    return nn.functional.cross_entropy(logits, chosen, reduction="sum")


class TripleLoss(nn.Module):
    """-log softmax of the true tail among the tails of a batch, by relation.

    Args:
        kind: ``transe``, ``distmult`` or ``rotate``.
        num_relations: how many there are.
        channels: width of a state, even.

    Source: Bordes et al. (2013), Translating embeddings for modeling multi-relational data, eq.
    (1); Yang et al. (2015), Embedding entities and relations, eq. (2); Sun et al. (2019), RotatE,
    eq. (2). The states come from the network in place of tables, and the other tails of the same
    relation in the batch are the negatives.
    """

    def __init__(self, kind: str, num_relations: int, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.relations = nn.Embedding(num_relations, channels)
        self.scale = nn.Parameter(torch.tensor(1.0))
        if kind == "distmult":
            nn.init.ones_(self.relations.weight)
        else:
            nn.init.zeros_(self.relations.weight)

    def forward(
        self, heads: torch.Tensor, relation: int, tails: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the triples of one relation.

        Args:
            heads: states, ``[n, channels]``.
            relation: its number.
            tails: states, ``[n, channels]``.
            known: bool ``[n, n]``, tails that are true for a head besides its own.
        """
        scores = self.scores(heads, relation, tails).masked_fill(known, -torch.inf)
        target = torch.arange(len(heads), device=heads.device)
        return nn.functional.cross_entropy(scores, target, reduction="sum")

    def scores(self, heads: torch.Tensor, relation: int, tails: torch.Tensor) -> torch.Tensor:
        """Of every head with every tail, ``[num_heads, num_tails]``; higher is likelier."""
        r = self.relations.weight[relation]
        heads, tails = (nn.functional.normalize(x, dim=1) for x in (heads, tails))
        if self.kind == "distmult":
            return 10 * self.scale * (heads * r) @ tails.T
        if self.kind == "transe":
            return -5 * self.scale * torch.cdist(heads + r, tails)
        real, imaginary = heads.chunk(2, dim=1)
        phase = r[: real.shape[1]]
        turned = [
            real * phase.cos() - imaginary * phase.sin(),
            real * phase.sin() + imaginary * phase.cos(),
        ]
        return -5 * self.scale * torch.cdist(torch.cat(turned, dim=1), tails)
