"""Text vectors that come ready: in the order of a graph, and checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coldstart.ready_vectors import check_vectors
from kg.errors import AlignmentError, UnknownNodeError
from kg.graph import KnowledgeGraph
from kg.vectors import NodeEmbeddings


def aligned_texts(
    graph: KnowledgeGraph, texts: Mapping[str, NodeEmbeddings]
) -> dict[str, NodeEmbeddings]:
    """The vectors in the row order of the graph.

    Raises:
        UnknownNodeError: a node has no vector.
        AlignmentError: vectors are of another type of node than they are named by.
        ValueError: a vector holds NaN or infinity.
    """
    out = {}
    for node_type in (graph.schema.user, graph.schema.item):
        if node_type not in texts:
            continue
        nodes, given = graph.vocabularies[node_type], texts[node_type]
        check_vectors(given, node_type, "text vector")
        if given.nodes is not nodes:
            rows = given.nodes.rows(nodes.keys, missing="mark")
            if (rows < 0).any():
                key = nodes[int(np.argmax(rows < 0))]
                raise UnknownNodeError(
                    f"{node_type} {key!r} has no text vector, {int((rows < 0).sum())} in all; "
                    "give a vector for every node (zero where there is no text)"
                )
            given = NodeEmbeddings(nodes, given.matrix[rows])
        out[node_type] = given
    return out


def rows_of_new(
    known: Mapping[str, NodeEmbeddings], graph: KnowledgeGraph, given: Mapping[str, NodeEmbeddings]
) -> dict[str, np.ndarray]:
    """Rows in the graph of text vectors that come with a change, once they are of use to an engine.

    Args:
        known: the text vectors it has.
        graph: after the change.
        given: what comes.

    Returns:
        int64, a row per vector, by node type.

    Raises:
        AlignmentError: the engine has no texts of their type, or they are of another length, or of
            another type of node than they are named by.
        UnknownNodeError: one is of a node that is not in the graph.
        ValueError: one holds NaN or infinity.
    """
    rows = {}
    for node_type, vectors in given.items():
        if node_type not in known:
            raise AlignmentError(
                f"the engine was fitted without texts of {node_type!r}; it has those of "
                f"{list(known) or 'none'}; leave them out of texts=, or fit again with them"
            )
        check_vectors(vectors, node_type, "text vector")
        check_length(node_type, vectors.dim, known[node_type].dim, "texts=")
        rows[node_type] = graph.vocabularies[node_type].rows(vectors.nodes.keys)
    return rows


def check_length(node_type: str, got: int, expected: int, source: str) -> None:
    """Raise where text vectors are of another length than in training.

    Raises:
        AlignmentError: they are.
    """
    if got != expected:
        raise AlignmentError(
            f"{node_type} text vectors: the engine was trained on {expected} floats each, {source} "
            f"has {got}; pass texts= with vectors of the same kind as in training"
        )
