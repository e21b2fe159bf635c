"""The embedded store: Cypher on disk or in memory, no server."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import DependencyError, DuplicateKeyError, StoreError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.stores.ladybug_reading import LadybugReading, edge_pattern, literal
from kg.stores.ladybug_types import column_type, may_become, storable
from kg.stores.lists import Lists
from kg.stores.names import quoted
from kg.stores.values import Comparison, NodeValues

_RESERVED = {"_id", "_label", "_src", "_dst"}


class LadybugStore(LadybugReading):
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
                exported = literal(str(folder / "all"))
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
                column_type(column.type, f"{node_type}.{column.name}")

    def _write_nodes(
        self, node_type: str, key: str, table: pa.Table, batch_size: int, bar: Any
    ) -> None:
        table = storable(table)
        if node_type not in self._tables("NODE"):
            kind = column_type(table[key].type, f"{node_type}.{key}")
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
            kind = column_type(table[name].type, f"{table_name}.{name}")
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
            if not may_become(column.type, kind):
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
        table = storable(graph.edge_table(edge_type))
        every = self._make_relation(edge_type, table)
        properties = every.select(table.column_names[2:])
        keys = [quoted(graph.schema.key_of(t)) for t in (source, target)]
        known = self._run(
            f"MATCH {edge_pattern(edge_type)} RETURN a.{keys[0]} AS source, b.{keys[1]} AS target"
        )
        is_known = _pairs_in(graph, edge_type, known)
        new = every.filter(pa.array(~is_known))
        pair = f"(FROM={literal(source)}, TO={literal(target)})"
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
        elif index and not self._has_vector_extension():
            steps.append(
                "fetch the embedded store's vector extension, which is not installed here; where "
                "it cannot be had, nothing is written (index=False does without)"
            )
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
            f"MATCH {edge_pattern(lists.edge_type)} {where} RETURN {returned}", {"users": users}
        )

    def _replace_lists(self, lists: Lists, users: list[Any], table: pa.Table) -> None:
        source, relation, target = lists.edge_type
        table = self._make_relation(lists.edge_type, storable(table))
        delete = f"MATCH {edge_pattern(lists.edge_type)} WHERE a.{quoted(lists.keys[0])} IN $users"
        pair = f"(FROM={literal(source)}, TO={literal(target)})"
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

    def _has_vector_extension(self) -> bool:
        try:
            self._run("LOAD EXTENSION vector")
        except StoreError:
            return False
        return True

    def _load_vector_extension(self) -> None:
        if not self._has_vector_extension():
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
        call = f"CREATE_VECTOR_INDEX({literal(node_type)}, {literal(name)}, {literal(property)}"
        there = self._run("CALL SHOW_INDEXES() RETURN *").to_pylist()
        if not any(row.get("index name") == name for row in there):
            self._run(f"CALL {call}, metric := 'cosine')")


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
