import os
import platform
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from encoders import TfidfEncoder, TransformerEncoder, VectorCache, embed_nodes, embed_texts
from encoders import embed as module
from encoders.base import EncoderError
from kg import KnowledgeGraph, Schema
from kg.errors import SchemaError
from kg.memory import give_back_memory
from tests.memory import resident_bytes


class Lengths:
    """Encodes a text as its length and remembers what it was asked."""

    dim, fingerprint = 2, "lengths"

    def __init__(self, fails_after=10**9):
        self.asked, self.fails_after = [], fails_after

    def encode(self, texts):
        if len(self.asked) + len(texts) > self.fails_after:
            raise KeyboardInterrupt
        self.asked += texts
        return np.array([[len(t), 1] for t in texts], np.float32)


@pytest.fixture
def cache(tmp_path):
    return VectorCache(tmp_path)


@pytest.fixture
def graph():
    schema = Schema(
        user="User",
        item="Movie",
        interaction=("User", "RATED", "Movie"),
        text={"Movie": ["title"], "Person": ["name"]},
    )
    return KnowledgeGraph.from_tables(
        nodes={
            "User": {"id": [1], "job": ["pilot"]},
            "Movie": {"id": ["a", "b", "c"], "title": ["Alien", None, "Alien"]},
            "Person": {"id": [7], "name": ["Alien"]},
        },
        edges={("User", "RATED", "Movie"): {"source": [1], "target": ["a"]}},
        schema=schema,
    )


def test_every_type_with_text_is_embedded_row_by_row(graph, cache):
    found = embed_nodes(graph, Lengths(), cache=cache)
    assert set(found) == {"Movie", "Person"}
    assert found["Movie"].nodes is graph.items
    assert found["Movie"].matrix.tolist() == [[5, 1], [0, 0], [5, 1]]


def test_equal_texts_are_encoded_once_even_across_types(graph):
    encoder = Lengths()
    embed_nodes(graph, encoder, cache=None)
    assert encoder.asked == ["Alien"]


def test_types_can_be_named_and_put_into_words_by_template(graph):
    found = embed_nodes(graph, Lengths(), templates={"User": "a {job}"}, cache=None)
    assert found["User"].matrix.tolist() == [[7, 1]]
    only = embed_nodes(graph, Lengths(), ["Person"], cache=None)
    assert list(only) == ["Person"]
    with pytest.raises(SchemaError, match="no nodes of type 'Film'"):
        embed_nodes(graph, Lengths(), ["Film"], cache=None)


def test_neighbours_can_be_named_in_the_text(graph):
    related = graph.with_edges(("Movie", "BY", "Person"), graph.interactions)
    encoder = Lengths()
    embed_nodes(related, encoder, ["Movie"], neighbours={"Movie": ["BY"]}, cache=None)
    assert "Alien. by: Alien" in encoder.asked


def test_a_second_run_encodes_nothing(cache):
    texts = ["one", "two", "", "one"]
    first = embed_texts(texts, Lengths(), cache)
    encoder = Lengths()
    np.testing.assert_array_equal(embed_texts(texts, encoder, cache), first)
    assert encoder.asked == []


def test_a_changed_text_alone_is_encoded(cache):
    embed_texts(["one", "two"], Lengths(), cache)
    encoder = Lengths()
    embed_texts(["one", "three"], encoder, cache)
    assert encoder.asked == ["three"]


def test_a_run_that_was_stopped_goes_on_where_it_was(cache, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_CHUNK", 10)
    monkeypatch.setattr(module, "_LARGEST_CHUNK", 10)
    texts, stopped = [f"text {i}" for i in range(50)], Lengths(fails_after=35)
    with pytest.raises(KeyboardInterrupt):
        embed_texts(texts, stopped, cache)
    encoder = Lengths()
    embed_texts(texts, encoder, cache)
    assert len(stopped.asked) == 30
    assert sorted(stopped.asked + encoder.asked) == sorted(texts)


# Encodes 100 texts, ten at a time, and tells of each ten before the next.
SLOW = """
import sys
import numpy as np
from encoders import VectorCache, embed
embed._FIRST_CHUNK = embed._LARGEST_CHUNK = 10

class Slow:
    dim, fingerprint = 2, "lengths"
    def encode(self, texts):
        print(len(texts), flush=True)
        sys.stdin.readline()
        return np.array([[len(t), 1] for t in texts], np.float32)

embed.embed_texts([f"text {i}" for i in range(100)], Slow(), VectorCache(sys.argv[1]))
"""


def test_after_a_kill_at_sixty_percent_the_other_forty_are_encoded(cache):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(6):  # the seventh ten is asked for once the sixth is in the cache
        assert process.stdout.readline() == "10\n"
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.stdout.readline() == "10\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    encoder = Lengths()
    found = embed_texts([f"text {i}" for i in range(100)], encoder, cache)
    assert len(encoder.asked) == 40
    assert found[:, 0].tolist() == [6] * 10 + [7] * 90


def test_prompts_by_node_type_stand_before_the_texts_that_are_not_empty(graph):
    encoder = Lengths()
    embed_nodes(graph, encoder, prompts={"Movie": "a film: "}, cache=None)
    assert sorted(encoder.asked) == ["Alien", "a film: Alien"]


def test_an_encoders_own_prompts_are_used_and_remembered(graph, tiny_bert):
    told = TransformerEncoder(tiny_bert, device="cpu", prompts={"Movie": "one two "})
    again = TransformerEncoder.from_description(told.describe())
    expected = told.encode(["one two Alien", "Alien"])
    for encoder in (told, again):
        found = embed_nodes(graph, encoder, cache=None)
        np.testing.assert_allclose(found["Movie"].matrix[0], expected[0], atol=1e-6)
        np.testing.assert_allclose(found["Person"].matrix[0], expected[1], atol=1e-6)


def test_texts_that_lost_their_end_are_counted_in_a_warning(tiny_bert, caplog):
    encoder = TransformerEncoder(tiny_bert, max_tokens=4, device="cpu")
    embed_texts(["one two one two", "one"], encoder, None)
    assert "1 of 2 texts are longer than the model takes and lost their end" in caplog.text


def test_a_cache_that_fails_is_done_without(tmp_path, caplog):
    (tmp_path / "file").touch()
    broken = VectorCache(tmp_path / "file" / "cache")
    assert embed_texts(["one"], Lengths(), broken).tolist() == [[3, 1]]
    assert "in the cache: cache folder" in caplog.text


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path))
    embed_texts(["one"], Lengths())
    assert VectorCache(tmp_path).stats().by_encoder == {"lengths": 1}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((1, 3), np.float32), r"returned \[1, 3\] for 1 texts, expected \[1, 2\]"),
        (np.full((1, 2), np.nan, np.float32), "returned NaN or infinite numbers"),
    ],
)
def test_what_an_encoder_returns_is_checked(cache, monkeypatch, result, message):
    monkeypatch.setattr(Lengths, "encode", lambda self, texts: result)
    with pytest.raises(EncoderError, match=message):
        embed_texts(["one"], Lengths(), cache)
    assert cache.stats().num_vectors == 0


def test_no_texts_and_empty_texts_need_no_encoding():
    encoder = Lengths()
    assert embed_texts([], encoder, None).shape == (0, 2)
    assert embed_texts(["", "  "], encoder, None).tolist() == [[0, 0], [0, 0]]
    assert encoder.asked == []


def test_the_same_vectors_come_from_the_encoder_itself(tiny_encoder, cache):
    texts = ["a dark space film", "", "one", "星球大战", "the story of one two"]
    expected = tiny_encoder.encode(texts)
    np.testing.assert_allclose(embed_texts(texts, tiny_encoder, cache), expected, atol=1e-6)
    np.testing.assert_allclose(embed_texts(texts, tiny_encoder, cache), expected, atol=1e-6)


def test_distinct_texts_take_one_matrix_not_two():
    class Wide(Lengths):
        dim = 1000

        def encode(self, texts):
            return np.ones((len(texts), self.dim), np.float32)

    tracemalloc.start()
    matrix = embed_texts([str(i) for i in range(5000)], Wide(), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.shape == (5000, 1000)
    assert peak < 1.8 * matrix.nbytes  # of which 0.4 are the vectors of one chunk


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc is told to")
def test_gaps_that_encoding_leaves_in_memory_go_back_to_the_system(monkeypatch):
    class Gaps(Lengths):
        def encode(self, texts):
            pieces = [b"x" * 40_000 for _ in range(2000)]
            self.kept = pieces[::2]  # 40 MB; between them 40 MB are free
            return super().encode(texts)

    monkeypatch.setattr(module, "_SECONDS_AT_RISK", 0)  # every chunk counts as a slow one
    give_back_memory()
    before, encoder = resident_bytes(), Gaps()
    embed_texts(["Alien"], encoder, None)
    assert resident_bytes() - before < 60e6


def test_tfidf_serves_too(graph):
    encoder = TfidfEncoder.fit(["Alien", "a pilot"], dim=2)
    assert embed_nodes(graph, encoder, cache=None)["Movie"].dim == 2


def test_progress_shows_texts_per_second(monkeypatch, capsys):
    import tqdm.auto

    real = tqdm.auto.tqdm
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **k: real(**{**k, "delay": 0, "leave": True}))
    embed_texts(["one", "two"], Lengths(), None, progress=True)
    assert "2/2" in (shown := capsys.readouterr().err)
    assert "texts/s" in shown
