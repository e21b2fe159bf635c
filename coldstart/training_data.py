"""What a scorer may look at while it is fitted, and a grid of fitted scorers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from coldstart.ready_vectors import Ready
from coldstart.scorer import Scorer
from gnn.data import NodeInputs, node_inputs
from gnn.strength import SHARE as STRENGTH_SHARE
from gnn.strength import Strengths
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.vectors import NodeEmbeddings

Settings = Mapping[str, Callable[[], Scorer]]
"""A scorer for each setting of a grid, made when called."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a baseline may look at: the training graph, and vectors of texts and of other things.

    Args:
        graph: with training interactions only.
        texts: text vectors by node type.
        vectors: ready-made ones by node type and name, in row order.
        rng: seed of factor models.
        shared: what several families need, worked out once.
        matrix: training positives, sparse ``[num_users, num_items]``.
        weighted: the same by how strong they are (:mod:`gnn.strength`); ``None``: all are alike.
        warm_users: rows of the users with a training positive.
        warm_items: rows of the items with one.
    """

    graph: KnowledgeGraph
    texts: Mapping[str, NodeEmbeddings]
    vectors: Ready = field(default_factory=dict)
    rng: int = 0
    shared: dict = field(default_factory=dict)
    matrix: sparse.csr_matrix = field(init=False)
    weighted: sparse.csr_matrix | None = field(init=False, default=None)
    warm_users: np.ndarray = field(init=False)
    warm_items: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        positives = self.graph.positives()
        shape = len(self.graph.users), len(self.graph.items)
        ones = np.ones(positives.shape[1], np.float32)
        set_(self, "matrix", sparse.csr_matrix((ones, tuple(positives)), shape=shape))
        weights = self.graph.positive_weights()
        if weights is not None:
            values = Strengths.of(weights, STRENGTH_SHARE)(weights)
            set_(self, "weighted", sparse.csr_matrix((values, tuple(positives)), shape=shape))
        set_(self, "warm_users", np.unique(positives[0]))
        set_(self, "warm_items", np.unique(positives[1]))

    def inputs(self, node_type: str, edge_types: Collection[EdgeType] | None = None) -> NodeInputs:
        """Feature inputs of all nodes of a type, from some edge types or from all."""
        text = self.texts[node_type].matrix if node_type in self.texts else None
        named = {n: v.matrix for n, v in self.vectors.get(node_type, {}).items()}
        return node_inputs(self.graph, node_type, text, edge_types=edge_types, vectors=named)
