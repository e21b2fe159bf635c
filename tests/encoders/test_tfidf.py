import json

import numpy as np
import pytest

from encoders import TfidfEncoder, encoder_from
from kg.errors import AlignmentError, SavedFileError
from tests.encoders.contract import EncoderContract

TEXTS = [
    "a dark space film",
    "space opera in space",
    "romantic comedy in Paris",
    "a comedy of manners",
    "星球大战 太空",
    "太空歌剧",
]


@pytest.fixture(scope="module")
def encoder():
    return TfidfEncoder.fit(TEXTS, dim=4)


class TestTfidfEncoder(EncoderContract):
    pass


def test_texts_with_shared_words_are_nearer():
    space, opera, comedy, *_ = TfidfEncoder.fit(TEXTS, dim=256).encode(TEXTS)
    assert space @ opera > space @ comedy


def test_chinese_texts_share_signs(encoder):
    first, second, other = encoder.encode(["太空", "太空歌剧", "comedy"])
    assert first @ second > first @ other + 0.2


def test_a_word_never_seen_gives_zero(encoder):
    assert not encoder.encode(["zzz"]).any()


def test_the_same_seed_gives_the_same_encoder():
    assert TfidfEncoder.fit(TEXTS, dim=3, rng=7).fingerprint == (
        TfidfEncoder.fit(TEXTS, dim=3, rng=7).fingerprint
    )
    assert TfidfEncoder.fit(TEXTS[:5], dim=3).fingerprint != (
        TfidfEncoder.fit(TEXTS, dim=3).fingerprint
    )


def test_rare_terms_go_once_there_are_many_texts():
    texts = [f"film number{i % 60} only{i}" for i in range(120)]
    terms = TfidfEncoder.fit(texts, dim=8).terms
    assert "number7" in terms
    assert "only7" not in terms


def test_dim_is_no_more_than_texts_and_terms():
    assert TfidfEncoder.fit(["one word", "two words"], dim=100).dim == 2
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        TfidfEncoder.fit(TEXTS, dim=0)


@pytest.mark.parametrize("texts", [[], ["", " "], ["!", "?"]])
def test_texts_without_a_word_cannot_be_fitted(texts):
    with pytest.raises(ValueError, match="texts holds a word that TF-IDF can count"):
        TfidfEncoder.fit(texts)


def test_a_changed_file_is_noticed(encoder, tmp_path):
    encoder.save(tmp_path)
    path = tmp_path / "tfidf.json"
    path.write_text(path.read_text(encoding="utf-8").replace("space", "spice"), encoding="utf-8")
    with pytest.raises(SavedFileError, match="were changed after they were written"):
        TfidfEncoder.load(tmp_path)


def test_another_encoders_files_are_noticed(encoder, tmp_path):
    TfidfEncoder.fit(TEXTS[:3], dim=2).save(tmp_path)
    with pytest.raises(SavedFileError, match="or belong to another engine"):
        encoder_from(encoder.describe(), tmp_path)


def test_an_absent_or_cut_file_is_an_error(encoder, tmp_path):
    with pytest.raises(SavedFileError, match="no TF-IDF encoder can be read from"):
        TfidfEncoder.load(tmp_path)
    encoder.save(tmp_path)
    tensors = tmp_path / "tfidf.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-40])
    with pytest.raises(SavedFileError, match="save it again"):
        TfidfEncoder.load(tmp_path)


def test_a_newer_version_is_named(encoder, tmp_path):
    encoder.save(tmp_path)
    content = json.loads((tmp_path / "tfidf.json").read_text(encoding="utf-8"))
    (tmp_path / "tfidf.json").write_text(json.dumps(content | {"version": 9}), encoding="utf-8")
    with pytest.raises(SavedFileError, match="is of version 9, this program reads 1"):
        TfidfEncoder.load(tmp_path)


def test_parts_must_fit_each_other():
    with pytest.raises(AlignmentError, match=r"TF-IDF of 2 terms: idf is \[1\]"):
        TfidfEncoder(("a", "b"), np.ones(1), np.ones((2, 3)))
