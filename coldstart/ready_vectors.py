"""Ready-made vectors by name, of images or sound say: one feature group each, missing ones zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kg.errors import AlignmentError
from kg.graph import KnowledgeGraph
from kg.growing import grown
from kg.vectors import NodeEmbeddings, Vocabulary

Ready = Mapping[str, Mapping[str, NodeEmbeddings]]
"""By node type and name, as ``{"Movie": {"poster": NodeEmbeddings(...)}}``."""


def aligned(graph: KnowledgeGraph, given: Ready) -> dict[str, dict[str, NodeEmbeddings]]:
    """The vectors in the row order of the graph; a node without one has a zero row.

    Raises:
        ValueError: a type is neither that of users nor that of items, a name is taken, or a vector
            holds NaN or infinity.
        UnknownNodeError: a vector is of a node that is not in the graph.
        AlignmentError: vectors are of another type of node than they are named by.
    """
    sides = (graph.schema.user, graph.schema.item)
    out: dict[str, dict[str, NodeEmbeddings]] = {}
    for node_type, named in given.items():
        if node_type not in sides:
            raise ValueError(
                f"vectors= are of users ({sides[0]}) and items ({sides[1]}), got {node_type!r}; "
                "link what has them to an item, or give the items these vectors"
            )
        nodes = graph.vocabularies[node_type]
        for name, vectors in named.items():
            if name in ("text", "history"):
                raise ValueError(f"vectors= named {name!r} are made by the engine; rename them")
            check_vectors(vectors, node_type, f"{name!r} vector")
            matrix = np.zeros((len(nodes), vectors.dim), np.float32)
            matrix[nodes.rows(vectors.nodes.keys)] = vectors.matrix
            out.setdefault(node_type, {})[name] = NodeEmbeddings(nodes, matrix)
    return out


def after_change(
    known: Ready,
    graph: KnowledgeGraph,
    kept: Mapping[str, np.ndarray],
    changed: Mapping[str, Vocabulary],
    given: Ready,
) -> dict[str, dict[str, NodeEmbeddings]]:
    """All vectors after a change of the graph; a node without a new one keeps what it had.

    Args:
        known: before it.
        graph: after it.
        kept: old rows that stay, in order, by node type; a type that lost none is absent.
        changed: nodes that were added or changed, by type.
        given: vectors of some of these.

    Raises:
        AlignmentError: a vector is of another length than in training, of a name that there was
            none of, or of a node that is not changed.
    """
    for node_type, named in given.items():
        if absent := sorted(named.keys() - known.get(node_type, {}).keys()):
            raise AlignmentError(
                f"the engine was fitted without vectors {absent} of {node_type}; it has "
                f"{_told(known)}; leave the others out, or fit again with vectors="
            )
    out: dict[str, dict[str, NodeEmbeddings]] = {}
    for node_type, named in known.items():
        nodes = graph.vocabularies[node_type]
        for name, before in named.items():
            matrix = before.matrix
            if node_type in kept:
                matrix = matrix[kept[node_type]]
            rows, values = np.empty(0, np.int64), np.empty((0, before.dim), np.float32)
            if (new := given.get(node_type, {}).get(name)) is not None:
                rows = _rows(new, name, nodes, changed.get(node_type), before.dim)
                values = new.matrix
            out.setdefault(node_type, {})[name] = NodeEmbeddings(
                nodes, _with_rows(matrix, len(nodes), rows, values)
            )
    return out


def _with_rows(
    matrix: np.ndarray, num_rows: int, rows: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """A matrix with rows behind, zero but for those given; copied if a row inside changes."""
    num_known = len(matrix)
    is_new = rows >= num_known
    if num_rows > num_known:
        behind = np.zeros((num_rows - num_known, matrix.shape[1]), np.float32)
        behind[rows[is_new] - num_known] = values[is_new]
        matrix = grown(matrix, behind)
    if not is_new.all():
        matrix = matrix.copy()
        matrix[rows[~is_new]] = values[~is_new]
    return matrix


def of_one(known: Mapping[str, NodeEmbeddings], given: Mapping[str, np.ndarray]) -> dict:
    """The vectors of a node that is not in the graph, float32 ``[1, dim]`` by name.

    Raises:
        ValueError: one is of another length than in training, or of a name that there was none of.
    """
    if absent := sorted(given.keys() - known.keys()):
        raise ValueError(f"the engine was fitted without vectors {absent}; leave them out")
    out = {}
    for name, vectors in known.items():
        one = np.asarray(given.get(name, np.zeros(vectors.dim)), np.float32)
        if one.shape != (vectors.dim,) or not np.isfinite(one).all():
            raise ValueError(
                f"vectors= {name!r}: expected [{vectors.dim}] finite floats, got {list(one.shape)}"
            )
        out[name] = one[None]
    return out


def _told(known: Ready) -> str:
    found = [f"{name!r} of {node_type}" for node_type, named in known.items() for name in named]
    return ", ".join(found) or "none"


def _rows(
    new: NodeEmbeddings, name: str, nodes: Vocabulary, changed: Vocabulary | None, dim: int
) -> np.ndarray:
    if new.dim != dim:
        raise AlignmentError(
            f"{nodes.node_type} vectors {name!r}: the engine was fitted on {dim} floats each, got "
            f"{new.dim}; give vectors of the same kind as in training"
        )
    check_vectors(new, nodes.node_type, f"{name!r} vector")
    keys = new.nodes.keys
    there = (
        np.zeros(len(new.nodes), int) - 1 if changed is None else changed.rows(keys, missing="mark")
    )
    if (there < 0).any():
        raise AlignmentError(
            f"{nodes.node_type} {new.nodes[int(np.argmax(there < 0))]!r} has a new vector {name!r} "
            "and is not in the change; name it in nodes= of the delta"
        )
    return nodes.rows(keys)


def check_vectors(vectors: NodeEmbeddings, node_type: str, called: str) -> None:
    """Raise where vectors are not of the nodes that they are named by, or hold no numbers.

    Args:
        vectors: of any kind, text vectors or others.
        node_type: that they are named by.
        called: what one of them is, in an error.

    Raises:
        AlignmentError: they are of another type.
        ValueError: one holds NaN or infinity.
    """
    if vectors.node_type != node_type:
        raise AlignmentError(
            f"{called}s of {node_type} were expected, and vectors of {vectors.node_type} came; "
            "name them by the type of their nodes"
        )
    bad = np.flatnonzero(~np.isfinite(vectors.matrix).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{node_type} {vectors.nodes[int(bad[0])]!r} has a {called} with NaN or infinity, "
            f"{len(bad)} in all; give finite numbers, or zeros where there is nothing"
        )
