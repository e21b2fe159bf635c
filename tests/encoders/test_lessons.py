import numpy as np
import pytest
import torch

from encoders import node_texts
from encoders.lessons import Batch, TasteLesson, TripleLesson, contrastive_loss, readable
from kg import KnowledgeGraph, Schema

RATED, GENRE, MADE = (
    ("User", "RATED", "Movie"),
    ("Movie", "dbo:hasGenre", "Genre"),
    ("Person", "MADE", "Movie"),
)


@pytest.fixture
def graph():
    schema = Schema(user="User", item="Movie", interaction=RATED, text={"Movie": ["title"]})
    return KnowledgeGraph.from_tables(
        nodes={"Movie": {"id": [1, 2, 3, 4], "title": ["one", "two", "three", None]}},
        edges={
            RATED: {"source": ["a", "a", "b", "b", "b", "c"], "target": [1, 2, 1, 2, 3, 3]},
            GENRE: {"source": [1, 1, 2, 4], "target": ["g:Noir", "g:War_film", "g:Noir", "g:War"]},
            MADE: {"source": ["p"], "target": [3]},
        },
        schema=schema,
    )


def the_texts(graph):
    return {"Movie": node_texts(graph, "Movie")}


def no_rows():
    return np.zeros(0, np.int64)


def test_facts_are_put_into_words_with_the_item_as_head(graph):
    lesson = TripleLesson(graph, the_texts(graph), no_rows(), 8)
    assert set(lesson.texts) == {
        "one", "two", "three", "has genre: Noir", "has genre: War film", "made: p",
    }  # fmt: skip
    assert lesson.num_examples == 4  # the film without text has no part in it


def test_other_true_tails_are_no_negatives(graph):
    lesson = TripleLesson(graph, the_texts(graph), no_rows(), 8)
    batch = lesson._batch(0, *lesson._edges[0])
    said = [lesson.texts[row] for row in batch.rows]
    for query, answer, choices in zip(batch.queries, batch.answers, batch.choices, strict=True):
        asked = said[int(query.argmax())]
        wrong = {t for t, c in zip(said, choices, strict=True) if c} - {said[answer]}
        if asked == "one":  # both genres are its own
            assert wrong == set()
        elif asked == "two":
            assert wrong == {"has genre: War film"}
        elif asked == "has genre: War film":
            assert wrong == {"two"}


def test_a_batch_of_tastes_asks_for_each_liked_item_and_masks_the_users_others(graph):
    lesson = TasteLesson(graph, the_texts(graph)["Movie"], no_rows(), 8)
    batch = lesson.batch(np.random.default_rng(0))
    assert batch.rows.tolist() == [0, 1, 2]
    seen = set()
    for query, answer, choices in zip(batch.queries, batch.answers, batch.choices, strict=True):
        assert query.sum() == pytest.approx(1)
        assert query[answer] == 0
        assert choices[answer]
        assert not choices[query > 0].any()
        seen.add((tuple(np.flatnonzero(query)), int(answer)))
    assert {((1,), 0), ((0,), 1), ((1, 2), 0), ((0, 1), 2)} <= seen
    np.testing.assert_allclose(batch.offsets, np.log1p([2, 2, 2]))


def test_held_out_items_are_never_in_a_batch_and_always_in_the_exam(graph):
    lesson = TasteLesson(graph, the_texts(graph)["Movie"], np.array([2]), 8)
    assert lesson.batch(np.random.default_rng(0)).rows.tolist() == [0, 1]
    assert lesson.exam().tolist() == [0, 1, 2]
    facts = TripleLesson(graph, the_texts(graph), np.array([0, 1]), 8)
    asked = {facts.texts[row] for row in facts.exam()}
    assert {"one", "two"} <= asked
    for seed in range(5):
        rows = facts.batch(np.random.default_rng(seed)).rows
        assert not {"one", "two"} & {facts.texts[row] for row in rows}


def test_the_exam_marks_vectors_that_know_the_answers_best():
    likes = {"source": ["a", "a", "b", "b"], "target": [1, 3, 2, 4]}
    schema = Schema(user="User", item="Movie", interaction=RATED, text={"Movie": ["title"]})
    movies = {"id": [1, 2, 3, 4], "title": list("wxyz")}
    graph = KnowledgeGraph.from_tables({"Movie": movies}, {RATED: likes}, schema)
    lesson = TasteLesson(graph, node_texts(graph, "Movie"), np.array([2, 3]), 8)
    good = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    assert lesson.mark(good) == pytest.approx(1)
    assert lesson.mark(good[[0, 1, 3, 2]]) == pytest.approx(1 / np.log2(3))


def test_the_loss_is_the_cross_entropy_among_the_choices():
    batch = Batch(
        np.arange(3),
        np.array([[1, 0, 0]], np.float32),
        np.array([1]),
        np.array([[False, True, True]]),
        np.array([0, 0, np.log(2)], np.float32),
    )
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    expected = -np.log(np.exp(2) / (np.exp(2) + 2))
    assert float(contrastive_loss(batch, vectors, 0.5)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dbr:Jim_Lang_(composer)", "Jim Lang (composer)"),
        ("http://dbpedia.org/resource/J%C3%BCrgen_Prochnow", "Jürgen Prochnow"),
        ("dbo:musicComposer", "music Composer"),
        ("Love: a story", "Love: a story"),
        ("HAS_GENRE", "HAS GENRE"),
    ],
)
def test_keys_and_relations_become_words(name, words):
    assert readable(name) == words
