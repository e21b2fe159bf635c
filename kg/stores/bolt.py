"""The connection to a server that speaks Bolt."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa

from kg.errors import StoreAuthError, StoreError, StoreUnavailableError
from kg.schema import EdgeType
from kg.stores.columns import joined, to_array
from kg.stores.names import quoted as _quoted

RECORDS_AHEAD = 2
"""Records of edges that are asked for before the last one is unpacked."""
ROWS_PER_BATCH = 20_000
_SCHEMES = tuple(f"{name}{tls}" for name in ("neo4j", "bolt") for tls in ("", "+s", "+ssc"))
_HINTS = {
    "DatabaseNotFound": "; check database=...",
    "AccessMode": "; the store was opened to read, or the call only reads: check read_only=...",
    "TransactionTimedOut": "; raise query_timeout=..., or ask for less at once",
    "Forbidden": "; this user may not do that: check the roles of auth=(user, password)",
}
"""What to do about the server's errors, by the start of their names."""


class BoltConnection:
    """Sessions and transactions; the driver's errors as ours."""

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
            return table_of_rows(self._run(session, cypher, params), f"{self.name} query")

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


def quoted(name: str) -> str:
    r"""A name in backticks, where this server still reads ``\u0060`` as one more backtick."""
    return _quoted(name).replace("\\", r"\u005C")


def table_of_rows(result: Any, what: str) -> pa.Table:
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


def ahead(work: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
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


def edge_pattern(edge_type: EdgeType) -> str:
    """Cypher for the edges of a type: ``a``, ``r``, ``b``."""
    source, relation, target = map(quoted, edge_type)
    return f"(a:{source})-[r:{relation}]->(b:{target})"


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
