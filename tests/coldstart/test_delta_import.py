"""From a changed store to a changed engine: what is encoded, and whose embedding moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coldstart.engine import ColdStartEngine
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.coldstart.toys import words_of


class CountingEncoder:
    """Counts planted words, and remembers what it was asked to encode."""

    dim, fingerprint = 24, "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.stack([words_of(text, "") for text in texts])

    def describe(self) -> dict[str, Any]:
        return {"kind": "counting"}

    def save(self, folder: Any) -> None:
        raise NotImplementedError


@pytest.fixture
def imported():
    """A store, an engine fitted on what was read from it, and the encoder, with nothing cached."""
    encoder = CountingEncoder()
    with LadybugStore(memory_limit=1 << 28) as store:
        store.write(toy_graph())
        graph = store.read(toy_graph().schema)
        engine = ColdStartEngine.fit(graph, encoder=encoder, cache=None)
        encoder.asked.clear()
        yield store, engine, encoder


def test_an_unchanged_store_encodes_nothing_and_leaves_the_engine_as_it_is(imported):
    store, engine, encoder = imported
    changes = store.read_changes(engine.graph)
    assert engine.update(changes.delta) is engine
    assert encoder.asked == []


def test_one_changed_title_encodes_one_text_and_moves_only_what_it_reaches(imported):
    store, engine, encoder = imported
    title = "The wedding and the letter"
    store.query("MATCH (m:Movie) WHERE m.id = 'm0' SET m.title = $title", title=title)
    updated = engine.update(store.read_changes(engine.graph).delta)
    assert len(encoder.asked) == 1
    assert title in encoder.asked[0]
    before, after = engine.embeddings("Movie").matrix, updated.embeddings("Movie").matrix
    moved = {engine.graph.items[int(r)] for r in np.flatnonzero((before != after).any(axis=1))}
    similar = engine.graph.edge_table(("Movie", "SIMILAR_TO", "Movie")).to_pylist()
    reach = {"m0"} | {e["source"] for e in similar if e["target"] == "m0"}
    reach |= {e["target"] for e in similar if e["source"] == "m0"}
    assert "m0" in moved <= reach
    assert 1 < len(reach) < 30


def test_a_removed_film_is_gone_and_what_is_new_can_be_recommended(imported):
    store, engine, encoder = imported
    store.query("MATCH (m:Movie) WHERE m.id = 'm4' DETACH DELETE m")
    store.query("CREATE (m:Movie {id: 'new', title: 'The orbit and the galaxy', year: 1965})")
    store.query(
        "MATCH (m:Movie), (g:Genre) WHERE m.id = 'new' AND g.id = 'space' "
        "CREATE (m)-[:HAS_GENRE]->(g)"
    )
    updated = engine.update(store.read_changes(engine.graph).delta)
    assert len(encoder.asked) == 1
    assert "m4" not in updated.graph.items
    fans = updated.audience(["new"], 10).to_table()["user"].to_pylist()
    assert sum(int(fan[1:]) % 4 == 0 for fan in fans) >= 8


def test_a_property_that_is_new_in_the_store_comes_along(imported):
    store, engine, encoder = imported
    store.query("ALTER TABLE Movie ADD country STRING")
    store.query("MATCH (m:Movie) WHERE m.id = 'm0' SET m.country = 'Italy'")
    updated = engine.update(store.read_changes(engine.graph).delta)
    assert updated.graph.attributes["Movie"]["country"][0].as_py() == "Italy"
    assert encoder.asked == []
