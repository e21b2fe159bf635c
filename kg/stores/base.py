"""What every Cypher store can do: hand out a graph, take a graph, take and hand out vectors."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import MissingColumnError, SchemaError, StoreError, UnknownNodeError
from kg.graph import Edges, KnowledgeGraph, in_row_order
from kg.schema import EdgeType, Schema
from kg.stores.changes import Changes, latest_of, read_changes
from kg.stores.inference import EdgeTypeSeen, NodeTypeSeen, StoreContents, likely_key, schema_of
from kg.stores.lists import Lists, lists_of
from kg.stores.names import quoted
from kg.stores.triples import Triples, graph_of_triples
from kg.stores.values import (
    RECOMMENDS,
    VECTOR_PROPERTY,
    WRITTEN_BACK,
    Comparison,
    NodeValues,
)
from kg.tables import require_columns
from kg.vectors import NodeEmbeddings, Vocabulary

Queries = Mapping[str | EdgeType, str]
"""A user's own Cypher by node type or by ``(source, relation, target)``."""

SAMPLE_SIZE = 10_000


@dataclass(frozen=True)
class WriteReport:
    """What a write came to.

    Args:
        nodes: nodes that are now in the store as given, by node type, new or not.
        edges: edges likewise, by edge type.
        merged: parallel edges that were folded into the last of them, by edge type; an edge is
            identified by its two ends.
        embeddings: vectors that are now in the store as given, by node type.
        unchanged: how many of these were there before and were left alone, by node type.
        missing: keys that have a vector and no node, by node type; only where they were skipped.
        recommendations: lists that are now in the store as given, by relation.
        steps: what was done besides, or with ``dry_run`` would be, in sentences.
        dry_run: whether nothing was written and the counts say what would be.
    """

    nodes: Mapping[str, int] = field(default_factory=dict)
    edges: Mapping[EdgeType, int] = field(default_factory=dict)
    merged: Mapping[EdgeType, int] = field(default_factory=dict)
    embeddings: Mapping[str, int] = field(default_factory=dict)
    unchanged: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    recommendations: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    dry_run: bool = False

    def __str__(self) -> str:
        """What was written, or would be, a line each."""
        would = "would be " if self.dry_run else ""
        lines = [f"{n} {t} nodes {would}written" for t, n in self.nodes.items()]
        lines += [f"{n} {'-'.join(e)} edges {would}written" for e, n in self.edges.items()]
        lines += [f"{n} parallel {'-'.join(e)} edges folded" for e, n in self.merged.items()]
        for kind, counts in (("vectors", self.embeddings), ("lists", self.recommendations)):
            for name, n in counts.items():
                same = self.unchanged.get(name, 0)
                lines.append(f"{n - same} {name} {kind} {would}written, {same} unchanged")
        lines += [f"{n} {t} keys have no node" for t, n in self.missing.items()]
        lines += [("would " if self.dry_run else "") + step for step in self.steps]
        return "\n".join(lines)


@runtime_checkable
class Store(Protocol):
    """Where graphs come from and where vectors go; see :class:`CypherStore` for each method."""

    def read(self, schema: Schema, queries: Queries | None = None) -> KnowledgeGraph:
        """The graph that the schema describes."""
        ...

    def read_triples(self, cypher: str, schema: Schema) -> KnowledgeGraph:
        """The graph in the rows of one query."""
        ...

    def infer_schema(
        self, user: str | None = None, item: str | None = None, interaction: Any = None
    ) -> Schema:
        """A schema made from what the store holds."""
        ...

    def write(self, graph: KnowledgeGraph) -> WriteReport:
        """Make the store hold every node and edge of a graph."""
        ...

    def write_embeddings(self, embeddings: NodeEmbeddings) -> WriteReport:
        """Put vectors on nodes, by key."""
        ...

    def write_recommendations(self, recommendations: Any, user: str, item: str) -> WriteReport:
        """Put ranked lists into the store, as relations."""
        ...

    def read_embeddings(self, node_type: str) -> NodeEmbeddings:
        """The vectors on the nodes of one type."""
        ...

    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


@dataclass(frozen=True)
class NodesRead:
    """A node table in key order and, where the store has such, its own number of every row."""

    table: pa.Table
    handles: np.ndarray | None = None


class CypherStore(ABC):
    """What the stores share; a store supplies the primitives at the end.

    A graph that is read has its nodes in the order of their keys and its edges in the order of
    their ends, so two stores that hold the same give the same graph.
    """

    name: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(
        self,
        schema: Schema,
        queries: Queries | None = None,
        *,
        on_dangling: str = "error",
        exclude: Sequence[str] = WRITTEN_BACK,
        progress: bool = False,
    ) -> KnowledgeGraph:
        """The graph that the schema describes, with every property of its nodes.

        Nodes are found by label, edges by relation. The weight and time of an edge are the
        properties that ``schema.weight`` and ``schema.time`` name. A node with several labels
        belongs to every type among them.

        Args:
            schema: with empty ``edge_types``, every relation that is connected to users or items
                is read, and the node types it leads to. A type for which the schema names no key
                is identified by ``id``, else by its uniqueness constraint or primary key.
            queries: your own Cypher for some types. For a node type it returns ``id`` (or the key
                property) and the properties; for an edge type ``source``, ``target`` and,
                optional, weight and time. Where an edge type has a query, only the edge types that
                are named are read.
            on_dangling: ``"error"``, or ``"skip"`` to leave out and count edges with a missing end.
            exclude: properties to leave where they are, and relations not to discover; by default
                what a model wrote back, as none must be trained on that.
            progress: show a bar.

        Raises:
            SchemaError: a type that the schema names is not in the store.
            MissingColumnError: a query does not return a column it must.
            DuplicateKeyError: two nodes of one type have the same key.
            DanglingEdgeError: a query's edge has an end that is not among the nodes.
            StoreError: the store failed; :class:`StoreUnavailableError` and
                :class:`StoreAuthError` where it did not answer or let us in.
        """
        if on_dangling not in ("error", "skip"):
            raise ValueError(f"on_dangling must be 'error' or 'skip', got {on_dangling!r}")
        asked = _checked_queries(queries or {}, schema)
        schema, node_types, edge_types = self._plan(schema, asked, exclude)
        nodes: dict[str, pa.Table] = {}
        handles: dict[str, np.ndarray] = {}
        total = self._num_rows(node_types, edge_types, asked) if progress else None
        with progress_bar(progress, f"read {self.name}", total) as bar:
            for node_type in node_types:
                key = schema.key_of(node_type)
                if node_type in asked:
                    table = self._query_nodes(asked[node_type], node_type, key)
                    nodes[node_type] = in_key_order(table, key)
                else:
                    read = self._read_nodes(node_type, key, exclude, bar)
                    _require_properties(read.table, node_type, schema)
                    nodes[node_type] = read.table
                    if read.handles is not None:
                        handles[node_type] = read.handles
            tables = {e: self._query_edges(asked[e], e, schema) for e in edge_types if e in asked}
            graph = KnowledgeGraph.from_tables(nodes, tables, schema, on_dangling=on_dangling)
            edges, skipped = dict(graph.edges), dict(graph.skipped)
            for edge_type in edge_types:
                if edge_type not in asked:
                    edges[edge_type], left_out = self._read_edges(
                        edge_type, schema, graph.vocabularies, handles, on_dangling, bar
                    )
                    skipped |= {edge_type: left_out} if left_out else {}
        graph = replace(graph, edges={})
        ordered = {e: in_row_order(edges.pop(e)) for e in edge_types}
        pa.default_memory_pool().release_unused()
        return replace(graph, edges=ordered, skipped=skipped)

    def read_changes(
        self,
        graph: KnowledgeGraph,
        *,
        updated_at: str | None = None,
        since: Any = None,
        exclude: Sequence[str] = WRITTEN_BACK,
        progress: bool = False,
    ) -> Changes:
        """What changed in the store since a graph was read from it by its schema.

        Without ``updated_at`` everything is read and compared. With it, only nodes and edges that
        have changed ``since`` are read, of every type that has the property and whose count says
        that nothing else happened to it; the others are read and compared. So removals and new
        nodes without a time are found, but not a change that leaves the time as it was, nor a
        removal together with an addition that has no time.

        ``engine.update(changes.delta)`` then encodes the texts that changed and nothing else.

        Args:
            graph: what was read before, or what came of it by :meth:`KnowledgeGraph.apply`.
            updated_at: a property of nodes and edges that grows with every change: a time, or a
                number.
            since: ``mark`` of the last time; ``None`` to compare everything and get a first mark.
            exclude: as in :meth:`read`.
            progress: show a bar.

        Raises:
            SchemaError: the store has no users or items any more.
        """
        with progress_bar(progress, f"changes in {self.name}") as bar:
            return read_changes(self, graph, updated_at, since, exclude, bar)

    def latest_change(self, schema: Schema, updated_at: str) -> Any:
        """A first mark for :meth:`read_changes`: the latest time of change of what a schema names.

        Take it before the graph is read; ``None`` where nothing has the property.
        """
        labels = self._labels()
        times = [
            self._latest(t, updated_at)
            for t in schema.node_types
            if t in labels and self._has_property(t, updated_at)
        ]
        times += [
            self._latest(e, updated_at)
            for e in (schema.interaction, *schema.edge_types)
            if self._edge_has(e, updated_at)
        ]
        return latest_of(times, updated_at, self.name)

    def read_triples(
        self, cypher: str, schema: Schema, *, on_dangling: str = "error"
    ) -> KnowledgeGraph:
        """The graph in the rows of one query that returns ``head``, ``relation`` and ``tail``.

        Values may be nodes and relationships (``RETURN h AS head, r AS relation, t AS tail``, or
        simply ``RETURN h, r, t``): then keys, types, properties, weight and time are taken from
        them. Or they are plain keys and names, with optional columns ``head_type``, ``tail_type``,
        ``weight`` and ``time``. Where no column says the type of an end, these rules do, the
        first that applies:

        1. the schema names exactly one edge type with this relation (the interaction, say):
           its ends;
        2. the head is an item, and the tail a node of the type named like the relation.

        Args:
            cypher: the query; see above.
            schema: who is user, item and interaction; key names where nodes are returned.
            on_dangling: as in :meth:`read`.

        Raises:
            MissingColumnError: a column is lacking.
            GraphError: a head, relation or tail is null.
        """
        return graph_of_triples(self._triples(cypher), schema, self._as_stored_keys, on_dangling)

    def contents(self, *, sample_size: int = SAMPLE_SIZE) -> StoreContents:
        """What labels, relations and properties there are, with counts and sample rows."""
        counts = self._labels()
        unique = self._unique_properties()
        nodes = {
            label: NodeTypeSeen(
                count, unique.get(label, ()), self._sample_nodes(label, sample_size)
            )
            for label, count in counts.items()
        }
        edges = {
            edge_type: EdgeTypeSeen(count, self._sample_edges(edge_type, 1000))
            for edge_type, count in self._edge_types(list(counts)).items()
        }
        return StoreContents(nodes, edges)

    def infer_schema(
        self,
        user: str | None = None,
        item: str | None = None,
        interaction: str | EdgeType | None = None,
    ) -> Schema:
        """A schema made from what the store holds; every type, key and property role in it.

        Keys come from uniqueness constraints and primary keys, else are ``id``, else a property
        that is unique and present on all nodes. Strings that mostly differ or are long are text,
        other strings and lists of strings are categorical, numbers are numeric.

        Args:
            user: label of users; guessed from common names if ``None``.
            item: label of items; if ``None`` the one that users have most relations to.
            interaction: relation or edge type from users to items; the most frequent if ``None``.

        Raises:
            SchemaError: what was named does not exist, nothing suits, or a type has no key; says
                what there is.
        """
        return schema_of(
            self.contents().without(WRITTEN_BACK), user, item, interaction, self._is_unique
        )

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
            UnknownNodeError: a key has no node; the others are written.
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
        steps = self._prepare_values(values, found, index, dry_run)
        todo = found.to_write
        if not dry_run:
            with progress_bar(progress, f"write {node_type}.{property}", len(values)) as bar:
                bar.update(len(values) - len(todo))
                self._write_values(values.take(todo), batch_size, bar)
            if index:
                self._index(node_type, property, values.dim)
        missing = embeddings.nodes.take(np.flatnonzero(found.missing)).keys.to_pylist()
        if missing and on_missing == "error":
            advice = "the others were written; write the graph first or pass on_missing='skip'"
            raise _no_nodes(self.name, node_type, values.key, missing, advice)
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
            there = set(self._known_keys(node_type, key, asked))
            if missing := [k for k in asked if k not in there]:
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

    def lookup(
        self, node_type: str, keys: Sequence[Any], names: Sequence[str], *, key: str | None = None
    ) -> pa.Table:
        """Some properties of some nodes: the key property and those of ``names`` that there are.

        Args:
            node_type: label.
            keys: of the nodes; one that is not there is left out.
            names: properties.
            key: the property that identifies a node; by default as in :meth:`read`.
        """
        key = self._key_of(node_type, key)
        there = [key, *(n for n in names if n != key and self._has_property(node_type, n))]
        columns = ", ".join(f"n.{self._quoted(n)} AS {self._quoted(n)}" for n in there)
        where = f"n.{self._quoted(key)} IN $keys"
        cypher = f"MATCH (n:{self._quoted(node_type)}) WHERE {where} RETURN {columns}"
        return self.query(cypher, keys=list(keys))

    def lookup_kind(self, node_type: str) -> type:
        """Whether the keys of a node type are ``int`` or ``str``."""
        key = self._quoted(self._key_of(node_type, None))
        some = f"MATCH (n:{self._quoted(node_type)}) WHERE n.{key} IS NOT NULL"
        found = self.query(f"{some} RETURN n.{key} AS key LIMIT 1")["key"]
        return int if pa.types.is_integer(found.type) else str

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

    def read_embeddings(
        self, node_type: str, property: str = VECTOR_PROPERTY, *, key: str | None = None
    ) -> NodeEmbeddings:
        """The vectors on the nodes of one type, in the order of their keys.

        Nodes without a vector are left out.

        Args:
            node_type: label.
            property: where the vectors are.
            key: the property that identifies a node; by default as in :meth:`read`.

        Raises:
            SchemaError: no such label, or no such key property.
            StoreError: no node has a vector there, or they differ in length.
        """
        key = self._key_of(node_type, key)
        table = in_key_order(self._read_vectors(node_type, property, key), "key")
        if table.num_rows == 0:
            raise StoreError(
                f"{self.name}: no {node_type} has vectors in {property!r}; "
                "write them with write_embeddings"
            )
        nodes = Vocabulary(node_type, table["key"])
        return NodeEmbeddings(nodes, _matrix(table["vector"], f"{node_type}.{property}"))

    def _num_rows(
        self, node_types: Sequence[str], edge_types: Sequence[EdgeType], asked: Queries
    ) -> int | None:
        """How many nodes and edges there are to read, or a little less than that."""
        if asked:
            return None
        labels = self._labels()
        nodes = sum(labels.get(t, 0) for t in node_types)
        return nodes + sum(map(self._edges_at_most, edge_types))

    def _plan(
        self, schema: Schema, asked: Queries, exclude: Sequence[str]
    ) -> tuple[Schema, list[str], list[EdgeType]]:
        """The completed schema, the node types with a table of their own, the edge types."""
        labels = self._labels()
        if not labels and not asked:
            raise SchemaError(
                f"{self.name}: the store is empty, so the schema names node types that are not "
                "there; there are []. Check database=... or the path, or write a graph first"
            )
        queried = [e for e in asked if not isinstance(e, str)]
        from_edges = {end for e in queried for end in (e[0], e[2])}
        node_types = list(dict.fromkeys([*schema.node_types, *(t for t in asked if t in labels)]))
        node_types += [t for t in asked if isinstance(t, str) and t not in node_types]
        for node_type in node_types:
            if node_type not in labels and node_type not in asked and node_type not in from_edges:
                raise SchemaError(
                    f"{self.name}: the schema names the node type {node_type!r}, and no node has "
                    f"this label; there are {sorted(labels)}"
                )
        edge_types: list[EdgeType] = [schema.interaction, *schema.edge_types]
        edge_types += [e for e in queried if e not in edge_types]
        by_schema = [e for e in edge_types if e not in asked]
        if not schema.edge_types and not queried:
            edge_types, node_types = self._discover(schema, node_types, labels, exclude)
            if schema.interaction not in edge_types:
                raise self._no_such_edges(schema.interaction, edge_types)
        for edge_type in by_schema if schema.edge_types or queried else ():
            if not self._has_edges(edge_type):
                raise self._no_such_edges(edge_type, self._edge_types(list(labels)))
        tables = [t for t in node_types if t in labels or t in asked]
        unique = self._unique_properties()
        keys = {t: self._key(t, schema.key.get(t), unique) for t in tables if t not in asked}
        keys = {t: k for t, k in keys.items() if k != schema.key_of(t)}
        if keys:
            schema = replace(schema, key={**schema.key, **keys})
        return schema, tables, edge_types

    def _discover(
        self,
        schema: Schema,
        node_types: list[str],
        labels: Mapping[str, int],
        exclude: Sequence[str],
    ) -> tuple[list[EdgeType], list[str]]:
        """Every relation connected to the known node types, and the types it leads to."""
        extra = [t for t in labels if t not in node_types]
        extra = [t for t in extra if not self._overlaps(t, node_types)]
        found = self._edge_types([*(t for t in node_types if t in labels), *extra])
        found = {e: n for e, n in found.items() if e[1] not in exclude or e == schema.interaction}
        known, grew = set(node_types), True
        while grew:
            grew = False
            for source, _, target in found:
                if (source in known) != (target in known):
                    known |= {source, target}
                    grew = True
        edge_types = [e for e in found if e[0] in known]
        edge_types.sort(key=lambda e: (e != schema.interaction, e))
        return edge_types, [*node_types, *sorted(known - set(node_types))]

    def _no_such_edges(self, edge_type: EdgeType, there: Any) -> SchemaError:
        return SchemaError(
            f"{self.name}: the schema names the edge type {edge_type}, and there are no such "
            f"edges; there are {sorted(there)}"
        )

    def _key_of(self, node_type: str, named: str | None) -> str:
        """The key property of a label that may not exist.

        Raises:
            SchemaError: the label or the property does not exist.
        """
        labels = self._labels()
        if node_type not in labels:
            raise SchemaError(
                f"{self.name}: no node has the label {node_type!r}; there are {sorted(labels)}"
            )
        return self._key(node_type, named, self._unique_properties())

    def _key(self, node_type: str, named: str | None, unique: Mapping[str, tuple[str, ...]]) -> str:
        properties = self._property_names(node_type)
        if named is not None:
            if named not in properties and not self._has_property(node_type, named):
                raise SchemaError(
                    f"{self.name}: {node_type} has no property {named!r} to be its key; "
                    f"it has {properties}"
                )
            return named
        key = likely_key(properties, unique.get(node_type, ()))
        if key is None and self._has_property(node_type, "id"):
            return "id"
        if key is None:
            raise SchemaError(
                f"{self.name}: {node_type} has no property 'id' and no unique one to be its key; "
                f"name one of {properties} in Schema(key={{{node_type!r}: ...}})"
            )
        return key

    def _query_nodes(self, cypher: str, node_type: str, key: str) -> pa.Table:
        table = self._query_for_read(cypher)
        if key not in table.column_names and "id" in table.column_names:
            table = table.rename_columns([key if n == "id" else n for n in table.column_names])
        _require_returned(table, [key], node_type, cypher)
        return table

    def _query_edges(self, cypher: str, edge_type: EdgeType, schema: Schema) -> pa.Table:
        table = self._query_for_read(cypher)
        for plain, name in (("weight", schema.weight), ("time", schema.time)):
            if name not in table.column_names:
                names = [name if n == plain else n for n in table.column_names]
                table = table.rename_columns(names)
        _require_returned(table, ["source", "target"], edge_type, cypher)
        # A query without ORDER BY may return its rows in another order every time.
        return in_key_order(in_key_order(table, "target"), "source")

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

    @abstractmethod
    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query of your own, a column per returned name.

        Args:
            cypher: the query; may write.
            **params: values for ``$name`` in it.

        Raises:
            StoreError: with the store's own message.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; it may be used again and opens anew then."""

    def _quoted(self, name: str) -> str:
        """A name in this store's Cypher."""
        return quoted(name)

    @abstractmethod
    def _query_for_read(self, cypher: str) -> pa.Table: ...

    @abstractmethod
    def _triples(self, cypher: str) -> Triples: ...

    @abstractmethod
    def _labels(self) -> dict[str, int]:
        """Number of nodes of every label that a node has."""

    @abstractmethod
    def _unique_properties(self) -> dict[str, tuple[str, ...]]:
        """Properties with a uniqueness constraint of their own, by label."""

    @abstractmethod
    def _edge_types(self, labels: Sequence[str]) -> dict[EdgeType, int]:
        """Edge types among labels, with at most so many edges each."""

    @abstractmethod
    def _has_edges(self, edge_type: EdgeType) -> bool:
        """Whether the store knows edges of this type."""

    @abstractmethod
    def _overlaps(self, label: str, others: Sequence[str]) -> bool:
        """Whether a node with this label also has one of the others."""

    @abstractmethod
    def _has_property(self, node_type: str, property: str) -> bool: ...

    @abstractmethod
    def _property_names(self, node_type: str) -> list[str]:
        """Names of the properties of nodes with this label, or of some of the nodes."""

    @abstractmethod
    def _is_unique(self, node_type: str, property: str) -> bool:
        """Whether every node has the property and no two have it alike."""

    @abstractmethod
    def _sample_nodes(self, node_type: str, limit: int) -> pa.Table: ...

    @abstractmethod
    def _sample_edges(self, edge_type: EdgeType, limit: int) -> pa.Table: ...

    @abstractmethod
    def _read_nodes(
        self, node_type: str, key: str, exclude: Sequence[str], bar: Any
    ) -> NodesRead: ...

    @abstractmethod
    def _read_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        handles: Mapping[str, np.ndarray],
        on_dangling: str,
        bar: Any,
    ) -> tuple[Edges, int]:
        """The edges of one type, and how many were left out."""

    @abstractmethod
    def _time_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        limit: int,
    ) -> tuple[int, float]:
        """Read some edges as :meth:`_read_edges` does: how many came, and in how many seconds.

        Args:
            edge_type: which edges.
            schema: with weight and time.
            vocabularies: some nodes of each type, whose edges may be those read.
            limit: at most about so many.
        """

    @abstractmethod
    def _edge_has(self, edge_type: EdgeType, name: str) -> bool:
        """Whether an edge of this type has the property."""

    @abstractmethod
    def _nodes_since(
        self, node_type: str, key: str, exclude: Sequence[str], updated_at: str, since: Any
    ) -> pa.Table:
        """Nodes with all their properties that changed at this time or later."""

    @abstractmethod
    def _edges_since(
        self,
        edge_type: EdgeType,
        keys: tuple[str, str],
        names: Sequence[str],
        updated_at: str,
        since: Any,
    ) -> pa.Table:
        """Edges likewise: ``source``, ``target``, these properties, ``updated_at``."""

    @abstractmethod
    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        """The largest value of a property of nodes or edges; ``None`` where none has it."""

    @abstractmethod
    def _edges_at_most(self, edge_type: EdgeType) -> int:
        """So many edges at most, told without a walk over them."""

    @abstractmethod
    def _count_relation(self, relation: str) -> int:
        """Edges of a relation, whatever its ends."""

    @abstractmethod
    def _count_edges(self, edge_type: EdgeType) -> int: ...

    @abstractmethod
    def _write_nodes(
        self, node_type: str, key: str, table: pa.Table, batch_size: int, bar: Any
    ) -> None: ...

    @abstractmethod
    def _write_edges(
        self, edge_type: EdgeType, graph: KnowledgeGraph, batch_size: int, bar: Any
    ) -> None: ...

    @abstractmethod
    def _compare_values(self, values: NodeValues, batch_size: int) -> Comparison: ...

    @abstractmethod
    def _prepare_values(
        self, values: NodeValues, found: Comparison, index: bool, dry_run: bool
    ) -> list[str]:
        """Make room: a unique key, columns, no vectors of another length; what was done."""

    @abstractmethod
    def _write_values(self, values: NodeValues, batch_size: int, bar: Any) -> None:
        """Write values whose keys all have a node."""

    @abstractmethod
    def _index(self, node_type: str, property: str, dim: int) -> None: ...

    @abstractmethod
    def _read_lists(self, lists: Lists, users: list[Any]) -> pa.Table:
        """The relations of some users: ``source``, ``target`` and the properties."""

    @abstractmethod
    def _replace_lists(self, lists: Lists, users: list[Any], table: pa.Table) -> None:
        """Put these relations in place of all that these users have, in one transaction."""

    @abstractmethod
    def _known_keys(self, node_type: str, key: str, keys: list[Any]) -> list[Any]:
        """Those of the keys that have a node."""

    @abstractmethod
    def _read_vectors(self, node_type: str, property: str, key: str) -> pa.Table:
        """Columns ``key`` and ``vector`` of the nodes that have one."""

    def _as_stored_keys(self, node_type: str, keys: list[Any]) -> list[Any]:
        """Keys as the store holds them, where a query may have changed their type."""
        return keys


def _no_nodes(
    store: str, node_type: str, key: str, missing: Sequence[Any], advice: str
) -> UnknownNodeError:
    return UnknownNodeError(
        f"{store}: {len(missing)} {node_type} keys have no node, for example {missing[0]!r} "
        f"(matched by {key!r}); {advice}"
    )


def in_key_order(table: pa.Table, key: str) -> pa.Table:
    """The rows of a table by key, stable; a table with keys that cannot be ordered as it came."""
    if table.num_rows < 2 or not _orderable(table[key].type):
        return table
    order = pc.sort_indices(table, sort_keys=[(key, "ascending")])
    steps = order.to_numpy()
    return table if bool((np.diff(steps.astype(np.int64)) == 1).all()) else table.take(order)


def last_of_parallel(edges: Edges) -> Edges:
    """One edge per pair of ends, the last that came."""
    if len(edges) == 0:
        return edges
    pairs = edges.index[0] * (int(edges.index[1].max()) + 1) + edges.index[1]
    last = len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1]
    return edges if len(last) == len(pairs) else edges.select(np.sort(last))


def without_empty_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table without those of these columns in which no edge has a value."""
    empty = [n for n in names if n in table.column_names and table[n].null_count == len(table)]
    return table.drop_columns(empty) if empty else table


@contextmanager
def progress_bar(show: bool, what: str, total: int | None = None) -> Iterator[Any]:
    """A bar whose ``update(n)`` counts rows; silent unless asked for."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=" rows", unit_scale=True, disable=not show) as bar:
        yield bar


def _orderable(kind: pa.DataType) -> bool:
    from kg.tables import is_string

    return pa.types.is_integer(kind) or is_string(kind)


def _at_least_one(value: int, what: str) -> None:
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")


def _checked_queries(queries: Queries, schema: Schema) -> dict[str | EdgeType, str]:
    """Queries by node type or edge type tuple."""
    checked: dict[str | EdgeType, str] = {}
    for name, cypher in queries.items():
        if not isinstance(name, str) and not (isinstance(name, tuple) and len(name) == 3):
            raise SchemaError(
                f"queries are named by a node type or (source, relation, target), got {name!r}"
            )
        if name == schema.interaction[1] and name not in schema.node_types:
            raise SchemaError(f"name the query of {name!r} by its edge type {schema.interaction}")
        if not isinstance(cypher, str) or not cypher.strip():
            raise ValueError(f"the query of {name!r} must be Cypher, got {cypher!r}")
        checked[name] = cypher
    return checked


def _require_returned(
    table: pa.Table, columns: Sequence[str], what: str | EdgeType, cypher: str
) -> None:
    """Raise a MissingColumnError that names the query."""
    try:
        require_columns(table, columns, f"the query of {what}")
    except MissingColumnError as error:
        hint = " AS ".join(["...", columns[0]])
        raise MissingColumnError(f"{error} (RETURN {hint}). It was: {cypher.strip()}") from None


def _require_properties(table: pa.Table, node_type: str, schema: Schema) -> None:
    """Raise if the schema gives a role to a property that no node of a non-empty type has."""
    if table.num_rows == 0:
        return
    for role in ("text", "numeric", "categorical"):
        for name in getattr(schema, role).get(node_type, ()):
            if name not in table.column_names:
                raise SchemaError(
                    f"the schema names {node_type}.{name} as {role}, and no {node_type} has this "
                    f"property; there are {table.column_names}"
                )


def _matrix(vectors: pa.ChunkedArray, what: str) -> np.ndarray:
    """List or fixed-size list column as float32 ``[num_rows, dim]``."""
    lengths = pc.list_value_length(vectors).to_numpy()
    if (lengths != lengths[0]).any():
        sizes = sorted({int(n) for n in lengths})
        raise StoreError(f"{what}: vectors of different lengths ({sizes[:5]}); write them again")
    flat = pc.list_flatten(vectors)
    try:
        numbers = flat.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(f"{what}: expected lists of numbers, got {vectors.type}") from error
    return numbers.astype(np.float32).reshape(len(vectors), int(lengths[0]))
