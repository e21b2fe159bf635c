"""Graph encoders: what turns a graph into feature groups of users and items.

The default propagation and the trained networks are two of them, and a user's own may stand beside
them. An encoder is fitted once on a graph; the groups that come out of it (see
:class:`gnn.groups.FeatureGroup`) then make features of any node, also one that comes later, and are
what an engine saves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from gnn import groups as made
from gnn.data import NodeInputs
from gnn.groups import FeatureGroup
from gnn.network import NetworkConfig
from gnn.networked import FrozenNetwork, Networked
from gnn.prominence import Prominence
from gnn.propagate import linked_groups
from gnn.words import Pieces, Words
from kg.graph import KnowledgeGraph

log = logging.getLogger(__name__)

Groups = tuple[Sequence[FeatureGroup], Sequence[FeatureGroup]]
"""Of users and of items."""


class GraphEncoder(Protocol):
    """Fits feature groups on a graph.

    An engine with groups of a user's own is loaded by giving the encoder again:
    ``ColdStartEngine.load(folder, graph_encoders=[mine])``.
    """

    kinds: ClassVar[tuple[type, ...]]
    """Classes of the groups that come out of :meth:`fit`, and of what these are made of.

    Frozen dataclasses, each with a ``kind`` of its own (a ``ClassVar`` string) that no other class
    has, of arrays, numbers, strings, other such dataclasses, and tuples of these: so they are saved
    and loaded.
    """

    def fit(
        self,
        graph: KnowledgeGraph,
        user_inputs: NodeInputs,
        item_inputs: NodeInputs,
        positives: np.ndarray,
        *,
        rng: np.random.Generator,
        device: torch.device,
        progress: Callable[[str], None] = log.debug,
    ) -> Groups:
        """The feature groups of users and of items.

        Every statistic must come from warm nodes, and a group that saw interactions must be
        cross-fitted: else its rows for warm nodes look better than those of a cold node ever will.

        Args:
            graph: the typed graph.
            user_inputs: of all users, in row order.
            item_inputs: of all items, in row order.
            positives: distinct rows of user and item, ``[2, num_pairs]``; the nodes in it are warm.
            rng: of everything random.
            device: where heavy arithmetic belongs.
            progress: called with a sentence at every step.
        """
        ...


@dataclass(frozen=True)
class PropagationEncoder:
    """The default: texts, links, numbers and categories as they are, no training; DESIGN 5."""

    kinds: ClassVar[tuple[type, ...]] = (
        made.Constant,
        made.Text,
        made.TextKernel,
        made.NeighbourText,
        made.OneHot,
        made.NeighbourOneHot,
        made.Gaussians,
        made.Category,
        Prominence,
        Words,
        Pieces,
    )

    def fit(
        self,
        graph: KnowledgeGraph,
        user_inputs: NodeInputs,
        item_inputs: NodeInputs,
        positives: np.ndarray,
        *,
        rng: np.random.Generator,
        device: torch.device,
        progress: Callable[[str], None] = log.debug,
    ) -> Groups:
        """A group per kind of text, relation, number and category; see :mod:`gnn.propagate`."""
        users, items = (np.unique(rows) for rows in positives)
        return linked_groups(user_inputs, users), linked_groups(item_inputs, items)


@dataclass(frozen=True)
class NetworkEncoder:
    """Trained graph networks, cross-fitted.

    Args:
        config: of the networks; ``interactions`` and ``cold_share`` are off here.
        folds: so many networks, each without a share of the interactions; 2 to 100.
    """

    config: NetworkConfig
    folds: int = 4
    kinds: ClassVar[tuple[type, ...]] = (Networked, FrozenNetwork)

    def fit(
        self,
        graph: KnowledgeGraph,
        user_inputs: NodeInputs,
        item_inputs: NodeInputs,
        positives: np.ndarray,
        *,
        rng: np.random.Generator,
        device: torch.device,
        progress: Callable[[str], None] = log.debug,
    ) -> Groups:
        """One group of users and one of items; see :mod:`gnn.crossfit`."""
        from gnn.crossfit import cross_fitted

        users, items = cross_fitted(
            *(graph, user_inputs, item_inputs, positives, self.config),
            folds=self.folds,
            seed=int(rng.integers(2**31)),
            device=device,
            progress=progress,
        )
        return (users,), (items,)


def by_kind(encoders: Sequence[GraphEncoder]) -> dict[str, type]:
    """The classes that feature groups are made of, by kind: ours and those of further encoders.

    Raises:
        ValueError: two classes have the same kind, so that one would be loaded as the other.
    """
    found: dict[str, type] = {}
    for encoder in (PropagationEncoder, NetworkEncoder, *encoders):
        for cls in encoder.kinds:
            kind = cls.kind  # pyright: ignore[reportAttributeAccessIssue]
            if (other := found.setdefault(kind, cls)) is not cls:
                raise ValueError(
                    f"the feature groups {name_of(cls)} and {name_of(other)} both have the kind "
                    f"{kind!r}, by which a saved one is told from the other; give {cls.__name__} "
                    "another"
                )
    return found


def fitted_groups(
    encoders: Sequence[GraphEncoder],
    graph: KnowledgeGraph,
    user_inputs: NodeInputs,
    item_inputs: NodeInputs,
    positives: np.ndarray,
    *,
    rng: np.random.Generator,
    device: torch.device,
    progress: Callable[[str], None] = log.debug,
) -> tuple[list[FeatureGroup], list[FeatureGroup]]:
    """The feature groups that some encoders make of a graph; arguments as of an encoder's ``fit``.

    Raises:
        ValueError: two classes of groups have the same kind, or an encoder made a group of a class
            that is neither ours nor named by its ``kinds``.
    """
    by_kind(encoders)  # clashes are told before anything takes long
    users: list[FeatureGroup] = []
    items: list[FeatureGroup] = []
    for encoder in encoders:
        some, known = (graph, user_inputs, item_inputs, positives), by_kind([encoder]).values()
        found = encoder.fit(*some, rng=rng, device=device, progress=progress)
        for part in (p for groups in found for group in groups for p in _parts(group)):
            if type(part) not in known:
                names = [cls.__name__ for cls in encoder.kinds]
                raise ValueError(
                    f"{name_of(type(encoder))} made a feature group of {name_of(type(part))}, "
                    f"which its kinds {names} do not name, so that it could not be loaded; add it"
                )
        users += found[0]
        items += found[1]
    return users, items


def name_of(cls: type) -> str:
    """A class with the module that it is in."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _parts(value: Any) -> Iterator[Any]:
    """A dataclass and those that it is made of."""
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _parts(part)
