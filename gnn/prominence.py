"""How well connected a node's entities are, a feature that says how much a new node will be liked.

A film whose cast has been in many other films, whose director is known, of which a distributor is
told: such films are seen by more people. One-hot features of unit length say nothing of it, for
they tell which entities a node has, not how many, nor how much those have done. Interactions play
no part, and a node never counts for itself, so a cold node's features are those of a warm one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import leads_to_warm, still_there

PROMINENCE = "prominence"
"""What the group is called, and its part in explanations."""

SAME = 1e-6
"""What varies less, as a standard deviation, does not vary."""

MEASURES = 3
"""Of the links of one relation: mean and maximum of log(1 + d), log(1 + how many have d > 0)."""

CENTRES = np.array([-1.5, -0.75, 0.0, 0.75, 1.5])
"""Of the bumps that stand for a measure, in standard deviations from its mean."""

WIDTH = 0.75
MOST = 3.0
"""Measures further from the mean count as so far."""


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
    def fit(
        cls, name: str, relations: Sequence[str], inputs: NodeInputs, warm: np.ndarray
    ) -> Prominence | None:
        """The group, or ``None`` where warm nodes are all alike or there are no relations."""
        if not relations:
            return None
        is_warm = np.zeros(len(inputs), bool)
        is_warm[warm] = True
        found = [inputs.relations[relation] for relation in relations]
        degrees = [np.bincount(x.take(warm).indices, minlength=x.num_targets) for x in found]
        width = MEASURES * (len(relations) + 1)
        nothing = np.zeros(width), np.ones(width)
        bare = cls(name, tuple(relations), tuple(degrees), is_warm, *nothing)
        measures = bare.measures(inputs, warm)
        spread = measures.std(axis=0)
        if not (spread > SAME).any():
            return None
        spread[spread <= SAME] = np.inf
        return replace(bare, mean=measures.mean(axis=0), spread=spread)

    def without_removed(
        self, node_type: str, kept: Mapping[str, np.ndarray], entity: Mapping[str, str]
    ) -> Prominence:
        """The same group after nodes were removed and the rest moved up.

        Args:
            node_type: of the nodes that it describes.
            kept: old rows that stay, in order, by node type; a type that lost none is absent.
            entity: node type at the far end of every relation that has nodes there.
        """
        degrees = tuple(
            still_there(degree, kept.get(entity.get(relation, "")))
            for relation, degree in zip(self.relations, self.degrees, strict=True)
        )
        return replace(self, degrees=degrees, warm=still_there(self.warm, kept.get(node_type)))

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """``[n, 5 (3 num_relations + 3)]``, each between 0 and 1."""
        return torch.from_numpy(self.bumps(self.measures(inputs, rows))).to(device)

    def measures(self, inputs: NodeInputs, rows: np.ndarray) -> np.ndarray:
        """What :data:`MEASURES` says of these rows, ``[n, 3 num_relations + 3]``."""
        links = {r: inputs.relations[r].take(rows) for r in self.relations if r in inputs.relations}
        source, place, entity = self.links(links)
        values = self.known_by(place, entity, leads_to_warm(inputs.rows[rows], self.warm)[source])
        return _Measured.of(source, place, values, (len(rows), len(self.relations))).together()

    def measures_of_one(self, links: Mapping[str, Adjacency], itself: bool) -> np.ndarray:
        """Those of the only node that these are links of, ``[1, 3 num_relations + 3]``.

        Args:
            links: by relation.
            itself: whether it was warm at training.
        """
        out = []
        for relation, logs in zip(self.relations, self._logs[itself], strict=True):
            one = links.get(relation)
            if one is None or not len(one.indices):
                out.append((0.0, 0.0, 0.0))
                continue
            inside = one.indices < len(logs)
            entities = one.indices if inside.all() else one.indices[inside]
            values = logs[entities].tolist()
            many = math.log1p(sum(value > 0 for value in values))
            out.append((sum(values) / len(one.indices), max(values, default=0.0), many))
        means = [sum(column) / len(out) for column in zip(*out, strict=True)]
        return np.array([[*itertools.chain(*out), *means]])

    def links(self, links: Mapping[str, Adjacency]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, place of the relation and entity of every link, int64 ``[num_links]`` each."""
        found = [
            (one.sources, np.full(len(one.indices), place), one.indices)
            for place, relation in enumerate(self.relations)
            if (one := links.get(relation)) is not None and len(one.indices)
        ]
        nothing = (np.empty(0, np.int64),) * 3
        source, place, entity = (np.concatenate(x) for x in zip(*(found or [nothing]), strict=True))
        return source, place, entity

    def known_by(self, place: np.ndarray, entity: np.ndarray, itself: np.ndarray) -> np.ndarray:
        """log(1 + d) of entities, ``[num_links]``; 0 for those that came after training.

        Args:
            place: of the relation of every link.
            entity: row at its far end.
            itself: whether the node that has the link is counted among d.
        """
        degrees, starts, sizes = self._stacked
        inside = entity < sizes[place]
        d = np.where(inside, degrees[np.where(inside, starts[place] + entity, 0)], 0)
        return np.log1p(np.maximum(d - itself, 0))

    def bumps(self, measures: np.ndarray) -> np.ndarray:
        """Measures as features, float32 ``[n, 5 (3 num_relations + 3)]``."""
        x = ((measures - self.mean) / self.spread).clip(-MOST, MOST)
        bumps = np.exp(-0.5 * ((x[:, :, None] - CENTRES) / WIDTH) ** 2)
        return bumps.reshape(len(x), x.shape[1] * len(CENTRES)).astype(np.float32)

    def without_each(self, place: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Features of a node with all of its links, and then without each of them alone.

        Args:
            place: of the relation of every link.
            values: log(1 + d) of every link.

        Returns:
            float32 ``[1 + num_links, 5 (3 num_relations + 3)]``.
        """
        num_links, count = len(place), len(self.relations)
        every = _Measured.of(np.zeros_like(place), place, values, (1, count))
        is_most = values == every.most[0, place]
        second = np.zeros(count)
        np.maximum.at(second, place[~is_most], values[~is_most])
        only = is_most & (np.bincount(place[is_most], minlength=count) == 1)[place]
        out = every.repeated(1 + num_links)
        at = np.arange(1, 1 + num_links), place
        out.links[at] -= 1
        out.total[at] -= values
        out.known[at] -= values > 0
        out.most[at] = np.where(only, second[place], every.most[0, place])
        return self.bumps(out.together())

    @cached_property
    def _logs(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """log(1 + d) of all entities by relation, for a node that was not warm and one that was."""
        without = [np.log1p(np.maximum(degrees - 1, 0)) for degrees in self.degrees]
        return [np.log1p(degrees) for degrees in self.degrees], without

    @cached_property
    def _stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = np.array([len(degrees) for degrees in self.degrees])
        return np.concatenate([*self.degrees, [0]]), np.cumsum(sizes) - sizes, sizes


@dataclass(frozen=True)
class _Measured:
    """What the links of a row and relation come to, ``[num_rows, num_relations]`` each.

    Args:
        links: how many there are.
        total: sum of log(1 + d).
        most: its maximum.
        known: how many have d > 0.
    """

    links: np.ndarray
    total: np.ndarray
    most: np.ndarray
    known: np.ndarray

    @classmethod
    def of(
        cls, row: np.ndarray, place: np.ndarray, values: np.ndarray, shape: tuple[int, int]
    ) -> _Measured:
        """Those of some links by row, place of the relation and log(1 + d)."""
        at, size = row * shape[1] + place, shape[0] * shape[1]
        links, total, known = (
            np.bincount(at, weights, minlength=size).astype(float).reshape(shape)
            for weights in (np.ones(len(at)), values, values > 0)
        )
        most = np.zeros(shape)
        np.maximum.at(most, (row, place), values)
        return cls(links, total, most, known)

    def repeated(self, times: int) -> _Measured:
        """Those of so many rows like the only one."""
        parts = self.links, self.total, self.most, self.known
        return _Measured(*(np.tile(part, (times, 1)) for part in parts))

    def together(self) -> np.ndarray:
        """The measures of all relations and then their means, ``[n, 3 num_relations + 3]``."""
        mean, many = self.total / np.maximum(self.links, 1), np.log1p(self.known)
        out = np.stack([mean, self.most, many], axis=2)
        n, count, _ = out.shape
        return np.concatenate([out.reshape(n, count * MEASURES), out.mean(axis=1)], axis=1)
