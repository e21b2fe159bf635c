import json
from dataclasses import replace

import numpy as np
import pytest

from coldstart.cli import main
from coldstart.explanation import Edge, Part, taken_apart
from coldstart.paths import GraphPath, Hop, Place, _named, name_of
from coldstart.serving.looking import found_nodes, title_property
from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Schema, Vocabulary
from kg.errors import GraphError, UnknownNodeError
from kg.stores import LadybugStore
from tests.coldstart.toys import FRIEND, GENRE, LIVES, RATED, SIMILAR, ratings, words_of


@pytest.fixture(scope="module")
def grown(engine):
    """The engine after a film and a person came, she with two ratings, it with none."""
    film = {"id": ["new"], "title": ["The orbit"], "plot": ["A rocket and a galaxy."]}
    edges = {
        RATED: ratings(("v", "m0"), ("v", "m4")),
        GENRE: {"source": ["new"], "target": ["space"]},
        SIMILAR: {"source": ["new"], "target": ["m4"]},
        LIVES: {"source": ["v", "w"], "target": ["Harbour", "Harbour"]},
    }
    nodes = {"Movie": film, "User": {"id": ["v", "w"]}}
    words = words_of("The orbit", "A rocket and a galaxy.")[None]
    text = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["new"]), words)}
    return engine.update(GraphDelta(nodes=nodes, edges=edges), texts=text)


PAIRS = [("u0", "m4"), ("u0", "m78"), ("u58", "m1"), ("v", "new"), ("w", "new"), ("v", "m1")]


@pytest.mark.parametrize(("user", "item"), PAIRS)
def test_parts_and_what_they_are_made_of_add_up_to_the_score(grown, user, item):
    found = grown.explain(user, item)
    assert found.score == grown.score([user], [item])[0, 0]
    for parts in (found.parts, found.user_parts):
        assert sum(p.share for p in parts) == pytest.approx(found.score, abs=1e-5)
        for part in parts:
            inner = [c.share for c in part.contributions]
            assert not inner or sum(inner) == pytest.approx(part.share, abs=1e-9)


@pytest.mark.parametrize(
    ("node_type", "row"), [("Movie", 3), ("Movie", 78), ("User", 5), ("User", 58)]
)
def test_atoms_of_warm_and_cold_nodes_add_up_to_their_embedding(engine, node_type, row):
    key = engine.graph.vocabularies[node_type][row]
    atoms = taken_apart(engine, node_type, key).atoms
    total = atoms.vectors.sum(dim=0).numpy()
    np.testing.assert_allclose(total, engine.embed(node_type, [key]).matrix[0], atol=1e-5)
    assert len(set(atoms.sources)) == len(atoms.sources)


def test_every_part_has_a_name_that_says_what_it_is(grown):
    names = {part.name for part in grown.explain("v", "new").parts}
    known = {"HAS_GENRE", "SIMILAR_TO", "text", "words", "year", "popularity", "prominence"}
    assert names == known | {"item bias", "user bias"}
    assert "interactions" in {part.name for part in grown.explain("u0", "m4").parts}


def test_a_new_film_is_explained_by_the_genre_it_shares_with_liked_ones(grown):
    path = next(p for p in grown.explain("v", "new").paths if p.kind == "shared")
    assert [place.keys for place in path.places][2:] == [("space",), ("new",)]
    assert set(path.places[1].keys) == {"m0", "m4"}
    assert "shares genre space films with 2 movies you rated 5" in path.sentence()


@pytest.mark.parametrize(
    ("interaction", "by_one", "by_many"),
    [
        ("LIKES", "1 person who likes A, as you do, likes it, too", "people who like A, as you do"),
        ("HAS_RATED", "who rated A, as you did, rated it, too", "people who rated A, as you did"),
        ("WATCHES", "who watches A, as you do, watches it, too", "people who watch A, as you do"),
        ("PLAYS_IN", "who plays in A, as you do, plays in it", "people who play in A, as you do"),
        ("CARRIES", "who carries A, as you do, carries it", "people who carry A, as you do"),
        ("IS_INTO", "who is into A, as you do, is into it", "people who are into A, as you do"),
        ("PASSED", "who passed A, as you did, passed it", "people who passed A, as you did"),
    ],
)
def test_what_people_do_is_told_of_one_and_of_many(interaction, by_one, by_many):
    schema = Schema(user="User", item="Film", interaction=("User", interaction, "Film"))
    places = (Place("User", ("u",), ("u",)), Place("Film", ("a",), ("A",)))
    one = GraphPath("audience", places, (), 0.1, None, 1, schema)
    assert by_one in one.sentence()
    assert f"2 {by_many}" in replace(one, count=2).sentence()


@pytest.mark.parametrize(
    ("relation", "told"),
    [("HAS_GENRE", "genre Jazz"), ("ABOUT", "Jazz (about)"), ("DIRECTED_BY", "Jazz (directed by)")],
)
def test_a_relation_that_is_no_noun_stands_behind_what_it_leads_to(relation, told):
    way = [Hop(("Movie", relation, "Genre"), "out")]
    assert _named(way, "Jazz") == told


def test_without_a_path_the_largest_parts_are_told_and_nothing_is_popular_that_is_new(grown):
    found = replace(grown.explain("v", "new"), paths=(), nearest=())
    parts = tuple(Part(name, share) for name, share in (("year", 0.1), ("popularity", 0.5)))
    told = replace(found, parts=parts).sentence()
    assert told.endswith("what speaks for it is what any item gets, year.")


def test_where_both_are_new_the_tastes_of_people_alike_connect_them(grown):
    found = grown.explain("w", "new")
    assert {path.kind for path in found.paths} == {"taste"}
    path = next(p for p in found.paths if p.places[-2].keys == ("space",))
    assert path.places[1].keys == ("Harbour",)
    assert path.count > 10
    assert path.sentence() in found.sentence()


def test_a_path_carries_what_its_two_ends_make_together(grown):
    user, item = taken_apart(grown, "User", "v"), taken_apart(grown, "Movie", "new")
    space = next(i for i, s in enumerate(item.atoms.sources) if s.part == "HAS_GENRE")
    liked = user.atoms.vectors[user.atoms.having("interactions")]  # both films are in space
    path = next(p for p in grown.explain("v", "new").paths if p.kind == "shared")
    expected = float((liked @ item.atoms.vectors[space]).sum())
    assert path.share == pytest.approx(expected, abs=1e-6)


def test_the_nearest_liked_films_come_with_the_rare_words_they_share(engine, grown):
    near = grown.explain("v", "new").nearest
    assert {n.item for n in near} == {"m0", "m4"}
    titles = engine.graph.attributes["Movie"]["title"].to_pylist()
    assert near[0].name in titles
    assert near[0].cosine >= near[1].cosine
    assert {w for n in near for w in n.words} & {"orbit", "rocket", "galaxy"}


def test_a_removal_is_what_an_engine_without_the_edge_says(grown):
    edge = Edge(GENRE, "new", "space")
    removal = grown.explain("v", "new").without(edge)
    gone = {"source": ["new"], "target": ["space"]}
    after = grown.update(GraphDelta(removed_edges={GENRE: gone}))
    assert removal.after == after.score(["v"], ["new"])[0, 0]
    assert removal.change == pytest.approx(removal.before - removal.after)
    assert removal.change > 0


def test_parts_have_the_sign_of_what_really_changes(grown):
    agree = []
    for user, item in [*PAIRS, *((f"u{n}", f"m{3 * n + 2}") for n in range(20))]:
        found = grown.explain(user, item)
        every = [c for p in (*found.parts, *found.user_parts) for c in p.contributions if c.edge]
        for c in every[:: max(1, len(every) // 4)]:
            agree.append(np.sign(c.share) == np.sign(found.without(c.edge).change))
    assert len(agree) > 100
    assert np.mean(agree) >= 0.9


def test_removals_are_told_beside_the_largest_parts(grown):
    found = grown.explain("v", "new", removal=True)
    told = [c for p in found.parts for c in p.contributions if c.change is not None]
    assert {c.edge.edge_type for c in told} == {GENRE, SIMILAR}
    assert all(c.change == found.without(c.edge).change for c in told)
    assert "really" in found.to_text()


def test_friends_are_taken_away_in_both_directions(engine):
    graph = engine.graph
    first, second = (graph.users[int(row)] for row in graph.edges[FRIEND].index[:, 0])
    change = engine.explain(first, "m3").without(Edge(FRIEND, second, first)).change
    assert change == engine.explain(first, "m3").without(Edge(FRIEND, first, second)).change
    with pytest.raises(GraphError, match="no edge"):
        engine.explain(first, "m3").without(Edge(FRIEND, first, first))


def test_the_query_shows_the_path_in_the_store(grown, tmp_path):
    with LadybugStore(tmp_path / "films.lbug") as store:
        store.write(grown.graph)
        every = [p for user, item in PAIRS for p in grown.explain(user, item, paths=30).paths]
        by_kind = {(path.kind, len(path.places)): path for path in every}
        for path in by_kind.values():
            query = path.cypher()
            assert store.query(query.cypher, **query.parameters).num_rows > 0, query
    assert {kind for kind, _ in by_kind} == {"shared", "linked", "audience", "peers", "taste"}


def test_an_explanation_is_plain_data_and_a_picture(grown, tmp_path):
    found = grown.explain("u0", "new", removal=True)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["parts"][0]["name"] == found.parts[0].name
    assert data["paths"][0]["sentence"] == found.paths[0].sentence()
    found.plot(tmp_path / "why.png")
    assert (tmp_path / "why.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_explains(engine, tmp_path, capsys):
    engine.save(tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "u0", "m76", "--cypher"]) == 0
    printed = capsys.readouterr().out
    assert "by what is known of the item" in printed
    assert "MATCH p = (n0:`User`)" in printed
    assert main(["explain", str(tmp_path / "model"), "u0", "m76", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["item"] == "m76"


def test_an_unknown_user_is_an_error_that_names_it(engine):
    with pytest.raises(UnknownNodeError, match="nobody"):
        engine.explain("nobody", "m1")


def test_what_people_write_of_themselves_is_not_their_name():
    bought = ("Person", "BOUGHT", "Thing")
    schema = Schema(
        user="Person",
        item="Thing",
        interaction=bought,
        text={"Person": ("bio",), "Thing": ("about",)},
    )
    people = {"id": ["p1", "p2"], "bio": ["I like tents", "I like boots"]}
    things = {"id": ["t1"], "about": ["A light tent"]}
    edges = {bought: {"source": ["p1"], "target": ["t1"]}}
    graph = KnowledgeGraph.from_tables({"Person": people, "Thing": things}, edges, schema)
    assert [name_of(graph, "Person", 0), name_of(graph, "Thing", 0)] == ["p1", "A light tent"]
    assert (title_property(graph, "Person"), title_property(graph, "Thing")) == (None, "about")
    assert found_nodes(graph, "Person", "tents", 9) == []
    assert [node["key"] for node in found_nodes(graph, "Thing", "tent", 9)] == ["t1"]
    named = graph.apply(GraphDelta(nodes={"Person": {"id": ["p2"], "name": ["Ann"]}}))
    assert [name_of(named, "Person", row) for row in (0, 1)] == ["p1", "Ann"]
