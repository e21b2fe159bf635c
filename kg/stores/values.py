"""Vectors and numbers on their way to nodes: what is to be written, and what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kg.errors import AlignmentError, GraphError, StoreError
from kg.stores.names import quoted
from kg.vectors import NodeEmbeddings

VECTOR_PROPERTY = "embedding"
GAIN_PROPERTY, BIAS_PROPERTY = "coldstart_gain", "coldstart_bias"
FAMILIARITY_PROPERTY = "coldstart_familiarity"
FOLDED_PROPERTY, QUERY_PROPERTY = "coldstart_folded", "coldstart_query"
RECOMMENDS = "COLDSTART_RECOMMENDS"
WRITTEN_BACK = (
    VECTOR_PROPERTY,
    GAIN_PROPERTY,
    BIAS_PROPERTY,
    FAMILIARITY_PROPERTY,
    FOLDED_PROPERTY,
    QUERY_PROPERTY,
    RECOMMENDS,
)
"""Properties and a relation that a model makes; a model must not be trained on them."""

DIGEST_FACTOR = 1 + 2**-10


@dataclass(frozen=True)
class NodeValues:
    """What one write puts on nodes of one type.

    Args:
        embeddings: a finite vector per key.
        place: the property that vectors go to.
        key: the property that identifies a node.
        numbers: further float64 ``[num_nodes]`` by property.

    Raises:
        GraphError: a value is not finite, or vectors have no dimension.
        AlignmentError: there is not one number per key.
    """

    embeddings: NodeEmbeddings
    place: str
    key: str
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        node_type, matrix = self.node_type, self.embeddings.matrix
        if self.embeddings.dim == 0:
            raise GraphError(f"{node_type} embeddings have no dimension; nothing was written")
        if not np.isfinite(matrix).all():
            raise self._not_finite(np.asarray(np.isfinite(matrix).all(axis=1)), "its vector")
        names = [self.key, self.place, *self.numbers]
        if self.key in names[1:]:
            raise StoreError(f"{node_type}.{self.key} is the key; write values elsewhere")
        if len(set(names)) < len(names):
            raise StoreError(f"{node_type}: property names repeat: {names[1:]}; rename one")
        for name in names:
            quoted(name)
        numbers = {n: np.asarray(v, np.float64) for n, v in self.numbers.items()}
        for name, values in numbers.items():
            if values.shape != (len(matrix),):
                expected, got = [len(matrix)], list(values.shape)
                raise AlignmentError(f"{node_type}.{name}: expected {expected}, got {got}")
            if not np.isfinite(values).all():
                raise self._not_finite(np.isfinite(values), name)
        object.__setattr__(self, "numbers", numbers)

    def _not_finite(self, finite: np.ndarray, what: str) -> GraphError:
        node = self.embeddings.nodes[int(np.argmin(finite))]
        return GraphError(
            f"{self.node_type} {node!r}: {what} holds NaN or infinity; nothing was written"
        )

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def node_type(self) -> str:
        """The type of node that the values belong to."""
        return self.embeddings.node_type

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self.embeddings.dim

    def take(self, rows: np.ndarray) -> NodeValues:
        """The values of some rows."""
        nodes, matrix = self.embeddings.nodes.take(rows), self.embeddings.matrix[rows]
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        return replace(self, embeddings=NodeEmbeddings(nodes, matrix), numbers=numbers)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Some rows as parameters: ``key``, ``vector``, and ``n0``, ``n1``... for the numbers."""
        keys = self.embeddings.nodes.keys.slice(start, stop - start).to_pylist()
        vectors = self.embeddings.matrix[start:stop].tolist()
        out = [{"key": k, "vector": v} for k, v in zip(keys, vectors, strict=True)]
        for at, values in enumerate(self.numbers.values()):
            for row, value in zip(out, values[start:stop].tolist(), strict=True):
                row[f"n{at}"] = value
        return out


@dataclass(frozen=True)
class Comparison:
    """How values that are to be written compare with those in the store.

    Args:
        unchanged: rows that are there as given, bool ``[num_rows]``.
        missing: rows whose key has no node, bool ``[num_rows]``.
        same_space: whether any of the nodes has a vector of this length.
    """

    unchanged: np.ndarray
    missing: np.ndarray
    same_space: bool

    @property
    def to_write(self) -> np.ndarray:
        """Rows that must be written, ascending."""
        return np.flatnonzero(~(self.unchanged | self.missing))


def digests(matrix: np.ndarray) -> np.ndarray:
    """One number per vector that a store can work out too, from what it holds, float64.

    Horner's rule, ``s <- (s + x) * 1.0009765625``, number by number in float64: every step is
    rounded as the standard says, here and on a server, so equal vectors give equal digests, and
    vectors that differ in a float32 digit, or in their order, practically never do.
    """
    out = np.zeros(len(matrix))
    for start in range(0, len(matrix), 4096):  # a block that fits the processor's cache
        part = out[start : start + 4096]
        for column in np.ascontiguousarray(matrix[start : start + 4096].T, np.float64):
            part += column
            part *= DIGEST_FACTOR
    return out
