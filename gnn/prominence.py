"""How well connected a node's entities are, a feature that says how much a new node will be liked.

A film whose cast has been in many other films, whose director is known, of which a distributor is
told: such films are seen by more people. One-hot features of unit length say nothing of it, for
they tell which entities a node has, not how many, nor how much those have done. Interactions play
no part, and a node never counts for itself, so a cold node's features are those of a warm one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from gnn.data import NodeInputs
from gnn.groups import leads_to_warm

MEASURES = 3
"""Of the links of one relation: mean and maximum of log(1 + d), log(1 + how many have d > 0)."""

CENTRES = np.array([-1.5, -0.75, 0.0, 0.75, 1.5])
"""Of the bumps that stand for a measure, in standard deviations from its mean."""

WIDTH = 0.75


@dataclass(frozen=True, eq=False)
class Prominence:
    """How many other warm nodes have a node's entities, d, as measures that are five bumps each.

    The measures of every relation, and their means over all relations.

    Args:
        name: of the group.
        relations: names of the relations.
        degrees: number of warm nodes that have every entity, int64, by relation.
        warm: whether a node was warm at training, bool ``[num_nodes]``.
        mean: of the measures over the warm nodes, ``[3 num_relations + 3]``.
        spread: their standard deviations; infinite where one does not vary.
    """

    name: str
    relations: tuple[str, ...]
    degrees: tuple[np.ndarray, ...]
    warm: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    kind: ClassVar[str] = "prominence"

    @classmethod
    def fit(cls, name: str, inputs: NodeInputs, warm: np.ndarray) -> Prominence:
        """The group over all relations to entities, of which there must be one."""
        is_warm = np.zeros(len(inputs), bool)
        is_warm[warm] = True
        degrees = tuple(
            np.bincount(links.take(warm).indices, minlength=links.num_targets)
            for links in inputs.relations.values()
        )
        width = MEASURES * (len(degrees) + 1)
        bare = cls(name, tuple(inputs.relations), degrees, is_warm, np.zeros(width), np.ones(width))
        measures = bare.measures(inputs, warm)
        spread = measures.std(axis=0)
        spread[spread < 1e-6] = np.inf
        return replace(bare, mean=measures.mean(axis=0), spread=spread)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """``[n, 5 (3 num_relations + 3)]``, each between 0 and 1."""
        return torch.from_numpy(self.bumps(self.measures(inputs, rows))).to(device)

    def measures(self, inputs: NodeInputs, rows: np.ndarray) -> np.ndarray:
        """What :data:`MEASURES` says of these rows, ``[n, 3 num_relations + 3]``."""
        sources, values = [], []
        themselves = leads_to_warm(inputs.rows[rows], self.warm)
        count = len(self.relations)
        for place, (relation, degrees) in enumerate(zip(self.relations, self.degrees, strict=True)):
            if relation in inputs.relations:
                links = inputs.relations[relation].take(rows)
                sources.append(links.sources * count + place)
                values.append(others(degrees, links.indices, themselves[links.sources]))
        return self.measured(sources, values, len(rows))

    def measured(
        self, sources: list[np.ndarray], values: list[np.ndarray], num_rows: int
    ) -> np.ndarray:
        """The measures of some links.

        Args:
            sources: row times the number of relations, plus the relation's place, in parts.
            values: log(1 + d) of each.
            num_rows: number of rows.
        """
        count = len(self.relations)
        source, value = (
            np.concatenate([np.empty(0, t), *x]) for t, x in ((int, sources), (float, values))
        )
        size = num_rows * count
        links = np.bincount(source, minlength=size)
        most = np.zeros(size)
        np.maximum.at(most, source, value)
        out = np.stack(
            [
                np.bincount(source, value, minlength=size) / np.maximum(links, 1),
                most,
                np.log1p(np.bincount(source, value > 0, minlength=size)),
            ],
            axis=1,
        ).reshape(num_rows, count, MEASURES)
        return np.concatenate([out.reshape(num_rows, -1), out.mean(axis=1)], axis=1)

    def bumps(self, measures: np.ndarray) -> np.ndarray:
        """Measures as features, float32 ``[n, 5 (3 num_relations + 3)]``."""
        x = ((measures - self.mean) / self.spread).clip(-3, 3)
        bumps = np.exp(-0.5 * ((x[:, :, None] - CENTRES) / WIDTH) ** 2)
        return bumps.reshape(len(x), -1).astype(np.float32)


def others(degrees: np.ndarray, entities: np.ndarray, itself: np.ndarray) -> np.ndarray:
    """log(1 + d) of entities, 0 for those later than training; ``itself`` is counted among d."""
    inside = entities < len(degrees)
    d = np.where(inside, degrees[np.where(inside, entities, 0)] if len(degrees) else 0, 0)
    return np.log1p(np.maximum(d - itself, 0))
