from __future__ import annotations

import logging
import socket

import pyarrow as pa
import pytest

from kg import Schema
from kg.errors import (
    DuplicateKeyError,
    GraphError,
    SchemaError,
    StoreAuthError,
    StoreError,
    StoreUnavailableError,
)
from kg.stores import Neo4jStore
from kg.stores import neo4j_reading as module
from tests.contracts import FILMS, RATED, StoreContract, films, same_graph, vectors

RATED_ONLY = Schema("User", "Movie", RATED, edge_types=(("User", "RATED", "Movie"),))


@pytest.fixture
def store(neo4j_store):
    return neo4j_store


@pytest.mark.neo4j
class TestNeo4jStore(StoreContract):
    pass


def test_a_server_that_is_down_is_unavailable():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    store = Neo4jStore(f"bolt://localhost:{port}", ("neo4j", "hidden-word"), timeout=2)
    with pytest.raises(StoreUnavailableError, match=f"localhost:{port}") as caught:
        store.read(FILMS)
    assert "hidden-word" not in str(caught.value)


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(StoreError, match="expected something like neo4j://"):
        Neo4jStore("http://localhost:7474").query("RETURN 1")
    with pytest.raises(StoreError) as caught:
        Neo4jStore("http://me:hidden-word@localhost:7474").query("RETURN 1")
    assert "hidden-word" not in str(caught.value)


@pytest.mark.neo4j
def test_a_wrong_password_is_an_auth_error_that_does_not_tell_it(neo4j):
    store = Neo4jStore(neo4j.uri, (neo4j.auth[0], "hidden-word"))
    with pytest.raises(StoreAuthError, match=r"does not let user 'neo4j' in.*check auth") as caught:
        store.query("RETURN 1")
    assert "hidden-word" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.neo4j
def test_an_unknown_database_is_named_with_the_setting(neo4j):
    with (
        Neo4jStore(neo4j.uri, neo4j.auth, database="nope") as store,
        pytest.raises(StoreError, match=r"nope.*check database="),
    ):
        store.query("RETURN 1")


@pytest.mark.neo4j
def test_tls_against_a_server_without_it_is_unavailable(neo4j):
    store = Neo4jStore(neo4j.uri.replace("bolt://", "bolt+s://"), neo4j.auth, timeout=3)
    with pytest.raises(StoreUnavailableError, match="scheme"):
        store.query("RETURN 1")


@pytest.mark.neo4j
def test_a_query_that_writes_is_refused_while_reading(store):
    store.write(films())
    with pytest.raises(StoreError, match=r"(?i)read access mode"):
        store.read(FILMS, queries={"Movie": "MATCH (m:Movie) DETACH DELETE m RETURN 1 AS id"})
    assert len(store.read(FILMS).items) == 3


@pytest.mark.neo4j
def test_a_store_opened_to_read_refuses_to_write_and_names_the_setting(neo4j, store):
    store.write(films())
    with Neo4jStore(neo4j.uri, neo4j.auth, read_only=True) as reader:
        same_graph(reader.read(FILMS), films())
        for write in (
            lambda: reader.query("MATCH (m:Movie) DETACH DELETE m"),
            lambda: reader.write(films()),
            lambda: reader.write_embeddings(vectors(["1"])),
        ):
            with pytest.raises(StoreError, match=r"check read_only="):
                write()
    assert len(store.read(FILMS).items) == 3


@pytest.mark.neo4j
def test_a_query_that_takes_too_long_is_ended_and_the_setting_named(neo4j, store):
    slow = "UNWIND range(1, 100000000) AS x WITH x WHERE x % 7 = 3 RETURN count(x) AS n"
    with Neo4jStore(neo4j.uri, neo4j.auth, query_timeout=0.5) as impatient:
        with pytest.raises(StoreError, match=r"raise query_timeout="):
            impatient.query(slow)
        with pytest.raises(StoreError, match=r"raise query_timeout="):
            impatient._rows(slow)
        assert impatient.query("RETURN 1 AS one")["one"].to_pylist() == [1]


@pytest.mark.neo4j
def test_an_empty_database_is_named_with_the_setting(store):
    with pytest.raises(SchemaError, match=r"the store is empty.*database="):
        store.read(FILMS)


@pytest.mark.neo4j
def test_two_nodes_with_one_key_are_named(store):
    store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a'}), (:Movie {id: 'a'})")
    with pytest.raises(DuplicateKeyError, match=r"Movie.*'a' \(2 times\)"):
        store.read(Schema("User", "Movie", RATED))
    with pytest.raises(DuplicateKeyError, match="share a 'id'"):
        store.write(films())


@pytest.mark.neo4j
@pytest.mark.parametrize("indexed", [False, True])
def test_a_node_without_a_key_or_with_another_kind_of_key_is_named(store, indexed):
    if indexed:
        store.query("CREATE CONSTRAINT FOR (m:Movie) REQUIRE m.id IS UNIQUE")
    store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a'}), (:Movie {title: 'x'})")
    with pytest.raises(GraphError, match="1 Movie nodes have no 'id'"):
        store.read(Schema("User", "Movie", RATED))
    store.query("MATCH (m:Movie) WHERE m.id IS NULL SET m.id = 7")
    with pytest.raises(GraphError, match=r"Movie\.id must be integers on all nodes or strings"):
        store.read(Schema("User", "Movie", RATED))


@pytest.mark.neo4j
def test_a_label_without_id_or_constraint_is_refused_and_inferred(store):
    store.query("CREATE (:User {name: 'ann'})-[:RATED]->(:Movie {id: 'a'})")
    with pytest.raises(SchemaError, match=r"User has no property 'id'.*\['name'\]"):
        store.read(Schema("User", "Movie", RATED))
    assert store.infer_schema().key_of("User") == "name"


@pytest.mark.neo4j
def test_an_edge_without_a_weight_beside_others_with_one_is_an_error(store):
    store.query(
        "CREATE (u:User {id: 1})-[:RATED {rating: 3}]->(:Movie {id: 'a'}), "
        "(u)-[:RATED]->(:Movie {id: 'b'})"
    )
    with pytest.raises(GraphError, match="rating: 1 values are null"):
        store.read(Schema("User", "Movie", RATED, weight="rating"))


@pytest.mark.neo4j
def test_properties_of_mixed_type_come_as_numbers_or_as_text_with_a_word(store, caplog):
    store.query(
        "CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a', year: 1, code: 7, tags: ['x']}), "
        "(:Movie {id: 'b', year: 1.5, code: 'B', tags: 'y'})"
    )
    with caplog.at_level(logging.WARNING):
        table = store.read(Schema("User", "Movie", RATED)).attributes["Movie"]
    assert table["year"].to_pylist() == [1.0, 1.5]
    assert table["code"].to_pylist() == ["7", "B"]
    assert table["tags"].to_pylist() == ["['x']", "y"]
    assert "Movie.code" in caplog.text


@pytest.mark.neo4j
def test_mixed_types_are_the_same_when_they_fall_into_different_batches(store, monkeypatch):
    monkeypatch.setattr(module, "NODES_PER_RECORD", 1)
    store.query("CREATE CONSTRAINT FOR (m:Movie) REQUIRE m.id IS UNIQUE")
    store.query(
        "CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a', code: 7}), "
        "(:Movie {id: 'b', code: 'B'})"
    )
    table = store.read(Schema("User", "Movie", RATED)).attributes["Movie"]
    assert table["code"].to_pylist() == ["7", "B"]


@pytest.mark.neo4j
def test_points_durations_and_zoned_times_have_a_defined_form(store):
    store.query(
        "CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a', place: point({x: 1.0, y: 2.0}), "
        "length: duration('PT90M'), at: datetime('2024-01-01T00:00:00Z'), "
        "days: [date('2024-01-02')]})"
    )
    row = store.read(Schema("User", "Movie", RATED)).attributes["Movie"].to_pylist()[0]
    assert (row["place"], row["length"]) == ([1.0, 2.0], "PT1H30M")
    assert (row["at"].year, row["days"][0].day) == (2024, 2)


@pytest.mark.neo4j
def test_a_date_that_python_cannot_hold_is_named_and_can_be_left_out(store):
    store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a', made: date('-0044-03-15')})")
    with pytest.raises(StoreError, match=r"Movie\.made: a value that Python cannot hold.*exclude"):
        store.read(Schema("User", "Movie", RATED))
    read = store.read(Schema("User", "Movie", RATED), exclude=("made",))
    assert "made" not in read.attributes["Movie"].column_names


@pytest.mark.neo4j
def test_a_list_with_a_null_is_refused_before_it_reaches_the_server(store):
    with pytest.raises(StoreError, match=r"Genre\.names: Neo4j cannot hold a list with nulls"):
        store.write(films(Genre={"id": ["sf"], "names": [["a", None]]}))


@pytest.mark.neo4j
def test_a_key_too_long_for_the_index_is_refused_before_it_reaches_the_server(store):
    with pytest.raises(StoreError, match=r"Genre\.id: a key of 9,000 bytes came"):
        store.write(films(Genre={"id": ["sf", "x" * 9_000]}))


@pytest.mark.neo4j
def test_a_node_with_two_known_labels_is_in_both_and_a_further_label_is_no_type(store):
    store.write(films())
    store.query("MATCH (m:Movie {id: '1'}) SET m:Featured")
    same_graph(store.read(FILMS), films())
    both = Schema("User", "Movie", RATED, text={"Featured": ("title",)}, weight="rating")
    read = store.read(both)
    assert (len(read.items), list(read.vocabularies["Featured"])) == (3, ["1"])


@pytest.mark.neo4j
def test_reading_in_many_ranges_gives_the_same_graph(store, monkeypatch):
    store.write(films())
    monkeypatch.setattr(module, "NODES_PER_RECORD", 2)
    monkeypatch.setattr(module, "EDGES_PER_RECORD", 1)
    monkeypatch.setattr(module, "EDGES_AT_ONCE", 2)
    same_graph(store.read(FILMS), films())
    store.query("DROP CONSTRAINT " + store.query("SHOW CONSTRAINTS YIELD name")["name"][0].as_py())
    same_graph(store.read(FILMS), films())


@pytest.mark.neo4j
def test_edges_are_counted_without_looking_at_them(store, monkeypatch):
    store.write(films())
    asked, rows = [], Neo4jStore._rows

    def noted(self, cypher, **params):
        asked.append(cypher)
        return rows(self, cypher, **params)

    monkeypatch.setattr(Neo4jStore, "_rows", noted)
    store.read(Schema("User", "Movie", RATED))
    counting = [cypher for cypher in asked if "count(r)" in cypher]
    assert counting

    def operators(plan):
        return {plan["operatorType"].split("@")[0]}.union(*map(operators, plan.get("children", ())))

    with store._open().session() as session:
        plans = [session.run(f"EXPLAIN {cypher}").consume().plan for cypher in counting]
    used = set().union(*map(operators, plans))
    assert "RelationshipCountFromCountStore" in used
    assert not [name for name in used if "Scan" in name or "Expand" in name]


@pytest.mark.neo4j
def test_edges_that_came_after_they_were_counted_are_read(store, monkeypatch):
    store.write(films())
    monkeypatch.setattr(Neo4jStore, "_edges_at_most", lambda *_: 1)
    same_graph(store.read(FILMS), films())


@pytest.mark.neo4j
def test_keys_are_unique_in_the_server_after_a_write(store):
    store.write(films())
    assert set(store.contents().nodes["Movie"].unique) == {"id"}
    with pytest.raises(StoreError, match="already exists"):
        store.query("CREATE (:Movie {id: '1'})")


@pytest.mark.neo4j
def test_vectors_need_a_unique_key_and_a_constraint_is_made(store):
    store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a'}), (:Movie {id: 'a'})")
    for dry_run in (True, False):
        with pytest.raises(DuplicateKeyError, match=r"share a 'id' already.*'a' \(2 nodes\)"):
            store.write_embeddings(vectors(["a"]), dry_run=dry_run)
    store.query("MATCH (m:Movie) WITH m LIMIT 1 SET m.id = 'b'")
    assert "would make a uniqueness constraint on Movie.id" in str(
        store.write_embeddings(vectors(["a"]), dry_run=True)
    )
    assert not store.contents().nodes["Movie"].unique
    store.write_embeddings(vectors(["a"]))
    assert store.contents().nodes["Movie"].unique == ("id",)


@pytest.mark.neo4j
def test_a_vector_index_finds_the_nearest_and_follows_the_dimension(store):
    store.write(films())
    embeddings = vectors(["1", "m2", "m3"])
    for written in (vectors(["1"], dim=3), embeddings, embeddings):
        store.write_embeddings(written, index=True)
    found = store.query(
        "CALL db.index.vector.queryNodes('vector Movie embedding', 1, $v) YIELD node "
        "RETURN node.id AS id",
        v=embeddings.of(["m2"])[0].tolist(),
    )
    assert found["id"].to_pylist() == ["m2"]


@pytest.mark.neo4j
def test_a_number_too_large_for_the_server_is_refused(store):
    with pytest.raises(StoreError, match="a value cannot be sent"):
        store.write(films(Genre={"id": ["sf"], "size": pa.array([2**64 - 1], pa.uint64())}))
