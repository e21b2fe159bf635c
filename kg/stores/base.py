"""What every Cypher store can do: hand out a graph, take a graph, take and hand out vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kg.errors import StoreError, UnknownNodeError
from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType
from kg.stores.lists import lists_of
from kg.stores.names import quoted
from kg.stores.protocol import WriteReport
from kg.stores.reading import ReadingStore, progress_bar
from kg.stores.values import RECOMMENDS, VECTOR_PROPERTY, NodeValues
from kg.vectors import NodeEmbeddings

_SKIP = "nothing was written; write the graph first or pass on_missing='skip'"


class CypherStore(ReadingStore):
    """What the stores share; a store supplies the methods of :class:`StorePrimitives`."""

    def write(
        self, graph: KnowledgeGraph, *, batch_size: int = 10_000, progress: bool = False
    ) -> WriteReport:
        """Make the store hold every node and edge of a graph; write it twice and nothing changes.

        Nodes are merged by key and edges by their two ends: what is there gets the graph's
        properties, weight and time, what else the store holds stays. A property that is null is
        removed from its node. A time is written as the integer that the graph holds.

        Args:
            graph: nodes with their properties, edges with weight and time.
            batch_size: rows per transaction.
            progress: show a bar.

        Returns:
            How many nodes and edges are now in the store, and how many parallel edges were folded.

        Raises:
            StoreError: a name or property type that this store cannot hold, or a failure.
        """
        _at_least_one(batch_size, "batch_size")
        self._check_names(graph)
        merged: dict[EdgeType, int] = {}
        total = graph.num_nodes() + graph.num_edges()
        with progress_bar(progress, f"write {self.name}", total) as bar:
            for node_type in graph.node_types:
                key = graph.schema.key_of(node_type)
                self._write_nodes(node_type, key, graph.node_table(node_type), batch_size, bar)
            for edge_type, edges in graph.edges.items():
                distinct = last_of_parallel(edges)
                if len(distinct) < len(edges):
                    merged[edge_type] = len(edges) - len(distinct)
                self._write_edges(edge_type, graph.with_edges(edge_type, distinct), batch_size, bar)
        nodes = {t: graph.num_nodes(t) for t in graph.node_types}
        written = {e: graph.num_edges(e) - merged.get(e, 0) for e in graph.edge_types}
        return WriteReport(nodes=nodes, edges=written, merged=merged)

    def write_embeddings(
        self,
        embeddings: NodeEmbeddings,
        property: str = VECTOR_PROPERTY,
        *,
        numbers: Mapping[str, np.ndarray] | None = None,
        index: bool = False,
        key: str | None = None,
        on_missing: str = "error",
        dry_run: bool = False,
        batch_size: int = 2_000,
        progress: bool = False,
    ) -> WriteReport:
        """Put vectors on nodes, by key; write them twice and nothing changes.

        What is in the store is compared first, and only what differs is written: so a second
        write-back is quick, one that was killed is resumed by running it again, and a vector that
        someone changed in the store is repaired. The key must be unique; where the server has no
        constraint that says so, one is made.

        One property holds one space: where it held vectors of another length, these are removed
        first, from all nodes. Vectors of the same length on other nodes stay.

        Args:
            embeddings: one vector per key.
            property: where they go.
            numbers: further float properties, ``[len(embeddings)]`` each, by name: gains, biases.
            index: also make a vector index with cosine similarity, without quantisation.
            key: the property that identifies a node; by default as in :meth:`read`.
            on_missing: ``"error"``, or ``"skip"`` to count keys without a node.
            dry_run: write nothing and report what would be written.
            batch_size: vectors per transaction.
            progress: show a bar.

        Raises:
            UnknownNodeError: a key has no node; nothing was written.
            GraphError: a vector or number is not finite.
            DuplicateKeyError: two nodes have the same key.
            SchemaError: no such label, or no such key property.
            DependencyError: the store cannot index vectors here.
        """
        _at_least_one(batch_size, "batch_size")
        if on_missing not in ("error", "skip"):
            raise ValueError(f"on_missing must be 'error' or 'skip', got {on_missing!r}")
        node_type = embeddings.node_type
        values = NodeValues(embeddings, property, self._key_of(node_type, key), numbers or {})
        found = self._compare_values(values, batch_size)
        missing = embeddings.nodes.take(np.flatnonzero(found.missing)).keys.to_pylist()
        if missing and on_missing == "error":
            raise _no_nodes(self.name, node_type, values.key, missing, _SKIP)
        steps = self._prepare_values(values, found, index, dry_run)
        todo = found.to_write
        if not dry_run:
            with progress_bar(progress, f"write {node_type}.{property}", len(values)) as bar:
                bar.update(len(values) - len(todo))
                self._write_values(values.take(todo), batch_size, bar)
            if index:
                self._index(node_type, property, values.dim)
        return WriteReport(
            embeddings={node_type: len(values) - len(missing)},
            unchanged={node_type: int(found.unchanged.sum())},
            missing={node_type: len(missing)} if missing else {},
            steps=tuple(steps),
            dry_run=dry_run,
        )

    def write_recommendations(
        self,
        recommendations: Any,
        user: str,
        item: str,
        relation: str = RECOMMENDS,
        *,
        keys: tuple[str | None, str | None] = (None, None),
        dry_run: bool = False,
        batch_size: int = 1_000,
        progress: bool = False,
    ) -> WriteReport:
        """Put ranked lists into the store, as relations with score, rank and evidence.

        A user's list is replaced as a whole, in one transaction, so that a reader sees the old or
        the new one; lists that are there as given are left alone, those of other users stay.

        Args:
            recommendations: ``engine.recommend(...)``, or a table with ``user``, ``item``,
                ``rank``, ``score`` and further columns; structures are written as JSON text.
            user: label of users.
            item: label of items.
            relation: of this name, between these labels; what it holds is replaced. By default one
                that :meth:`read` and :meth:`infer_schema` leave out.
            keys: the properties that identify a user and an item; by default as in :meth:`read`.
            dry_run: write nothing and report what would be written.
            batch_size: lists per transaction.
            progress: show a bar.

        Raises:
            UnknownNodeError: a user or item has no node; nothing was written.
            MissingColumnError: a column is lacking.
        """
        _at_least_one(batch_size, "batch_size")
        ends = (self._key_of(user, keys[0]), self._key_of(item, keys[1]))
        lists = lists_of(recommendations, (user, relation, item), ends)
        for node_type, key, column in ((user, ends[0], "source"), (item, ends[1], "target")):
            asked = lists.table[column].unique().to_pylist()
            if missing := self.missing_keys(node_type, asked, key=key):
                raise _no_nodes(self.name, node_type, key, missing, "nothing was written")
        same, users = 0, lists.users
        with progress_bar(progress, f"write {relation}", len(users)) as bar:
            for start in range(0, len(users), batch_size):
                some = users[start : start + batch_size]
                changed = lists.changed(some, self._read_lists(lists, some))
                same += len(some) - len(changed)
                if changed and not dry_run:
                    self._replace_lists(lists, changed, lists.of(changed))
                bar.update(len(some))
        return WriteReport(
            recommendations={relation: len(users)}, unchanged={relation: same}, dry_run=dry_run
        )

    def missing_keys(
        self, node_type: str, keys: Sequence[Any], *, key: str | None = None
    ) -> list[Any]:
        """Those of the keys that have no node, in the order given.

        Args:
            node_type: label.
            keys: to look for.
            key: the property that identifies a node; by default as in :meth:`read`.

        Raises:
            SchemaError: no such label, or no such key property.
        """
        there = set(self._known_keys(node_type, self._key_of(node_type, key), list(keys)))
        return [k for k in keys if k not in there]

    def require_keys(self, node_type: str, keys: Sequence[Any], *, key: str | None = None) -> None:
        """Raise where :meth:`missing_keys` finds any, before a write that needs them all.

        Raises:
            UnknownNodeError: a key has no node.
            SchemaError: no such label, or no such key property.
        """
        if missing := self.missing_keys(node_type, keys, key=key):
            raise _no_nodes(self.name, node_type, self._key_of(node_type, key), missing, _SKIP)

    def erase(
        self, node_type: str, keys: Sequence[Any], *, key: str | None = None
    ) -> tuple[int, int]:
        """Remove nodes with all their properties and edges, vectors and recommendations too.

        What the store keeps besides is not in reach of Cypher: a server's transaction logs and
        backups, free pages of a file.

        Args:
            node_type: label.
            keys: of the nodes; one that is not there is no error.
            key: the property that identifies a node; by default as in :meth:`read`.

        Returns:
            How many nodes and edges were removed.
        """
        key = self._key_of(node_type, key)
        one = f"(n:{self._quoted(node_type)})"
        where = f"WHERE n.{self._quoted(key)} IN $keys"
        ends = f"MATCH {one}-[r]-() {where} RETURN count(DISTINCT r) AS edges"
        edges = self.query(ends, keys=list(keys))["edges"][0].as_py()
        nodes = self.query(f"MATCH {one} {where} RETURN count(n) AS n", keys=list(keys))["n"][0]
        self.query(f"MATCH {one} {where} DETACH DELETE n", keys=list(keys))
        return nodes.as_py(), edges

    def _check_names(self, graph: KnowledgeGraph) -> None:
        """Raise before anything is written if a name cannot be held; every name is checked."""
        for node_type in graph.node_types:
            key = graph.schema.key_of(node_type)
            for name in (node_type, key, *graph.attributes[node_type].column_names):
                quoted(name)
            if key in graph.attributes[node_type].column_names:
                raise StoreError(f"{node_type}: {key!r} is the key and a property; rename one")
        for _, relation, _ in graph.edge_types:
            quoted(relation)
        quoted(graph.schema.weight)
        quoted(graph.schema.time)


def _no_nodes(
    store: str, node_type: str, key: str, missing: Sequence[Any], advice: str
) -> UnknownNodeError:
    return UnknownNodeError(
        f"{store}: {len(missing)} {node_type} keys have no node, for example {missing[0]!r} "
        f"(matched by {key!r}); {advice}"
    )


def last_of_parallel(edges: Edges) -> Edges:
    """One edge per pair of ends, the last that came."""
    if len(edges) == 0:
        return edges
    pairs = edges.index[0] * (int(edges.index[1].max()) + 1) + edges.index[1]
    last = len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1]
    return edges if len(last) == len(pairs) else edges.select(np.sort(last))


def _at_least_one(value: int, what: str) -> None:
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")
