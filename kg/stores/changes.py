"""What changed in a store since a graph was read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.delta import GraphDelta
from kg.difference import DeltaParts
from kg.errors import SchemaError
from kg.graph import Edges, KnowledgeGraph, in_row_order, read_edges, split_key
from kg.schema import EdgeType
from kg.vectors import Vocabulary
from kg.wording import counted

if TYPE_CHECKING:
    from kg.stores.reading import ReadingStore

UPDATED = "__changed_at"
"""Column of the time of change in tables of edges that changed."""


@dataclass(frozen=True)
class Changes:
    """What changed in a store.

    Args:
        delta: turns the graph that was read before into what the store holds now.
        mark: the latest time of change there is; the ``since`` of the next time. ``None`` where no
            property was named or nothing has it.
        compared: how each node and edge type was looked at: ``"time"``, if only what changed was
            read, or ``"contents"``, if all was read and compared.
    """

    delta: GraphDelta
    mark: Any
    compared: Mapping[str | EdgeType, str]

    def __str__(self) -> str:
        """What was added, changed and removed, a line per type."""
        delta, lines = self.delta, []
        for node_type, table in delta.nodes.items():
            lines.append(f"{counted(table.num_rows, f'{node_type} node')} new or changed")
        for node_type, keys in delta.removed_nodes.items():
            lines.append(f"{counted(len(keys), f'{node_type} node')} removed")
        for edge_type, table in delta.edges.items():
            lines.append(f"{counted(table.num_rows, '-'.join(edge_type) + ' edge')} new or changed")
        for edge_type, table in delta.removed_edges.items():
            lines.append(f"{counted(table.num_rows, '-'.join(edge_type) + ' edge')} removed")
        return "\n".join(lines) or "nothing changed"


def read_changes(
    store: ReadingStore,
    graph: KnowledgeGraph,
    updated_at: str | None,
    since: Any,
    exclude: Sequence[str],
    bar: Any,
) -> Changes:
    """See :meth:`kg.stores.base.CypherStore.read_changes`."""
    reading = _Reading(store, graph, updated_at, since, exclude, bar)
    labels = store._labels()
    for node_type in graph.node_types:
        reading.nodes(node_type, labels.get(node_type, 0))
    for relation in dict.fromkeys(e[1] for e in graph.edge_types):
        reading.edges(relation, [e for e in graph.edge_types if e[1] == relation])
    return Changes(reading.parts.delta(), reading.mark(), reading.compared)


@dataclass
class _Reading:
    """One look at a store, type by type."""

    store: ReadingStore
    graph: KnowledgeGraph
    updated_at: str | None
    since: Any
    exclude: Sequence[str]
    bar: Any
    parts: DeltaParts = field(default_factory=DeltaParts)
    compared: dict[str | EdgeType, str] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    handles: dict[str, Any] = field(default_factory=dict)
    times: list[Any] = field(default_factory=list)

    def nodes(self, node_type: str, count: int) -> None:
        """Note what changed among the nodes of one type, of which there are ``count``."""
        graph, store = self.graph, self.store
        key, before = graph.schema.key_of(node_type), graph.vocabularies[node_type]
        if not count:
            if node_type in (graph.schema.user, graph.schema.item):
                raise SchemaError(
                    f"{store.name}: no node has the label {node_type!r} any more; check "
                    "database=..., or import anew"
                )
            if len(before):
                self.parts.removed_nodes[node_type] = list(before)
            self.vocabularies[node_type] = before.take(np.empty(0, np.int64))
            return
        name = self.updated_at
        has_time = name is not None and store._has_property(node_type, name)
        if name is not None and has_time and self.since is not None:
            table = store._nodes_since(node_type, key, self.exclude, name, self.since)
            table = table if table.num_rows else graph.node_table(node_type).slice(0, 0)
            nodes, properties = split_key(table, node_type, graph.schema)
            fresh = before.rows(nodes.keys, missing="mark") < 0
            # What is gone, or new without a time of change, shows in the count.
            if count == len(before) + int(fresh.sum()):
                self.parts.add_nodes(graph, key, nodes, properties, whole=False)
                self.vocabularies[node_type] = before.extend(nodes.keys.filter(pa.array(fresh)))
                self.compared[node_type] = "time"
                self._note_times(properties, name)
                return
        read = store._read_nodes(node_type, key, self.exclude, self.bar)
        nodes, properties = split_key(read.table, node_type, graph.schema)
        self.parts.add_nodes(graph, key, nodes, properties)
        self.vocabularies[node_type] = nodes
        self.compared[node_type] = "contents"
        if read.handles is not None:
            self.handles[node_type] = read.handles
        if name is not None and has_time:
            self._note_times(properties, name)

    def edges(self, relation: str, edge_types: list[EdgeType]) -> None:
        """Note what changed among the edges of one relation."""
        quick = self._edges_by_time(relation, edge_types)
        for edge_type in edge_types:
            if quick is not None:
                edges = self._in_rows(edge_type, quick[edge_type])
                self.parts.add_edges(self.graph, edge_type, edges, self.vocabularies, whole=False)
                self.compared[edge_type] = "time"
                continue
            edges = Edges(np.empty((2, 0), np.int64))
            if self.store._has_edges(edge_type):
                edges, _ = self.store._read_edges(
                    edge_type, self.graph.schema, self.vocabularies, self.handles, "error", self.bar
                )
            edges = in_row_order(edges)
            self.parts.add_edges(self.graph, edge_type, edges, self.vocabularies)
            self.compared[edge_type] = "contents"
            if self.updated_at is not None and self.store._edge_has(edge_type, self.updated_at):
                self.times.append(self.store._latest(edge_type, self.updated_at))

    def _edges_by_time(
        self, relation: str, edge_types: list[EdgeType]
    ) -> dict[EdgeType, pa.Table] | None:
        """Edges that changed since; ``None`` where that cannot be all that changed."""
        name, store, graph = self.updated_at, self.store, self.graph
        if name is None or self.since is None:
            return None
        found, expected = {}, 0
        for edge_type in edge_types:
            before = graph.edges[edge_type]
            if not len(before) or not store._edge_has(edge_type, name):
                return None
            schema = graph.schema
            kept = [] if before.weight is None else [schema.weight]
            kept += [] if before.time is None else [schema.time]
            keys = (schema.key_of(edge_type[0]), schema.key_of(edge_type[2]))
            table = store._edges_since(edge_type, keys, kept, name, self.since)
            expected += len(before) + self._num_new(edge_type, table)
            found[edge_type] = table
        # The count of a relation is at hand; that of an edge type may take a walk over its edges.
        if store._count_relation(relation) != expected and (
            sum(map(store._count_edges, edge_types)) != expected
        ):
            return None
        for table in found.values():
            self._note_times(table, UPDATED)
        return found

    def _num_new(self, edge_type: EdgeType, table: pa.Table) -> int:
        """How many of these edges have ends between which the graph has none."""
        if table.num_rows == 0:
            return 0
        ends = zip(edge_type[::2], ("source", "target"), strict=True)
        source, target = (
            self.graph.vocabularies[t].rows(table[name], missing="mark") for t, name in ends
        )
        before, width = self.graph.edges[edge_type].index, self.graph.num_nodes(edge_type[2])
        known = np.isin(source * width + target, before[0] * width + before[1])
        return int((~(known & (source >= 0) & (target >= 0))).sum())

    def _in_rows(self, edge_type: EdgeType, table: pa.Table) -> Edges:
        if table.num_rows == 0:
            return self.graph.edges[edge_type].select(np.empty(0, np.int64))
        return read_edges(table, edge_type, self.graph.schema, self.vocabularies.__getitem__)[0]

    def _note_times(self, table: pa.Table, name: str) -> None:
        if name in table.column_names and table.num_rows:
            self.times.append(pc.max(table[name]).as_py())  # pyright: ignore

    def mark(self) -> Any:
        """The latest time of change that was seen."""
        return latest_of([self.since, *self.times], self.updated_at, self.store.name)


def latest_of(times: list[Any], updated_at: str | None, store: str) -> Any:
    """The latest of some times, which may be ``None``.

    Raises:
        SchemaError: they cannot be compared.
    """
    there = [t for t in times if t is not None]
    try:
        return max(there, default=None)
    except TypeError as error:
        kinds = sorted({type(t).__name__ for t in there})
        raise SchemaError(
            f"{store}: {updated_at!r} holds {kinds} on different nodes, edges or in since=...; "
            "times must be of one kind to be compared"
        ) from error
