from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from kg import KnowledgeGraph, Schema
from kg.errors import DependencyError, GraphError, StoreError, StoreUnavailableError
from kg.files import read_graph
from kg.importing import import_graph
from kg.stores import LadybugStore
from kg.stores import ladybug_reading as module
from kg.toy import toy_graph
from tests.contracts import FILMS, RATED, StoreContract, films, same_graph, vectors

LIMIT = 1 << 28


@pytest.fixture
def store() -> Iterator[LadybugStore]:
    with LadybugStore(memory_limit=LIMIT) as store:
        yield store


class TestLadybugStore(StoreContract):
    def test_it_works_again_after_close(self, tmp_path):
        super().test_it_works_again_after_close(LadybugStore(tmp_path / "f.lbug"))


def test_a_file_holds_the_graph_after_close(tmp_path):
    with LadybugStore(tmp_path / "new" / "films.lbug", memory_limit=LIMIT) as store:
        store.write(films())
    with LadybugStore(tmp_path / "new" / "films.lbug", memory_limit=LIMIT) as store:
        same_graph(store.read(FILMS), films())


def test_a_read_only_store_reads_and_refuses_to_write(tmp_path):
    with LadybugStore(tmp_path / "f.lbug", memory_limit=LIMIT) as store:
        store.write(films())
    with LadybugStore(tmp_path / "f.lbug", read_only=True, memory_limit=LIMIT) as store:
        same_graph(store.read(FILMS), films())
        with pytest.raises(StoreError, match=r"(?i)read.only"):
            store.query("MATCH (m:Movie) DETACH DELETE m")


def test_a_file_that_is_no_store_is_unavailable(tmp_path):
    (tmp_path / "f.lbug").write_text("something else entirely" * 1000)
    with pytest.raises(StoreUnavailableError, match=r"f\.lbug"):
        LadybugStore(tmp_path / "f.lbug").query("RETURN 1 AS one")


def test_a_file_that_another_process_has_open_is_unavailable(tmp_path):
    path = tmp_path / "f.lbug"
    code = (
        f"import sys; from kg.stores import LadybugStore; s = LadybugStore({str(path)!r}, "
        "memory_limit=1 << 28); s.query('RETURN 1 AS one'); print('open', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnavailableError, match="another process has it open"):
            LadybugStore(path).query("RETURN 1 AS one")
        other.communicate()


def test_a_vector_index_works_or_says_that_the_extension_is_absent(store):
    store.write(films())
    try:
        store._load_vector_extension()
    except DependencyError:
        with pytest.raises(DependencyError, match="index=False"):
            store.write_embeddings(vectors(["1"]), index=True)
        assert "embedding" not in store.contents().nodes["Movie"].sample.column_names
    else:
        store.write_embeddings(vectors(["1"]), index=True)
        indexes = store.query("CALL SHOW_INDEXES() RETURN *").to_pylist()
        assert [row["table_name"] for row in indexes] == ["Movie"]


@pytest.mark.parametrize(
    ("movie", "relation", "message"),
    [
        ("Mo.vie", "RATED", "no full stop"),
        ("Movie", "RA.TED", "no full stop"),
        ("USER", "RATED", "'USER' beside 'User', a node type"),
        ("Movie", "movie", "'movie' beside 'Movie', a node type"),
    ],
)
def test_names_the_engine_cannot_hold_are_refused_before_writing(store, movie, relation, message):
    edge_type = ("User", relation, movie)
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": ["u"]}, movie: {"id": ["m"]}},
        {edge_type: {"source": ["u"], "target": ["m"]}},
        Schema("User", movie, edge_type),
    )
    with pytest.raises(StoreError, match=message):
        store.write(graph)
    assert store.contents().nodes == {}


@pytest.mark.parametrize("columns", [{"_ID": ["x"]}, {"Title": ["x"], "title": ["y"]}])
def test_properties_the_engine_cannot_hold_are_refused(store, columns):
    with pytest.raises(StoreError, match="reserved, or differs from another in case only"):
        store.write(films(Genre={"id": ["sf"], **columns}))


def test_a_property_type_the_engine_cannot_hold_is_refused(store):
    column = pa.array([{"a": 1}])
    with pytest.raises(StoreError, match=r"Genre\.where: the embedded store cannot hold struct"):
        store.write(films(Genre={"id": ["sf"], "where": column}))


def test_a_property_that_changes_its_type_is_refused_and_the_store_keeps_its_own(store):
    store.write(films())
    with pytest.raises(StoreError, match=r"Movie\.year holds double, the graph has string"):
        store.write(films(Movie={"id": ["1", "m2", "m3"], "title": [""] * 3, "year": ["x"] * 3}))
    same_graph(store.read(FILMS), films())


def test_keys_of_another_kind_than_the_stores_are_refused(store):
    store.write(films())
    edges = {RATED: {"source": ["1"], "target": ["1"]}}
    nodes = {"User": {"id": ["1"]}, "Movie": {"id": ["1"], "title": ["x"]}}
    graph = KnowledgeGraph.from_tables(nodes, edges, Schema("User", "Movie", RATED))
    with pytest.raises(StoreError, match=r"User\.id holds int64, the graph has string"):
        store.write(graph)
    same_graph(store.read(FILMS), films())


def test_a_number_too_large_for_the_engine_is_refused(store):
    column = pa.array([2**64 - 1], pa.uint64())
    with pytest.raises(StoreError, match="size: the embedded store cannot hold a value"):
        store.write(films(Genre={"id": ["sf"], "size": column}))


TYPED = {
    "TIMESTAMP": ("timestamp('2024-02-29 12:00:00')", datetime.datetime(2024, 2, 29, 12)),
    "INTERVAL": ("interval('3 days')", datetime.timedelta(days=3)),
    "STRUCT(x DOUBLE, y DOUBLE)": ("{x: 1.0, y: 2.0}", {"x": 1.0, "y": 2.0}),
    "MAP(STRING, INT64)": ("map(['a'], [1])", [("a", 1)]),
    "DECIMAL(10, 2)": ("cast(1.25 AS DECIMAL(10, 2))", decimal.Decimal("1.25")),
    "INT64[][]": ("[[1], [2, 3]]", [[1], [2, 3]]),
    "DATE[]": ("[date('2024-01-02')]", [datetime.date(2024, 1, 2)]),
    "BLOB": ("blob('\\\\xAA\\\\x00')", b"\xaa\0"),
    "STRING[2]": ("['a', '']", ["a", ""]),
}


def test_values_of_every_type_come_as_arrow_has_them_and_missing_ones_as_null(store, tmp_path):
    columns = ", ".join(f"p{n} {kind}" for n, kind in enumerate(TYPED))
    values = ", ".join(f"p{n}: {literal}" for n, (literal, _) in enumerate(TYPED.values()))
    store.query("CREATE NODE TABLE User(id INT64 PRIMARY KEY)")
    store.query(f"CREATE NODE TABLE Movie(id INT64 PRIMARY KEY, {columns})")
    store.query("CREATE REL TABLE RATED(FROM User TO Movie)")
    store.query(f"CREATE (:User {{id: 1}})-[:RATED]->(:Movie {{id: 2, {values}}})")
    store.query("CREATE (:Movie {id: 3})")
    import_graph(store, tmp_path / "g", Schema("User", "Movie", RATED))
    full, empty = read_graph(tmp_path / "g").attributes["Movie"].to_pylist()
    assert list(full.values()) == [value for _, value in TYPED.values()]
    assert set(empty.values()) == {None}


def test_a_union_that_no_folder_can_hold_is_an_error_and_leaves_none(store, tmp_path):
    store.query("CREATE NODE TABLE User(id INT64 PRIMARY KEY)")
    store.query("CREATE NODE TABLE Movie(id INT64 PRIMARY KEY, p UNION(a INT64, b STRING))")
    store.query("CREATE REL TABLE RATED(FROM User TO Movie)")
    store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 2, p: union_value(a := 1)})")
    with pytest.raises(GraphError, match="Movie: a property cannot be saved as Parquet"):
        import_graph(store, tmp_path / "g", Schema("User", "Movie", RATED))
    assert not (tmp_path / "g").exists()


def test_edges_read_in_many_ranges_are_the_same(store, monkeypatch):
    graph = toy_graph(num_users=40, num_items=30)
    store.write(graph)
    store.query("MATCH (u:User {id: 'u3'}) DETACH DELETE u")  # leaves a gap in the numbers
    whole = store.read(graph.schema)
    monkeypatch.setattr(module, "EDGES_PER_RANGE", 7)
    same_graph(store.read(graph.schema), whole)


def test_an_edge_time_that_is_a_date_in_the_store_stays_one(store):
    schema = Schema("User", "Movie", RATED)
    store.query("CREATE NODE TABLE User(id INT64 PRIMARY KEY)")
    store.query("CREATE NODE TABLE Movie(id INT64 PRIMARY KEY)")
    store.query("CREATE REL TABLE RATED(FROM User TO Movie, time TIMESTAMP)")
    store.query("CREATE (:User {id: 1})-[:RATED {time: timestamp('2024-01-01')}]->(:Movie {id: 2})")
    graph = store.read(schema)
    assert graph.interactions.time.tolist() == [1704067200000000]
    store.write(graph)
    same_graph(store.read(schema), graph)


def test_an_edge_without_a_weight_beside_others_with_one_is_an_error(store):
    store.write(films())
    store.query("MATCH (u:User {id: 2}), (m:Movie {id: 'm3'}) CREATE (u)-[:RATED]->(m)")
    with pytest.raises(GraphError, match="rating: 1 values are null"):
        store.read(FILMS)


def test_a_store_changed_by_ones_own_cypher_reads_back_changed(store):
    store.write(films())
    store.query("MATCH (m:Movie {id: '1'}) DETACH DELETE m")
    store.query("CREATE (m:Movie {id: 'a0', title: 'Alien', year: 1979.0})")
    read = store.read(Schema("User", "Movie", RATED, weight="rating", time="timestamp"))
    assert list(read.items) == ["a0", "m2", "m3"]
    assert read.edge_table(RATED)["target"].to_pylist() == ["m2"]


def test_a_compacted_file_holds_all_but_what_was_deleted(tmp_path):
    secret, path = "lives at 12 Elm Street", tmp_path / "f.lbug"
    with LadybugStore(path, memory_limit=LIMIT) as store:
        store.write(films(Genre={"id": ["sf", "``odd"], "name": [secret, "x"]}))
        store.write_embeddings(vectors(["1", "m2"]))
        store.erase("Genre", ["sf"])
    assert secret.encode() in path.read_bytes()
    with LadybugStore(path, memory_limit=LIMIT) as store:
        before = store.read(FILMS)
        store.compact()
        same_graph(store.read(FILMS), before)
        assert np.array_equal(store.read_embeddings("Movie").matrix, vectors(["1", "m2"]).matrix)
    assert secret.encode() not in path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["f.lbug"]


def test_a_store_that_is_no_file_or_only_read_is_not_compacted(store, tmp_path):
    with pytest.raises(StoreError, match="only a file that may be written"):
        store.compact()


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_a_store_that_a_second_run_completes(tmp_path):
    code = (
        "import sys; from kg.stores import LadybugStore; from kg.toy import toy_graph\n"
        "store = LadybugStore(sys.argv[1], memory_limit=1 << 28)\n"
        "graph = toy_graph(num_users=2000, num_items=900)\n"
        "store.query('RETURN 1 AS one'); print('open', flush=True)\n"
        "store.write(graph); store.write(graph, batch_size=20); print('done', flush=True)"
    )
    graph = toy_graph(num_users=2000, num_items=900)
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.6):
        path = tmp_path / f"{seconds}.lbug"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            time.sleep(seconds)
            writer.kill()
            assert writer.stdout.read() == b""
        with LadybugStore(path, memory_limit=LIMIT) as store:
            store.write(graph)
            same_graph(store.read(graph.schema), graph)


def test_many_edges_survive_a_second_partial_write(store):
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 300, (2, 5000)), axis=1)
    nodes = {t: {"id": np.arange(300)} for t in ("User", "Movie")}

    def rated(n: int, weight: float) -> KnowledgeGraph:
        edges = {"source": pairs[0, :n], "target": pairs[1, :n], "rating": np.full(n, weight)}
        return KnowledgeGraph.from_tables(
            nodes, {RATED: edges}, Schema("User", "Movie", RATED, weight="rating")
        )

    store.write(rated(1000, 1.0))
    store.write(rated(2000, 2.0))
    same_graph(store.read(Schema("User", "Movie", RATED, weight="rating")), rated(2000, 2.0))
