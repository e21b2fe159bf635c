"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kg.stores import Neo4jStore
from tests import neo4j_server


@pytest.fixture(scope="session")
def neo4j() -> Iterator[neo4j_server.Server]:
    """A genuine Neo4j server; tests that use it are marked ``neo4j``."""
    try:
        server = neo4j_server.start()
    except neo4j_server.NoServerError as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture
def neo4j_store(neo4j: neo4j_server.Server) -> Iterator[Neo4jStore]:
    """A store on that server, empty before the test."""
    with Neo4jStore(neo4j.uri, neo4j.auth) as store:
        wipe(store)
        yield store


def wipe(store: Neo4jStore) -> None:
    """Remove every node, edge, constraint and index."""
    store.query("MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 10000 ROWS")
    for kind, kinds in (("CONSTRAINT", "CONSTRAINTS"), ("INDEX", "INDEXES")):
        listed = f"SHOW {kinds} YIELD name, type WHERE type <> 'LOOKUP' RETURN name"
        for name in store.query(listed)["name"].to_pylist():
            store.query(f"DROP {kind} `{name.replace('`', '``')}` IF EXISTS")
