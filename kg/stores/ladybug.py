"""The embedded store: Cypher on disk or in memory, no server."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import (
    DanglingEdgeError,
    DependencyError,
    DuplicateKeyError,
    StoreError,
    StoreUnavailableError,
)
from kg.graph import Edges, KnowledgeGraph, read_edges
from kg.schema import EdgeType, Schema
from kg.stores.base import CypherStore, NodesRead, in_key_order, without_empty_columns
from kg.stores.changes import UPDATED
from kg.stores.lists import Lists
from kg.stores.names import quoted
from kg.stores.triples import NodeValue, RelationValue, Triples
from kg.stores.values import Comparison, NodeValues
from kg.tables import finite_array, is_string, time_array
from kg.vectors import Vocabulary

_COLUMN_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_boolean, "BOOL"),
    (pa.types.is_integer, "INT64"),
    (pa.types.is_floating, "DOUBLE"),
    (is_string, "STRING"),
    (pa.types.is_null, "STRING"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_binary, "BLOB"),
    (pa.types.is_large_binary, "BLOB"),
)
EDGES_PER_RANGE = 250_000
_INTERNAL = ("_ID", "_LABEL", "_SRC", "_DST")
_RESERVED = {"_id", "_label", "_src", "_dst"}


class LadybugStore(CypherStore):
    """A graph in one file, read and written with Cypher (package ``ladybug``).

    Node types are node tables with the key as primary key, relations are relation tables. Opens
    at first use. One process at a time may write to a file.

    Names may hold spaces, quotes, backticks and so on. What the engine cannot hold is a
    :class:`StoreError` before anything is written: a full stop in a node type or relation, two
    names that differ in case only, a relation named like a node type, the properties ``_id``,
    ``_label``, ``_src`` and ``_dst``. Values of every type come as Arrow has them (timestamps,
    intervals, structures, maps, decimals, nested lists), a missing one as null.

    Args:
        path: the file, made if absent; ``":memory:"`` for a store that is gone when closed.
        read_only: open without the right to write; many processes may.
        memory_limit: bytes for the engine's buffers; 80% of the machine's memory if ``None``.
    """

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

    def compact(self) -> None:
        """Write everything into a new file in place of the old one, whole or not at all.

        A file keeps in its free pages what was deleted from it; a new one does not.

        Raises:
            StoreError: the engine cannot write or read one of the tables, or the new file does not
                hold as much as the old one; the old one stays.
        """
        if self.path == ":memory:" or self.read_only:
            raise StoreError(f"{self.name}: only a file that may be written can be compacted")
        path = Path(self.path).absolute()
        for left in path.parent.glob(f".{path.name}.compact-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.compact-"))
        try:
            with self._lock:
                counts = self._counts()
                exported = _literal(str(folder / "all"))
                self._run(f"EXPORT DATABASE {exported} (format='parquet')")
                with LadybugStore(folder / "new", memory_limit=self.memory_limit) as new:
                    new._run(f"IMPORT DATABASE {exported}")
                    if (copied := new._counts()) != counts:
                        raise StoreError(
                            f"{self.name}: the new file holds {copied}, the old one {counts}; "
                            "the old one stays"
                        )
                self.close()
                os.replace(folder / "new", path)
                Path(f"{path}.wal").unlink(missing_ok=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _counts(self) -> dict[Any, int]:
        labels = self._labels()
        return {**labels, **self._edge_types(list(labels))}

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
        rows = self._run(f"CALL table_info({_literal(table_name)}) RETURN *").to_pylist()
        return {r["name"]: (r["type"], bool(r.get("primary key"))) for r in rows}

    def _ends(self, relation: str) -> list[tuple[str, str]]:
        rows = self._run(f"CALL show_connection({_literal(relation)}) RETURN *").to_pylist()
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
                        _pattern((source, relation, target))
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
        table = self._run(f"MATCH {_pattern(edge_type)} RETURN {columns} LIMIT {int(limit)}")
        return without_empty_columns(table, names)

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
        table = self._run(f"MATCH {_pattern(edge_type)} RETURN {', '.join(ends + columns)}")
        bar.update(table.num_rows)
        table = without_empty_columns(table, names)
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
        cypher = f"MATCH {_pattern(edge_type)} WHERE {where} RETURN {', '.join(columns)}"
        index = np.empty((2, count), np.int64)
        weight = np.empty(count) if schema.weight in names else None
        time = np.empty(count, np.int64) if schema.time in names else None
        end = int(handles[source].max(initial=-1)) + 1
        step = max(1, -(-end * EDGES_PER_RANGE // max(count, 1)))
        at, what = 0, f"{edge_type} edges"
        for first in range(0, end, step):
            table = self._run(cypher, {"first": first, "stop": first + step})
            to = at + table.num_rows
            if to > count:
                break
            for row, name in enumerate(("source", "target")):
                offsets = table[name].to_numpy()
                index[row, at:to] = _rows_of(handles[edge_type[2 * row]], offsets, edge_type)
            if weight is not None:
                column = table[schema.weight]
                weight[at:to] = finite_array(column, f"{what}, {schema.weight}")
            if time is not None:
                time[at:to] = time_array(table[schema.time], f"{what}, {schema.time}")
            at = to
            bar.update(table.num_rows)
        if at != count:
            raise StoreError(
                f"{self.name}: {count} {edge_type} edges were counted and others came; the store "
                "was changed meanwhile: read again"
            )
        return Edges(index, weight, time)

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
        cypher = f"MATCH {_pattern(edge_type)} RETURN {', '.join(columns)}"
        start = time.perf_counter()
        table = self._run(f"{cypher} LIMIT {int(limit)}")
        return table.num_rows, time.perf_counter() - start

    def _edge_has(self, edge_type: EdgeType, name: str) -> bool:
        if not self._has_edges(edge_type) or name not in self._columns(edge_type[1]):
            return False
        has = f"MATCH {_pattern(edge_type)} WHERE r.{quoted(name)} IS NOT NULL"
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
        cypher = f"MATCH {_pattern(edge_type)} WHERE {where} RETURN {returned}"
        return self._run(cypher, {"since": since})

    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        pattern = f"(r:{quoted(what)})" if isinstance(what, str) else _pattern(what)
        cypher = f"MATCH {pattern} RETURN max(r.{quoted(updated_at)}) AS latest"
        return self._run(cypher)["latest"][0].as_py()

    def _edges_at_most(self, edge_type: EdgeType) -> int:
        return self._count_edges(edge_type)

    def _count_relation(self, relation: str) -> int:
        if relation not in self._tables("REL"):
            return 0
        return self._count(f"()-[r:{quoted(relation)}]->()")

    def _count_edges(self, edge_type: EdgeType) -> int:
        return self._count(_pattern(edge_type)) if self._has_edges(edge_type) else 0

    def _check_names(self, graph: KnowledgeGraph) -> None:
        super()._check_names(graph)
        relations = list(dict.fromkeys(e[1] for e in graph.edge_types))
        tables: dict[str, tuple[str, str]] = {
            t.lower(): (t, kind) for kind in ("NODE", "REL") for t in self._tables(kind)
        }
        for name, kind in (
            *((t, "NODE") for t in graph.node_types),
            *((r, "REL") for r in relations),
        ):
            if "." in name:
                raise StoreError(
                    f"the embedded store cannot hold {name!r}: no full stop in a node type or "
                    "relation; rename it"
                )
            if tables.setdefault(name.lower(), (name, kind)) != (name, kind):
                other, is_a = tables[name.lower()]
                what = "a relation" if is_a == "REL" else "a node type"
                raise StoreError(
                    f"the embedded store cannot hold {name!r} beside {other!r}, {what}: names of "
                    "node types and relations must differ, in more than case; rename one"
                )
        for node_type in graph.node_types:
            names = [graph.schema.key_of(node_type), *graph.attributes[node_type].column_names]
            lower = [n.lower() for n in names]
            for name in names:
                if name.lower() in _RESERVED or lower.count(name.lower()) > 1:
                    raise StoreError(
                        f"the embedded store cannot hold the property {node_type}.{name}: it is "
                        "reserved, or differs from another in case only; rename it"
                    )
            for column in graph.attributes[node_type].schema:
                _column_type(column.type, f"{node_type}.{column.name}")

    def _write_nodes(
        self, node_type: str, key: str, table: pa.Table, batch_size: int, bar: Any
    ) -> None:
        table = _storable(table)
        if node_type not in self._tables("NODE"):
            kind = _column_type(table[key].type, f"{node_type}.{key}")
            self._run(
                f"CREATE NODE TABLE {quoted(node_type)}"
                f"({quoted(key)} {kind}, PRIMARY KEY({quoted(key)}))"
            )
        there = self._columns(node_type)
        if not there.get(key, ("", False))[1]:
            primary = [n for n, (_, is_primary) in there.items() if is_primary]
            raise StoreError(
                f"{self.name}: the primary key of {node_type} is {primary}, the graph's key is "
                f"{key!r}; name it in Schema(key=...)"
            )
        table = self._with_columns(node_type, table, there)
        known = self._run(f"MATCH (n:{quoted(node_type)}) RETURN n.{quoted(key)} AS key")["key"]
        is_known = pc.is_in(table[key], value_set=known.cast(table[key].type).combine_chunks())
        new, old = table.filter(pc.invert(is_known)), table.filter(is_known)
        names = ", ".join(map(quoted, table.column_names))
        for batch in _batches(new, max(batch_size, 100_000)):
            self._run(f"COPY {quoted(node_type)}({names}) FROM $rows", {"rows": batch})
            bar.update(batch.num_rows)
        self._update(f"(n:{quoted(node_type)} {{{quoted(key)}: c0}})", "n", old, 1, batch_size, bar)

    def _with_columns(
        self, table_name: str, table: pa.Table, there: Mapping[str, tuple[str, bool]]
    ) -> pa.Table:
        """Add the columns that the store's table lacks; cast to the types that it has."""
        for name in table.column_names:
            kind = _column_type(table[name].type, f"{table_name}.{name}")
            if name not in there:
                self._run(f"ALTER TABLE {quoted(table_name)} ADD {quoted(name)} {kind}")
            elif there[name][0] != kind:
                at = table.column_names.index(name)
                table = table.set_column(at, name, self._cast(table_name, name, table[name]))
        return table

    def _cast(self, table_name: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        nodes = table_name in self._tables("NODE")
        pattern = f"(n:{quoted(table_name)})" if nodes else f"()-[n:{quoted(table_name)}]->()"
        empty = self._run(f"MATCH {pattern} RETURN n.{quoted(name)} AS v LIMIT 0")
        kind = empty["v"].type
        try:
            if column.null_count == len(column):
                return pa.chunked_array([pa.nulls(len(column), kind)])
            if not _may_become(column.type, kind):
                raise pa.ArrowInvalid("these are not cast into each other")
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StoreError(
                f"{self.name}: {table_name}.{name} holds {kind}, the graph has "
                f"{column.type} ({error}); convert it or name it differently"
            ) from error

    def _update(
        self, pattern: str, target: str, table: pa.Table, ends: int, batch_size: int, bar: Any
    ) -> None:
        """Set the columns after the first ``ends``, which ``pattern`` matches as c0, c1."""
        assignments = [
            f"{target}.{quoted(name)} = c{at}"
            for at, name in enumerate(table.column_names)
            if at >= ends
        ]
        if not assignments:
            bar.update(table.num_rows)
            return
        renamed = table.rename_columns([f"c{at}" for at in range(table.num_columns)])
        for batch in _batches(renamed, batch_size):
            self._run(
                f"LOAD FROM $rows MATCH {pattern} SET {', '.join(assignments)}", {"rows": batch}
            )
            bar.update(batch.num_rows)

    def _write_edges(
        self, edge_type: EdgeType, graph: KnowledgeGraph, batch_size: int, bar: Any
    ) -> None:
        source, relation, target = edge_type
        table = _storable(graph.edge_table(edge_type))
        every = self._make_relation(edge_type, table)
        properties = every.select(table.column_names[2:])
        keys = [quoted(graph.schema.key_of(t)) for t in (source, target)]
        known = self._run(
            f"MATCH {_pattern(edge_type)} RETURN a.{keys[0]} AS source, b.{keys[1]} AS target"
        )
        is_known = _pairs_in(graph, edge_type, known)
        new = every.filter(pa.array(~is_known))
        pair = f"(FROM={_literal(source)}, TO={_literal(target)})"
        for batch in _batches(new, max(batch_size, 1_000_000)):
            self._run(f"COPY {quoted(relation)} FROM $rows {pair}", {"rows": batch})
            bar.update(batch.num_rows)
        old = pa.table(
            {"source": table["source"], "target": table["target"]}
            | {n: properties[n] for n in properties.column_names}
        ).filter(pa.array(is_known))
        pattern = (
            f"(a:{quoted(source)} {{{keys[0]}: c0}})-[r:{quoted(relation)}]->"
            f"(b:{quoted(target)} {{{keys[1]}: c1}})"
        )
        self._update(pattern, "r", old, 2, batch_size, bar)

    def _prepare_values(
        self, values: NodeValues, found: Comparison, index: bool, dry_run: bool
    ) -> list[str]:
        node_type, key, property = values.node_type, values.key, values.place
        there = self._columns(node_type)
        if not there[key][1] and not self._is_unique(node_type, key):
            raise DuplicateKeyError(
                f"{self.name}: {node_type} nodes share a {key!r} or lack it, so it cannot be their "
                "key; name another one"
            )
        steps, label, wanted = [], quoted(node_type), f"FLOAT[{values.dim}]"
        kind = there.get(property, (wanted, False))[0]
        if not kind.startswith(("FLOAT[", "DOUBLE[")):
            raise StoreError(
                f"{self.name}: {node_type}.{property} holds {kind}, not vectors; "
                "write them under another name"
            )
        for name in values.numbers:
            if (held := there.get(name, ("DOUBLE", False))[0]) != "DOUBLE":
                raise StoreError(
                    f"{self.name}: {node_type}.{name} holds {held}, not DOUBLE; "
                    "write the numbers under another name"
                )
        if index and not dry_run:
            self._load_vector_extension()
        if kind != wanted:
            steps.append(f"remove the vectors of type {kind} from {node_type}.{property}")
        if not dry_run:
            if kind != wanted:
                self._run(f"ALTER TABLE {label} DROP {quoted(property)}")
            self._run(f"ALTER TABLE {label} ADD IF NOT EXISTS {quoted(property)} {wanted}")
            for name in values.numbers:
                self._run(f"ALTER TABLE {label} ADD IF NOT EXISTS {quoted(name)} DOUBLE")
        return steps

    def _compare_values(self, values: NodeValues, batch_size: int) -> Comparison:
        """Compared by the engine itself, which is some ten times quicker than writing."""
        label, key = quoted(values.node_type), quoted(values.key)
        known = self._run(f"MATCH (n:{label}) RETURN n.{key} AS key")["key"]
        keys, size = values.embeddings.nodes.keys, len(values)
        missing = np.ones(size, bool)
        if pa.types.is_integer(known.type) == values.embeddings.nodes.is_int:
            there = known.cast(keys.type).combine_chunks()
            missing = ~pc.is_in(keys, value_set=there).to_numpy()
        names = [values.place, *values.numbers]
        kinds = {n: kind for n, (kind, _) in self._columns(values.node_type).items()}
        unchanged = np.zeros(size, bool)
        if kinds.get(names[0]) == f"FLOAT[{values.dim}]" and set(names) <= set(kinds):
            same = " AND ".join(f"n.{quoted(name)} = c{at}" for at, name in enumerate(names, 1))
            cypher = (
                f"LOAD FROM $rows MATCH (n:{label} {{{key}: c0}}) WHERE {same} RETURN c0 AS key"
            )
            for batch in _batches(self._values_table(values, np.flatnonzero(~missing)), 10_000):
                found = self._run(cypher, {"rows": batch})["key"]
                unchanged[values.embeddings.nodes.rows(found.cast(keys.type))] = True
        return Comparison(unchanged, missing, kinds.get(names[0]) == f"FLOAT[{values.dim}]")

    def _values_table(self, values: NodeValues, rows: np.ndarray) -> pa.Table:
        some = values.take(rows)
        table = some.embeddings.to_table("vector")
        for name, numbers in some.numbers.items():
            table = table.append_column(name, pa.array(numbers))
        return table.rename_columns([f"c{at}" for at in range(table.num_columns)])

    def _write_values(self, values: NodeValues, batch_size: int, bar: Any) -> None:
        table = self._values_table(values, np.arange(len(values)))
        table = table.rename_columns(["c0", values.place, *values.numbers])
        pattern = f"(n:{quoted(values.node_type)} {{{quoted(values.key)}: c0}})"
        self._update(pattern, "n", table, 1, batch_size, bar)

    def _make_relation(self, edge_type: EdgeType, table: pa.Table) -> pa.Table:
        """Make room for edges; the table with the columns that the engine's ``COPY`` wants.

        That is every property of the relation's table, in its order; those of other edge types of
        this relation are null here.
        """
        source, relation, target = edge_type
        ends = f"FROM {quoted(source)} TO {quoted(target)}"
        if relation not in self._tables("REL"):
            self._run(f"CREATE REL TABLE {quoted(relation)}({ends})")
        elif (source, target) not in self._ends(relation):
            self._run(f"ALTER TABLE {quoted(relation)} ADD {ends}")
        properties = table.select(table.column_names[2:])
        properties = self._with_columns(relation, properties, self._columns(relation))
        columns = {"source": table["source"], "target": table["target"]}
        for name in self._columns(relation):
            given = name in properties.column_names
            columns[name] = properties[name] if given else pa.nulls(table.num_rows, pa.int64())
        return pa.table(columns)

    def _read_lists(self, lists: Lists, users: list[Any]) -> pa.Table:
        names = ["source", "target", *lists.properties]
        held = self._columns(lists.edge_type[1]) if self._has_edges(lists.edge_type) else {}
        if not set(lists.properties) <= set(held):
            return pa.table({name: pa.nulls(0) for name in names})
        ends = [f"{v}.{quoted(k)}" for v, k in zip("ab", lists.keys, strict=True)]
        columns = [*ends, *(f"r.{quoted(n)}" for n in lists.properties)]
        returned = ", ".join(f"{c} AS {quoted(n)}" for c, n in zip(columns, names, strict=True))
        where = f"WHERE {ends[0]} IN $users"
        return self._run(
            f"MATCH {_pattern(lists.edge_type)} {where} RETURN {returned}", {"users": users}
        )

    def _replace_lists(self, lists: Lists, users: list[Any], table: pa.Table) -> None:
        source, relation, target = lists.edge_type
        table = self._make_relation(lists.edge_type, _storable(table))
        delete = f"MATCH {_pattern(lists.edge_type)} WHERE a.{quoted(lists.keys[0])} IN $users"
        pair = f"(FROM={_literal(source)}, TO={_literal(target)})"
        with self._lock:
            self._run("BEGIN TRANSACTION")
            try:
                self._run(f"{delete} DELETE r", {"users": users})
                if table.num_rows:
                    rows = table.combine_chunks()
                    self._run(f"COPY {quoted(relation)} FROM $rows {pair}", {"rows": rows})
                self._run("COMMIT")
            except BaseException:
                self._run("ROLLBACK")
                raise

    def _known_keys(self, node_type: str, key: str, keys: list[Any]) -> list[Any]:
        there = self._run(f"MATCH (n:{quoted(node_type)}) RETURN n.{quoted(key)} AS key")["key"]
        wanted = set(keys)
        return [k for k in there.to_pylist() if k in wanted]

    def _load_vector_extension(self) -> None:
        try:
            self._run("LOAD EXTENSION vector")
        except StoreError:
            try:
                self._run("INSTALL vector")
                self._run("LOAD EXTENSION vector")
            except StoreError as error:
                raise DependencyError(
                    "the embedded store's vector extension is not installed and could not be "
                    f"fetched; pass index=False, or install it ({error})"
                ) from error

    def _index(self, node_type: str, property: str, dim: int) -> None:
        name = "vector_" + "".join(c if c.isalnum() else "_" for c in f"{node_type}_{property}")
        call = f"CREATE_VECTOR_INDEX({_literal(node_type)}, {_literal(name)}, {_literal(property)}"
        there = self._run("CALL SHOW_INDEXES() RETURN *").to_pylist()
        if not any(row.get("index name") == name for row in there):
            self._run(f"CALL {call}, metric := 'cosine')")

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


def _pattern(edge_type: EdgeType) -> str:
    source, relation, target = map(quoted, edge_type)
    return f"(a:{source})-[r:{relation}]->(b:{target})"


def _literal(name: str) -> str:
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


def _column_type(kind: pa.DataType, what: str) -> str:
    """The store's type for an Arrow type.

    Raises:
        StoreError: there is none.
    """
    if pa.types.is_dictionary(kind):
        return _column_type(kind.value_type, what)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _column_type(kind.value_type, what) + "[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP_TZ" if kind.tz else "TIMESTAMP"
    for matches, name in _COLUMN_TYPES:
        if matches(kind):
            return name
    raise StoreError(
        f"{what}: the embedded store cannot hold {kind}; convert it to text or numbers"
    )


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text


def _storable(table: pa.Table) -> pa.Table:
    """The table in the widest type of each family, as the engine's columns are made."""
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = table[name].cast(_widened(table[name].type))
        except pa.ArrowInvalid as error:
            raise StoreError(f"{name}: the embedded store cannot hold a value: {error}") from error
    return pa.table(columns)


def _widened(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _widened(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_widened(kind.value_type))
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if is_string(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.date32() if pa.types.is_date(kind) else kind


def _may_become(given: pa.DataType, kept: pa.DataType) -> bool:
    """Whether a value still means the same: numbers as other numbers, times as integers."""
    if pa.types.is_nested(given) and pa.types.is_nested(kept):
        return _may_become(given.value_type, kept.value_type)
    numbers = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in (given, kept)]
    time = pa.types.is_integer(given) and pa.types.is_timestamp(kept)
    return all(numbers) or time or (is_string(given) and is_string(kept))


def _batches(table: pa.Table, batch_size: int) -> list[pa.Table]:
    starts = range(0, table.num_rows, batch_size)
    return [table.slice(start, batch_size).combine_chunks() for start in starts]


def _pairs_in(graph: KnowledgeGraph, edge_type: EdgeType, known: pa.Table) -> np.ndarray:
    """Which edges of the graph are among the pairs of keys that the store has, bool."""
    index = graph.edges[edge_type].index
    if known.num_rows == 0:
        return np.zeros(index.shape[1], bool)
    sources, targets = (graph.vocabularies[t] for t in (edge_type[0], edge_type[2]))
    rows = [
        vocabulary.rows(known[name], missing="mark")
        for vocabulary, name in ((sources, "source"), (targets, "target"))
    ]
    there = rows[0] * len(targets) + rows[1]
    there = there[(rows[0] >= 0) & (rows[1] >= 0)]
    return np.isin(index[0] * len(targets) + index[1], there)


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
