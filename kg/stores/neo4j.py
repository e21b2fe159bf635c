"""A Neo4j server, or any other that speaks Bolt and Cypher."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import (
    DuplicateKeyError,
    GraphError,
    StoreAuthError,
    StoreError,
    StoreUnavailableError,
)
from kg.graph import Edges, KnowledgeGraph, joined_edges, read_edges
from kg.schema import EdgeType, Schema
from kg.stores.base import CypherStore, NodesRead, in_key_order
from kg.stores.changes import UPDATED
from kg.stores.columns import joined, plain, table_of_maps, to_array
from kg.stores.lists import Lists
from kg.stores.names import quoted as _quoted
from kg.stores.triples import NodeValue, RelationValue, Triples
from kg.stores.values import DIGEST_FACTOR, Comparison, NodeValues, digests
from kg.tables import is_string
from kg.vectors import Vocabulary

_log = logging.getLogger(__name__)

EDGES_PER_RECORD = 20_000
RECORDS_AHEAD = 2
"""Records of edges that are asked for before the last one is unpacked."""
EDGES_AT_ONCE = 200_000
"""Edges whose keys are kept before they become rows."""
NODES_PER_RECORD = 2_000
DIGESTS_PER_RECORD = 5_000
ROWS_PER_BATCH = 20_000
LONGEST_KEY = 8_000
"""Bytes; the server's range indexes refuse keys of more than about 8,100."""
_SCHEMES = tuple(f"{name}{tls}" for name in ("neo4j", "bolt") for tls in ("", "+s", "+ssc"))
_HINTS = {
    "DatabaseNotFound": "; check database=...",
    "AccessMode": "; the store was opened to read, or the call only reads: check read_only=...",
    "TransactionTimedOut": "; raise query_timeout=..., or ask for less at once",
    "Forbidden": "; this user may not do that: check the roles of auth=(user, password)",
}
"""What to do about the server's errors, by the start of their names."""
_NULL = ""
"""Stands for null inside ``collect``, which leaves nulls out; a weight or time is never text."""


class Neo4jStore(CypherStore):
    """A graph on a server that speaks Bolt.

    Reading asks for columns, not rows: one record holds some thousand nodes or edges as lists, as
    the driver's work per record is what limits. Opens at first use.

    What becomes of values of each kind, and of a property that holds several, is told in
    :mod:`kg.stores.columns`. A list with nulls or lists in it cannot be stored and is a
    :class:`StoreError`. A property that is null on every node does not exist and so does not come
    back.

    Args:
        uri: ``neo4j://``, ``bolt://`` or their ``+s`` and ``+ssc`` variants.
        auth: user name and password; ``None`` for a server without authentication.
        database: name; the server's default if ``None``.
        timeout: seconds to wait for a connection, and to repeat what failed for a moment.
        query_timeout: seconds after which the server ends a query; its own limit if ``None``.
        read_only: ask the server to refuse whatever would write.
    """

    def __init__(
        self,
        uri: str,
        auth: tuple[str, str] | None = None,
        database: str | None = None,
        *,
        timeout: float = 15.0,
        query_timeout: float | None = None,
        read_only: bool = False,
    ) -> None:
        self.uri = uri
        self.database = database
        self.timeout = timeout
        self.query_timeout = query_timeout
        self.read_only = read_only
        self.name = _without_password(uri)
        self._auth = auth
        self._driver: Any = None

    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query of your own; see :meth:`CypherStore.query`."""
        with self._session("WRITE", cypher) as session:
            return _table_of_rows(self._run(session, cypher, params), f"{self.name} query")

    def close(self) -> None:
        """Close the connections; they open anew when the store is used again."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def _open(self) -> Any:
        if self._driver is None:
            import neo4j
            from neo4j.exceptions import ConfigurationError

            if urlsplit(self.uri).scheme not in _SCHEMES:
                raise StoreError(
                    f"{self.name} is no address of a Neo4j server; expected something like "
                    f"neo4j://localhost:7687, with one of the schemes {_SCHEMES}"
                )
            try:
                driver = neo4j.GraphDatabase.driver(
                    self.uri,
                    auth=self._auth,
                    connection_timeout=self.timeout,
                    notifications_min_severity="OFF",
                    max_transaction_retry_time=self.timeout,
                )
            except (ConfigurationError, ValueError) as error:
                raise StoreError(
                    f"{self.name}: the driver refuses this address or these settings: {error}"
                ) from error
            try:
                with self._errors("(connecting)"):
                    driver.verify_connectivity()
            except StoreError:
                driver.close()
                raise
            self._driver = driver
        return self._driver

    @contextmanager
    def _errors(self, cypher: str) -> Iterator[None]:
        """The driver's errors as ours; the password is in neither."""
        from neo4j.exceptions import (
            AuthError,
            DriverError,
            Neo4jError,
            ServiceUnavailable,
            SessionExpired,
        )

        try:
            yield
        except AuthError as error:
            user = self._auth[0] if self._auth else None
            raise StoreAuthError(
                f"{self.name} does not let user {user!r} in: {error.message or error.code}; "
                "check auth=(user, password)"
            ) from None
        except (ServiceUnavailable, SessionExpired, OSError) as error:
            raise StoreUnavailableError(
                f"no Neo4j server answers at {self.name}: {error}; check that it runs, and the "
                "scheme (neo4j:// or neo4j+s://), host and port"
            ) from error
        except Neo4jError as error:
            code = (error.code or "").rsplit(".", 1)[-1]
            hint = next((hint for name, hint in _HINTS.items() if code.startswith(name)), "")
            raise StoreError(
                f"{self.name}: {error.message} ({error.code}){hint}. "
                f"The query was: {cypher[:500].strip()}"
            ) from error
        except (OverflowError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.name}: a value cannot be sent: {error}. The query was: {cypher[:500]}"
            ) from error
        except DriverError as error:
            raise StoreError(f"{self.name}: {error}. The query was: {cypher[:500]}") from error

    @contextmanager
    def _session(self, access: str, cypher: str) -> Iterator[Any]:
        driver = self._open()
        access = "READ" if self.read_only else access
        with (
            self._errors(cypher),
            driver.session(
                database=self.database, default_access_mode=access, fetch_size=ROWS_PER_BATCH
            ) as session,
        ):
            yield session

    def _in_transaction(self, session: Any, work: Callable[[Any], Any]) -> Any:
        """Work that writes; repeated if the server asks for it, refused by it if ``read_only``."""
        execute = session.execute_read if self.read_only else session.execute_write
        return execute(self._timed(work))

    def _timed(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A unit of work that the server ends after ``query_timeout``."""
        if self.query_timeout is None:
            return work
        import neo4j

        return neo4j.unit_of_work(timeout=self.query_timeout)(work)

    def _run(self, session: Any, cypher: str, params: Mapping[str, Any] | None = None) -> Any:
        import neo4j

        query: Any = neo4j.Query(cypher, timeout=self.query_timeout)  # type: ignore[arg-type]
        return session.run(query, dict(params or {}))

    def _rows(self, cypher: str, **params: Any) -> list[list[Any]]:
        """Few rows, read in a transaction that is repeated if the server asks for it."""
        with self._session("READ", cypher) as session:
            return session.execute_read(self._timed(lambda tx: tx.run(cypher, params).values()))

    def _write(self, cypher: str, **params: Any) -> list[list[Any]]:
        with self._session("WRITE", cypher) as session:
            return self._in_transaction(session, lambda tx: tx.run(cypher, params).values())

    def _quoted(self, name: str) -> str:
        return quoted(name)

    def _query_for_read(self, cypher: str) -> pa.Table:
        with self._session("READ", cypher) as session:
            return _table_of_rows(self._run(session, cypher), f"{self.name} query")

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
            # Each branch is answered from the server's counters, without looking at an edge.
            sides = " UNION ALL ".join(
                f"MATCH (:{quoted(t)})-[r:{r}]->() RETURN {at} AS label, 0 AS end, count(r) AS n "
                f"UNION ALL MATCH ()-[r:{r}]->(:{quoted(t)}) "
                f"RETURN {at} AS label, 1 AS end, count(r) AS n"
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
        return bool(self._rows(f"MATCH {_pattern(edge_type)} RETURN 1 LIMIT 1"))

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
            f"MATCH {_pattern(edge_type)} RETURN properties(r) LIMIT $limit", limit=limit
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
        step = self._keys_per_record(edge_type, len(over))
        ranges = (over.keys.slice(start, step) for start in range(0, len(over), step))
        tables: list[pa.Table] = []
        parts: list[Edges] = []
        waiting = left_out = 0

        def take_in() -> int:
            """Keys become rows, which take a quarter of the memory."""
            table = joined(tables, str(edge_type))
            tables.clear()
            find = vocabularies.__getitem__
            edges, skipped = read_edges(table, edge_type, schema, find, on_dangling)
            parts.append(edges)
            return skipped

        for (lists,) in _ahead(lambda keys: self._rows(cypher, keys=keys.to_pylist()), ranges):
            if len({len(values) for values in lists}) > 1:
                raise StoreError(
                    f"{self.name}: {edge_type}: an edge ends in a node without its key; "
                    "the store was changed meanwhile: read again"
                )
            if lists[0]:
                tables.append(_edge_columns(lists, names, edge_type))
                waiting += len(lists[0])
                bar.update(len(lists[0]))
            if waiting >= EDGES_AT_ONCE:
                left_out, waiting = left_out + take_in(), 0
        if tables:
            left_out += take_in()
        return joined_edges(parts), left_out

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
        return f"MATCH {_pattern(edge_type)} WHERE {where} RETURN {', '.join(columns)}", names

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
        has = f"MATCH {_pattern(edge_type)} WHERE r.{quoted(name)} IS NOT NULL RETURN 1 LIMIT 1"
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
        cypher = f"MATCH {_pattern(edge_type)} WHERE {where} RETURN {returned}"
        with self._session("READ", cypher) as session:
            return _table_of_rows(self._run(session, cypher, {"since": since}), str(edge_type))

    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        pattern = f"(r:{quoted(what)})" if isinstance(what, str) else _pattern(what)
        cypher = f"MATCH {pattern} RETURN max(r.{quoted(updated_at)})"
        return plain(self._rows(cypher)[0][0])

    def _count_relation(self, relation: str) -> int:
        return self._rows(f"MATCH ()-[r:{quoted(relation)}]->() RETURN count(r)")[0][0]

    def _count_edges(self, edge_type: EdgeType) -> int:
        return self._rows(f"MATCH {_pattern(edge_type)} RETURN count(r)")[0][0]

    def _edges_at_most(self, edge_type: EdgeType) -> int:
        source, relation, target = map(quoted, edge_type)
        (out,), *_ = self._rows(f"MATCH (:{source})-[r:{relation}]->() RETURN count(r)")
        (into,), *_ = self._rows(f"MATCH ()-[r:{relation}]->(:{target}) RETURN count(r)")
        return min(out, into)

    def _keys_per_record(self, edge_type: EdgeType, num_nodes: int) -> int:
        mean = max(1.0, self._edges_at_most(edge_type) / num_nodes)
        return max(1, int(EDGES_PER_RECORD / mean))

    def _write_nodes(
        self, node_type: str, key: str, table: pa.Table, batch_size: int, bar: Any
    ) -> None:
        label, k = quoted(node_type), quoted(key)
        self._make_unique(node_type, key)
        names = [n for n in table.column_names if n != key]
        for column in names:
            _check_storable(table[column], f"{node_type}.{column}")
        _check_indexable(table[key], f"{node_type}.{key}")
        cypher = f"UNWIND $rows AS row MERGE (n:{label} {{{k}: row.key}}) SET n += row.properties"
        for start in range(0, table.num_rows, batch_size):
            batch = table.slice(start, batch_size)
            keys = batch[key].to_pylist()
            properties = batch.select(names).to_pylist() if names else [{}] * len(keys)
            rows = [{"key": k, "properties": p} for k, p in zip(keys, properties, strict=True)]
            self._write(cypher, rows=rows)
            bar.update(len(rows))

    def _make_unique(self, node_type: str, key: str) -> None:
        """A uniqueness constraint on the key, so that merging is quick and safe."""
        if key in self._unique_properties().get(node_type, ()):
            return
        label, k = quoted(node_type), quoted(key)
        try:
            self._write(f"CREATE CONSTRAINT IF NOT EXISTS FOR (n:{label}) REQUIRE n.{k} IS UNIQUE")
        except StoreError as error:
            if self._is_indexed(node_type, key) and self._is_unique_or_null(node_type, key):
                _log.info("%s: %s.%s has an index, no constraint made", self.name, node_type, key)
                return
            if not self._is_unique_or_null(node_type, key):
                raise self._shared_keys(node_type, key) from error
            raise

    def _shared_keys(self, node_type: str, key: str) -> DuplicateKeyError:
        p = f"n.{quoted(key)}"
        rows = self._rows(
            f"MATCH (n:{quoted(node_type)}) WITH {p} AS key, count(*) AS times "
            "WHERE key IS NOT NULL AND times > 1 RETURN key, times ORDER BY times DESC LIMIT 3"
        )
        examples = ", ".join(f"{value!r} ({times} nodes)" for value, times in rows)
        return DuplicateKeyError(
            f"{self.name}: {node_type} nodes share a {key!r} already, so it cannot be their key: "
            f"{examples}; merge these nodes or name another key"
        )

    def _is_unique_or_null(self, node_type: str, key: str) -> bool:
        p = f"n.{quoted(key)}"
        rows = self._rows(f"MATCH (n:{quoted(node_type)}) RETURN count({p}), count(DISTINCT {p})")
        return rows[0][0] == rows[0][1]

    def _write_edges(
        self, edge_type: EdgeType, graph: KnowledgeGraph, batch_size: int, bar: Any
    ) -> None:
        source, relation, target = map(quoted, edge_type)
        a, b = (quoted(graph.schema.key_of(t)) for t in edge_type[::2])
        table = graph.edge_table(edge_type)
        names = table.column_names[2:]
        table = table.rename_columns([f"c{at}" for at in range(table.num_columns)])
        assigned = ", ".join(f"r.{quoted(n)} = row.c{at}" for at, n in enumerate(names, 2))
        cypher = (
            f"UNWIND $rows AS row MATCH (a:{source} {{{a}: row.c0}}) "
            f"MATCH (b:{target} {{{b}: row.c1}}) MERGE (a)-[r:{relation}]->(b) "
            + (f"SET {assigned}" if assigned else "")
        )
        for start in range(0, table.num_rows, batch_size):
            rows = table.slice(start, batch_size).to_pylist()
            self._write(cypher, rows=rows)
            bar.update(len(rows))

    def _prepare_values(
        self, values: NodeValues, found: Comparison, index: bool, dry_run: bool
    ) -> list[str]:
        node_type, key = values.node_type, values.key
        steps = []
        if key not in self._unique_properties().get(node_type, ()):
            if dry_run and not self._is_unique_or_null(node_type, key):
                raise self._shared_keys(node_type, key)
            steps.append(f"make a uniqueness constraint on {node_type}.{key}")
            if not dry_run:
                self._make_unique(node_type, key)
        indexes = self._vector_indexes(node_type, values.place)
        for name, length in indexes:
            if length != values.dim:
                steps.append(f"drop the index {name!r} of vectors of length {length}")
                if not dry_run:
                    self._write(f"DROP INDEX {quoted(name)} IF EXISTS")
        if not found.same_space:  # else the other lengths went when this space was begun
            steps += self._remove_other_lengths(values, dry_run)
        if index and values.dim not in [length for _, length in indexes]:
            steps.append(f"make a vector index on {node_type}.{values.place}")
        return steps

    def _compare_values(self, values: NodeValues, batch_size: int) -> Comparison:
        """By a digest that the server works out from what it holds; the vectors stay there."""
        self._require_vectors(values)
        label, k, p = quoted(values.node_type), quoted(values.key), quoted(values.place)
        numbers = "".join(f", n.{quoted(name)}" for name in values.numbers)
        cypher = (
            f"UNWIND $keys AS key MATCH (n:{label} {{{k}: key}}) WITH key, n, n.{p} AS v "
            "RETURN collect([key, size(v), reduce(s = 0.0, x IN v | (s + x) * $factor)"
            f"{numbers}])"
        )
        nodes, size = values.embeddings.nodes, len(values)
        step = max(batch_size, DIGESTS_PER_RECORD)
        ranges = (nodes.keys.slice(start, step) for start in range(0, size, step))
        there = np.full((size, 1 + len(values.numbers)), np.nan)
        missing, same_space = np.ones(size, bool), False

        def look(keys: pa.ChunkedArray) -> list[list[Any]]:
            return self._rows(cypher, keys=keys.to_pylist(), factor=DIGEST_FACTOR)[0][0]

        for found in _ahead(look, ranges):
            at = nodes.rows([key for key, *_ in found])
            missing[at] = False
            for row, (_, length, *held) in zip(at.tolist(), found, strict=True):
                if length == values.dim:
                    same_space = True
                    if all(map(_is_number, held)):
                        there[row] = held
        wanted = np.stack([digests(values.embeddings.matrix), *values.numbers.values()], axis=1)
        return Comparison((there == wanted).all(axis=1), missing, same_space)

    def _require_vectors(self, values: NodeValues) -> None:
        """Raise if the property holds other things than vectors, as far as some nodes tell."""
        label, p = quoted(values.node_type), f"n.{quoted(values.place)}"
        some = self._rows(f"MATCH (n:{label}) WHERE {p} IS NOT NULL RETURN {p} LIMIT 20")
        for (example,) in some:
            if not isinstance(example, list) or not all(isinstance(x, float) for x in example):
                raise StoreError(
                    f"{self.name}: {values.node_type}.{values.place} holds other things than "
                    f"vectors ({example!r:.80}); write the vectors under another name"
                )

    def _write_values(self, values: NodeValues, batch_size: int, bar: Any) -> None:
        label, k = quoted(values.node_type), quoted(values.key)
        numbers = "".join(f", n.{quoted(n)} = row.n{at}" for at, n in enumerate(values.numbers))
        cypher = (
            f"UNWIND $rows AS row MATCH (n:{label} {{{k}: row.key}}) "
            f"SET n.{quoted(values.place)} = row.vector{numbers}"
        )
        for start in range(0, len(values), batch_size):
            rows = values.rows(start, min(start + batch_size, len(values)))
            self._write(cypher, rows=rows)
            bar.update(len(rows))

    def _read_lists(self, lists: Lists, users: list[Any]) -> pa.Table:
        u, i = (quoted(name) for name in lists.keys)
        columns = [f"a.{u} AS source", f"b.{i} AS target"]
        columns += [f"r.{quoted(n)} AS {quoted(n)}" for n in lists.properties]
        cypher = f"MATCH {_pattern(lists.edge_type)} WHERE a.{u} IN $users RETURN "
        with self._session("READ", cypher) as session:
            result = self._run(session, cypher + ", ".join(columns), {"users": users})
            return _table_of_rows(result, f"{self.name} recommendations")

    def _replace_lists(self, lists: Lists, users: list[Any], table: pa.Table) -> None:
        source, relation, target = map(quoted, lists.edge_type)
        u, i = (quoted(name) for name in lists.keys)
        delete = f"MATCH (a:{source})-[r:{relation}]->(:{target}) WHERE a.{u} IN $users DELETE r"
        create = (
            f"UNWIND $rows AS row MATCH (a:{source} {{{u}: row.source}}) "
            f"MATCH (b:{target} {{{i}: row.target}}) CREATE (a)-[r:{relation}]->(b) "
            "SET r = row.properties RETURN count(r)"
        )
        ends = table.select(["source", "target"]).to_pylist()
        properties = table.select(lists.properties).to_pylist()
        rows = [e | {"properties": p} for e, p in zip(ends, properties, strict=True)]

        def swap(tx: Any) -> int:
            tx.run(delete, users=users).consume()
            return tx.run(create, rows=rows).single()[0]

        with self._session("WRITE", create) as session:
            self._in_transaction(session, swap)

    def _known_keys(self, node_type: str, key: str, keys: list[Any]) -> list[Any]:
        found: list[Any] = []
        cypher = f"MATCH (n:{quoted(node_type)}) WHERE n.{quoted(key)} IN $keys "
        for start in range(0, len(keys), ROWS_PER_BATCH):
            some = keys[start : start + ROWS_PER_BATCH]
            found += self._rows(f"{cypher} RETURN collect(n.{quoted(key)})", keys=some)[0][0]
        return found

    def _remove_other_lengths(self, values: NodeValues, dry_run: bool) -> list[str]:
        """One property holds one space: what has another length goes."""
        label, p = quoted(values.node_type), f"n.{quoted(values.place)}"
        other = f"MATCH (n:{label}) WHERE {p} IS NOT NULL AND size({p}) <> $dim "
        count = self._rows(f"{other} RETURN count(n)", dim=values.dim)[0][0]
        if not count:
            return []
        remove = f"{other} WITH n LIMIT 2000 REMOVE {p} RETURN count(n)"
        while not dry_run and self._write(remove, dim=values.dim)[0][0]:
            pass
        where = f"{values.node_type}.{values.place}"
        return [f"remove {count} vectors of another length from {where}"]

    def _vector_indexes(self, node_type: str, property: str) -> list[tuple[str, int]]:
        rows = self._rows(
            "SHOW INDEXES YIELD name, type, labelsOrTypes, properties, options "
            "WHERE type = 'VECTOR' AND labelsOrTypes = [$label] AND properties = [$property] "
            "RETURN name, options",
            label=node_type,
            property=property,
        )
        return [(name, options["indexConfig"]["vector.dimensions"]) for name, options in rows]

    def _index(self, node_type: str, property: str, dim: int) -> None:
        """A cosine index that is ready to be asked.

        Twice the server's own links and search width: on MovieLens 100K it then finds 95% of the 50
        best when asked for 50, 99.4% when asked for 100 and all when asked for 250 (94, 98.9 and
        100% with the server's defaults).
        """
        name = quoted(vector_index_name(node_type, property))
        self._write(
            f"CREATE VECTOR INDEX {name} IF NOT EXISTS FOR (n:{quoted(node_type)}) "
            f"ON n.{quoted(property)} OPTIONS {{indexConfig: {{"
            f"`vector.dimensions`: {int(dim)}, `vector.similarity_function`: 'cosine', "
            "`vector.quantization.enabled`: false, `vector.hnsw.m`: 32, "
            "`vector.hnsw.ef_construction`: 200}}"
        )
        self._write("CALL db.awaitIndexes(600)")

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


def quoted(name: str) -> str:
    r"""A name in backticks, where this server still reads ``\u0060`` as one more backtick."""
    return _quoted(name).replace("\\", r"\u005C")


def vector_index_name(node_type: str, property: str) -> str:
    """The name of the vector index on a property."""
    return f"vector {node_type} {property}"


def _table_of_rows(result: Any, what: str) -> pa.Table:
    """A result of rows as columns, in batches."""
    names = result.keys()
    if len(set(names)) != len(names):
        raise StoreError(f"{what}: column names repeat: {names}")
    tables: list[pa.Table] = []
    while rows := [record.values() for record in itertools.islice(result, ROWS_PER_BATCH)]:
        columns = zip(names, zip(*rows, strict=True), strict=True)
        tables.append(pa.table({n: to_array(list(v), n) for n, v in columns}))
    if not tables:
        return pa.table({name: pa.nulls(0) for name in names})
    return joined(tables, what)


def _ahead(work: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    """Results in order, while the next ones are under way: the server works as we unpack."""
    waiting: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(RECORDS_AHEAD)
    try:
        for argument in arguments:
            waiting.append(pool.submit(work, argument))
            if len(waiting) > RECORDS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _edge_columns(lists: list[list[Any]], names: Sequence[str], edge_type: EdgeType) -> pa.Table:
    columns = {"source": to_array(lists[0], "source"), "target": to_array(lists[1], "target")}
    for name, values in zip(names, lists[2:], strict=True):
        found = [None if v == _NULL else v for v in values] if _NULL in values else values
        columns[name] = to_array(found, f"{edge_type}.{name}")
    return pa.table(columns)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pattern(edge_type: EdgeType) -> str:
    source, relation, target = map(quoted, edge_type)
    return f"(a:{source})-[r:{relation}]->(b:{target})"


def _triple_value(value: Any) -> Any:
    from neo4j.graph import Node, Relationship

    if isinstance(value, Node):
        return NodeValue(tuple(value.labels), {n: plain(v) for n, v in value.items()})
    if isinstance(value, Relationship):
        return RelationValue(value.type, {n: plain(v) for n, v in value.items()})
    return plain(value)


def _check_storable(column: pa.ChunkedArray, what: str) -> None:
    """Raise if the server cannot hold these values as a property."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        if pc.list_flatten(column).null_count and not pa.types.is_null(inner):
            raise StoreError(f"{what}: Neo4j cannot hold a list with nulls; fill or drop them")
        kind = inner
    if (
        pa.types.is_nested(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_time(kind)
    ):
        raise StoreError(f"{what}: Neo4j cannot hold {column.type}; convert it to text or numbers")


def _check_indexable(keys: pa.ChunkedArray, what: str) -> None:
    """Raise if a key is too long for the server's indexes."""
    longest = pc.max(pc.binary_length(keys)).as_py() if is_string(keys.type) else None
    if longest is not None and longest > LONGEST_KEY:
        raise StoreError(
            f"{what}: a key of {longest:,} bytes came; Neo4j indexes {LONGEST_KEY:,} at most. "
            "Keep long text in another property"
        )


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
