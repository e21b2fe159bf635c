"""What every store and scorer promises; a new one inherits a class from here and says who it is."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coldstart.scorer import Scorer
from coldstart.training_data import TrainingData
from kg import KnowledgeGraph, NodeEmbeddings, Schema, Vocabulary
from kg.errors import (
    AlignmentError,
    DuplicateKeyError,
    GraphError,
    MissingColumnError,
    SchemaError,
    StoreError,
    UnknownNodeError,
)
from kg.outlining import outline_store
from kg.stores import Store
from kg.stores.values import GAIN_PROPERTY, RECOMMENDS
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors

RATED = ("User", "RATED", "Movie")
FILMS = Schema(
    user="User",
    item="Movie",
    interaction=RATED,
    text={"Movie": ("title",)},
    numeric={"Movie": ("year",)},
    weight="rating",
    time="timestamp",
)
HOSTILE = [
    "`",
    "``) DETACH DELETE n //",
    "'; DROP TABLE Movie; --",
    "\"double\" and 'single'",
    "}{ $rows ${x}",
    "// comment /* more */",
    "\\",
    "\\u0060 \\\\u0060",
    "with space\tand\nnewline",
    "Ünïcödé ☃ 映画 \U0001f3ac",
    "MATCH (n) DETACH DELETE n",
    "-0",
    "null",
    "$x",
]


def films(**changes: Any) -> KnowledgeGraph:
    """Two people with integer keys, three films with string keys, a genre, a sequel."""
    nodes = {
        "User": {"id": [1, 2], "age": [30, None]},
        "Movie": {
            "id": ["1", "m2", "m3"],
            "title": ["Solaris", "", None],
            "year": [1972.0, None, 2002.0],
            "tags": pa.array([["space", "sea"], [], None], pa.list_(pa.string())),
        },
        "Genre": {"id": ["sf"]},
    }
    edges = {
        RATED: {
            "source": [1, 1, 2],
            "target": ["1", "m2", "1"],
            "rating": [5.0, 2.5, 4.0],
            "timestamp": [881250949, 3, 2**40],
        },
        ("Movie", "IN_GENRE", "Genre"): {"source": ["1", "m3"], "target": ["sf", "sf"]},
        ("Movie", "FOLLOWED_BY", "Movie"): {"source": ["1"], "target": ["m3"], "rating": [0.5]},
    }
    return KnowledgeGraph.from_tables(nodes | changes, edges, FILMS)


def stamped_films() -> dict[str, Any]:
    """The films with a property that says when they changed."""
    return {
        "Movie": {
            "id": ["1", "m2", "m3"],
            "title": ["Solaris", "", None],
            "year": [1972.0, None, 2002.0],
            "changed": [10, 11, 12],
        }
    }


def same_graph(left: KnowledgeGraph, right: KnowledgeGraph) -> None:
    """Assert that two graphs hold the same nodes, properties and edges, whatever their order."""
    assert _nodes(left) == _nodes(right)
    assert _edges(left) == _edges(right)
    for node_type, nodes in left.vocabularies.items():
        assert nodes.is_int == right.vocabularies[node_type].is_int or not len(nodes)


def _nodes(graph: KnowledgeGraph) -> dict[str, dict[Any, dict[str, Any]]]:
    return {
        t: dict(
            zip(graph.vocabularies[t], map(_present, graph.attributes[t].to_pylist()), strict=True)
        )
        if graph.attributes[t].num_columns
        else {key: {} for key in graph.vocabularies[t]}
        for t in graph.node_types
    }


def _present(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if value is not None}


def _edges(graph: KnowledgeGraph) -> dict[Any, list[Any]]:
    rows = {e: [tuple(r.items()) for r in graph.edge_table(e).to_pylist()] for e in graph.edges}
    return {edge_type: sorted(found) for edge_type, found in rows.items()}


def vectors(keys: list[Any], node_type: str = "Movie", dim: int = 5) -> NodeEmbeddings:
    """Random vectors, of full float32 precision."""
    matrix = np.random.default_rng(0).normal(size=(len(keys), dim)).astype(np.float32)
    return NodeEmbeddings(Vocabulary(node_type, keys), matrix)


def recommended(*rows: list[Any]) -> dict[str, Any]:
    """Ranked rows of user, item, rank and score as a table."""
    return dict(
        zip(("user", "item", "rank", "score"), map(list, zip(*rows, strict=True)), strict=True)
    )


class StoreContract:
    """Inherit and supply a fixture ``store``: a store that is empty."""

    def test_it_is_a_store(self, store):
        assert isinstance(store, Store)

    def test_a_written_graph_reads_back_equal(self, store):
        store.write(films())
        same_graph(store.read(FILMS), films())

    def test_a_larger_graph_reads_back_equal_in_the_same_order_every_time(self, store):
        graph = toy_graph(num_users=40, num_items=30)
        store.write(graph, batch_size=17)
        read = store.read(graph.schema)
        same_graph(read, graph)
        again = store.read(graph.schema)
        assert all(
            np.array_equal(again.edges[e].index, edges.index) for e, edges in read.edges.items()
        )

    def test_nodes_come_in_the_order_of_their_keys_and_edges_by_their_ends(self, store):
        movies = {"id": ["m3", "1", "m2"], "title": ["c", "a", "b"], "year": [3.0, 1.0, 2.0]}
        store.write(films(Movie=movies))
        read = store.read(FILMS)
        assert list(read.items) == ["1", "m2", "m3"]
        assert read.interactions.index.tolist() == [[0, 0, 1], [0, 1, 0]]

    def test_writing_twice_changes_nothing(self, store):
        first = store.write(films())
        assert store.write(films()) == first
        same_graph(store.read(FILMS), films())

    def test_the_report_counts_nodes_and_edges(self, store):
        report = store.write(films())
        assert report.nodes == {"User": 2, "Movie": 3, "Genre": 1}
        assert report.edges[RATED] == 3
        assert not report.merged

    def test_a_second_write_replaces_properties_and_keeps_other_nodes(self, store):
        store.write(films())
        newer = KnowledgeGraph.from_tables(
            {
                "User": {"id": [1], "age": [31]},
                "Movie": {"id": ["1", "m9"], "title": [None, "New"]},
            },
            {RATED: {"source": [1], "target": ["1"], "rating": [1.0], "timestamp": [9]}},
            replace(FILMS, numeric={}),
        )
        store.write(newer)
        read = store.read(FILMS)
        assert list(read.items) == ["1", "m2", "m3", "m9"]
        assert read.attributes["Movie"]["title"].to_pylist() == [None, "", None, "New"]
        assert read.attributes["Movie"]["year"].to_pylist() == [1972.0, None, 2002.0, None]
        assert read.interactions.weight.tolist() == [1.0, 2.5, 4.0]

    def test_parallel_edges_are_folded_and_counted(self, store):
        edges = {"source": [1, 1], "target": ["a", "a"], "weight": [1.0, 2.0]}
        graph = KnowledgeGraph.from_tables(
            {"User": {"id": [1]}, "Movie": {"id": ["a"]}}, {RATED: edges}, _bare()
        )
        assert store.write(graph).merged == {RATED: 1}
        assert store.read(_bare()).interactions.weight.tolist() == [2.0]

    def test_one_relation_may_lead_to_several_node_types(self, store):
        schema = Schema("User", "Movie", RATED)
        graph = KnowledgeGraph.from_tables(
            {"User": {"id": ["u"]}, "Movie": {"id": [7]}, "Genre": {"id": ["g"]}},
            {
                RATED: {"source": ["u"], "target": [7], "weight": [3.0]},
                ("User", "RATED", "Genre"): {"source": ["u"], "target": ["g"]},
            },
            schema,
        )
        store.write(graph)
        store.write(graph)
        same_graph(store.read(schema), graph)

    def test_dates_booleans_and_lists_of_numbers_survive(self, store):
        moment = datetime.datetime(2024, 2, 29, 12, 30, 1, 5)
        values = {
            "id": ["a", "b"],
            "seen": [True, None],
            "day": pa.array([moment.date(), None], pa.date32()),
            "moment": pa.array([moment, None], pa.timestamp("us")),
            "counts": [[1, 2], []],
            "shares": [[0.1, float("inf")], [1e-300]],
            "big": [2**62, -(2**62)],
        }
        graph = _one_edge({"Movie": values})
        store.write(graph)
        same_graph(store.read(_bare()), graph)

    def test_a_key_other_than_id_is_used_and_found_again(self, store):
        schema = Schema("User", "Movie", RATED, key={"Movie": "movie id", "User": "name"})
        graph = KnowledgeGraph.from_tables(
            {"User": {"name": ["ann"]}, "Movie": {"movie id": [5], "id": ["other"]}},
            {RATED: {"source": ["ann"], "target": [5]}},
            schema,
        )
        store.write(graph)
        same_graph(store.read(schema), graph)
        assert dict(store.read(Schema("User", "Movie", RATED)).schema.key) == dict(schema.key)

    @pytest.mark.parametrize("text", [*HOSTILE, "", " ", "null\0byte", "x" * 5_000])
    def test_any_text_survives_as_key_and_property(self, store, text):
        graph = _one_edge({"Movie": {"id": [text, "other"], "title": ["t", text]}}, target=text)
        store.write(graph)
        same_graph(store.read(_bare()), graph)
        store.write_embeddings(vectors([text]))
        assert store.read_embeddings("Movie").nodes[0] == text

    @pytest.mark.parametrize("text", ["x" * 10_000, "🎬" * 100_000])
    def test_long_text_survives_as_property(self, store, text):
        graph = _one_edge({"Movie": {"id": ["a"], "title": [text], "all": [[text, text]]}})
        store.write(graph)
        same_graph(store.read(_bare()), graph)

    @pytest.mark.parametrize("name", [*HOSTILE, "long " * 2_000])
    def test_any_name_of_type_relation_and_property_survives_or_is_refused(self, store, name):
        store.write(films())
        edge_type = ("User", f"r {name}", name)
        schema = Schema(
            "User",
            name,
            edge_type,
            text={name: (f"p {name}",)},
            key={name: f"k {name}"},
            weight=f"w {name}",
        )
        graph = KnowledgeGraph.from_tables(
            {"User": {"id": [1]}, name: {f"k {name}": ["a", "b"], f"p {name}": ["x", "y"]}},
            {edge_type: {"source": [1], "target": ["a"], f"w {name}": [2.0]}},
            schema,
        )
        store.write(graph)
        read = store.read(Schema(**_fields(schema), edge_types=(("User", "RATED", "Movie"),)))
        assert read.interactions.weight.tolist() == [2.0]
        assert read.attributes[name][f"p {name}"].to_pylist() == ["x", "y"]
        assert len(read.vocabularies["Movie"]) == 3
        store.write_embeddings(vectors(["a"], name), property=f"v {name}")
        assert store.read_embeddings(name, f"v {name}").dim == 5
        assert store.infer_schema("User", name).key_of(name) == f"k {name}"

    @pytest.mark.parametrize("name", ["ti\0tle", ""])
    def test_an_empty_name_or_one_with_a_null_byte_is_refused_before_anything_is_written(
        self, store, name
    ):
        graph = _one_edge({"Movie": {"id": ["a"], name: ["x"]}})
        with pytest.raises(SchemaError, match="rename it"):
            store.write(graph)
        with pytest.raises(SchemaError, match="there are \\[\\]"):
            store.read(FILMS)

    def test_relations_are_discovered_as_far_as_they_hang_together(self, store):
        store.write(films())
        read = store.read(Schema("User", "Movie", RATED, weight="rating", time="timestamp"))
        assert set(read.edge_types) == set(films().edge_types)
        assert set(read.node_types) == {"User", "Movie", "Genre"}

    def test_a_schema_with_edge_types_reads_no_others(self, store):
        store.write(films())
        read = store.read(
            Schema("User", "Movie", RATED, edge_types=(("Movie", "IN_GENRE", "Genre"),))
        )
        assert set(read.edge_types) == {RATED, ("Movie", "IN_GENRE", "Genre")}

    def test_an_unknown_label_is_named_with_those_that_exist(self, store):
        store.write(films())
        with pytest.raises(SchemaError, match=r"'Film'.*'Genre', 'Movie', 'User'"):
            store.read(Schema("User", "Film", ("User", "RATED", "Film")))

    def test_an_unknown_relation_is_named_with_those_that_exist(self, store):
        store.write(films())
        with pytest.raises(SchemaError, match=r"'LIKES'.*IN_GENRE"):
            store.read(Schema("User", "Movie", ("User", "LIKES", "Movie")))
        with pytest.raises(SchemaError, match=r"'LIKES'.*RATED"):
            store.read(Schema("User", "Movie", RATED, edge_types=(("User", "LIKES", "Movie"),)))

    def test_an_unknown_property_or_key_is_named_with_those_that_exist(self, store):
        store.write(films())
        with pytest.raises(SchemaError, match=r"Movie\.plot.*title"):
            store.read(Schema("User", "Movie", RATED, text={"Movie": ("plot",)}))
        with pytest.raises(SchemaError, match=r"no property 'isbn'.*title"):
            store.read(Schema("User", "Movie", RATED, key={"Movie": "isbn"}))

    def test_queries_of_ones_own_replace_the_schemas(self, store):
        store.write(films())
        read = store.read(
            FILMS,
            queries={
                "Movie": "MATCH (m:Movie) RETURN m.id AS id, m.title AS title, m.year AS year",
                RATED: "MATCH (u:User)-[r:RATED]->(m:Movie) WHERE r.rating > 3 RETURN "
                "u.id AS source, m.id AS target, r.rating AS weight, r.timestamp AS time",
            },
        )
        assert set(read.edge_types) == {RATED}
        assert read.interactions.weight.tolist() == [5.0, 4.0]
        assert read.attributes["Movie"].column_names == ["title", "year"]

    def test_a_query_for_nodes_alone_leaves_edges_to_the_schema(self, store):
        store.write(films())
        few = "MATCH (m:Movie) WHERE m.id <> 'm2' RETURN m.id AS id, m.title AS title, 1 AS year"
        with pytest.raises(GraphError, match="on_dangling='skip'"):
            store.read(FILMS, queries={"Movie": few})
        read = store.read(FILMS, queries={"Movie": few}, on_dangling="skip")
        assert (read.num_edges(RATED), read.skipped[RATED]) == (2, 1)

    def test_types_that_only_a_query_knows_get_their_nodes_from_edges(self, store):
        store.write(films())
        liked = ("Fan", "LIKES", "Film")
        cypher = "MATCH (u:User)-[:RATED]->(m:Movie) RETURN u.id AS source, m.id AS target"
        read = store.read(Schema("Fan", "Film", liked), queries={liked: cypher})
        assert (list(read.users), list(read.items)) == ([1, 2], ["1", "m2"])

    def test_a_query_that_lacks_a_column_is_named_with_what_it_returned(self, store):
        store.write(films())
        with pytest.raises(MissingColumnError, match=r"RATED.*'target'.*'source', 'm'.*MATCH"):
            store.read(
                FILMS,
                queries={
                    RATED: "MATCH (u:User)-[:RATED]->(m:Movie) RETURN u.id AS source, m.id AS m"
                },
            )
        with pytest.raises(MissingColumnError, match=r"Movie.*'id'.*'title'"):
            store.read(FILMS, queries={"Movie": "MATCH (m:Movie) RETURN m.title AS title"})

    def test_a_query_with_the_same_key_twice_is_refused(self, store):
        store.write(films())
        with pytest.raises(DuplicateKeyError, match="'x' in rows"):
            store.read(
                FILMS,
                queries={
                    "Movie": "MATCH (m:Movie) RETURN 'x' AS id, m.title AS title, m.year AS year"
                },
            )

    def test_a_query_that_matches_nothing_is_an_empty_relation(self, store):
        store.write(films())
        nothing = "MATCH (u:User)-[r:RATED]->(m:Movie) WHERE r.rating > 99 "
        read = store.read(FILMS, queries={RATED: nothing + "RETURN u.id AS source, m.id AS target"})
        assert read.num_edges(RATED) == 0

    def test_bad_cypher_is_reported_with_the_stores_own_words(self, store):
        with pytest.raises(StoreError, match=r"(?i)MATSCH"):
            store.query("MATSCH (n) RETURN n")
        with pytest.raises(StoreError, match=r"(?i)MATSCH"):
            store.read(FILMS, queries={"User": "MATSCH (n)", "Movie": "MATSCH (n)", RATED: "x"})

    def test_a_query_returns_its_columns_and_takes_parameters(self, store):
        store.write(films())
        cypher = "MATCH (m:Movie) WHERE m.id = $key RETURN m.title AS title, m.year AS year"
        table = store.query(cypher, key="1")
        assert table.to_pylist() == [{"title": "Solaris", "year": 1972.0}]
        for text in [*HOSTILE, "null\0byte", "x" * 10_000, ""]:
            assert store.query("RETURN $text AS text", text=text)["text"].to_pylist() == [text]

    def test_triples_of_nodes_bring_types_keys_properties_and_weights(self, store):
        store.write(films())
        read = store.read_triples("MATCH (h)-[r]->(t) RETURN h, r, t", FILMS)
        assert read.num_edges(RATED) == 3
        assert sorted(read.interactions.weight) == [2.5, 4.0, 5.0]
        assert read.attributes["Movie"]["title"].to_pylist().count("Solaris") == 1
        assert set(read.users) == {1, 2}

    def test_triples_with_type_columns_are_taken_at_their_word(self, store):
        store.write(films())
        read = store.read_triples(
            "MATCH (h:Movie)-[r:IN_GENRE]->(t:Genre) RETURN h.id AS head, 'IN' AS relation, "
            "t.id AS tail, 'Movie' AS head_type, 'Kind' AS tail_type "
            "UNION ALL MATCH (h:Movie) RETURN 'ann' AS head, 'RATED' AS relation, h.id AS tail, "
            "'User' AS head_type, 'Movie' AS tail_type",
            _bare(),
        )
        assert read.edge_table(("Movie", "IN", "Kind")).num_rows == 2
        assert read.num_edges(RATED) == 3

    def test_triples_without_types_follow_the_rules(self, store):
        store.write(films())
        read = store.read_triples(
            "MATCH (h:User)-[r:RATED]->(t:Movie) RETURN h.id AS head, 'RATED' AS relation, "
            "t.id AS tail, r.rating AS weight UNION ALL MATCH (h:Movie) RETURN 1 AS head, "
            "'RATED' AS relation, h.id AS tail, 3.0 AS weight",
            _bare(),
        )
        assert read.num_edges(RATED) == 6
        genre = store.read_triples(
            "MATCH (h:Movie)-[:IN_GENRE]->(t) RETURN h.id AS head, 'genre' AS relation, "
            "t.id AS tail UNION ALL MATCH (h:Movie) RETURN 'x' AS head, 'RATED' AS relation, "
            "h.id AS tail",
            _bare(),
        )
        assert list(genre.vocabularies["genre"]) == ["sf"]

    def test_a_weight_that_the_schema_names_and_no_edge_has_is_refused(self, store):
        store.write(films())
        with pytest.raises(SchemaError, match=r"names 'stars' as weight.* \['rating', 'timesta"):
            store.read(replace(FILMS, weight="stars"))

    def test_a_triple_query_that_lacks_a_column_or_has_a_null_is_refused(self, store):
        store.write(films())
        with pytest.raises(MissingColumnError, match=r"'tail'.*MATCH"):
            store.read_triples("MATCH (h)-[r]->(t) RETURN h, r", FILMS)
        cypher = "MATCH (m:Movie) RETURN m.id AS head, 'TITLE' AS relation, m.title AS tail"
        with pytest.raises(GraphError, match="tail is null in rows"):
            store.read_triples(cypher, FILMS)

    def test_the_schema_is_inferred(self, store):
        graph = toy_graph()
        store.write(graph)
        schema = store.infer_schema(user="User", item="Movie", interaction="RATED")
        assert schema.interaction == RATED
        assert set(schema.edge_types) == set(graph.schema.edge_types)
        assert "plot" in schema.text["Movie"]
        assert schema.numeric["Movie"] == ("year",)
        assert schema.categorical["User"] == ("gender",)
        assert (schema.weight, schema.time) == (graph.schema.weight, graph.schema.time)
        same_graph(store.read(schema), graph)

    def test_the_schema_is_inferred_without_a_hint(self, store):
        store.write(films())
        schema = store.infer_schema()
        assert (schema.user, schema.item, schema.interaction) == ("User", "Movie", RATED)
        assert (schema.weight, schema.time) == ("rating", "timestamp")

    def test_inference_says_what_there_is_when_nothing_suits(self, store):
        store.write(films())
        with pytest.raises(SchemaError, match=r"'Person'.*'Genre', 'Movie', 'User'"):
            store.infer_schema(user="Person")
        with pytest.raises(SchemaError, match=r"LIKES.*RATED"):
            store.infer_schema(interaction="LIKES")

    def test_vectors_read_back_exactly(self, store):
        store.write(films())
        written = vectors(["m3", "1"])
        assert store.write_embeddings(written, batch_size=1).embeddings == {"Movie": 2}
        read = store.read_embeddings("Movie")
        assert list(read.nodes) == ["1", "m3"]
        assert np.array_equal(read.of(["m3", "1"]), written.matrix)

    def test_vectors_of_integer_keys_find_their_nodes_and_strings_do_not(self, store):
        store.write(films())
        store.write_embeddings(vectors([2, 1], "User"))
        assert list(store.read_embeddings("User").nodes) == [1, 2]
        with pytest.raises(UnknownNodeError, match="2 User keys have no node, for example '1'"):
            store.write_embeddings(vectors(["1", "2"], "User"))

    def test_writing_vectors_twice_or_again_keeps_the_last(self, store):
        store.write(films())
        first, second = vectors(["1", "m2"]), vectors(["1"])
        store.write_embeddings(first)
        store.write_embeddings(first)
        store.write_embeddings(NodeEmbeddings(second.nodes, -second.matrix))
        read = store.read_embeddings("Movie")
        assert np.array_equal(read.of(["1"]), -second.matrix)
        assert np.array_equal(read.of(["m2"]), first.of(["m2"]))

    def test_vectors_of_another_length_replace_the_old_space(self, store):
        store.write(films())
        store.write_embeddings(vectors(["1", "m2"], dim=4))
        store.write_embeddings(vectors(["1"], dim=6))
        read = store.read_embeddings("Movie")
        assert (list(read.nodes), read.dim) == (["1"], 6)

    def test_vectors_without_a_node_are_an_error_or_counted(self, store):
        store.write(films())
        with pytest.raises(UnknownNodeError, match="1 Movie keys have no node, for example 'm9'"):
            store.write_embeddings(vectors(["1", "m9"]))
        report = store.write_embeddings(vectors(["m2", "m9"]), on_missing="skip")
        assert (report.embeddings, report.missing) == ({"Movie": 1}, {"Movie": 1})
        assert list(store.read_embeddings("Movie").nodes) == ["m2"]

    def test_keys_without_a_node_are_named_in_the_order_given(self, store):
        store.write(films())
        assert store.missing_keys("Movie", ["m9", "1", "m8"]) == ["m9", "m8"]

    def test_vectors_do_not_overwrite_what_is_no_vector(self, store):
        store.write(films())
        with pytest.raises(StoreError, match=r"Movie\.title holds"):
            store.write_embeddings(vectors(["1"]), property="title")
        with pytest.raises(GraphError, match="NaN or infinity"):
            store.write_embeddings(
                NodeEmbeddings(Vocabulary("Movie", ["1"]), np.array([[1.0, np.nan]]))
            )

    def test_vectors_stay_out_of_a_graph_unless_asked_for(self, store):
        store.write(films())
        store.write_embeddings(vectors(["1", "m2"]))
        same_graph(store.read(FILMS), films())
        with_vectors = store.read(FILMS, exclude=()).attributes["Movie"]["embedding"]
        assert with_vectors.null_count == 1

    def test_only_vectors_that_differ_are_written_again(self, store):
        store.write(films())
        first = vectors(["1", "m2", "m3"])
        assert store.write_embeddings(first).unchanged == {"Movie": 0}
        assert store.write_embeddings(first).unchanged == {"Movie": 3}
        moved = first.matrix.copy()
        moved[1, 3] = np.nextafter(moved[1, 3], np.float32(9))  # the smallest change there is
        report = store.write_embeddings(NodeEmbeddings(first.nodes, moved))
        assert (report.embeddings, report.unchanged) == ({"Movie": 3}, {"Movie": 2})
        assert np.array_equal(store.read_embeddings("Movie").of(["m2"])[0], moved[1])

    def test_a_vector_that_someone_changed_in_the_store_is_repaired(self, store):
        store.write(films())
        written = vectors(["1", "m2", "m3"])
        store.write_embeddings(written)
        other = NodeEmbeddings(Vocabulary("Movie", ["m2"]), written.of(["m2"])[:, ::-1])
        store.write_embeddings(other)
        store.query("MATCH (m:Movie) WHERE m.id = 'm3' SET m.embedding = NULL")
        assert store.write_embeddings(written).unchanged == {"Movie": 1}
        assert np.array_equal(store.read_embeddings("Movie").matrix, written.matrix)

    def test_numbers_are_written_beside_vectors_and_compared_too(self, store):
        store.write(films())
        written, gains = vectors(["1", "m2"]), {"gain": [0.1, 2.0], "`b`": [0.0, -1e-300]}
        numbers = {n: np.array(v) for n, v in gains.items()}
        store.write_embeddings(written, numbers=numbers)
        assert store.write_embeddings(written, numbers=numbers).unchanged == {"Movie": 2}
        store.query("MATCH (m:Movie) WHERE m.id = 'm2' SET m.gain = 2.5")
        assert store.write_embeddings(written, numbers=numbers).unchanged == {"Movie": 1}
        found = store.query("MATCH (m:Movie) RETURN m.id AS id, m.gain AS g, m.```b``` AS b")
        rows = {r["id"]: (r["g"], r["b"]) for r in found.to_pylist()}
        assert rows == {"1": (0.1, 0.0), "m2": (2.0, -1e-300), "m3": (None, None)}

    def test_a_dry_run_counts_and_writes_nothing(self, store):
        store.write(films())
        store.write_embeddings(vectors(["1"], dim=3))
        report = store.write_embeddings(vectors(["1", "m2", "m9"]), on_missing="skip", dry_run=True)
        assert (report.embeddings, report.missing) == ({"Movie": 2}, {"Movie": 1})
        assert "2 Movie vectors would be written, 0 unchanged" in str(report)
        assert "would remove" in str(report)
        assert store.read_embeddings("Movie").dim == 3

    @pytest.mark.parametrize(
        ("numbers", "error", "message"),
        [
            ({"gain": [np.nan, 1]}, GraphError, "'1': gain holds NaN"),
            ({"gain": [1.0]}, AlignmentError, r"gain: expected \[2\], got \[1\]"),
            ({"id": [1.0, 2.0]}, StoreError, "is the key"),
            ({"embedding": [1.0, 2.0]}, StoreError, "property names repeat"),
        ],
    )
    def test_numbers_that_cannot_be_written_are_refused(self, store, numbers, error, message):
        store.write(films())
        numbers = {name: np.array(v) for name, v in numbers.items()}
        with pytest.raises(error, match=message):
            store.write_embeddings(vectors(["1", "m2"]), numbers=numbers)

    def test_what_a_model_wrote_is_neither_inferred_nor_read_as_a_feature(self, store):
        store.write(films())
        before = store.infer_schema()
        store.write_embeddings(vectors(["1", "m2"]), numbers={GAIN_PROPERTY: np.array([1.0, 2.0])})
        assert store.infer_schema() == before
        assert GAIN_PROPERTY not in store.read(FILMS).attributes["Movie"].column_names

    def test_an_unchanged_store_has_no_changes(self, store):
        graph = toy_graph()
        store.write(graph)
        read = store.read(graph.schema)
        changes = store.read_changes(read)
        assert not changes.delta
        assert str(changes) == "nothing changed"
        assert set(changes.compared.values()) == {"contents"}

    def test_changes_by_contents_turn_the_old_graph_into_the_new_one(self, store):
        store.write(films())
        old = store.read(FILMS)
        store.query("MATCH (m:Movie) WHERE m.id = 'm2' SET m.title = 'Alien', m.year = NULL")
        store.query("MATCH (m:Movie) WHERE m.id = 'm3' DETACH DELETE m")
        store.query("CREATE (m:Movie {id: 'm9', title: 'New'})")
        store.query("MATCH (u:User)-[r:RATED]->(m:Movie) WHERE u.id = 2 SET r.rating = 1.0")
        store.query(
            "MATCH (u:User), (m:Movie) WHERE u.id = 2 AND m.id = 'm9' "
            "CREATE (u)-[:RATED {rating: 3.0, timestamp: 7}]->(m)"
        )
        store.query("MATCH (u:User)-[r:RATED]->(m:Movie) WHERE m.id = 'm2' DELETE r")
        changes = store.read_changes(old)
        assert changes.delta.nodes["Movie"]["id"].to_pylist() == ["m2", "m9"]
        assert changes.delta.removed_nodes == {"Movie": ["m3"]}
        assert changes.delta.edges[RATED].num_rows == 2
        assert changes.delta.removed_edges[RATED].to_pylist() == [{"source": 1, "target": "m2"}]
        assert "1 Movie node removed" in str(changes)
        new = old.apply(changes.delta)
        assert _nodes(new) == _nodes(store.read(FILMS))
        assert new.num_edges(("Movie", "FOLLOWED_BY", "Movie")) == 0
        assert not store.read_changes(new).delta

    def test_with_times_only_what_changed_since_is_read(self, store):
        store.write(films(**stamped_films()))
        old = store.read(FILMS)
        first = store.read_changes(old, updated_at="changed")
        assert (bool(first.delta), first.mark) == (False, 12)
        store.query("MATCH (m:Movie) WHERE m.id = 'm2' SET m.title = 'Alien', m.changed = 20")
        store.query("CREATE (m:Movie {id: 'm9', title: 'New', changed: 21})")
        second = store.read_changes(old, updated_at="changed", since=first.mark)
        assert second.compared["Movie"] == "time"
        assert second.compared["User"] == "contents"
        assert second.delta.nodes["Movie"]["id"].to_pylist() == ["m2", "m9"]
        assert (second.mark, bool(second.delta.removed_nodes)) == (21, False)
        new = old.apply(second.delta)
        assert _nodes(new) == _nodes(store.read(FILMS))
        assert not store.read_changes(new, updated_at="changed", since=second.mark).delta

    def test_a_removal_and_a_new_node_without_a_time_are_found_by_counts(self, store):
        store.write(films(**stamped_films()))
        old = store.read(FILMS)
        store.query("MATCH (m:Movie) WHERE m.id = 'm3' DETACH DELETE m")
        gone = store.read_changes(old, updated_at="changed", since=12)
        assert gone.compared["Movie"] == "contents"
        assert gone.delta.removed_nodes == {"Movie": ["m3"]}
        now = old.apply(gone.delta)
        store.query("CREATE (m:Movie {id: 'm9', title: 'New'})")
        found = store.read_changes(now, updated_at="changed", since=12)
        assert found.delta.nodes["Movie"]["id"].to_pylist() == ["m9"]

    def test_edges_that_changed_since_are_found_and_removed_ones_by_counts(self, store):
        store.write(films(**stamped_films()))
        old = store.read(FILMS)  # the time of a rating is when it changed
        late = 2**40 + 1
        store.query(
            f"MATCH (u:User)-[r:RATED]->(m:Movie) WHERE u.id = 2 "
            f"SET r.rating = 1.0, r.timestamp = {late}"
        )
        found = store.read_changes(old, updated_at="timestamp", since=2**40)
        assert (found.compared[RATED], found.mark) == ("time", late)
        assert found.delta.edges[RATED]["rating"].to_pylist() == [1.0]
        now = old.apply(found.delta)
        store.query("MATCH (u:User)-[r:RATED]->(m:Movie) WHERE m.id = 'm2' DELETE r")
        gone = store.read_changes(now, updated_at="timestamp", since=late)
        assert gone.compared[RATED] == "contents"
        assert gone.delta.removed_edges[RATED].num_rows == 1

    def test_a_store_without_any_items_left_is_an_error(self, store):
        store.write(films())
        old = store.read(FILMS)
        store.query("MATCH (m:Movie) DETACH DELETE m")
        with pytest.raises(SchemaError, match="no node has the label 'Movie' any more"):
            store.read_changes(old)

    def test_an_erased_node_is_gone_with_its_edges_and_others_stay(self, store):
        store.write(films())
        store.write_recommendations(recommended([1, "m3", 1, 0.5]), "User", "Movie")
        looked = store.lookup("User", [1, 9], ["age", "nothing"])
        assert looked.to_pylist() == [{"id": 1, "age": 30}]
        assert store.erase("User", [1, 9]) == (1, 3)
        assert store.erase("User", [1]) == (0, 0)
        assert list(store.read(_bare()).users) == [2]
        assert store.lookup("User", [1], ["age"]).num_rows == 0

    @pytest.mark.parametrize("text", HOSTILE)
    def test_erasing_by_any_key_erases_nothing_else(self, store, text):
        graph = _one_edge({"Movie": {"id": [text, "other"], "title": ["t", text]}}, target=text)
        store.write(graph)
        assert store.erase("Movie", [text]) == (1, 1)
        assert store.lookup("Movie", ["other"], ["title"])["title"].to_pylist() == [text]

    def test_recommendations_become_relations_with_score_and_evidence(self, store):
        store.write(films())
        lists = recommended([1, "m3", 1, 0.5], [1, "m2", 2, 0.25], [2, "m3", 1, -1.0])
        lists["why"] = [{"genre": 0.5}, {"genre": 0.25}, None]
        report = store.write_recommendations(lists, "User", "Movie")
        assert report.recommendations == {RECOMMENDS: 2}
        found = store.query(
            f"MATCH (u:User)-[r:{RECOMMENDS}]->(m:Movie) RETURN u.id AS user, m.id AS item, "
            "r.rank AS rank, r.score AS score, r.why AS why ORDER BY user, rank"
        )
        assert found.to_pylist()[0] == {
            "user": 1,
            "item": "m3",
            "rank": 1,
            "score": 0.5,
            "why": '{"genre": 0.5}',
        }
        assert found["score"].to_pylist() == [0.5, 0.25, -1.0]

    def test_a_list_is_replaced_as_a_whole_and_others_stay(self, store):
        store.write(films())
        both = recommended([1, "m3", 1, 0.5], [1, "m2", 2, 0.25], [2, "m3", 1, -1.0])
        store.write_recommendations(both, "User", "Movie")
        report = store.write_recommendations(both, "User", "Movie")
        assert report.unchanged == {RECOMMENDS: 2}
        store.write_recommendations(recommended([1, "1", 1, 0.75]), "User", "Movie")
        found = store.query(
            f"MATCH (u:User)-[:{RECOMMENDS}]->(m) RETURN u.id AS user, m.id AS item ORDER BY user"
        )
        assert found.to_pylist() == [{"user": 1, "item": "1"}, {"user": 2, "item": "m3"}]

    def test_a_list_that_someone_changed_in_the_store_is_repaired(self, store):
        store.write(films())
        lists = recommended([1, "m3", 1, 0.5], [2, "m3", 1, -1.0])
        store.write_recommendations(lists, "User", "Movie")
        store.query(f"MATCH (u:User)-[r:{RECOMMENDS}]->() WHERE u.id = 2 SET r.score = 9.0")
        report = store.write_recommendations(lists, "User", "Movie", dry_run=True)
        assert "1 COLDSTART_RECOMMENDS lists would be written, 1 unchanged" in str(report)
        assert store.write_recommendations(lists, "User", "Movie").unchanged == {RECOMMENDS: 1}
        assert store.write_recommendations(lists, "User", "Movie").unchanged == {RECOMMENDS: 2}

    def test_recommendations_stay_out_of_graphs_and_schemas(self, store):
        store.write(films())
        before = store.infer_schema()
        store.write_recommendations(recommended([1, "m3", 1, 0.5]), "User", "Movie")
        assert store.infer_schema() == before
        same_graph(store.read(FILMS), films())

    def test_recommendations_of_unknown_nodes_or_twice_are_refused_whole(self, store):
        store.write(films())
        with pytest.raises(UnknownNodeError, match="1 Movie keys have no node, for example 'm9'"):
            store.write_recommendations(
                recommended([1, "m3", 1, 1.0], [1, "m9", 2, 0.5]), "User", "Movie"
            )
        with pytest.raises(GraphError, match="1 rows name an item twice"):
            store.write_recommendations(
                recommended([1, "m3", 1, 1.0], [1, "m3", 2, 0.5]), "User", "Movie"
            )
        with pytest.raises(MissingColumnError, match="score"):
            store.write_recommendations({"user": [1], "item": ["m3"], "rank": [1]}, "User", "Movie")
        assert not any(e[1] == RECOMMENDS for e in store.contents().edges)

    def test_an_outline_tells_what_a_read_will_bring(self, store):
        graph = toy_graph()
        store.write(graph)
        store.write_recommendations(recommended(["u1", "m3", 1, 0.5]), "User", "Movie")
        outline = outline_store(store, graph.schema)
        read = store.read(graph.schema)
        assert dict(outline.nodes) == {t: read.num_nodes(t) for t in read.node_types}
        assert dict(outline.edges) == {e: read.num_edges(e) for e in read.edge_types}
        assert 0.9 < outline.graph_bytes / read.nbytes < 1.1
        assert [d.sum() for d in outline.degrees] == [len(read.interactions)] * 2
        assert all(s > 0 for s in (*outline.node_seconds.values(), *outline.edge_seconds.values()))

    def test_absent_vectors_or_labels_are_errors_that_name_them(self, store):
        store.write(films())
        with pytest.raises(StoreError, match=r"Movie.*'nothing'"):
            store.read_embeddings("Movie", "nothing")
        with pytest.raises(SchemaError, match=r"'Film'.*'Movie'"):
            store.read_embeddings("Film")
        with pytest.raises(SchemaError, match=r"'Film'.*'Movie'"):
            store.write_embeddings(vectors(["1"], "Film"))

    def test_it_works_again_after_close(self, store):
        store.query("RETURN 1 AS one")
        store.close()
        store.close()
        assert store.query("RETURN 1 AS one")["one"].to_pylist() == [1]

    def test_progress_is_shown_only_when_asked_for(self, store, capfd):
        store.write(films())
        store.read(FILMS)
        assert "rows" not in capfd.readouterr().err
        store.read(FILMS, progress=True)
        assert "rows" in capfd.readouterr().err


class ScorerContract:
    """What whatever ranks promises; a subclass supplies ``make``.

    The data are a toy graph with cold users and cold items, and its text vectors.
    """

    def make(self, data: TrainingData) -> Scorer:
        raise NotImplementedError

    @pytest.fixture
    def data(self) -> TrainingData:
        graph = toy_graph(num_users=24, num_items=32, num_cold_users=3, num_cold_items=4)
        return TrainingData(graph, word_vectors(graph))

    @pytest.fixture
    def scorer(self, data):
        return self.make(data)

    def test_every_pair_seen_or_not_has_a_finite_score(self, scorer):
        scores = scorer.score(np.arange(24), np.arange(32))
        assert scores.shape == (24, 32)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_a_score_ignores_the_other_candidates_and_users(self, scorer):
        together = scorer.score(np.arange(24), np.arange(32))
        for user, item in ((0, 1), (23, 31), (5, 30), (22, 2)):
            alone = scorer.score(np.array([user]), np.array([item]))[0, 0]
            np.testing.assert_allclose(alone, together[user, item], rtol=1e-5, atol=1e-5)

    def test_rows_come_in_the_order_asked_for(self, scorer):
        together = scorer.score(np.arange(24), np.arange(32))
        users, items = np.array([7, 23, 0, 7]), np.array([31, 4, 4])
        some = scorer.score(users, items)
        np.testing.assert_allclose(some, together[np.ix_(users, items)], rtol=1e-5, atol=1e-5)

    def test_no_candidates_or_no_users_give_no_scores(self, scorer):
        none = np.empty(0, np.int64)
        assert scorer.score(np.array([0, 1]), none).shape == (2, 0)
        assert scorer.score(none, np.array([0, 1])).shape == (0, 2)

    def test_the_same_data_and_seed_give_the_same_scores(self, data):
        one, other = (
            self.make(TrainingData(data.graph, data.texts)).score(np.arange(24), np.arange(32))
            for _ in range(2)
        )
        np.testing.assert_array_equal(one, other)


def _bare() -> Schema:
    return Schema("User", "Movie", RATED)


def _fields(schema: Schema) -> dict[str, Any]:
    names = ("user", "item", "interaction", "text", "key", "weight")
    return {name: getattr(schema, name) for name in names}


def _one_edge(nodes: dict[str, Any], target: str = "a") -> KnowledgeGraph:
    edges = {RATED: {"source": ["u"], "target": [target]}}
    return KnowledgeGraph.from_tables({"User": {"id": ["u"]}} | nodes, edges, _bare())
