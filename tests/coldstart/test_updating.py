import datetime as dt
from dataclasses import replace
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pytest
import torch

from coldstart import ColdStartEngine, updating
from encoders import TfidfEncoder
from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Schema, Vocabulary
from kg.datasets import load_movielens_100k
from kg.errors import AlignmentError, DanglingEdgeError, GraphError, SchemaError, UnknownNodeError
from kg.toy import toy_graph
from tests.coldstart.toys import (
    FRIEND,
    GENRE,
    LIVES,
    RATED,
    SIMILAR,
    part_of,
    ratings,
    vectors_of,
    word_vectors,
    words_of,
)

NEW = {"id": ["new"], "title": ["The orbit and the galaxy"], "plot": ["A rocket."], "year": [1964]}
NEW_TEXT = {
    "Movie": NodeEmbeddings(
        Vocabulary("Movie", ["new"]), words_of("The orbit and the galaxy", "A rocket.")[None]
    )
}


def fit(graph):
    return ColdStartEngine.fit(graph, texts=word_vectors(graph), device="cpu")


def without(graph, **keys):
    return graph.apply(GraphDelta(removed_nodes=keys))


def vectors(engine, node_type):
    every = engine.embeddings(node_type)
    return dict(zip(every.nodes, every.matrix, strict=True))


def changed(before, after, node_type):
    """Keys of the nodes whose embedding is not bit for bit what it was, or is new."""
    old = vectors(before, node_type)
    return {
        key
        for key, vector in vectors(after, node_type).items()
        if key not in old or not np.array_equal(vector, old[key])
    }


def new_film(**edges):
    return GraphDelta(nodes={"Movie": NEW}, edges=edges)


def add_new_film(engine, edges=None):
    return engine.update(GraphDelta(nodes={"Movie": NEW}, edges=edges or {}), texts=NEW_TEXT)


# A node that comes later is what it would have been


def test_a_cold_item_that_comes_later_is_as_if_it_had_been_there(graph, engine):
    later = [f"m{n}" for n in range(76, 80)]
    part = part_of(graph, Movie=later)
    assert part.edges[SIMILAR].num_rows > 8
    assert RATED not in part.edges
    smaller = fit(without(graph, Movie=later))
    updated = smaller.update(part, texts=vectors_of(word_vectors(graph), later))
    assert list(updated.graph.items) == list(graph.items)
    np.testing.assert_allclose(
        updated.embed("Movie", later).matrix, engine.embed("Movie", later).matrix, atol=1e-5
    )
    np.testing.assert_allclose(updated.item_vectors, engine.item_vectors, atol=1e-5)
    np.testing.assert_allclose(updated.item_bias, engine.item_bias, atol=1e-5)


def test_a_cold_user_who_comes_later_is_as_if_there_before(graph, engine):
    later = [f"u{n}" for n in range(56, 60)]
    part = part_of(graph, User=later)
    assert {FRIEND, LIVES} == set(part.edges)
    updated = fit(without(graph, User=later)).update(part)
    np.testing.assert_allclose(
        updated.embed("User", later).matrix, engine.embed("User", later).matrix, atol=1e-5
    )
    np.testing.assert_allclose(updated.user_vectors, engine.user_vectors, atol=1e-5)


def test_one_at_a_time_is_the_same(graph, engine):
    later = ["m78", "m79"]
    updated = fit(without(graph, Movie=later))
    for key in later:
        present = set(updated.graph.items) | {key}
        part = part_of(graph, Movie=[key])
        links = part.edges[SIMILAR].to_pylist()
        links = [x for x in links if {x["source"], x["target"]} <= present]
        edges = dict(part.edges) | {SIMILAR: {c: [x[c] for x in links] for c in links[0]}}
        delta = GraphDelta(nodes=part.nodes, edges=edges)
        updated = updated.update(delta, texts=vectors_of(word_vectors(graph), [key]))
    np.testing.assert_allclose(
        updated.embed("Movie", later).matrix, engine.embed("Movie", later).matrix, atol=1e-5
    )


def test_embedding_a_draft_is_what_adding_it_would_give(engine):
    edges = {
        GENRE: {"source": ["new"], "target": ["space"]},
        SIMILAR: {"source": ["new", "m4"], "target": ["m0", "new"]},
        RATED: ratings(("u0", "new"), ("u4", "new")),
    }
    draft = engine.embed_new(
        "Movie",
        links={GENRE: ["space"], SIMILAR: ["m0", "m4"], RATED: {"u0": 5.0, "u4": 5.0}},
        properties={name: NEW[name][0] for name in ("title", "plot", "year")},
        text=NEW_TEXT["Movie"].matrix[0],
    )
    added = add_new_film(engine, edges)
    np.testing.assert_allclose(draft, added.embed("Movie", ["new"]).matrix[0], atol=1e-5)
    visitor = {"id": ["v"], "age": [25], "gender": ["x"]}
    edges = {FRIEND: {"source": ["v"], "target": ["u3"]}, RATED: ratings(("v", "m1"))}
    added = engine.update(GraphDelta(nodes={"User": visitor}, edges=edges))
    draft = engine.embed_new(
        "User", links={FRIEND: ["u3"], RATED: {"m1": 5.0}}, properties={"age": 25, "gender": "x"}
    )
    np.testing.assert_allclose(draft, added.embed("User", ["v"]).matrix[0], atol=1e-5)


def draft_and_added(engine, node_type, rng, links, properties, text=None):
    """A random new node as a draft, and as what an update makes of it."""
    chosen = {}
    for edge_type, end in links.items():
        keys = list(engine.graph.vocabularies[end])
        number = min(int(rng.choice([0, 1, 4, 18])), len(keys))
        if number:
            chosen[edge_type] = [keys[i] for i in rng.choice(len(keys), number, replace=False)]
    keys = engine.graph.vocabularies[node_type]
    new = 10_000 if keys.is_int else "draft"
    edges = {}
    for edge_type, ends in chosen.items():
        one, other = ("source", "target") if edge_type[0] == node_type else ("target", "source")
        edges[edge_type] = {one: [new] * len(ends), other: ends}
        if edge_type == engine.graph.schema.interaction:
            weights = rng.choice([4.0, 5.0], len(ends)).tolist()
            chosen[edge_type] = dict(zip(ends, weights, strict=True))
            edges[edge_type] |= {"weight": weights, "time": [0] * len(ends)}
    named = {p: [v] for p, v in properties.items() if v is not None}
    delta = GraphDelta(nodes={node_type: {"id": [new], **named}}, edges=edges)
    given = text is not None and {
        node_type: NodeEmbeddings(Vocabulary(node_type, [new]), text[None])
    }
    added = engine.update(delta, texts=given or None).embed(node_type, [new]).matrix[0]
    return engine.embed_new(node_type, links=chosen, properties=properties, text=text), added


@pytest.mark.parametrize("seed", range(15))
def test_random_drafts_are_what_adding_them_would_give(engine, seed):
    # Also where some of the others came after training themselves.
    rng = np.random.default_rng(seed)
    if seed % 2:
        engine = add_new_film(engine, {RATED: ratings(("u0", "new"), ("u58", "new"))})
    known = {
        "year": rng.choice([None, 1970, 2004]),
        "title": rng.choice([None, "The orbit of the heart", "A wolf"]),
        "plot": rng.choice([None, "A heist, a heist and a letter.", "Nothing known"]),
    }
    links, text = {GENRE: "Genre", SIMILAR: "Movie", RATED: "User"}, rng.integers(0, 3, 24)
    film = draft_and_added(engine, "Movie", rng, links, known, text * np.float32(seed % 3 > 0))
    np.testing.assert_allclose(*film, atol=1e-5)
    properties = {"age": rng.choice([None, 20, 61]), "gender": rng.choice([None, "f", "?"])}
    links = {LIVES: "City", FRIEND: "User", RATED: "Movie"}
    np.testing.assert_allclose(*draft_and_added(engine, "User", rng, links, properties), atol=1e-5)


@pytest.mark.slow
def test_random_drafts_of_films_and_people_of_movielens_are_too():
    graph = load_movielens_100k()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(graph.items), 48)).astype(np.float32)
    texts = {"Movie": NodeEmbeddings(graph.items, vectors)}
    engine = ColdStartEngine.fit(graph, texts=texts, device="cpu")
    ends = {
        t: {e: e[2] if e[0] == t else e[0] for e in graph.edge_types if t in (e[0], e[2])}
        for t in ("Movie", "User")
    }
    for _ in range(20):
        text = rng.normal(size=48).astype(np.float32)
        known = {"year": 1995, "title": "The Good Story of the City"}
        film = draft_and_added(engine, "Movie", rng, ends["Movie"], known, text)
        np.testing.assert_allclose(*film, atol=1e-5)
        known = {"age": 33, "gender": "F"}
        person = draft_and_added(engine, "User", rng, ends["User"], known)
        np.testing.assert_allclose(*person, atol=1e-5)


def test_a_draft_that_does_not_fit_is_an_error(engine):
    with pytest.raises(ValueError, match=r"text= of a Movie is the vector .*, got a string"):
        engine.embed_new("Movie", text="a film")  # pyright: ignore
    with pytest.raises(ValueError, match=r"text= of a Movie: expected \[24\] floats.* got \[7\]"):
        engine.embed_new("Movie", text=np.zeros(7))
    with pytest.raises(ValueError, match=r"links .*LIVES_IN.* do not touch a Movie"):
        engine.embed_new("Movie", links={LIVES: ["Harbour"]})
    with pytest.raises(ValueError, match="embeddings are made for 'User' and 'Movie'"):
        engine.embed_new("Genre")


# What is not touched stays


def test_nothing_to_change_gives_the_engine_itself(engine):
    assert engine.update(GraphDelta()) is engine


def test_a_new_item_moves_nobody_who_is_not_linked_to_it(engine):
    edges = {GENRE: {"source": ["new"], "target": ["space"]}}
    updated = add_new_film(engine, edges | {SIMILAR: {"source": ["new"], "target": ["m4"]}})
    assert changed(engine, updated, "Movie") <= {"new", "m4"}
    assert changed(engine, updated, "User") == set()
    moved = updated.embed("Movie", ["m4"]).matrix - engine.embed("Movie", ["m4"]).matrix
    assert np.abs(moved).max() < 1e-5


def test_a_click_moves_the_two_who_met_and_the_friends_of_the_user(engine, graph):
    updated = engine.update(GraphDelta(edges={RATED: ratings(("u1", "m7"))}))
    friends = graph.edges[FRIEND].index
    of_u1 = {f"u{n}" for n in [*friends[1][friends[0] == 1], *friends[0][friends[1] == 1]]}
    assert changed(engine, updated, "Movie") == {"m7"}
    assert changed(engine, updated, "User") == {"u1", *of_u1}


def test_friends_see_no_history_of_a_user_who_came_after_training(engine):
    visitor = GraphDelta(
        nodes={"User": {"id": ["v"], "age": [25]}},
        edges={FRIEND: {"source": ["v"], "target": ["u3"]}},
    )
    once = engine.update(visitor)
    twice = once.update(GraphDelta(edges={RATED: ratings(("v", "m1"))}))
    assert changed(engine, once, "User") <= {"v", "u3"}
    assert changed(once, twice, "User") == {"v"}


def test_a_new_title_moves_the_film_and_those_linked_to_it(engine, graph):
    title = {"id": ["m2"], "title": ["The forest and the glacier"]}
    texts = {
        "Movie": NodeEmbeddings(
            Vocabulary("Movie", ["m2"]), words_of("The forest and the glacier", "")[None]
        )
    }
    updated = engine.update(GraphDelta(nodes={"Movie": title}), texts=texts)
    links = graph.edges[SIMILAR].index
    alike = {f"m{n}" for n in [*links[1][links[0] == 2], *links[0][links[1] == 2]]}
    assert changed(engine, updated, "Movie") == {"m2", *alike}


def test_another_year_moves_only_the_film_and_asks_for_no_text(engine):
    updated = engine.update(GraphDelta(nodes={"Movie": {"id": ["m2"], "year": [1999]}}))
    assert changed(engine, updated, "Movie") == {"m2"}
    assert changed(engine, updated, "User") == set()


def test_the_engine_before_stays_as_it_was(engine):
    before = engine.item_vectors.clone(), engine.user_vectors.clone(), len(engine.graph.items)
    add_new_film(engine, {RATED: ratings(("u0", "new"), ("u1", "m7"))})
    assert torch.equal(engine.item_vectors, before[0])
    assert torch.equal(engine.user_vectors, before[1])
    assert len(engine.graph.items) == before[2]


# Interactions


def test_one_more_click_moves_a_warm_user_a_little_and_towards_the_item(engine, graph):
    seen = graph.interactions.index
    for user in range(12):
        fresh = next(i for i in range(72) if i not in seen[1][seen[0] == user])
        pair = f"u{user}", f"m{fresh}"
        updated = engine.update(GraphDelta(edges={RATED: ratings(pair)}))
        for node_type, key in zip(("User", "Movie"), pair, strict=True):
            before, after = (e.embed(node_type, [key]).matrix[0] for e in (engine, updated))
            assert 0 < np.linalg.norm(after - before) < 0.6 * np.linalg.norm(before)
        assert updated.score([pair[0]], [pair[1]]) > engine.score([pair[0]], [pair[1]])


def test_a_click_taken_back_leaves_no_trace(engine):
    clicked = engine.update(GraphDelta(edges={RATED: ratings(("u1", "m7"), ("u58", "m7"))}))
    pair = {"source": ["u1", "u58"], "target": ["m7", "m7"]}
    back = clicked.update(GraphDelta(removed_edges={RATED: pair}))
    np.testing.assert_allclose(back.user_vectors, engine.user_vectors, atol=1e-5)
    np.testing.assert_allclose(back.item_vectors, engine.item_vectors, atol=1e-5)


def test_a_dislike_is_no_positive(engine):
    updated = engine.update(GraphDelta(edges={RATED: ratings(("u58", "m7"), weight=1.0)}))
    np.testing.assert_allclose(
        updated.embed("User", ["u58"]).matrix, engine.embed("User", ["u58"]).matrix, atol=1e-6
    )
    assert "m7" not in {r["item"] for r in updated.recommend(["u58"], 80).to_pylist()}


def test_a_new_person_who_names_two_films_gets_films_of_that_taste(engine):
    visitor = GraphDelta(
        nodes={"User": {"id": ["v"]}}, edges={RATED: ratings(("v", "m2"), ("v", "m6"))}
    )
    found = engine.update(visitor).recommend(["v"], 5).to_pylist()
    assert [int(row["item"][1:]) % 4 for row in found] == [2] * 5
    assert not {"m2", "m6"} & {row["item"] for row in found}


def test_every_interaction_of_a_new_item_draws_it_to_those_who_like_it(engine):
    romance = [f"u{n}" for n in range(1, 50, 4)]  # while its text is of space
    scores = []
    for n in (0, 1, 2, 5, 10):
        edges = {RATED: ratings(*[(u, "new") for u in romance[:n]])} if n else {}
        scores.append(add_new_film(engine, edges).score(romance, ["new"]).mean())
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 0.1


# One change and its halves


def assert_same(one, other):
    assert set(one.graph.items) == set(other.graph.items)
    for node_type in ("User", "Movie"):
        first, second = vectors(one, node_type), vectors(other, node_type)
        for key, vector in first.items():
            np.testing.assert_allclose(vector, second[key], atol=1e-5, err_msg=str(key))


def test_one_change_and_its_two_halves_agree(engine):
    film = {"nodes": {"Movie": NEW}, "edges": {RATED: ratings(("u0", "new"), ("u4", "new"))}}
    visitor = {"id": ["v"], "age": [25]}
    clicks = ratings(("v", "m1"), ("v", "m5"), ("u9", "m3"))
    person = {"nodes": {"User": visitor}, "edges": {RATED: clicks}}
    every = {name: [*film["edges"][RATED][name], *clicks[name]] for name in clicks}
    both = GraphDelta(nodes=film["nodes"] | person["nodes"], edges={RATED: every})
    at_once = engine.update(both, texts=NEW_TEXT)
    halves = engine.update(GraphDelta(**film), texts=NEW_TEXT).update(GraphDelta(**person))
    assert_same(at_once, halves)
    turned = engine.update(GraphDelta(**person)).update(GraphDelta(**film), texts=NEW_TEXT)
    assert_same(at_once, turned)


def test_nodes_first_and_their_interactions_after_is_one_change(engine):
    # Also for pairs that are both new: they see each other's priors in either case.
    nodes = {"Movie": NEW, "User": {"id": ["v"], "age": [25]}}
    edges = {RATED: ratings(("v", "new"), ("u0", "new"), ("v", "m1"))}
    at_once = engine.update(GraphDelta(nodes=nodes, edges=edges), texts=NEW_TEXT)
    nodes_first = engine.update(GraphDelta(nodes=nodes), texts=NEW_TEXT)
    assert_same(at_once, nodes_first.update(GraphDelta(edges=edges)))


def test_only_later_partners_of_a_new_node_see_what_it_has_become(engine):
    first, second = ratings(("u0", "new")), ratings(("u4", "new"))
    at_once = add_new_film(engine, {RATED: ratings(("u0", "new"), ("u4", "new"))})
    half = add_new_film(engine, {RATED: first})
    halves = half.update(GraphDelta(edges={RATED: second}))
    one, other = vectors(at_once, "User"), vectors(halves, "User")
    differ = {key for key in one if not np.allclose(one[key], other[key], atol=1e-5)}
    assert differ <= {"u4"}
    np.testing.assert_allclose(at_once.item_vectors, halves.item_vectors, atol=1e-5)


# Removal


def test_removing_nodes_keeps_the_others(engine, graph):
    gone = GraphDelta(removed_nodes={"User": ["u2", "u57"], "Movie": ["m3", "m77"]})
    updated = engine.update(gone)
    assert (len(updated.user_vectors), len(updated.item_vectors)) == (58, 78)
    edges, links = graph.interactions.index, graph.edges[SIMILAR].index
    near = {*edges[1][np.isin(edges[0], [2, 57])], *links[1][np.isin(links[0], [3, 77])]}
    near |= {*links[0][np.isin(links[1], [3, 77])]}
    moved = changed(engine, updated, "Movie")
    assert moved <= {f"m{n}" for n in near}
    assert len(moved) < 40
    for key in ("m3", "u2"):
        with pytest.raises(UnknownNodeError, match=f"'{key}' is not among"):
            updated.score(["u2"] if key == "u2" else ["u1"], [key])


def test_an_engine_with_removed_warm_nodes_recomputes_updates_saves_and_loads(engine, tmp_path):
    smaller = engine.update(GraphDelta(removed_nodes={"User": ["u2"], "Movie": ["m0", "m3"]}))
    for node_type in ("User", "Movie"):
        keys = list(smaller.graph.vocabularies[node_type])
        np.testing.assert_allclose(
            smaller.recomputed(node_type, keys).matrix,
            smaller.embed(node_type, keys).matrix,
            atol=1e-5,
        )
    smaller.save(tmp_path / "model")
    loaded = ColdStartEngine.load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.item_vectors, smaller.item_vectors)
    edges = {RATED: ratings(("u1", "new")), SIMILAR: {"source": ["new"], "target": ["m4"]}}
    one, other = add_new_film(smaller, edges), add_new_film(loaded, edges)
    assert torch.equal(one.item_vectors, other.item_vectors)
    again = one.update(GraphDelta(removed_nodes={"Movie": ["new", "m1"], "User": ["u1"]}))
    assert len(again.recommend(["u3"], 100, exclude_seen=False)) == 77


def test_what_was_cold_is_the_same_after_warm_nodes_are_gone(engine, graph):
    links = graph.edges[SIMILAR].index
    alike = {f"m{n}" for n in [*links[1][links[0] == 3], *links[0][links[1] == 3]]}
    updated = engine.update(GraphDelta(removed_nodes={"Movie": ["m3"]}))
    lonely = sorted({f"m{n}" for n in range(72, 80)} - alike)
    again = updated.recomputed("Movie", lonely).matrix
    np.testing.assert_allclose(again, engine.embed("Movie", lonely).matrix, atol=1e-5)


def test_removing_an_entity_moves_those_who_had_it(engine, graph):
    updated = engine.update(GraphDelta(removed_nodes={"Genre": ["crime"]}))
    index = graph.edges[GENRE].index
    crime = {f"m{n}" for n in index[0][index[1] == 2]}
    assert changed(engine, updated, "Movie") == crime
    recomputed = updated.recomputed("Movie", ["m0", "m2"]).matrix
    np.testing.assert_allclose(recomputed, updated.embed("Movie", ["m0", "m2"]).matrix, atol=1e-5)


def test_a_key_removed_and_added_in_one_change_is_a_new_node(engine, graph):
    index = graph.interactions.index
    rated = {f"m{n}" for n in index[1][index[0] == 1]}
    fresh = {"id": ["u1"], "age": [70], "gender": ["x"]}
    updated = engine.update(GraphDelta(nodes={"User": fresh}, removed_nodes={"User": ["u1"]}))
    assert list(updated.graph.users)[-1] == "u1"
    found = updated.recommend(["u1"], 100).to_pylist()
    assert len(found) == 80
    assert rated <= {row["item"] for row in found}
    stranger = engine.embed_new("User", properties={"age": 70, "gender": "x"})
    np.testing.assert_allclose(updated.embed("User", ["u1"]).matrix[0], stranger, atol=1e-5)


# Things unknown at training


def test_entities_and_relations_unknown_at_training_contribute_nothing(engine):
    shot_in = ("Movie", "SHOT_IN", "Country")
    schema = engine.graph.schema.completed([shot_in])
    engine = replace(engine, graph=replace(engine.graph, schema=schema))
    edges = {
        GENRE: {"source": ["new"], "target": ["opera"]},
        shot_in: {"source": ["new", "m1"], "target": ["Italy", "Italy"]},
    }
    nodes = {"Movie": NEW, "Genre": {"id": ["opera"], "name": ["Opera"]}}
    updated = engine.update(GraphDelta(nodes=nodes, edges=edges), texts=NEW_TEXT)
    plain = add_new_film(engine)
    np.testing.assert_allclose(
        updated.embed("Movie", ["new"]).matrix, plain.embed("Movie", ["new"]).matrix, atol=1e-6
    )
    np.testing.assert_allclose(
        updated.embed("Movie", ["m1"]).matrix, engine.embed("Movie", ["m1"]).matrix, atol=1e-5
    )


# Bad input


@pytest.mark.parametrize(
    ("delta", "error", "message"),
    [
        (
            {"removed_nodes": {"User": ["nobody"]}},
            UnknownNodeError,
            "User 'nobody' is not among the 60 known; only what is there can be removed",
        ),
        (
            {"edges": {RATED: ratings(("u1", "m99"))}},
            DanglingEdgeError,
            r"Movie 'm99'\); add them to the nodes of the same change",
        ),
        (
            {"removed_edges": {GENRE: {"source": ["m1"], "target": ["polka"]}}},
            DanglingEdgeError,
            r"Genre 'polka'\); only what is there can be removed",
        ),
        (
            {"nodes": {"Kunde": {"id": ["k1"]}}},
            GraphError,
            "nodes: there are no 'Kunde' nodes, only City, Genre, Movie, User; use one",
        ),
        (
            {"nodes": {"Movie": {"id": ["m1"], "titel": ["Alien"]}}},
            GraphError,
            "a Movie has no property 'titel', only id, plot, title, year .its key is id.; "
            ".*new_properties=True",
        ),
        (
            {"edges": {("User", "RATES", "Movie"): ratings(("u1", "m1"))}},
            GraphError,
            "edges: there are no User-RATES-Movie edges, only Movie-HAS_GENRE-Genre, ",
        ),
        (
            {"edges": {RATED: {"source": ["u1"], "target": ["m1"], "weight": [3.0]}}},
            GraphError,
            "the change have none; give a time for every edge",
        ),
        (
            {"edges": {SIMILAR: {"source": ["m1"], "target": ["m2"], "weight": [3.0]}}},
            GraphError,
            "the change have one; leave it out",
        ),
        ({"edges": {RATED: ratings(("u1", "m1"), weight=np.nan)}}, GraphError, "weight"),
        (
            {"removed_edges": {RATED: {"source": ["u58"], "target": ["m1"]}}},
            GraphError,
            "1 edge to remove cannot be found",
        ),
    ],
)
def test_a_change_that_does_not_fit_changes_nothing(engine, delta, error, message):
    with pytest.raises(error, match=message):
        engine.update(GraphDelta(**delta))
    assert len(engine.graph.users) == 60


def test_a_new_entity_comes_with_its_edges_and_a_new_property_on_demand(engine):
    has = {GENRE: {"source": ["m1"], "target": ["polka"]}}
    after = engine.update(GraphDelta(nodes={"Genre": {"id": ["polka"]}}, edges=has))
    assert "polka" in after.graph.vocabularies["Genre"]
    posters = {"User": {"id": ["u1"], "town": ["Rome"]}}
    after = engine.update(GraphDelta(nodes=posters, new_properties=True))
    assert after.graph.attributes["User"]["town"].to_pylist().count("Rome") == 1


def test_text_vectors_must_cover_what_is_new_and_be_as_in_training(engine):
    other = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["m1"]), np.ones((1, 24)))}
    with pytest.raises(UnknownNodeError, match="Movie 'new' is new or changed and has no vector"):
        engine.update(new_film(), texts=other)
    long = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["new"]), np.ones((1, 25)))}
    with pytest.raises(AlignmentError, match="trained on 24 floats each, texts= has 25; pass"):
        engine.update(new_film(), texts=long)
    bad = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["new"]), np.full((1, 24), np.inf))}
    with pytest.raises(ValueError, match="Movie 'new' has a text vector with NaN or infinity"):
        engine.update(new_film(), texts=bad)


def test_an_engine_of_ready_vectors_does_not_encode_in_another_space(engine):
    encoder = TfidfEncoder.fit(["one text", "another text"], dim=2)
    with pytest.raises(AlignmentError, match="trained on 24 floats each, the encoder has 2; pass"):
        replace(engine, encoder=encoder, cache=None).update(new_film())


def test_new_texts_are_not_encoded_by_another_encoder_than_the_known_ones():
    graph = toy_graph()
    rng = np.random.default_rng(0)
    strange = NodeEmbeddings(graph.items, rng.normal(size=(len(graph.items), 384)))
    item = graph.schema.item
    engine = ColdStartEngine.fit(graph, texts={item: strange}, cache=None)
    text = graph.schema.text[item][0]
    new = GraphDelta(nodes={item: {"id": ["m_new"], text: ["a text"]}})
    with pytest.raises(AlignmentError, match="that the default encoder did not make"):
        engine.update(new)


def test_embed_new_refuses_what_it_cannot_use():
    graph = toy_graph()
    engine = ColdStartEngine.fit(graph, texts={})
    item = graph.schema.item
    with pytest.raises(ValueError, match="are no features"):
        engine.embed_new(item, properties={"yeer": 1999})
    with pytest.raises(ValueError, match="trained without texts"):
        engine.embed_new(item, text=np.zeros(3))
    edge_type = next(e for e in graph.edge_types if e[0] == item and e[2] != item)
    with pytest.raises(TypeError, match="expected a list of"):
        engine.embed_new(item, links={edge_type: "drama"})
    with pytest.raises(UnknownNodeError, match=r"'darma'.*or pass on_unknown='skip'"):
        engine.embed_new(item, links={edge_type: ["darma"]})
    skipped = engine.embed_new(item, links={edge_type: ["darma"]}, on_unknown="skip")
    np.testing.assert_array_equal(skipped, engine.embed_new(item))
    with pytest.raises(GraphError, match="there are no Movie-ABUOT-Genre edges, only"):
        engine.embed_new(item, links={(item, "ABUOT", edge_type[2]): ["drama"]})


def test_a_category_that_nothing_was_learnt_of_is_told(caplog):
    graph = toy_graph(num_users=40, num_items=40)
    kinds = ["short" if at % 2 else "long" for at in range(40)]
    films = graph.node_table("Movie").append_column("kind", pa.array(kinds))
    schema = replace(graph.schema, categorical={"Movie": ("kind",)})
    nodes = {t: graph.node_table(t) for t in graph.node_types} | {"Movie": films}
    edges = {e: graph.edge_table(e) for e in graph.edge_types}
    engine = ColdStartEngine.fit(KnowledgeGraph.from_tables(nodes, edges, schema), texts={})
    engine.update(GraphDelta(nodes={"Movie": {"id": ["a", "b"], "kind": ["long", None]}}))
    assert not caplog.records
    engine.update(GraphDelta(nodes={"Movie": {"id": ["a", "b"], "kind": ["Long", "long"]}}))
    (record,) = caplog.records
    assert record.getMessage() == (
        "Movie.kind: nobody had 'Long' at training, so that counts like no value; known are "
        "'long', 'short'"
    )
    updating.updated(
        engine, GraphDelta(nodes={"Movie": {"id": ["a"], "kind": ["?"]}}), None, {}, False
    )
    assert len(caplog.records) == 1  # what a journal replays was told once


def test_an_index_is_continued_and_finds_what_one_made_anew_finds(engine):
    engine.recommend(["u1"], 1)
    film = {"id": ["x", "y"], "title": ["The orbit", "The heist"]}
    delta = GraphDelta(nodes={"Movie": film}, edges={GENRE: {"source": ["x"], "target": ["space"]}})
    vectors = NodeEmbeddings(Vocabulary("Movie", ["x", "y"]), np.eye(2, 24))
    after = engine.update(delta, texts={"Movie": vectors})
    continued = after.__dict__["_item_index"]
    anew = type(continued).of(after.item_vectors, after.item_bias, after.item_gain)
    np.testing.assert_array_equal(continued.rows, anew.rows)
    assert continued.longest == anew.longest
    old = engine.__dict__["_item_index"]
    np.testing.assert_array_equal(old.rows, anew.rows[:80])
    person = after.update(GraphDelta(nodes={"User": {"id": ["v"]}}))
    assert person.__dict__["_item_index"].rows is continued.rows  # no film came
    liked = after.update(GraphDelta(edges={RATED: ratings(("u1", "m3"))}))
    changed = liked.__dict__["_item_index"]  # a row inside is another one
    anew = type(changed).of(liked.item_vectors, liked.item_bias, liked.item_gain)
    np.testing.assert_array_equal(changed.rows, anew.rows)
    assert changed.longest >= anew.longest
    assert not torch.equal(changed.rows, continued.rows)


def test_text_vectors_of_another_type_of_node_are_refused(graph, engine):
    people = NodeEmbeddings(graph.users, np.ones((60, 24)))
    with pytest.raises(AlignmentError, match="text vectors of Movie were expected, and vectors of"):
        engine.update(new_film(), texts={"Movie": people})
    with pytest.raises(AlignmentError, match="text vectors of Movie were expected, and vectors of"):
        ColdStartEngine.fit(graph, texts={"Movie": people})


def one_text(key, dim=24):
    return {"Movie": NodeEmbeddings(Vocabulary("Movie", [key]), np.eye(1, dim))}


def test_a_text_vector_of_a_node_that_does_not_change_otherwise_takes_the_place_of_its_own(engine):
    title = GraphDelta(nodes={"Movie": {"id": ["m2"], "title": ["A title"]}})
    for delta in (GraphDelta(), GraphDelta(edges={RATED: ratings(("u1", "m7"))})):
        alone = engine.update(delta, texts=one_text("m2"))
        assert alone.texts["Movie"].of(["m2"]).tolist() == one_text("m2")["Movie"].matrix.tolist()
        assert {"m2"} < changed(engine.update(delta), alone, "Movie")  # and films like it
    titled = engine.update(title, texts=one_text("m2")).texts["Movie"].matrix
    np.testing.assert_array_equal(
        engine.update(GraphDelta(), texts=one_text("m2")).texts["Movie"].matrix, titled
    )
    gone = engine.update(GraphDelta(removed_nodes={"Movie": ["m0"]}), texts=one_text("m2"))
    assert gone.texts["Movie"].of(["m2"])[0, 0] == 1


def test_all_text_vectors_at_once_move_only_those_that_are_others(engine):
    matrix = engine.texts["Movie"].matrix.copy()
    matrix[3] = 1
    every = {"Movie": NodeEmbeddings(engine.graph.items, matrix)}
    after = engine.update(GraphDelta(), texts=every)
    only = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["m3"]), matrix[3:4])}
    few = engine.update(GraphDelta(), texts=only)
    assert "m3" in changed(engine, after, "Movie")
    np.testing.assert_array_equal(after.item_vectors, few.item_vectors)


@pytest.mark.parametrize("nodes", [{}, {"User": {"id": ["v"]}}])
def test_text_vectors_that_nothing_can_be_made_of_are_errors(engine, nodes):
    delta = GraphDelta(nodes=nodes)
    genre = NodeEmbeddings(Vocabulary("Genre", ["space"]), np.ones((1, 24)))
    with pytest.raises(AlignmentError, match=r"without texts of 'Genre'; it has those of \['Movie"):
        engine.update(delta, texts={"Genre": genre})
    with pytest.raises(
        UnknownNodeError, match="Movie 'm99' is not among the 80 known; check the key"
    ):
        engine.update(delta, texts=one_text("m99"))
    with pytest.raises(AlignmentError, match="trained on 24 floats each, texts= has 7; pass"):
        engine.update(delta, texts=one_text("m2", 7))
    with pytest.raises(
        AlignmentError, match=r"fitted without vectors \['poster'\] of Movie; it has"
    ):
        engine.update(delta, vectors={"Movie": {"poster": one_text("m2")["Movie"]}})


def test_what_is_no_change_or_no_edge_type_is_told(engine):
    with pytest.raises(TypeError, match=r"expected a kg.GraphDelta, got dict; GraphDelta\(nodes"):
        engine.update({"nodes": {}})
    with pytest.raises(SchemaError, match=r"\(source, relation, target\), got 'HAS_GENRE'"):
        engine.embed_new("Movie", links={"HAS_GENRE": ["space"]})


class Counting:
    """The encoder of the toys' vectors, as if it were the default, and what it was asked."""

    def __init__(self, dim, vectors):
        self.dim, self.vectors, self.asked = dim, vectors, []

    def encode(self, texts):
        self.asked.append(list(texts))
        return self.vectors[: len(texts)]


@pytest.mark.parametrize(
    ("dim", "scale", "loaded"), [(24, 1, True), (24, -1, False), (7, 1, False)]
)
def test_the_default_encoder_is_loaded_beforehand_only_where_it_is_needed(
    engine, monkeypatch, dim, scale, loaded
):
    fake = Counting(dim, np.ones((3, dim), np.float32))
    known = engine.texts["Movie"].matrix[:3]
    monkeypatch.setattr(updating, "_default", lambda: fake)
    monkeypatch.setattr(updating, "_trained_on_default", WeakSet())
    monkeypatch.setattr(
        "encoders.embed.embed_nodes",
        lambda graph, encoder, types, cache: {
            "Movie": NodeEmbeddings(graph.items, scale * np.asarray(known, np.float32))
        },
    )
    assert updating.warm_up(engine) is loaded
    assert fake.asked == ([["warm"]] if loaded else [])


def test_a_date_is_a_number_at_training_and_of_a_node_that_comes_later(tmp_path):
    rng = np.random.default_rng(0)
    edges = {"source": rng.integers(0, 40, 400), "target": rng.integers(0, 30, 400)}
    tables = {
        "User": {"id": range(40)},
        "Movie": {"id": range(30), "year": [dt.date(1970 + n, 5, 31) for n in range(30)]},
    }
    schema = Schema("User", "Movie", RATED, numeric={"Movie": ("year",)})
    graph = KnowledgeGraph.from_tables(tables, {RATED: edges}, schema)
    engine = ColdStartEngine.fit(graph, texts={}, device="cpu")
    assert "year" in engine.items.propagation.names
    later = engine.update(GraphDelta(nodes={"Movie": {"id": [30], "year": [dt.date(1984, 1, 1)]}}))
    alone = engine.embed_new("Movie", properties={"year": dt.date(1984, 1, 1)})
    np.testing.assert_allclose(alone, later.embed("Movie", [30]).matrix[0], atol=1e-6)
    written = engine.embed_new("Movie", properties={"year": "1984-01-01"})
    np.testing.assert_array_equal(written, alone)
    with pytest.raises(ValueError, match=r"Movie\.year: expected a date, .* got 1984"):
        engine.embed_new("Movie", properties={"year": 1984})
    other = engine.embed_new("Movie", properties={"year": dt.date(1999, 1, 1)})
    assert not np.allclose(alone, other, atol=1e-3)
    engine.save(tmp_path / "engine")
    loaded = ColdStartEngine.load(tmp_path / "engine")
    again = loaded.embed_new("Movie", properties={"year": dt.date(1984, 1, 1)})
    np.testing.assert_array_equal(again, alone)
