"""An engine's embeddings, gains, biases and foldings in a store, so that Cypher can recommend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coldstart.folding import fold_items, fold_users
from kg.stores.base import CypherStore
from kg.stores.protocol import WriteReport
from kg.stores.values import (
    BIAS_PROPERTY,
    FAMILIARITY_PROPERTY,
    FOLDED_PROPERTY,
    GAIN_PROPERTY,
    QUERY_PROPERTY,
    VECTOR_PROPERTY,
)
from kg.vectors import NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine


@dataclass(frozen=True)
class WriteBack:
    """What a write-back came to.

    Args:
        reports: one per node type and vector property, in the order they were written.
        length: of the folded item vectors, see :mod:`coldstart.folding`.
        cypher: a Neo4j query that recommends: parameters ``$user`` and ``$k``.
    """

    reports: dict[tuple[str, str], WriteReport]
    length: float
    cypher: str

    def __str__(self) -> str:
        lines = []
        for (node_type, place), report in self.reports.items():
            lines += [f"{node_type}.{place}:", *(f"  {line}" for line in str(report).splitlines())]
        return "\n".join(lines)


def write_back(
    engine: ColdStartEngine,
    store: CypherStore,
    *,
    index: bool = True,
    on_missing: str = "error",
    dry_run: bool = False,
    batch_size: int = 2_000,
    progress: bool = False,
) -> WriteBack:
    """Write what an engine knows of its users and items to their nodes, by key.

    Each gets its ``embedding``, its gain a (the embedding's length) and its bias b; users also c_u,
    how well they are known (the score is a_u a_i cos(u, i) + b_u + c_u b_i); items also the folded
    vector, with a vector index, and users the query vector that asks it: the nearest items
    by cosine are then the items with the highest score. Only what differs is written.

    Args:
        engine: to take from.
        store: that holds the nodes.
        index: make a vector index on the items' folded vectors.
        on_missing: ``"error"``, or ``"skip"`` to count nodes that the store does not have.
        dry_run: write nothing and report what would be written.
        batch_size: vectors per transaction.
        progress: show bars.

    Raises:
        UnknownNodeError: a user or item has no node in the store; nothing was written.
        DependencyError: the store cannot index vectors here; nothing was written.
    """
    schema = engine.graph.schema
    users, items = engine.embeddings(schema.user), engine.embeddings(schema.item)
    bias = engine.item_bias.cpu().numpy().astype(np.float64)
    known = engine.familiarity.cpu().numpy().astype(np.float64)
    of_users = _numbers(users, np.zeros(len(users))) | {FAMILIARITY_PROPERTY: known}
    folded = fold_items(items.matrix, bias)
    if on_missing == "error":  # of both, before the first of them is written
        for embeddings in (users, items):
            key = schema.key.get(embeddings.node_type)
            store.require_keys(embeddings.node_type, list(embeddings.nodes), key=key)
    work = (  # the index first: where there can be none, nothing is written
        (NodeEmbeddings(items.nodes, folded.matrix), FOLDED_PROPERTY, None, index),
        (users, VECTOR_PROPERTY, of_users, False),
        (items, VECTOR_PROPERTY, _numbers(items, bias), False),
        (NodeEmbeddings(users.nodes, fold_users(users.matrix, known)), QUERY_PROPERTY, None, False),
    )
    reports = {}
    for embeddings, place, numbers, with_index in work:
        reports[embeddings.node_type, place] = store.write_embeddings(
            embeddings,
            place,
            numbers=numbers,
            index=with_index,
            key=schema.key.get(embeddings.node_type),
            on_missing=on_missing,
            dry_run=dry_run,
            batch_size=batch_size,
            progress=progress,
        )
    return WriteBack(reports, folded.length, recommending_cypher(engine))


def _numbers(embeddings: NodeEmbeddings, bias: np.ndarray) -> dict[str, np.ndarray]:
    gain = np.linalg.norm(embeddings.matrix.astype(np.float64), axis=1)
    return {GAIN_PROPERTY: gain, BIAS_PROPERTY: bias}


def recommending_cypher(engine: ColdStartEngine) -> str:
    """A Neo4j query for the ``$k`` best unseen items of ``$user``, by the index.

    The index is asked for more than ``$k`` items, as some of them are seen, and as it finds more of
    the best ones then.
    """
    from kg.stores.bolt import quoted
    from kg.stores.neo4j import vector_index_name

    schema = engine.graph.schema
    user, relation, item = schema.interaction
    user_key, item_key = schema.key_of(user), schema.key_of(item)
    name = vector_index_name(item, FOLDED_PROPERTY).replace("\\", "\\\\").replace("'", "\\'")
    return (
        f"MATCH (u:{quoted(user)} {{{quoted(user_key)}: $user}})\n"
        f"CALL db.index.vector.queryNodes('{name}', 4 * $k + 100, u.{quoted(QUERY_PROPERTY)})\n"
        "YIELD node, score\n"
        f"WHERE NOT (u)-[:{quoted(relation)}]->(node)\n"
        f"RETURN node.{quoted(item_key)} AS item, score ORDER BY score DESC LIMIT $k"
    )
