"""What changed from one graph to another, as a delta that turns the one into the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.delta import GraphDelta
from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType
from kg.vectors import Vocabulary


def difference(old: KnowledgeGraph, new: KnowledgeGraph) -> GraphDelta:
    """The change that makes the old graph hold what the new one holds: ``old.apply(it)``.

    Of nodes that are in both, only those with a changed property are named, with the properties
    that changed on any of them. An edge is named by its ends, so parallel edges that differ are
    folded into the last. Node and edge types that are only in the old graph lose all they have.
    """
    parts = DeltaParts()
    for node_type in dict.fromkeys((*old.node_types, *new.node_types)):
        if node_type not in new.vocabularies:
            parts.removed_nodes[node_type] = list(old.vocabularies[node_type])
            continue
        parts.add_nodes(
            old,
            new.schema.key_of(node_type),
            new.vocabularies[node_type],
            new.attributes[node_type],
        )
    for edge_type in dict.fromkeys((*old.edge_types, *new.edge_types)):
        if edge_type[0] in new.vocabularies and edge_type[2] in new.vocabularies:
            edges = new.edges.get(edge_type, Edges(np.empty((2, 0), np.int64)))
            parts.add_edges(old, edge_type, edges, new.vocabularies)
    return parts.delta()


@dataclass
class DeltaParts:
    """A change as it is found, type by type; all node types come before the edge types."""

    nodes: dict[str, pa.Table] = field(default_factory=dict)
    edges: dict[EdgeType, pa.Table] = field(default_factory=dict)
    removed_nodes: dict[str, list[Any]] = field(default_factory=dict)
    removed_edges: dict[EdgeType, pa.Table] = field(default_factory=dict)

    def delta(self) -> GraphDelta:
        """The change as a value."""
        found = self.nodes, self.edges, self.removed_nodes, self.removed_edges
        return GraphDelta(*found, new_properties=True)

    def add_nodes(
        self,
        old: KnowledgeGraph,
        key: str,
        nodes: Vocabulary,
        properties: pa.Table,
        *,
        whole: bool = True,
    ) -> None:
        """Note how the nodes of one type changed.

        Args:
            old: the graph before.
            key: name of the key column.
            nodes: keys now.
            properties: of these nodes.
            whole: whether these are all nodes of the type now, so that others are gone.
        """
        node_type = nodes.node_type
        if node_type not in old.vocabularies:
            self.nodes[node_type] = properties.add_column(0, key, nodes.keys)
            return
        before, table = old.vocabularies[node_type], old.attributes[node_type]
        if whole and before == nodes and table.equals(properties):
            return
        at = before.rows(nodes.keys, missing="mark")
        is_known = at >= 0
        if whole:
            gone = np.ones(len(before), bool)
            gone[at[is_known]] = False
            if gone.any():
                rows = np.flatnonzero(gone)
                self.removed_nodes[node_type] = before.take(rows).keys.to_pylist()
        here = np.flatnonzero(is_known)
        changed = np.zeros(len(nodes), bool)
        names: list[str] = []
        for name in dict.fromkeys((*properties.column_names, *table.column_names)):
            differs = _differs(_column(table, name, at[here]), _column(properties, name, here))
            if differs.any():
                changed[here[differs]] = True
                names.append(name)
        changed |= ~is_known
        if not changed.any():
            return
        if not is_known.all():
            names = list(dict.fromkeys((*properties.column_names, *names)))
        rows = np.flatnonzero(changed)
        columns: dict[str, Any] = {key: nodes.keys.take(pa.array(rows))}
        for name in names:
            columns[name] = _column(properties, name, rows)
        self.nodes[node_type] = pa.table(columns)

    def add_edges(
        self,
        old: KnowledgeGraph,
        edge_type: EdgeType,
        edges: Edges,
        vocabularies: Mapping[str, Vocabulary],
        *,
        whole: bool = True,
    ) -> None:
        """Note how the edges of one type changed.

        Args:
            old: the graph before.
            edge_type: of the edges.
            edges: now, in rows of ``vocabularies``.
            vocabularies: keys now.
            whole: whether these are all edges of the type now, so that others are gone.
        """
        if not whole and not len(edges):
            return
        before = old.edges.get(edge_type, Edges(np.empty((2, 0), np.int64)))
        ends = (edge_type[0], edge_type[2])
        same_rows = all(
            t in old.vocabularies and old.vocabularies[t] == vocabularies[t] for t in ends
        )
        if same_rows and whole and same_edges(before, edges):
            return
        # Rows of the old graph; what is new in it is numbered after those.
        index = np.stack(
            [
                rows if same_rows else _old_rows(old, vocabularies[t])[rows]
                for t, rows in zip(ends, edges.index, strict=True)
            ]
        )
        width = 1 + int(max(index[1].max(initial=0), before.index[1].max(initial=0)))
        was, now = before.index[0] * width + before.index[1], index[0] * width + index[1]
        # Weights or times came or went as a whole: then every edge is replaced by a new one.
        recast = whole and len(before) and len(edges) and _columns(before) != _columns(edges)
        if whole:
            gone = np.ones(len(was), bool) if recast else ~np.isin(was, now)
            for axis, end in enumerate(ends):
                lost = self.removed_nodes.get(end)
                if lost:
                    gone &= ~np.isin(before.index[axis], old.vocabularies[end].rows(lost))
            if gone.any():
                table = old.edge_table(edge_type).select(["source", "target"])
                self.removed_edges[edge_type] = table.filter(pa.array(gone))
        changed = np.ones(len(now), bool)
        if not recast:
            changed = _changed_edges(before, was, edges, now)
        if changed.any():
            rows = np.flatnonzero(changed)
            columns: dict[str, Any] = {}
            for name, end, some in zip(("source", "target"), ends, edges.index, strict=True):
                columns[name] = vocabularies[end].keys.take(pa.array(some[rows]))
            if edges.weight is not None:
                columns[old.schema.weight] = edges.weight[rows]
            if edges.time is not None:
                columns[old.schema.time] = edges.time[rows]
            self.edges[edge_type] = pa.table(columns)


def same_edges(one: Edges, other: Edges) -> bool:
    """Whether both have the same edges with the same weights and times, in the same order."""

    def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
        return a is b if a is None or b is None else np.array_equal(a, b)

    return (
        same(one.index, other.index)
        and same(one.weight, other.weight)
        and same(one.time, other.time)
    )


def _columns(edges: Edges) -> tuple[bool, bool]:
    return edges.weight is None, edges.time is None


def _old_rows(old: KnowledgeGraph, nodes: Vocabulary) -> np.ndarray:
    """Rows in the old graph; new keys are numbered after all that are there."""
    if nodes.node_type not in old.vocabularies:
        return np.arange(len(nodes))
    before = old.vocabularies[nodes.node_type]
    at = before.rows(nodes.keys, missing="mark")
    fresh = at < 0
    at[fresh] = len(before) + np.arange(int(fresh.sum()))
    return at


def _changed_edges(before: Edges, was: np.ndarray, edges: Edges, now: np.ndarray) -> np.ndarray:
    """Which of the edges are new or have another weight or time; parallel ones by the last."""
    order = np.argsort(was, kind="stable")
    at = np.searchsorted(was[order], now, side="right") - 1
    there = at >= 0
    at = order[np.maximum(at, 0)] if len(order) else np.zeros(len(now), np.int64)
    changed = np.ones(len(now), bool)
    if not len(was):
        return changed
    known = there & (was[at] == now)
    changed[known] = False
    for name in ("weight", "time"):
        old_values, new_values = getattr(before, name), getattr(edges, name)
        if (old_values is None) != (new_values is None):
            changed |= known
        elif new_values is not None:
            changed |= known & (old_values[at] != new_values)
    if len(np.unique(now)) < len(now):  # only the last of parallel edges counts
        last = np.zeros(len(now), bool)
        last[len(now) - 1 - np.unique(now[::-1], return_index=True)[1]] = True
        changed &= last
    return changed


def _column(table: pa.Table, name: str, rows: np.ndarray) -> pa.ChunkedArray:
    if name in table.column_names:
        return table[name].take(pa.array(rows))
    return pa.chunked_array([pa.nulls(len(rows))])


def _differs(old: pa.ChunkedArray, new: pa.ChunkedArray) -> np.ndarray:
    """In which rows two columns differ; null equals null and NaN equals NaN, bool."""
    if old.equals(new):
        return np.zeros(len(old), bool)
    if not pa.types.is_nested(old.type) and not pa.types.is_nested(new.type):
        try:
            pair = (old, new) if old.type == new.type else (old, new.cast(old.type))
            unequal = pc.fill_null(pc.not_equal(*pair), True).to_numpy()  # pyright: ignore
            null = [column.is_null(nan_is_null=True).to_numpy() for column in pair]
            return unequal & ~(null[0] & null[1])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    return np.array([a != b for a, b in pairs], bool)
