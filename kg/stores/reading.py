"""What is read from every store: graphs, changes, schemas, vectors."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import MissingColumnError, SchemaError, StoreError
from kg.graph import KnowledgeGraph, in_row_order, require_properties
from kg.schema import EdgeType, Schema
from kg.stores.changes import Changes, latest_of, read_changes
from kg.stores.inference import EdgeTypeSeen, NodeTypeSeen, StoreContents, schema_of
from kg.stores.planning import PlanningStore
from kg.stores.protocol import Queries
from kg.stores.triples import graph_of_triples
from kg.stores.values import VECTOR_PROPERTY, WRITTEN_BACK
from kg.tables import require_columns
from kg.vectors import NodeEmbeddings, Vocabulary

SAMPLE_SIZE = 10_000


class ReadingStore(PlanningStore):
    """Reads by schema, by queries and by triples.

    A graph that is read has its nodes in the order of their keys and its edges in the order of
    their ends, so two stores that hold the same give the same graph.
    """

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
            SchemaError: a type that the schema names is not in the store, or no node of a type or
                no interaction has a property that it names.
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
        if schema.interaction not in asked:
            self._require_weight_and_time(schema)
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
                    require_properties(read.table, node_type, schema)
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

    def _require_weight_and_time(self, schema: Schema) -> None:
        """Raise if no interaction has a weight or time that the schema gives a name of its own."""
        interaction = schema.interaction
        if not schema.named_columns or not self._has_edges(interaction):
            return
        for role, name in schema.named_columns.items():
            if not self._edge_has(interaction, name):
                there = self._sample_edges(interaction, 1000).column_names
                raise SchemaError(
                    f"{self.name}: the schema names {name!r} as {role}, and no edge {interaction} "
                    f"has this property; there are {there}; correct the schema, or leave {role}= "
                    "out if there is none"
                )

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


def in_key_order(table: pa.Table, key: str) -> pa.Table:
    """The rows of a table by key, stable; a table with keys that cannot be ordered as it came."""
    if table.num_rows < 2 or not _orderable(table[key].type):
        return table
    order = pc.sort_indices(table, sort_keys=[(key, "ascending")])
    steps = order.to_numpy()
    return table if bool((np.diff(steps.astype(np.int64)) == 1).all()) else table.take(order)


@contextmanager
def progress_bar(show: bool, what: str, total: int | None = None) -> Iterator[Any]:
    """A bar whose ``update(n)`` counts rows; silent unless asked for."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=" rows", unit_scale=True, disable=not show) as bar:
        yield bar


def _orderable(kind: pa.DataType) -> bool:
    from kg.tables import is_string

    return pa.types.is_integer(kind) or is_string(kind)


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
