"""Engines on a graph where tastes are told by what entities are linked to, not by entities."""

from typing import Any

import numpy as np
import pytest

from coldstart import ColdStartEngine, baselines
from coldstart.training_data import TrainingData
from gnn import propagate
from kg import GraphDelta, KnowledgeGraph, Schema
from kg.errors import UnknownNodeError
from kg.stores import LadybugStore

PLAYED = ("User", "PLAYED", "Song")
BY = ("Song", "BY", "Artist")
PLAYS = ("Artist", "PLAYS", "Genre")
PART_OF = ("Genre", "PART_OF", "Genre")
IN = ("User", "IN", "Club")
AT = ("Club", "AT", "Town")
FAR = "BY > PLAYS"
NUM_USERS, NUM_SONGS, NUM_ARTISTS, NUM_GENRES = 80, 60, 30, 4


def keys(letter, number):
    return [f"{letter}{n}" for n in range(number)]


def pairs(sources, targets):
    return {"source": sources, "target": targets}


@pytest.fixture(scope="module")
def graph():
    """Listener n likes genre n % 4 and is in a club of two in town n % 4.

    Two songs an artist; nobody has heard the last four songs.
    """
    rng = np.random.default_rng(0)
    heard = [
        (f"u{user}", f"s{song}")
        for user in range(NUM_USERS)
        for song in range(NUM_SONGS - 4)
        if rng.random() < (0.5 if song // 2 % NUM_GENRES == user % NUM_GENRES else 0.03)
    ]
    songs, artists = keys("s", NUM_SONGS), keys("a", NUM_ARTISTS)
    edges = {
        PLAYED: pairs(*zip(*heard, strict=True)),
        BY: pairs(songs, [f"a{n // 2}" for n in range(NUM_SONGS)]),
        PLAYS: pairs(artists, [f"g{n % NUM_GENRES}" for n in range(NUM_ARTISTS)]),
        PART_OF: pairs(["g0", "g1"], ["g2", "g3"]),
        IN: pairs(keys("u", NUM_USERS), [f"c{n % 4 + n // 8 * 4}" for n in range(NUM_USERS)]),
        AT: pairs(keys("c", NUM_USERS // 2), [f"t{n % 4}" for n in range(NUM_USERS // 2)]),
    }
    tables = {
        "User": {"id": keys("u", NUM_USERS)},
        "Song": {"id": songs},
        "Artist": {"id": artists, "name": [f"The {n}s" for n in range(NUM_ARTISTS)]},
        "Genre": {"id": keys("g", NUM_GENRES)},
    }
    return KnowledgeGraph.from_tables(tables, edges, Schema("User", "Song", PLAYED))


@pytest.fixture(scope="module")
def engine(graph):
    return ColdStartEngine.fit(graph, device="cpu")


def vectors_made_anew(engine, node_type="Song"):
    """What the engine makes of every node if it looks at all of them again."""
    every = np.arange(engine.graph.num_nodes(node_type))
    return engine._embedded(node_type, every, engine.user_vectors, engine.item_vectors)


def liked_genre(engine, song):
    """The genre of those who are first to be told of a song."""
    scores = engine.score(keys("u", NUM_USERS), [song])[:, 0]
    return int(np.bincount(np.argsort(-scores)[:10] % NUM_GENRES).argmax())


def test_a_song_of_an_artist_nobody_has_heard_is_told_by_the_genre(graph, engine):
    assert FAR in engine.items.propagation.names
    for number in range(NUM_SONGS - 4, NUM_SONGS):
        assert liked_genre(engine, f"s{number}") == number // 2 % NUM_GENRES
    bare: Any = {e: graph.edge_table(e) for e in (PLAYED, BY)}
    tables = {t: graph.node_table(t) for t in ("User", "Song", "Artist")}
    without = ColdStartEngine.fit(
        KnowledgeGraph.from_tables(tables, bare, graph.schema), device="cpu"
    )
    unknown = without.embed("Song", ["s56", "s58"]).matrix
    np.testing.assert_allclose(unknown[0], unknown[1], atol=1e-6)


def test_the_ridge_baselines_know_as_much(graph):
    data = TrainingData(graph, {})
    rest = baselines._Kernels(data, "Song", data.warm_items).rest
    assert rest is not None
    same = data.warm_items // 2 % NUM_GENRES == 56 // 2 % NUM_GENRES
    assert rest[56][same].min() > rest[56][~same].max() + 0.1


def test_a_song_that_comes_later_is_what_it_would_have_been(graph, engine):
    nodes = {"Song": {"id": ["new"]}, "Artist": {"id": ["they"], "name": ["They"]}}
    edges = {BY: pairs(["new"], ["they"]), PLAYS: pairs(["they"], ["g1"])}
    later = engine.update(GraphDelta(nodes=nodes, edges=edges))
    assert liked_genre(later, "new") == 1
    np.testing.assert_allclose(later.item_vectors, vectors_made_anew(later), atol=1e-5)
    alone = later.embed_new("Song", links={BY: ["they"]})
    np.testing.assert_allclose(alone, later.embed("Song", ["new"]).matrix[0], atol=1e-5)
    with pytest.raises(UnknownNodeError):
        engine.embed_new("Song", links={BY: ["they"]})


@pytest.mark.parametrize(
    "delta",
    [
        GraphDelta(edges={PLAYS: pairs(["a28"], ["g2"])}),
        GraphDelta(removed_edges={PLAYS: pairs(["a28"], ["g0"])}),
        GraphDelta(removed_nodes={"Genre": ["g0"]}),
        GraphDelta(removed_nodes={"Artist": ["a3", "a28"], "Song": ["s7"]}),
    ],
)
def test_songs_follow_what_becomes_of_their_artists(engine, delta):
    later = engine.update(delta)
    np.testing.assert_allclose(later.item_vectors, vectors_made_anew(later), atol=1e-5)
    assert not np.allclose(
        later.embed("Song", ["s56"]).matrix, engine.embed("Song", ["s56"]).matrix, atol=1e-3
    )


def test_an_edge_between_entities_moves_nobody_else(engine):
    later = engine.update(GraphDelta(edges={PLAYS: pairs(["a28"], ["g2"])}))
    moved = (later.item_vectors != engine.item_vectors).any(dim=1).numpy()
    assert {engine.graph.items[row] for row in np.flatnonzero(moved)} == {"s56", "s57"}


def test_an_edge_that_no_feature_follows_is_no_work(graph, monkeypatch):
    monkeypatch.setattr(propagate, "MOST_ONWARD", 0)
    bare = ColdStartEngine.fit(graph, device="cpu")
    assert FAR not in bare.items.propagation.names
    later = bare.update(GraphDelta(edges={PLAYS: pairs(["a28"], ["g2"])}))
    assert later.item_vectors is bare.item_vectors


def test_a_score_is_told_by_the_genre_of_the_artist(engine):
    found = engine.explain("u0", "s56")
    assert sum(part.share for part in found.parts) == pytest.approx(found.score, abs=1e-5)
    part = next(part for part in found.parts if part.name == FAR)
    assert [(c.node_type, c.key, c.edge) for c in part.contributions] == [("Genre", "g0", None)]
    assert part.share > 0
    assert FAR in found.to_text()
    assert found.confidence > 0
    path = max(found.paths, key=lambda path: path.share)
    assert path.kind == "shared"
    assert [place.node_type for place in path.places] == [
        *("User", "Song", "Artist", "Genre", "Artist", "Song")
    ]
    assert "it shares g0 (by, plays) with" in path.sentence()
    assert path.sentence() in found.to_text()
    shown = path.cypher().cypher
    assert "-[r2:`BY`]->(n2:`Artist`)-[r3:`PLAYS`]->(n3:`Genre`)\nMATCH p2 = (n3)<-[" in shown
    assert "(n3)<-[r4:`PLAYS`]-(n4:`Artist`)<-[r5:`BY`]-(n5:`Song`)\nWHERE" in shown


@pytest.mark.neo4j
def test_the_query_shows_what_two_songs_of_one_artist_share(engine, neo4j_store, tmp_path):
    heard = engine.graph.positives()
    liked = {user: set(heard[1][heard[0] == user].tolist()) for user in range(NUM_USERS)}
    user, song = next((u, s) for u, some in liked.items() for s in some if s % 2 == 0)
    found = engine.explain(f"u{user}", f"s{song + 1}", paths=50)
    far = [p for p in found.paths if p.kind == "shared" and len(p.places) == 6]
    assert far
    with LadybugStore(tmp_path / "songs.lbug") as embedded:
        for store in (neo4j_store, embedded):
            store.write(engine.graph)
            for path in far:
                query = path.cypher()
                assert store.query(query.cypher, **query.parameters).num_rows > 0, query


def test_two_nobody_knows_are_connected_by_town_and_genre(engine):
    nodes = {"User": {"id": ["fan"]}, "Song": {"id": ["new"]}}
    edges = {
        IN: pairs(["fan"], ["club"]),
        AT: pairs(["club"], ["t1"]),
        BY: pairs(["new"], ["band"]),
        PLAYS: pairs(["band"], ["g1"]),
    }
    nodes |= {"Club": {"id": ["club"]}, "Artist": {"id": ["band"], "name": ["Band"]}}
    later = engine.update(GraphDelta(nodes=nodes, edges=edges))
    scores = later.score(["fan"], keys("s", NUM_SONGS))[0]
    assert set(np.argsort(-scores)[:6] // 2 % NUM_GENRES) == {1}
    found = later.explain("fan", "new")
    assert sum(part.share for part in found.parts) == pytest.approx(found.score, abs=1e-5)
    path = max(found.paths, key=lambda path: path.share)
    assert path.kind == "taste"
    assert [place.node_type for place in path.places] == [
        *("User", "Club", "Town", "Club", "User"),
        *("Song", "Artist", "Genre", "Artist", "Song"),
    ]
    heard = engine.graph.positives()
    count = int(((heard[0] % 4 == 1) & (heard[1] // 2 % 4 == 1)).sum())
    told = f"people who share t1 (in, at) with you played {count} times what shares g1 (by, plays)"
    assert path.sentence() == told
    known = later.explain("fan", "s2")
    peers = next(path for path in known.paths if path.kind == "peers")
    assert "people who share t1 (in, at) with you played it" in peers.sentence()


def test_an_engine_that_is_loaded_knows_genres(engine, tmp_path):
    engine.save(tmp_path / "engine")
    loaded = ColdStartEngine.load(tmp_path / "engine")
    np.testing.assert_allclose(vectors_made_anew(loaded), vectors_made_anew(engine), atol=1e-6)
    moved = GraphDelta(edges={PLAYS: pairs(["a28"], ["g2"])})
    one, other = engine.update(moved), loaded.update(moved)
    np.testing.assert_allclose(one.item_vectors, other.item_vectors, atol=1e-6)


FROM = ("Song", "FROM", "Label")
RELEASES = ("Label", "RELEASES", "Genre")


@pytest.fixture(scope="module")
def several_ways():
    """An engine with a genre of songs that is told by artists, of others by labels.

    Listener n likes genre n % 4. The last eight songs, which nobody has heard, have an artist each
    whose genre only songs with labels have been heard of, or a label whose genre only songs with
    artists have.
    """
    rng = np.random.default_rng(0)
    heard = [
        (f"u{user}", f"s{song}")
        for user in range(NUM_USERS)
        for song in range(NUM_SONGS - 8)
        if rng.random() < (0.5 if song % NUM_GENRES == user % NUM_GENRES else 0.03)
    ]
    songs = np.arange(NUM_SONGS)
    labelled = (songs % NUM_GENRES < 2) == (songs < NUM_SONGS - 8)
    edges = {
        PLAYED: pairs(*zip(*heard, strict=True)),
        BY: pairs([f"s{n}" for n in songs[~labelled]], [f"a{n}" for n in songs[~labelled]]),
        FROM: pairs([f"s{n}" for n in songs[labelled]], [f"l{n}" for n in songs[labelled]]),
        PLAYS: pairs([f"a{n}" for n in songs[~labelled]], [f"g{n % 4}" for n in songs[~labelled]]),
        RELEASES: pairs([f"l{n}" for n in songs[labelled]], [f"g{n % 4}" for n in songs[labelled]]),
    }
    tables = {"User": {"id": keys("u", NUM_USERS)}, "Song": {"id": keys("s", NUM_SONGS)}}
    graph = KnowledgeGraph.from_tables(tables, edges, Schema("User", "Song", PLAYED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagate, "MAX_FAR_RELATIONS", 0)
        yield ColdStartEngine.fit(graph, device="cpu")


def test_far_entities_do_not_tell_how_an_entity_is_reached(several_ways):
    assert "far entities" in several_ways.items.propagation.names
    for number in range(NUM_SONGS - 8, NUM_SONGS):
        assert liked_genre(several_ways, f"s{number}") == number % NUM_GENRES


def test_a_song_that_reaches_a_genre_twice_is_like_one_that_does_once(several_ways):
    both = several_ways.update(
        GraphDelta(
            nodes={"Song": {"id": ["both", "one"]}, "Label": {"id": ["a label"]}},
            edges={
                BY: pairs(["both", "one"], ["a52", "a52"]),
                FROM: pairs(["both"], ["a label"]),
                RELEASES: pairs(["a label"], ["g0"]),
            },
        )
    )
    np.testing.assert_allclose(*both.embed("Song", ["both", "one"]).matrix, atol=1e-5)
    np.testing.assert_allclose(both.item_vectors, vectors_made_anew(both), atol=1e-5)


def test_explanations_updates_and_saved_engines_know_of_several_ways(several_ways, tmp_path):
    found = several_ways.explain("u0", "s52")
    assert sum(part.share for part in found.parts) == pytest.approx(found.score, abs=1e-5)
    part = next(part for part in found.parts if part.name == FAR)
    assert [(c.node_type, c.key) for c in part.contributions] == [("Genre", "g0")]
    later = several_ways.update(GraphDelta(removed_nodes={"Genre": ["g1"], "Artist": ["a2"]}))
    np.testing.assert_allclose(later.item_vectors, vectors_made_anew(later), atol=1e-5)
    later.save(tmp_path / "engine")
    again = ColdStartEngine.load(tmp_path / "engine", device="cpu")
    delta = GraphDelta(
        nodes={"Song": {"id": ["new"]}, "Label": {"id": ["a label"]}},
        edges={FROM: pairs(["new"], ["a label"]), RELEASES: pairs(["a label"], ["g3"])},
    )
    assert liked_genre(again.update(delta), "new") == 3
    np.testing.assert_array_equal(
        again.update(delta).item_vectors, later.update(delta).item_vectors
    )
