"""Propagation: the feature groups of one side of the graph, fitted once, applied to any node."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gnn.data import NodeInputs
from gnn.groups import (
    Category,
    Constant,
    FeatureGroup,
    Gaussians,
    KeepsRows,
    NeighbourOneHot,
    NeighbourText,
    OneHot,
    Raw,
    Text,
    TextKernel,
    still_there,
)
from gnn.networked import Networked
from gnn.prominence import PROMINENCE, Prominence
from gnn.raws import square_norms
from gnn.words import Pieces, Words

log = logging.getLogger(__name__)

MAX_RELATIONS = 48
"""A side with more relations puts its smallest ones into one shared group."""

MAX_FAR_RELATIONS = 16
"""So many of what entities are linked to, the largest, have a group of their own."""

MOST_FAR_LINKS = 300
"""Of all far relations together, per node: what many entities share tells little of each node."""

FAR_ENTITIES = "far entities"
"""Name of the group of everything that entities are linked to.

In it an entity is the same however it is reached, and not another one for each of what may be
thousands of pairs of relations (docs/measured.md, "Knowledge graphs of many relations").
"""

MOST_ONWARD = 20
"""A far relation is left out where an entity has more links than so many on average.

Genres of an artist tell of the songs; everybody who was born where its label is does not.
"""


@dataclass(frozen=True, eq=False)
class Propagation:
    """The feature groups of one side and the scale of each.

    Args:
        groups: fitted groups.
        scales: root mean squared norm of every group's warm rows; features are divided by it.
    """

    groups: tuple[FeatureGroup, ...]
    scales: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self.groups)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> list[Raw]:
        """Raw features of some rows, a block per group, not yet divided by the scales."""
        return [group.raw(inputs, rows, device) for group in self.groups]

    def unknown_links(self, inputs: NodeInputs, rows: np.ndarray) -> np.ndarray:
        """How many links of these rows lead to entities without features, int64 ``[n]``.

        Those are entities that fewer than two warm nodes had at training, and all entities of a
        relation that made no group.
        """
        counts = np.zeros(len(rows), np.int64)
        silent = dict(inputs.relations)
        for group in self.groups:
            # Those of several relations repeat what groups of one relation know.
            if isinstance(group, OneHot | Networked) and silent.keys() >= set(group.relations):
                counts += group.unknown(inputs, rows)
                for relation in group.relations:
                    silent.pop(relation, None)
        for links in silent.values():
            counts += links.take(rows).degrees
        return counts

    @property
    def relations(self) -> set[str]:
        """Relations to entities, near and far, that some group of one-hot features has."""
        return {name for g in self.groups if isinstance(g, OneHot) for name in g.relations}

    def known_from_afar(self, inputs: NodeInputs) -> np.ndarray:
        """Whether the entities of a node are linked to what has features, bool ``[n]``."""
        every, known = np.arange(len(inputs)), np.zeros(len(inputs), bool)
        for group in self.groups:
            if isinstance(group, OneHot) and inputs.far.keys() >= set(group.relations):
                known |= group.raw(inputs, every, torch.device("cpu")).indptr.diff().numpy() > 0
        return known

    def renumbered(self, node_type: str, kept: dict[str, np.ndarray], entity: dict[str, str]):
        """The same groups after nodes were removed and the rest moved up.

        Args:
            node_type: type of the nodes that this side describes.
            kept: old rows that stay, in order, by node type.
            entity: node type at the far end of every relation.
        """
        own = kept.get(node_type)
        groups: list[FeatureGroup] = []
        for group in self.groups:
            if isinstance(group, OneHot):
                group = group.renumbered(kept, entity)
            elif isinstance(group, Prominence):
                group = group.without_removed(node_type, kept, entity)
            elif isinstance(group, NeighbourOneHot):
                group = replace(
                    group, column=still_there(group.column, own), warm=still_there(group.warm, own)
                )
            elif isinstance(group, NeighbourText):
                group = replace(group, warm=still_there(group.warm, own))
            elif isinstance(group, KeepsRows):
                group = group.renumbered(node_type, kept)
            groups.append(group)
        return Propagation(tuple(groups), self.scales)


def fit_propagation(
    inputs: NodeInputs, warm: np.ndarray, groups: Sequence[FeatureGroup] | None = None
) -> Propagation:
    """Feature groups of one side and a constant, scaled by its warm rows.

    Args:
        inputs: inputs of all nodes, in row order.
        warm: rows of the nodes with a training interaction, int64 ``[num_warm]``.
        groups: fitted ones; those of :func:`linked_groups` by default.
    """
    groups = linked_groups(inputs, warm) if groups is None else groups
    fitted = scaled([Constant(), *groups], inputs, warm)
    return replace(fitted, groups=_distinctly_named(fitted.groups))


def scaled(groups: Sequence[FeatureGroup], inputs: NodeInputs, warm: np.ndarray) -> Propagation:
    """Groups with the scale of each; those that say nothing of any warm node are left out."""
    scales = [root_mean_square(group.raw(inputs, warm, torch.device("cpu"))) for group in groups]
    useful = [(g, s) for g, s in zip(groups, scales, strict=True) if s > 0]
    return Propagation(tuple(g for g, _ in useful), tuple(s for _, s in useful))


def linked_groups(inputs: NodeInputs, warm: np.ndarray) -> list[FeatureGroup]:
    """The groups of the default propagation, with every statistic from the warm rows."""
    groups: list[FeatureGroup] = []
    is_warm = np.zeros(len(inputs), bool)
    is_warm[warm] = True
    text = None
    if inputs.text is not None:
        text = Text.fit("text", "text", inputs, warm)
        groups += [text, TextKernel.fit("text kernel", text)]
    if words := Words.fit("words", inputs, warm):
        groups.append(words)
    if pieces := Pieces.fit("pieces of words", inputs, warm):
        groups.append(pieces)
    groups += [Text.fit(name, name, inputs, warm) for name in inputs.vectors]
    by_name = _relation_groups(inputs, warm)
    groups += [OneHot.fit(name, some, inputs, warm) for name, some in by_name.items()]
    if len(inputs.relations) > 1:
        groups.append(OneHot.fit("entities", tuple(inputs.relations), inputs, warm))
    far = far_relations(inputs, warm)
    groups += [OneHot.fit(name, (name,), inputs, warm) for name in _largest(far, MAX_FAR_RELATIONS)]
    if len(far) > 1:
        groups.append(OneHot.fit(FAR_ENTITIES, tuple(far), inputs, warm, together=True))
    of_their_own = [r for r in inputs.relations if r in by_name]
    if prominence := Prominence.fit(PROMINENCE, of_their_own, inputs, warm):
        groups.append(prominence)
    for relation in inputs.same_type:
        groups.append(NeighbourOneHot.fit(f"{relation} nodes", relation, inputs, warm))
        if text is not None:
            groups += [
                NeighbourText(f"{relation} text", relation, text, is_warm, blend=False),
                NeighbourText(f"{relation} blend", relation, text, is_warm, blend=True),
            ]
        if inputs.peer_history is not None:
            history = Text.fit(f"{relation} history", "history", inputs, warm)
            groups.append(NeighbourText(history.name, relation, history, is_warm, blend=False))
    groups += [g for name in inputs.numeric if (g := Gaussians.fit(name, inputs, warm))]
    groups += [g for name in inputs.categorical if (g := Category.fit(name, inputs, warm))]
    return groups


def _distinctly_named(groups: Sequence[FeatureGroup]) -> tuple[FeatureGroup, ...]:
    """The groups, with their kind behind a name that is taken.

    A relation and a property may share a name, and the parts of a score are told apart by it.
    """
    taken, out = {"interactions", "popularity"}, []
    for group in groups:
        name = group.name
        if name in taken:
            name = f"{name} {group.kind}"
        while name in taken:
            name += "'"
        taken.add(name)
        out.append(group if name == group.name else _renamed(group, name))
    return tuple(out)


def _renamed(group: Any, name: str) -> FeatureGroup:
    return replace(group, name=name)


def root_mean_square(raw: Raw) -> float:
    """Root of the mean squared length of the rows."""
    square = square_norms(raw)
    return float(square.double().mean().sqrt()) if len(square) else 0.0


def largest_relations(inputs: NodeInputs, warm: np.ndarray) -> list[str]:
    """The :data:`MAX_RELATIONS` relations that warm nodes have most links of, as in the inputs."""
    sizes = {name: links.degrees[warm].sum() for name, links in inputs.relations.items()}
    return _largest(sizes, MAX_RELATIONS)


def _relation_groups(inputs: NodeInputs, warm: np.ndarray) -> dict[str, tuple[str, ...]]:
    """Relations with a group of their own, and one group of all others."""
    own = largest_relations(inputs, warm)
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in own}
    if shared := sorted(inputs.relations.keys() - groups.keys()):
        log.info(
            "%d relations, those with the fewest links, share the group 'small relations'; a group "
            "of its own is for the largest %d",
            *(len(shared), len(own)),
        )
        groups["small relations"] = tuple(shared)
    return groups


def far_relations(inputs: NodeInputs, warm: np.ndarray) -> dict[str, int]:
    """How many links warm nodes have by each far relation; those with too many are left out.

    Those whose entities have the fewest links each come first, where all are too many.

    Args:
        inputs: of all nodes.
        warm: rows of those with a training interaction.
    """
    sizes, means = {}, {}
    for name, far in inputs.far.items():
        onward = far.onward(inputs.relations[far.near].take(warm))
        if 0 < onward.sum() <= MOST_ONWARD * len(onward):
            sizes[name], means[name] = int(onward.sum()), onward.mean()
    names = list(sizes)
    told = most_telling(list(sizes.values()), list(means.values()), MOST_FAR_LINKS * len(warm))
    kept = {names[at] for at in told.tolist()}
    if len(kept) < len(sizes):
        log.info(
            "%d of %d ways to what entities are linked to are left out, those with the most links "
            "per entity: there are %.0f such links per node, and %d are looked at",
            *(len(sizes) - len(kept), len(sizes), sum(sizes.values()) / len(warm), MOST_FAR_LINKS),
        )
    return {name: size for name, size in sizes.items() if name in kept}


def most_telling(links: Sequence[float], means: Sequence[float], most: float) -> np.ndarray:
    """Positions of far relations, those with the fewest links per entity first.

    Args:
        links: how many there are by each.
        means: per entity.
        most: so many links are looked at together.
    """
    order = np.argsort(means, kind="stable")
    return order[np.cumsum(np.asarray(links, float)[order]) <= most]


def _largest(sizes: Mapping[str, int], most: int) -> list[str]:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:most]
    return [name for name in sizes if name in largest]
