"""The engine's ratings: a head that is trained when it is first asked for, and what it says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from coldstart.ready_vectors import Ready
from gnn.data import Adjacency
from gnn.rating_head import (
    HISTORY,
    Beliefs,
    RatedSide,
    RatingHead,
    RatingRows,
    posterior,
    prior,
)
from gnn.ratings import train_ratings
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import KnowledgeGraph
from kg.vectors import NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

log = logging.getLogger(__name__)


class Basis(NamedTuple):
    """What a rating head is trained on: a graph, and vectors of its nodes."""

    graph: KnowledgeGraph
    texts: Mapping[str, NodeEmbeddings]
    vectors: Ready


class RatingSource:
    """Where the rating head of an engine comes from: it is trained once, when first asked for.

    Until then updates carry along what the engine was fitted on, so that it does not matter when
    somebody asks first; the engines of a row of updates share one source, so that one training
    serves all of them. A removal ends that: what is gone is not trained on later.

    Args:
        head: ready, or ``None``.
        basis: to train on; ``None``: that of the engine that asks.
    """

    def __init__(self, head: RatingHead | None = None, basis: Basis | None = None) -> None:
        self.head, self.basis = head, basis
        self._training = threading.Lock()

    def head_of(self, engine: ColdStartEngine) -> RatingHead:
        """The head, trained now if it has to be.

        Raises:
            GraphError: the interactions have no weights.
        """
        with self._training:
            if self.head is None:
                self.head = trained_head(engine, self.basis or _basis_of(engine))
                self.basis = None
            return self.head

    def after(
        self, engine: ColdStartEngine, delta: GraphDelta, kept: Mapping[str, np.ndarray]
    ) -> RatingSource:
        """The source of the engine that a change makes of this one.

        Args:
            engine: before the change.
            delta: the change.
            kept: old rows that stay, by node type, where nodes are removed.
        """
        basis = self.basis  # read first: another thread may put the head in its place
        if self.head is not None:
            return RatingSource(_renumbered(engine, self.head, kept)) if kept else self
        if delta.removed_nodes or delta.removed_edges:
            return RatingSource()
        return RatingSource(basis=_basis_of(engine)) if basis is None else self


def _basis_of(engine: ColdStartEngine) -> Basis:
    return Basis(engine.graph, engine.texts, engine.vectors)


def trained_head(engine: ColdStartEngine, basis: Basis) -> RatingHead:
    """A rating head for the interactions of a graph.

    Raises:
        GraphError: they have no weights.
    """
    from coldstart.engine import inputs_of_graph

    edges, schema = basis.graph.interactions, basis.graph.schema
    if edges.weight is None:
        raise GraphError(
            f"the {len(edges)} interactions {schema.interaction} have no weights, so that there is "
            f"no scale to rate in; give the column {schema.weight!r} and fit again, or use score() "
            "and recommend(), which need none"
        )
    log.info("training the rating head on %d ratings", len(edges))
    return train_ratings(
        *inputs_of_graph(basis.graph, basis.texts, engine.feature_edges, vectors=basis.vectors),
        edges.index,
        edges.weight,
        engine.config.ratings,
        device=engine.item_vectors.device,
    )


def rated(engine: ColdStartEngine, user_rows: np.ndarray, item_rows: np.ndarray) -> np.ndarray:
    """Ratings of all pairs, float32 ``[num_users, num_items]``.

    Raises:
        GraphError: the interactions have no weights.
    """
    head, schema = engine.ratings.head_of(engine), engine.graph.schema
    users = rating_vectors(engine, head, schema.user, user_rows)
    items = rating_vectors(engine, head, schema.item, item_rows)
    return head.rate(users, items).cpu().numpy()


def rating_vectors(
    engine: ColdStartEngine, head: RatingHead, node_type: str, rows: np.ndarray
) -> torch.Tensor:
    """Vectors [b, f] of some users or items, float32 ``[n, 1 + dim]``.

    They follow from the head, the node's features and its ratings in the graph as it is now; there
    is nothing to keep for a node, and nothing to update. The other side is seen as it was at
    training; of nodes that came later their priors are seen, and how uncertain these are.
    """
    schema = engine.graph.schema
    is_user = node_type == schema.user
    side, other = (head.users, head.items) if is_user else (head.items, head.users)
    other_type = schema.item if is_user else schema.user
    some, back = np.unique(rows, return_inverse=True)
    mean, precision, ratings = _prior(engine, head, side, node_type, some)
    needed, places = np.unique(ratings.links.indices, return_inverse=True)
    links = Adjacency(ratings.links.indptr, places, len(needed))
    others = _beliefs(engine, head, other, other_type, needed)
    found = posterior(RatingRows(links, ratings.values), others, mean, precision, head.noise)
    return found.mean[torch.from_numpy(back).to(mean.device)]


def _prior(
    engine: ColdStartEngine, head: RatingHead, side: RatedSide, node_type: str, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, RatingRows]:
    """Mean and precision of the priors of distinct nodes, and their ratings in standard units."""
    graph = engine.graph
    own = 0 if node_type == graph.schema.user else 1
    shape = len(rows), graph.num_nodes(graph.schema.item if own == 0 else graph.schema.user)
    edges = graph.interactions
    place = np.full(graph.num_nodes(node_type), -1, np.int64)
    place[rows] = np.arange(len(rows))
    wanted = np.flatnonzero(place[edges.index[own]] >= 0)
    values = np.empty(0) if edges.weight is None else edges.weight[wanted]
    here, there = place[edges.index[own][wanted]], edges.index[1 - own][wanted]
    ratings = RatingRows.of(here, there, (values - head.mean) / head.scale, *shape)
    inputs, places = engine._inputs_of(node_type, rows), np.arange(len(rows))
    device = side.reference.mean.device
    return *prior(side, inputs, places, ratings.links, device), ratings


def _beliefs(
    engine: ColdStartEngine, head: RatingHead, side: RatedSide, node_type: str, rows: np.ndarray
) -> Beliefs:
    """What the other side sees of these nodes."""
    device = side.reference.mean.device
    at = side.positions(rows)
    known = torch.from_numpy(np.maximum(at, 0)).to(device)
    mean, covariance = side.reference.mean[known], side.reference.covariance[known]
    new = np.flatnonzero(at < 0)
    if len(new):
        new_mean, precision, _ = _prior(engine, head, side, node_type, rows[new])
        here = torch.from_numpy(new).to(device)
        mean[here], covariance[here] = new_mean, torch.diag_embed(1 / precision)
    return Beliefs(mean, covariance)


def _renumbered(
    engine: ColdStartEngine, head: RatingHead, kept: Mapping[str, np.ndarray]
) -> RatingHead:
    """The head after nodes were removed and the rest moved up."""
    from coldstart.updating import warm_after

    schema = engine.graph.schema
    sides = []
    for node_type, other_type, side in (
        (schema.user, schema.item, head.users),
        (schema.item, schema.user, head.items),
    ):
        entity = dict(engine._inputs_of(node_type, np.empty(0, np.int64)).entity_types)
        sides.append(
            replace(
                side,
                features=side.features.renumbered(node_type, dict(kept), entity),
                history=side.history.renumbered(node_type, dict(kept), {HISTORY: other_type}),
                warm=warm_after(engine, node_type, side.warm, kept),
            )
        )
    return replace(head, users=sides[0], items=sides[1])
