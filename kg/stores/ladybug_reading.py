"""How graphs and vectors are read from the embedded store."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kg.errors import DanglingEdgeError, StoreError, StoreUnavailableError
from kg.graph import Edges, read_edges
from kg.schema import EdgeType, Schema
from kg.stores.base import CypherStore
from kg.stores.changes import UPDATED
from kg.stores.filling import EdgeArrays
from kg.stores.names import quoted
from kg.stores.primitives import NodesRead
from kg.stores.reading import in_key_order
from kg.stores.triples import NodeValue, RelationValue, Triples
from kg.tables import finite_array, time_array
from kg.vectors import Vocabulary

EDGES_PER_RANGE = 50_000
_INTERNAL = ("_ID", "_LABEL", "_SRC", "_DST")


class LadybugReading(CypherStore):
    """An open file and what is read from it."""

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        read_only: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.path = str(path)
        self.read_only = read_only
        self.memory_limit = memory_limit
        self.name = self.path
        self._connection: Any = None
        self._database: Any = None
        self._lock = threading.RLock()

    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query of your own; see :meth:`CypherStore.query`."""
        return self._run(cypher, params)

    def close(self) -> None:
        """Close the file; it opens anew when the store is used again."""
        with self._lock:
            connection, database = self._connection, self._database
            self._connection = self._database = None
            if connection is not None:
                connection.close()
                database.close()

    def _open(self) -> Any:
        if self._connection is None:
            import ladybug

            if self.path != ":memory:" and not self.read_only:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = ladybug.Database(
                    self.path,
                    read_only=self.read_only,
                    buffer_pool_size=self.memory_limit or 0,
                )
                self._connection = ladybug.Connection(self._database)
            except RuntimeError as error:
                self._database = None
                hint = "check the path"
                if "lock" in str(error).lower():
                    hint = "another process has it open; close that one, or open with read_only"
                raise StoreUnavailableError(
                    f"cannot open the embedded store {self.path!r}: {error}; {hint}"
                ) from error
        return self._connection

    def _run(self, cypher: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        with self._lock:
            connection = self._open()
            try:
                result = connection.execute(cypher, dict(params or {}))
                last = result[-1] if isinstance(result, list) else result
                return last.get_as_arrow() if last.get_column_names() else pa.table({})
            except RuntimeError as error:
                raise StoreError(f"{self.name}: {error}. The query was: {cypher[:500]}") from error

    def _query_for_read(self, cypher: str) -> pa.Table:
        return self._run(cypher)

    def _triples(self, cypher: str) -> Triples:
        table = self._run(cypher)
        columns: dict[str, Sequence[Any]] = {}
        for name in table.column_names:
            kind = table[name].type
            fields = {f.name for f in kind} if pa.types.is_struct(kind) else set()
            values = table[name].to_pylist()
            if "_SRC" in fields:
                values = [v and RelationValue(v["_LABEL"], _own(v)) for v in values]
            elif "_LABEL" in fields:
                values = [v and NodeValue((v["_LABEL"],), _own(v)) for v in values]
            columns[name] = values
        return Triples(columns, cypher)

    def _as_stored_keys(self, node_type: str, keys: list[Any]) -> list[Any]:
        # Where a variable may be a node of several tables, the engine returns integer keys as
        # strings if another table's keys are strings.
        if node_type not in self._tables("NODE") or not all(isinstance(k, str) for k in keys):
            return keys
        kind = next(kind for kind, primary in self._columns(node_type).values() if primary)
        if not kind.startswith(("INT", "UINT")) or not all(map(_is_integer, keys)):
            return keys
        return [int(k) for k in keys]

    def _tables(self, kind: str) -> list[str]:
        table = self._run("CALL show_tables() RETURN name, type")
        return sorted(r["name"] for r in table.to_pylist() if r["type"] == kind)

    def _columns(self, table_name: str) -> dict[str, tuple[str, bool]]:
        """Type of every property of a table, and whether it is the primary key."""
        rows = self._run(f"CALL table_info({literal(table_name)}) RETURN *").to_pylist()
        return {r["name"]: (r["type"], bool(r.get("primary key"))) for r in rows}

    def _ends(self, relation: str) -> list[tuple[str, str]]:
        rows = self._run(f"CALL show_connection({literal(relation)}) RETURN *").to_pylist()
        return [(r["source table name"], r["destination table name"]) for r in rows]

    def _count(self, pattern: str) -> int:
        return self._run(f"MATCH {pattern} RETURN count(*) AS n")["n"][0].as_py()

    def _labels(self) -> dict[str, int]:
        return {t: self._count(f"(n:{quoted(t)})") for t in self._tables("NODE")}

    def _unique_properties(self) -> dict[str, tuple[str, ...]]:
        return {
            t: tuple(name for name, (_, primary) in self._columns(t).items() if primary)
            for t in self._tables("NODE")
        }

    def _edge_types(self, labels: Sequence[str]) -> dict[EdgeType, int]:
        found: dict[EdgeType, int] = {}
        for relation in self._tables("REL"):
            for source, target in self._ends(relation):
                if source in labels and target in labels:
                    found[source, relation, target] = self._count(
                        edge_pattern((source, relation, target))
                    )
        return found

    def _has_edges(self, edge_type: EdgeType) -> bool:
        source, relation, target = edge_type
        return relation in self._tables("REL") and (source, target) in self._ends(relation)

    def _overlaps(self, label: str, others: Sequence[str]) -> bool:
        return False

    def _has_property(self, node_type: str, property: str) -> bool:
        return property in self._columns(node_type)

    def _property_names(self, node_type: str) -> list[str]:
        return list(self._columns(node_type))

    def _is_unique(self, node_type: str, property: str) -> bool:
        row = self._run(
            f"MATCH (n:{quoted(node_type)}) "
            f"RETURN count(*) AS rows, count(DISTINCT n.{quoted(property)}) AS different"
        ).to_pylist()[0]
        return row["rows"] == row["different"]

    def _sample_nodes(self, node_type: str, limit: int) -> pa.Table:
        columns = ", ".join(f"n.{quoted(p)} AS {quoted(p)}" for p in self._columns(node_type))
        return self._run(f"MATCH (n:{quoted(node_type)}) RETURN {columns} LIMIT {int(limit)}")

    def _sample_edges(self, edge_type: EdgeType, limit: int) -> pa.Table:
        names = list(self._columns(edge_type[1]))
        if not names:
            return pa.table({})
        columns = ", ".join(f"r.{quoted(p)} AS {quoted(p)}" for p in names)
        table = self._run(f"MATCH {edge_pattern(edge_type)} RETURN {columns} LIMIT {int(limit)}")
        return _without_empty_columns(table, names)

    def _read_nodes(self, node_type: str, key: str, exclude: Sequence[str], bar: Any) -> NodesRead:
        names = [key, *(p for p in self._columns(node_type) if p != key and p not in exclude)]
        columns = ", ".join(f"n.{quoted(p)} AS {quoted(p)}" for p in names)
        offset = _free_name("offset", names)
        table = self._run(
            f"MATCH (n:{quoted(node_type)}) RETURN {columns}, offset(id(n)) AS {offset}"
        )
        bar.update(table.num_rows)
        table = in_key_order(table, key)
        handles = table[offset].to_numpy().astype(np.int64)
        return NodesRead(table.drop_columns([offset]), handles)

    def _read_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        handles: Mapping[str, np.ndarray],
        on_dangling: str,
        bar: Any,
    ) -> tuple[Edges, int]:
        source, relation, target = edge_type
        names = [n for n in (schema.weight, schema.time) if n in self._columns(relation)]
        if source in handles and target in handles:
            return self._edges_in_ranges(edge_type, schema, names, handles, bar), 0
        columns = [f"r.{quoted(n)} AS {quoted(n)}" for n in names]
        a, b = (quoted(schema.key_of(t)) for t in (source, target))
        ends = [f"a.{a} AS source", f"b.{b} AS target"]
        table = self._run(f"MATCH {edge_pattern(edge_type)} RETURN {', '.join(ends + columns)}")
        bar.update(table.num_rows)
        table = _without_empty_columns(table, names)
        return read_edges(table, edge_type, schema, vocabularies.__getitem__, on_dangling)

    def _edges_in_ranges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        names: Sequence[str],
        handles: Mapping[str, np.ndarray],
        bar: Any,
    ) -> Edges:
        """Edges by ranges of the engine's numbers of their sources, in arrays made beforehand.

        So the engine's result and its copy as Arrow are never there for all edges at once.
        """
        source, count = edge_type[0], self._count_edges(edge_type)
        names = [n for n in names if self._edge_has(edge_type, n)]
        columns = ["offset(id(a)) AS source", "offset(id(b)) AS target"]
        columns += [f"r.{quoted(n)} AS {quoted(n)}" for n in names]
        where = "offset(id(a)) >= $first AND offset(id(a)) < $stop"
        cypher = f"MATCH {edge_pattern(edge_type)} WHERE {where} RETURN {', '.join(columns)}"
        found = EdgeArrays(count, schema.weight in names, schema.time in names)
        end = int(handles[source].max(initial=-1)) + 1
        step = max(1, -(-end * EDGES_PER_RANGE // max(count, 1)))
        for first in range(0, end, step):
            table = self._run(cypher, {"first": first, "stop": first + step})
            found.add(_edges_of(table, edge_type, schema, handles))
            bar.update(table.num_rows)
        if found.size != count:
            raise StoreError(
                f"{self.name}: {count} {edge_type} edges were counted and others came; the store "
                "was changed meanwhile: read again"
            )
        return found.edges()

    def _time_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        limit: int,
    ) -> tuple[int, float]:
        names = [n for n in (schema.weight, schema.time) if n in self._columns(edge_type[1])]
        columns = ["offset(id(a)) AS source", "offset(id(b)) AS target"]
        columns += [f"r.{quoted(n)} AS {quoted(n)}" for n in names]
        cypher = f"MATCH {edge_pattern(edge_type)} RETURN {', '.join(columns)}"
        start = time.perf_counter()
        table = self._run(f"{cypher} LIMIT {int(limit)}")
        return table.num_rows, time.perf_counter() - start

    def _edge_has(self, edge_type: EdgeType, name: str) -> bool:
        if not self._has_edges(edge_type) or name not in self._columns(edge_type[1]):
            return False
        has = f"MATCH {edge_pattern(edge_type)} WHERE r.{quoted(name)} IS NOT NULL"
        return self._run(f"{has} RETURN 1 AS one LIMIT 1").num_rows > 0

    def _nodes_since(
        self, node_type: str, key: str, exclude: Sequence[str], updated_at: str, since: Any
    ) -> pa.Table:
        names = [key, *(p for p in self._columns(node_type) if p != key and p not in exclude)]
        columns = ", ".join(f"n.{quoted(p)} AS {quoted(p)}" for p in names)
        where = f"n.{quoted(updated_at)} >= $since"
        cypher = f"MATCH (n:{quoted(node_type)}) WHERE {where} RETURN {columns}"
        return self._run(cypher, {"since": since})

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
        return self._run(cypher, {"since": since})

    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        pattern = f"(r:{quoted(what)})" if isinstance(what, str) else edge_pattern(what)
        cypher = f"MATCH {pattern} RETURN max(r.{quoted(updated_at)}) AS latest"
        return self._run(cypher)["latest"][0].as_py()

    def _edges_at_most(self, edge_type: EdgeType) -> int:
        return self._count_edges(edge_type)

    def _count_relation(self, relation: str) -> int:
        if relation not in self._tables("REL"):
            return 0
        return self._count(f"()-[r:{quoted(relation)}]->()")

    def _count_edges(self, edge_type: EdgeType) -> int:
        return self._count(edge_pattern(edge_type)) if self._has_edges(edge_type) else 0

    def _read_vectors(self, node_type: str, property: str, key: str) -> pa.Table:
        there = self._columns(node_type)
        if property not in there:
            raise StoreError(
                f"{self.name}: {node_type} has no property {property!r}; it has {sorted(there)}"
            )
        if not there[property][0].endswith("]"):
            raise StoreError(
                f"{self.name}: {node_type}.{property} holds {there[property][0]}, not vectors"
            )
        return self._run(
            f"MATCH (n:{quoted(node_type)}) WHERE n.{quoted(property)} IS NOT NULL "
            f"RETURN n.{quoted(key)} AS key, n.{quoted(property)} AS vector"
        )


def _without_empty_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table without those of these columns in which no edge has a value."""
    empty = [n for n in names if n in table.column_names and table[n].null_count == len(table)]
    return table.drop_columns(empty) if empty else table


def edge_pattern(edge_type: EdgeType) -> str:
    """Cypher for the edges of a type: ``a``, ``r``, ``b``."""
    source, relation, target = map(quoted, edge_type)
    return f"(a:{source})-[r:{relation}]->(b:{target})"


def literal(name: str) -> str:
    """A name as a string literal, where the engine takes no parameter and no identifier."""
    quoted(name)
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _free_name(wanted: str, taken: Sequence[str]) -> str:
    lower = {name.lower() for name in taken}
    while wanted in lower:
        wanted += "_"
    return wanted


def _own(value: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a returned node or relationship; other tables' columns are null."""
    return {n: v for n, v in value.items() if n not in _INTERNAL and v is not None}


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text


def _edges_of(
    table: pa.Table, edge_type: EdgeType, schema: Schema, handles: Mapping[str, np.ndarray]
) -> Edges:
    """Edges whose ends the engine's numbers name."""
    what = f"{edge_type} edges"
    ends = zip(edge_type[::2], (table["source"], table["target"]), strict=True)
    index = np.stack([_rows_of(handles[t], column.to_numpy(), edge_type) for t, column in ends])
    weight = time = None
    if schema.weight in table.column_names:
        weight = finite_array(table[schema.weight], f"{what}, {schema.weight}")
    if schema.time in table.column_names:
        time = time_array(table[schema.time], f"{what}, {schema.time}")
    return Edges(index, weight, time)


def _rows_of(handles: np.ndarray, offsets: np.ndarray, edge_type: EdgeType) -> np.ndarray:
    """Rows of the nodes that the engine numbers ``offsets``."""
    offsets = offsets.astype(np.int64, copy=False)
    size = 1 + int(max(handles.max(initial=-1), offsets.max(initial=-1)))
    row_of = np.full(size, -1, np.int64)
    row_of[handles] = np.arange(len(handles))
    rows = row_of[offsets]
    if (rows < 0).any():
        raise DanglingEdgeError(
            f"{edge_type}: {int((rows < 0).sum())} edges end in a node that was not read; "
            "the store was changed meanwhile: read again"
        )
    return rows
