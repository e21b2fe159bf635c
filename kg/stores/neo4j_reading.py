"""How graphs and vectors are read from a Neo4j server."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import DuplicateKeyError, GraphError, StoreError
from kg.graph import Edges, in_row_order, read_edges
from kg.schema import EdgeType, Schema
from kg.stores.base import CypherStore
from kg.stores.bolt import BoltConnection, ahead, edge_pattern, quoted, table_of_rows
from kg.stores.changes import UPDATED
from kg.stores.columns import joined, plain, table_of_maps, to_array
from kg.stores.filling import EdgeArrays
from kg.stores.primitives import NodesRead
from kg.stores.reading import in_key_order
from kg.stores.triples import NodeValue, RelationValue, Triples
from kg.vectors import Vocabulary

EDGES_PER_RECORD = 20_000
EDGES_AT_ONCE, LEAST_AT_ONCE = 100_000, 5_000
"""So many edges' keys are kept before they become rows: a fortieth of all edges between these."""
NODES_PER_RECORD = 2_000
_NULL = ""
"""Stands for null inside ``collect``, which leaves nulls out; a weight or time is never text."""


class Neo4jReading(BoltConnection, CypherStore):
    """Reads columns, not rows: one record holds some thousand nodes or edges as lists."""

    def _quoted(self, name: str) -> str:
        return quoted(name)

    def _query_for_read(self, cypher: str) -> pa.Table:
        with self._session("READ", cypher) as session:
            return table_of_rows(self._run(session, cypher), f"{self.name} query")

    def _triples(self, cypher: str) -> Triples:
        with self._session("READ", cypher) as session:
            result = self._run(session, cypher)
            names = result.keys()
            values: list[list[Any]] = [[] for _ in names]
            for record in result:
                for column, value in zip(values, record.values(), strict=True):
                    column.append(_triple_value(value))
        return Triples(dict(zip(names, values, strict=True)), cypher)

    def _labels(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for (label,) in self._rows("CALL db.labels()"):
            (n,), *_ = self._rows(f"MATCH (n:{quoted(label)}) RETURN count(n)")
            if n:
                counts[label] = n
        return counts

    def _unique_properties(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        rows = self._rows(
            "SHOW CONSTRAINTS YIELD type, entityType, labelsOrTypes, properties "
            "WHERE entityType = 'NODE' AND type IN ['UNIQUENESS', 'NODE_KEY', "
            "'NODE_PROPERTY_UNIQUENESS'] AND size(properties) = 1 "
            "RETURN labelsOrTypes[0], properties[0]"
        )
        for label, property in rows:
            found[label] = (*found.get(label, ()), property)
        return found

    def _edge_types(self, labels: Sequence[str]) -> dict[EdgeType, int]:
        found: dict[EdgeType, int] = {}
        if not labels:
            return found
        for (relation,) in self._rows("CALL db.relationshipTypes()"):
            r = quoted(relation)
            # Each branch is answered from the server's counters, without looking at an edge; beside
            # anything else, as in "RETURN 0 AS end, count(r)", all edges would be counted.
            sides = " UNION ALL ".join(
                f"MATCH (:{quoted(t)})-[r:{r}]->() WITH count(r) AS n "
                f"RETURN {at} AS label, 0 AS end, n UNION ALL "
                f"MATCH ()-[r:{r}]->(:{quoted(t)}) WITH count(r) AS n "
                f"RETURN {at} AS label, 1 AS end, n"
                for at, t in enumerate(labels)
            )
            counts = {(labels[at], end): n for at, end, n in self._rows(sides)}
            for source, target in itertools.product(labels, labels):
                most = min(counts.get((source, 0), 0), counts.get((target, 1), 0))
                edge_type = (source, relation, target)
                if most and self._has_edges(edge_type):
                    found[edge_type] = most
        return found

    def _has_edges(self, edge_type: EdgeType) -> bool:
        return bool(self._rows(f"MATCH {edge_pattern(edge_type)} RETURN 1 LIMIT 1"))

    def _overlaps(self, label: str, others: Sequence[str]) -> bool:
        has_other = " OR ".join(f"n:{quoted(t)}" for t in others)
        return bool(self._rows(f"MATCH (n:{quoted(label)}) WHERE {has_other} RETURN 1 LIMIT 1"))

    def _has_property(self, node_type: str, property: str) -> bool:
        where = f"n.{quoted(property)} IS NOT NULL"
        return bool(self._rows(f"MATCH (n:{quoted(node_type)}) WHERE {where} RETURN 1 LIMIT 1"))

    def _property_names(self, node_type: str) -> list[str]:
        some = f"MATCH (n:{quoted(node_type)}) WITH n LIMIT 100 UNWIND keys(n) AS name"
        return [name for (name,) in self._rows(f"{some} RETURN DISTINCT name")]

    def _is_unique(self, node_type: str, property: str) -> bool:
        p = f"n.{quoted(property)}"
        rows = self._rows(f"MATCH (n:{quoted(node_type)}) RETURN count(*), count(DISTINCT {p})")
        return rows[0][0] == rows[0][1]

    def _sample_nodes(self, node_type: str, limit: int) -> pa.Table:
        rows = self._rows(
            f"MATCH (n:{quoted(node_type)}) RETURN properties(n) LIMIT $limit", limit=limit
        )
        return table_of_maps([row for (row,) in rows], node_type)

    def _sample_edges(self, edge_type: EdgeType, limit: int) -> pa.Table:
        rows = self._rows(
            f"MATCH {edge_pattern(edge_type)} RETURN properties(r) LIMIT $limit", limit=limit
        )
        return table_of_maps([row for (row,) in rows], str(edge_type))

    def _read_nodes(self, node_type: str, key: str, exclude: Sequence[str], bar: Any) -> NodesRead:
        label, k = quoted(node_type), quoted(key)
        (total,), *_ = self._rows(f"MATCH (n:{label}) RETURN count(n)")
        left_out = "".join(f", {quoted(p)}: null" for p in exclude if p != key)
        node = f"n {{.*{left_out}}}"
        pages = (
            self._pages(label, k, node)
            if self._is_indexed(node_type, key)
            else self._streamed(f"MATCH (n:{label}) WHERE n.{k} IS NOT NULL RETURN {node}")
        )
        tables: list[pa.Table] = []
        kinds: set[type] = set()
        for page in pages:
            kinds.update(type(properties.get(key)) for properties in page)
            tables.append(table_of_maps(page, node_type, exclude))
            bar.update(len(page))
        table = joined(tables, node_type)
        if key not in table.column_names:
            table = table.append_column(key, pa.nulls(table.num_rows, pa.string()))
        one_kind = kinds <= {int} or kinds <= {str}
        if not (one_kind and table.num_rows == total == pc.count_distinct(table[key]).as_py()):
            self._explain_keys(node_type, key, total, table.num_rows)
        return NodesRead(in_key_order(table, key))

    def _is_indexed(self, node_type: str, key: str) -> bool:
        return bool(
            self._rows(
                "SHOW INDEXES YIELD type, entityType, labelsOrTypes, properties, state "
                "WHERE entityType = 'NODE' AND type = 'RANGE' AND state = 'ONLINE' "
                "AND labelsOrTypes = [$label] AND properties = [$key] RETURN 1",
                label=node_type,
                key=key,
            )
        )

    def _pages(self, label: str, k: str, node: str) -> Iterator[list[dict[str, Any]]]:
        """Nodes by ranges of an indexed key, one record each."""
        last: Any = None
        while True:
            where = f"n.{k} IS NOT NULL" if last is None else f"n.{k} > $last"
            rows = self._rows(
                f"MATCH (n:{label}) WHERE {where} WITH n ORDER BY n.{k} LIMIT $limit "
                f"RETURN collect({node}), max(n.{k})",
                last=last,
                limit=NODES_PER_RECORD,
            )
            page, highest = rows[0]
            if page:
                yield page
            if len(page) < NODES_PER_RECORD:
                return
            last = highest

    def _streamed(self, cypher: str, **params: Any) -> Iterator[list[dict[str, Any]]]:
        """Nodes a record each, where no index makes ranges cheap."""
        with self._session("READ", cypher) as session:
            result = self._run(session, cypher, params)
            while page := [row[0] for row in itertools.islice(result, NODES_PER_RECORD)]:
                yield page

    def _explain_keys(self, node_type: str, key: str, total: int, came: int) -> None:
        """Raise the error that says why not every node could be identified."""
        label, k = quoted(node_type), f"n.{quoted(key)}"
        rows = self._rows(
            f"MATCH (n:{label}) WHERE {k} IS NULL RETURN count(n), collect(elementId(n))[..3]"
        )
        if rows[0][0]:
            raise GraphError(
                f"{self.name}: {rows[0][0]} {node_type} nodes have no {key!r} (for example "
                f"{rows[0][1]}); set it, or name another key in Schema(key=...)"
            )
        rows = self._rows(
            f"MATCH (n:{label}) WITH {k} AS key, count(*) AS times WHERE times > 1 "
            "RETURN key, times ORDER BY times DESC LIMIT 5"
        )
        if rows:
            raise DuplicateKeyError(
                f"{self.name}: {node_type} keys occur on more than one node, {key!r} for example: "
                + ", ".join(f"{value!r} ({times} times)" for value, times in rows)
                + "; merge the nodes or name another key in Schema(key=...)"
            )
        sample = self._rows(f"MATCH (n:{label}) RETURN DISTINCT {k} LIMIT 100000")
        kinds = {type(value).__name__: value for (value,) in sample}
        if not kinds.keys() <= {"int"} and not kinds.keys() <= {"str"}:
            raise GraphError(
                f"{self.name}: {node_type}.{key} must be integers on all nodes or strings on all, "
                f"got {kinds}; convert them"
            )
        raise StoreError(
            f"{self.name}: {total} {node_type} nodes were counted and {came} came; "
            "the store was changed meanwhile: read again"
        )

    def _read_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        handles: Mapping[str, np.ndarray],
        on_dangling: str,
        bar: Any,
    ) -> tuple[Edges, int]:
        sources, targets = (vocabularies[t] for t in edge_type[::2])
        # Ranges over the end with more nodes: no single record then holds a hub's million edges.
        over = sources if len(sources) >= len(targets) else targets
        cypher, names = self._edges_of_keys(edge_type, schema, by_source=over is sources)
        if len(over) == 0:
            return Edges(np.empty((2, 0), np.int64)), 0
        at_most = self._edges_at_most(edge_type)
        at_once = min(EDGES_AT_ONCE, max(LEAST_AT_ONCE, at_most // 40))
        step = max(1, int(min(EDGES_PER_RECORD, at_once) / max(1.0, at_most / len(over))))
        ranges = (over.keys.slice(start, step) for start in range(0, len(over), step))
        found = EdgeArrays(at_most, schema.weight in names, schema.time in names)
        tables: list[pa.Table] = []
        waiting = left_out = 0

        def take_in() -> int:
            """Keys become rows, which take a quarter of the memory; over sources, in order."""
            table = joined(tables, str(edge_type))
            tables.clear()
            find = vocabularies.__getitem__
            edges, skipped = read_edges(table, edge_type, schema, find, on_dangling)
            found.add(in_row_order(edges) if over is sources else edges)
            return skipped

        for (lists,) in ahead(lambda keys: self._rows(cypher, keys=keys.to_pylist()), ranges):
            if len({len(values) for values in lists}) > 1:
                raise StoreError(
                    f"{self.name}: {edge_type}: an edge ends in a node without its key; "
                    "the store was changed meanwhile: read again"
                )
            if lists[0]:
                tables.append(_edge_columns(lists, names, edge_type))
                waiting += len(lists[0])
                bar.update(len(lists[0]))
            if waiting >= at_once:
                left_out, waiting = left_out + take_in(), 0
        if tables:
            left_out += take_in()
        return found.edges(), left_out

    def _edges_of_keys(
        self, edge_type: EdgeType, schema: Schema, *, by_source: bool
    ) -> tuple[str, list[str]]:
        """A query for the edges at ``$keys`` as one record of lists, and the properties in it."""
        a, b = (
            f"{v}.{quoted(schema.key_of(t))}" for v, t in zip("ab", edge_type[::2], strict=True)
        )
        names = [n for n in (schema.weight, schema.time) if self._edge_has(edge_type, n)]
        columns = [f"collect({a})", f"collect({b})"]
        columns += [f"collect(coalesce(r.{quoted(n)}, {_NULL!r}))" for n in names]
        where = f"{a if by_source else b} IN $keys"
        return f"MATCH {edge_pattern(edge_type)} WHERE {where} RETURN {', '.join(columns)}", names

    def _time_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        limit: int,
    ) -> tuple[int, float]:
        """The edges of those nodes of the sample that are on the side with more nodes."""
        counts = [
            self._rows(f"MATCH (n:{quoted(t)}) RETURN count(n)")[0][0] for t in edge_type[::2]
        ]
        mean = max(1.0, self._edges_at_most(edge_type) / max(1, *counts))
        by_source = counts[0] >= counts[1]
        over = edge_type[0 if by_source else 2]
        some = vocabularies[over].keys.slice(0, max(1, int(limit / mean))).to_pylist()
        cypher, names = self._edges_of_keys(edge_type, schema, by_source=by_source)
        self._rows(cypher, keys=some[:1])  # plans it
        step, rows, start = max(1, int(EDGES_PER_RECORD / mean)), 0, time.perf_counter()
        for at in range(0, len(some), step):
            (lists,) = self._rows(cypher, keys=some[at : at + step])
            rows += _edge_columns(lists, names, edge_type).num_rows
        return rows, time.perf_counter() - start

    def _edge_has(self, edge_type: EdgeType, name: str) -> bool:
        """Whether an edge of this type has the property; quick where no edge of any type has."""
        known = "CALL db.propertyKeys() YIELD propertyKey WHERE propertyKey = $name RETURN 1"
        has = f"MATCH {edge_pattern(edge_type)} WHERE r.{quoted(name)} IS NOT NULL RETURN 1 LIMIT 1"
        return bool(self._rows(known, name=name)) and bool(self._rows(has))

    def _nodes_since(
        self, node_type: str, key: str, exclude: Sequence[str], updated_at: str, since: Any
    ) -> pa.Table:
        left_out = "".join(f", {quoted(p)}: null" for p in exclude if p != key)
        where = f"n.{quoted(updated_at)} >= $since"
        cypher = f"MATCH (n:{quoted(node_type)}) WHERE {where} RETURN n {{.*{left_out}}}"
        pages = self._streamed(cypher, since=since)
        return joined([table_of_maps(page, node_type, exclude) for page in pages], node_type)

    def _edges_since(
        self,
        edge_type: EdgeType,
        keys: tuple[str, str],
        names: Sequence[str],
        updated_at: str,
        since: Any,
    ) -> pa.Table:
        columns = [f"{v}.{quoted(k)}" for v, k in zip("ab", keys, strict=True)]
        columns += [f"r.{quoted(n)}" for n in (*names, updated_at)]
        shown = zip(columns, ("source", "target", *names, UPDATED), strict=True)
        returned = ", ".join(f"{column} AS {quoted(name)}" for column, name in shown)
        where = f"r.{quoted(updated_at)} >= $since"
        cypher = f"MATCH {edge_pattern(edge_type)} WHERE {where} RETURN {returned}"
        with self._session("READ", cypher) as session:
            return table_of_rows(self._run(session, cypher, {"since": since}), str(edge_type))

    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        pattern = f"(r:{quoted(what)})" if isinstance(what, str) else edge_pattern(what)
        cypher = f"MATCH {pattern} RETURN max(r.{quoted(updated_at)})"
        return plain(self._rows(cypher)[0][0])

    def _count_relation(self, relation: str) -> int:
        return self._rows(f"MATCH ()-[r:{quoted(relation)}]->() RETURN count(r)")[0][0]

    def _count_edges(self, edge_type: EdgeType) -> int:
        return self._rows(f"MATCH {edge_pattern(edge_type)} RETURN count(r)")[0][0]

    def _edges_at_most(self, edge_type: EdgeType) -> int:
        source, relation, target = map(quoted, edge_type)
        (out,), *_ = self._rows(f"MATCH (:{source})-[r:{relation}]->() RETURN count(r)")
        (into,), *_ = self._rows(f"MATCH ()-[r:{relation}]->(:{target}) RETURN count(r)")
        return min(out, into)

    def _read_vectors(self, node_type: str, property: str, key: str) -> pa.Table:
        label, k, p = quoted(node_type), f"n.{quoted(key)}", f"n.{quoted(property)}"
        where = f"MATCH (n:{label}) WHERE {k} IS NOT NULL AND {p} IS NOT NULL"
        cypher = f"{where} RETURN {k}, {p}"
        what = f"{node_type}.{property}"
        tables = [pa.table({"key": pa.nulls(0), "vector": pa.nulls(0)})]
        with self._session("READ", cypher) as session:
            result = self._run(session, cypher)
            while rows := [r.values() for r in itertools.islice(result, NODES_PER_RECORD)]:
                keys, vectors = (list(column) for column in zip(*rows, strict=True))
                if not all(isinstance(v, list) for v in vectors):
                    raise StoreError(f"{self.name}: {what} holds other things than vectors")
                columns = {"key": to_array(keys, f"{node_type}.{key}")}
                tables.append(pa.table(columns | {"vector": to_array(vectors, what)}))
        return joined(tables, what)


def _edge_columns(lists: list[list[Any]], names: Sequence[str], edge_type: EdgeType) -> pa.Table:
    columns = {"source": to_array(lists[0], "source"), "target": to_array(lists[1], "target")}
    for name, values in zip(names, lists[2:], strict=True):
        found = [None if v == _NULL else v for v in values] if _NULL in values else values
        columns[name] = to_array(found, f"{edge_type}.{name}")
    return pa.table(columns)


def _triple_value(value: Any) -> Any:
    from neo4j.graph import Node, Relationship

    if isinstance(value, Node):
        return NodeValue(tuple(value.labels), {n: plain(v) for n, v in value.items()})
    if isinstance(value, Relationship):
        return RelationValue(value.type, {n: plain(v) for n, v in value.items()})
    return plain(value)
