"""Ready-made vectors of images, sound and the like, alone or beside text vectors.

A node may lack a vector: its row is zero, which stands for "none" everywhere, and is counted.
Where several kinds are joined into one vector, a node that lacks one kind gets the mean of those
that have it, so that after centring this part says nothing about it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from kg.errors import AlignmentError
from kg.vectors import Key, NodeEmbeddings, Vocabulary

logger = logging.getLogger(__name__)


def ready_vectors(nodes: Vocabulary, keys: Sequence[Key], matrix: np.ndarray) -> NodeEmbeddings:
    """Vectors made elsewhere, in the row order of a graph; zero for the nodes without one.

    Args:
        nodes: of the graph, ``graph.vocabularies["Movie"]``.
        keys: of the nodes that have a vector, each once.
        matrix: their vectors, ``[len(keys), dim]``; a row with NaN counts as missing.

    Raises:
        AlignmentError: there is not one row per key, or a key comes twice.
        UnknownNodeError: a key is not among the nodes.
        ValueError: a number is infinite.
    """
    matrix = np.asarray(matrix, np.float32)
    if matrix.ndim != 2 or len(matrix) != len(keys):
        expected, got = f"[{len(keys)}, dim]", list(matrix.shape)
        raise AlignmentError(f"{nodes.node_type} vectors: expected {expected}, got {got}")
    rows = np.asarray(nodes.rows(keys), np.int64)
    found, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        twice = nodes[int(found[np.argmax(counts > 1)])]
        raise AlignmentError(f"{nodes.node_type} {twice!r} has two vectors; keep one of them")
    if np.isinf(matrix).any():
        bad = keys[int(np.argmax(np.isinf(matrix).any(axis=1)))]
        raise ValueError(f"the vector of {nodes.node_type} {bad!r} is infinite; make it again")
    out = np.zeros((len(nodes), matrix.shape[1]), np.float32)
    whole = ~np.isnan(matrix).any(axis=1)
    out[rows[whole]] = matrix[whole]
    if missing := int((~out.any(axis=1)).sum()):
        logger.warning("%s: %d of %d nodes have no vector", nodes.node_type, missing, len(nodes))
    return NodeEmbeddings(nodes, out)


def joined(*parts: NodeEmbeddings) -> NodeEmbeddings:
    """One vector per node out of several kinds, say of its text and its image.

    Each part is brought to unit length, so that none outweighs another; the rows of a part that are
    missing (zero) get its mean. A node that lacks all parts keeps a zero row.

    Args:
        parts: of the same nodes in the same order.

    Raises:
        AlignmentError: the parts are of different nodes.
        ValueError: there is no part.
    """
    if not parts:
        raise ValueError("there is nothing to join; give at least one NodeEmbeddings")
    nodes, blocks = parts[0].nodes, []
    missing_all = np.ones(len(nodes), bool)
    for part in parts:
        if list(part.nodes) != list(nodes):
            raise AlignmentError(
                f"{part.nodes.node_type} vectors are of other nodes, or in another order, than the "
                "first ones; bring them to one order with ready_vectors"
            )
        lengths = np.linalg.norm(part.matrix, axis=1, keepdims=True)
        has = lengths[:, 0] > 0
        block = np.divide(part.matrix, lengths, where=lengths > 0, out=np.zeros_like(part.matrix))
        if has.any():
            block[~has] = block[has].mean(axis=0)
        missing_all &= ~has
        blocks.append(block)
    matrix = np.concatenate(blocks, axis=1)
    matrix[missing_all] = 0
    return NodeEmbeddings(nodes, matrix)
