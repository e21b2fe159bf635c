import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from gnn.data import NodeInputs
from gnn.single import single_row
from gnn.words import Pieces, Words, pieces_of, words_of

CPU = torch.device("cpu")
TEXTS = [
    "Krautrock from Cologne, krautrock for ever",
    "A heist in Cologne",
    "The heist film: a heist, a getaway",
    "",
    "Krautrock heist nobody knows",
]
ALL = np.arange(5)


def inputs(texts=TEXTS):
    return NodeInputs(np.arange(len(texts)), wording=lambda rows: [texts[row] for row in rows])


def test_words_weigh_as_in_sklearn_where_all_nodes_are_warm():
    fitted = Words.fit("words", inputs(), ALL)
    theirs = TfidfVectorizer(min_df=2, sublinear_tf=True)
    expected = theirs.fit_transform(TEXTS).toarray()
    assert fitted is not None
    assert list(fitted.vocabulary) == theirs.get_feature_names_out().tolist()
    found = fitted.raw(inputs(), ALL, CPU).to_dense().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_words_of_cold_nodes_alone_are_unknown():
    fitted = Words.fit("words", inputs(), np.array([1, 2]))
    assert fitted is not None
    assert fitted.vocabulary == ("heist",)
    found = fitted.raw(inputs(), ALL, CPU).to_dense().numpy()
    assert found[:, 0].tolist() == [0, 1, 1, 0, 1]


def test_nodes_without_a_word_in_common_make_no_group():
    assert Words.fit("words", inputs(["one", "two", ""]), np.arange(3)) is None
    assert Words.fit("words", NodeInputs(np.arange(2)), np.arange(2)) is None


@pytest.mark.parametrize("kind", [Words, Pieces])
def test_a_node_without_its_texts_is_a_row_of_zeros(kind):
    fitted = kind.fit("words", inputs(), ALL)
    assert fitted is not None
    without = NodeInputs(np.arange(2))
    assert not fitted.raw(without, np.arange(2), CPU).to_dense().any()


@pytest.mark.parametrize("kind", [Words, Pieces])
@pytest.mark.parametrize("text", TEXTS)
def test_one_node_has_the_words_it_has_among_many(text, kind):
    fitted = kind.fit("words", inputs(), ALL)
    assert fitted is not None
    found = np.zeros(len(fitted.idf), np.float32)
    if row := single_row(fitted, inputs([text]), {}):
        found[row[0]] = row[1]
    expected = fitted.raw(inputs([text]), np.zeros(1, np.int64), CPU).to_dense()[0]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_only_the_most_frequent_words_are_kept(monkeypatch):
    monkeypatch.setattr("gnn.words.MAX_WORDS", 1)
    fitted = Words.fit("words", inputs(), ALL)
    assert fitted is not None
    assert fitted.vocabulary == ("heist",)


def test_scripts_without_spaces_are_read_in_pairs_of_characters():
    assert words_of("Crouching Tiger: 臥虎藏龍") == ["crouching", "tiger", "臥虎", "虎藏", "藏龍"]
    assert words_of("Élan vital, 2001") == ["élan", "vital", "2001"]


def test_pieces_are_all_four_characters_of_a_word_and_its_ends():
    assert pieces_of("Rock on, 2001!") == ["<roc", "rock", "ock>", "<on>", "<200", "2001", "001>"]
    assert pieces_of("") == []


def test_words_that_have_a_stem_in_common_have_pieces_in_common_alone():
    texts = ["rockers", "rocking", "a ballad"]
    assert Words.fit("words", inputs(texts), np.arange(3)) is None
    fitted = Pieces.fit("pieces", inputs(texts), np.arange(3))
    assert fitted is not None
    assert fitted.vocabulary == ("<roc", "rock")  # what two of them have
    found = fitted.raw(inputs(texts), np.arange(3), CPU).to_dense()
    np.testing.assert_allclose(found, [[0.5**0.5] * 2, [0.5**0.5] * 2, [0, 0]], atol=1e-6)


def test_pieces_of_many_texts_are_counted_as_those_of_one():
    texts = [*TEXTS, "rock rocks rock", "heist heists"]
    fitted = Pieces.fit("pieces", inputs(texts), np.arange(7))
    assert fitted is not None
    found = fitted.raw(inputs(texts), np.arange(7), CPU).to_dense().numpy()
    expected = np.zeros_like(found)
    for row, text in enumerate(texts):
        columns, weights = fitted.weighted(text)
        expected[row, columns] = weights / max(np.linalg.norm(weights), 1e-12)
    assert (expected > 0).sum() > 30
    np.testing.assert_allclose(found, expected, atol=1e-6)
