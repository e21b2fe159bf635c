"""The real server is killed in the middle of what we do with it, and comes up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kg import KnowledgeGraph, Schema
from kg.errors import StoreUnavailableError
from kg.files import read_graph
from kg.importing import import_graph
from kg.stores import Neo4jStore, base, neo4j, neo4j_reading, reading
from tests.contracts import RATED, same_graph, vectors
from tests.neo4j_server import PASSWORD, Server, jars, start_java

pytestmark = [pytest.mark.neo4j, pytest.mark.slow]
PAIRS = {"source": [n % 300 for n in range(600)], "target": [7 * n % 200 for n in range(600)]}
GRAPH = KnowledgeGraph.from_tables(
    {"User": {"id": range(300)}, "Movie": {"id": range(200), "title": map(str, range(200))}},
    {RATED: PAIRS},
    Schema("User", "Movie", RATED, edge_types=(RATED,)),  # one: a cold server plans slowly
)
FILMS = vectors(list(range(200)), dim=32)


class Mortal:
    """A server that we kill and start again on the same files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.server: Server | None = None

    @contextmanager
    def store(self) -> Iterator[Neo4jStore]:
        """A store on the server, which is started if it was killed."""
        if self.server is None:
            self.server = start_java(jars(), self.home)
        with Neo4jStore(self.server.uri, self.server.auth, timeout=0.5) as store:
            yield store

    def kill(self) -> None:
        """SIGKILL: the server closes no transaction, flushes no file."""
        if self.server is not None:
            self.server.stop()
            self.server = None


@pytest.fixture(scope="module")
def mortal(neo4j: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    if neo4j.process is None:
        pytest.skip("needs a server of our own to kill (Maven and Java)")
    mortal = Mortal(tmp_path_factory.mktemp("home"))
    yield mortal
    mortal.kill()


@pytest.fixture
def killed(mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable], int]:
    """Does some work, kills the server once so many rows have passed, and says how many passed."""
    monkeypatch.setattr(neo4j_reading, "NODES_PER_RECORD", 50)
    monkeypatch.setattr(neo4j_reading, "EDGES_PER_RECORD", 50)
    monkeypatch.setattr(neo4j, "DIGESTS_PER_RECORD", 50)

    def work(after: int, what: Callable[[], object]) -> int:
        passed = 0

        class Bar:
            def update(self, rows: int) -> None:
                nonlocal passed
                passed += rows
                if passed >= after:
                    mortal.kill()

        @contextmanager
        def progress_bar(*_: object) -> Iterator[Bar]:
            yield Bar()

        with monkeypatch.context() as patch:
            for module in (base, reading):
                patch.setattr(module, "progress_bar", progress_bar)
            with pytest.raises(StoreUnavailableError, match="no Neo4j server answers at") as caught:
                what()
        assert mortal.server is None
        assert PASSWORD not in f"{caught.value!r}{caught.value.__cause__!r}"
        return passed

    return work


def test_a_write_whose_server_is_killed_is_completed_by_a_second(mortal, killed):
    total = GRAPH.num_nodes() + GRAPH.num_edges()
    with mortal.store() as store:
        assert killed(total // 2, lambda: store.write(GRAPH, batch_size=100)) < total
    with mortal.store() as store:
        store.write(GRAPH)
        same_graph(store.read(GRAPH.schema), GRAPH)


def test_a_write_back_whose_server_is_killed_is_resumed_by_a_second(mortal, killed):
    with mortal.store() as store:
        store.write(GRAPH)
        assert killed(100, lambda: store.write_embeddings(FILMS, batch_size=25, index=True)) == 100
    with mortal.store() as store:
        assert store.write_embeddings(FILMS, index=True).unchanged == {"Movie": 100}
        assert np.array_equal(store.read_embeddings("Movie").of(list(range(200))), FILMS.matrix)
        same_graph(store.read(GRAPH.schema), GRAPH)
        assert store.write_embeddings(FILMS, index=True).unchanged == {"Movie": 200}


@pytest.mark.parametrize("there_before", [False, True])
def test_an_import_whose_server_is_killed_leaves_the_old_folder_or_none(
    mortal, killed, tmp_path, there_before
):
    """Among the edges of a first import, and of a later one that had something to bring."""
    folder, num_nodes = tmp_path / "g", GRAPH.num_nodes()
    with mortal.store() as store:
        store.write(GRAPH)
        if there_before:
            import_graph(store, folder, GRAPH.schema)
            store.query("MATCH (m:Movie) SET m.title = m.title + '!'")
        passed = killed(num_nodes + 60, lambda: import_graph(store, folder, GRAPH.schema))
        assert num_nodes < passed < num_nodes + GRAPH.num_edges()
    assert [p.name for p in tmp_path.iterdir()] == (["g"] if there_before else [])
    if there_before:
        same_graph(read_graph(folder), GRAPH)
    with mortal.store() as store:
        import_graph(store, folder, GRAPH.schema)
        import_graph(store, tmp_path / "undisturbed", GRAPH.schema)
    same_graph(read_graph(folder), read_graph(tmp_path / "undisturbed"))
    assert there_before == read_graph(folder).attributes["Movie"]["title"][0].as_py().endswith("!")
