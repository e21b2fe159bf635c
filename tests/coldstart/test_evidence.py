from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart import ColdStartEngine, EngineConfig, evidence
from coldstart.evidence import evidence_of, node_counts
from gnn.train import TrainConfig
from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Schema, Vocabulary
from tests.coldstart.toys import GENRE, RATED, SIMILAR, ratings, words_of

WORDS = words_of("The orbit", "A rocket and a galaxy.")


@pytest.fixture(scope="module")
def grown(engine):
    """The engine after a new film and a new person came, both with a history, also together."""
    film = {"id": ["new"], "title": ["The orbit"], "plot": ["A rocket and a galaxy."]}
    clicks = [("u0", "new"), ("v", "new"), ("v", "m1"), ("u9", "m77"), ("u3", "m5")]
    edges = {
        RATED: ratings(*clicks),
        GENRE: {"source": ["new"], "target": ["space"]},
        SIMILAR: {"source": ["new"], "target": ["m4"]},
    }
    nodes = {"Movie": film, "User": {"id": ["v"], "age": [25]}}
    text = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["new"]), WORDS[None])}
    return engine.update(GraphDelta(nodes=nodes, edges=edges), texts=text)


def sums(row):
    return sum(value for name, value in row.items() if name.startswith("part_"))


def test_parts_add_up_to_the_score_of_warm_and_cold_items(engine):
    found = engine.recommend(["u0", "u7", "u58"], 80, exclude_seen=False).to_pylist()
    assert len(found) == 240
    for row in found:
        assert sums(row) == pytest.approx(row["score"], abs=1e-4)


def test_parts_add_up_for_items_and_users_that_came_later(grown):
    users = ["v", "u0", "u9", "u58"]
    found = grown.recommend(users, 81, exclude_seen=False).to_pylist()
    assert {"new", "m1", "m77", "m5"} <= {row["item"] for row in found}
    for row in found:
        assert sums(row) == pytest.approx(row["score"], abs=1e-4)


def test_parts_add_up_in_an_audience_and_in_blocks_of_any_size(grown, monkeypatch):
    whole = grown.audience(["new", "m3", "m78"], 61, exclude_seen=False).to_pylist()
    two = 2 * grown.dim * (len(grown.items.propagation.names) + 1)
    monkeypatch.setattr(evidence, "_BLOCK_FLOATS", two)
    blocks = grown.audience(["new", "m3", "m78"], 61, exclude_seen=False).to_pylist()
    for one, other in zip(whole, blocks, strict=True):
        assert sums(one) == pytest.approx(one["score"], abs=1e-4)
        assert one == pytest.approx(other, abs=1e-5)


def test_no_block_of_parts_is_larger_than_it_may_be(grown, monkeypatch):
    most = 5 * grown.dim * (len(grown.items.propagation.names) + 1)
    monkeypatch.setattr(evidence, "_BLOCK_FLOATS", most)
    sizes, einsum = [], torch.einsum

    def seen(formula, parts, users):
        sizes.append(parts.numel())
        return einsum(formula, parts, users)

    monkeypatch.setattr(torch, "einsum", seen)
    found = evidence_of(grown, np.arange(60).repeat(7), np.tile(np.arange(7), 60))
    assert max(sizes) == most
    assert len(found["confidence"]) == 420


def test_parts_add_up_where_names_collide():
    # A relation and a property of one name, and names that the parts themselves use.
    schema_names = ("genre", "interactions", "popularity", "constant", "text")
    edges = {("Movie", name, "Thing"): _links() for name in schema_names}
    ratings_ = {"source": ["u0", "u0", "u1", "u1", "u2"], "target": ["m0", "m1", "m1", "m2", "m3"]}
    nodes = {
        "User": {"id": [f"u{n}" for n in range(4)]},
        "Movie": {"id": [f"m{n}" for n in range(6)], "genre": list("aabbab")},
    }
    schema = Schema("User", "Movie", RATED, categorical={"Movie": ("genre",)})
    graph = KnowledgeGraph.from_tables(nodes, {RATED: ratings_, **edges}, schema)
    text = NodeEmbeddings(graph.items, np.random.default_rng(0).normal(size=(6, 3)))
    config = EngineConfig(TrainConfig(max_dim=2))
    engine = ColdStartEngine.fit(graph, config, texts={"Movie": text}, device="cpu")
    found = engine.recommend(["u0", "u3"], 6, exclude_seen=False).to_pylist()
    assert len([name for name in found[0] if name.startswith("part_")]) >= 8
    for row in found:
        assert sums(row) == pytest.approx(row["score"], abs=1e-4)


def _links():
    return {"source": ["m0", "m1", "m2", "m3", "m5"], "target": ["x", "x", "y", "y", "x"]}


def test_the_popularity_part_holds_the_bias_and_the_constant(engine):
    for user in (3, 58):
        row = engine.recommend([f"u{user}"], 1, candidates=["m78"]).to_pylist()[0]
        constant = engine.item_parts(np.array([78]))[0, 0] @ engine.user_vectors[user]
        bias = (engine.item_bias[78] * engine.familiarity[user]).item()
        assert (bias == 0) == (user == 58)  # of whom nothing is known
        assert row["part_popularity"] == pytest.approx(float(constant) + bias, abs=1e-5)


def test_interactions_speak_only_for_items_that_have_some(engine):
    found = engine.recommend(["u0"], 80, exclude_seen=False).to_pylist()
    for row in found:
        assert (row["part_interactions"] == 0) == (row["item_interactions"] == 0)


def test_the_genre_of_an_unseen_film_speaks_for_it(engine):
    rows = engine.recommend(["u1"], 8, candidates=[f"m{n}" for n in range(72, 80)]).to_pylist()
    own = [r["part_HAS_GENRE"] for r in rows if int(r["item"][1:]) % 4 == 1]
    rest = [r["part_HAS_GENRE"] for r in rows if int(r["item"][1:]) % 4 != 1]
    assert min(own) > max(rest)


def test_counts_are_positives_other_edges_and_characters(grown, graph):
    counts = node_counts(grown, "Movie", np.array([80, 4]))
    liked = (graph.interactions.index[1] == 4) & (graph.interactions.weight >= 4)
    similar = graph.edges[SIMILAR].index
    genres = (graph.edges[GENRE].index[0] == 4).sum()
    linked = (similar[0] == 4).sum() + (similar[1] == 4).sum() + genres + 1  # the new film's
    assert counts["interactions"].tolist() == [2, liked.sum()]
    assert counts["edges"].tolist() == [2, linked]
    assert counts["text"][0] == len("The orbit") + len("A rocket and a galaxy.")
    users = node_counts(grown, "User", np.array([60]))
    assert [users[what][0] for what in ("interactions", "edges", "text")] == [2, 0, 0]


def known_to(engine, edge_type):
    """The engine with one more edge type in its schema, of which there was no edge at training."""
    schema = engine.graph.schema.completed([edge_type])
    return replace(engine, graph=replace(engine.graph, schema=schema))


def test_links_that_say_nothing_are_counted(engine):
    new_relation = ("Movie", "SHOT_IN", "Country")
    edges = {
        GENRE: {"source": ["new", "new"], "target": ["space", "opera"]},
        new_relation: {"source": ["new", "new", "m1"], "target": ["Italy", "Malta", "Italy"]},
    }
    nodes = {"Movie": {"id": ["new"]}, "Genre": {"id": ["opera"]}}
    text = {"Movie": NodeEmbeddings(Vocabulary("Movie", ["new"]), WORDS[None])}
    after = known_to(engine, new_relation).update(GraphDelta(nodes=nodes, edges=edges), texts=text)
    found = evidence_of(after, np.array([0, 0, 0]), np.array([80, 1, 2]))
    assert found["item_unknown_edges"].tolist() == [3, 1, 0]
    assert found["item_edges"][0] == 4
    assert found["user_unknown_edges"].tolist() == [0, 0, 0]


def test_a_node_with_nothing_but_unknown_links_has_no_confidence(engine):
    works_at = ("User", "WORKS_AT", "Company")
    delta = GraphDelta({"User": {"id": ["v"]}}, {works_at: {"source": ["v"], "target": ["Acme"]}})
    after = known_to(engine, works_at).update(delta)
    assert evidence_of(after, np.array([60]), np.array([3]))["confidence"].tolist() == [0]


def test_confidence_is_between_none_and_all_and_rises_with_interactions(engine):
    def confidence(n):
        edges = ratings(*[(f"u{u}", "m78") for u in range(n)]) if n else None
        after = engine.update(GraphDelta(edges={RATED: edges} if n else {}))
        return evidence_of(after, np.array([50]), np.array([78]))["confidence"][0]

    found = [confidence(n) for n in (0, 1, 5, 20)]
    assert found == sorted(found)
    assert found[-1] > found[0]
    assert 0 <= found[0] < found[-1] <= 1


def test_a_node_that_nothing_is_known_of_has_no_confidence(engine):
    stranger = engine.update(GraphDelta(nodes={"User": {"id": ["v"]}}))
    found = evidence_of(stranger, np.array([60, 1]), np.array([3, 3]))["confidence"]
    assert found[0] == 0
    assert found[1] > 0.3


def test_evidence_can_be_left_out(engine):
    found = engine.recommend(["u1"], 2, evidence=False).to_pylist()
    assert set(found[0]) == {"user", "item", "rank", "score"}
