import subprocess
import sys

import numpy as np
import pytest

from encoders import NodeTexts, encoder_from
from encoders.base import EncoderError
from kg import Vocabulary
from kg.errors import AlignmentError, UnknownNodeError


def test_texts_are_found_by_key():
    texts = NodeTexts(Vocabulary("Movie", ["a", "b"]), ["one", ""])
    assert texts.of(["b", "a"]) == ["", "one"]
    assert list(texts) == ["one", ""]
    with pytest.raises(UnknownNodeError, match="Movie 'c' is not among the 2 known"):
        texts.of(["c"])


def test_texts_and_keys_must_be_as_many():
    with pytest.raises(AlignmentError, match=r"Movie texts: expected one per key \(2\), got 1"):
        NodeTexts(Vocabulary("Movie", ["a", "b"]), ["one"])


def test_a_missing_text_is_refused():
    with pytest.raises(TypeError, match="texts of Movie: row 1 is None"):
        NodeTexts(Vocabulary("Movie", ["a", "b"]), ["one", None])


def test_an_unknown_kind_of_encoder_is_named(tmp_path):
    with pytest.raises(EncoderError, match="kind 'mine' cannot be made from its description"):
        encoder_from({"kind": "mine"}, tmp_path)


def test_a_wrong_name_is_an_attribute_error():
    import encoders

    with pytest.raises(AttributeError, match="no name 'Bert'"):
        _ = encoders.Bert
    assert {"TransformerEncoder", "embed_nodes"} <= set(dir(encoders))


def test_names_come_without_torch():
    code = (
        "import sys, encoders\n"
        "from encoders import TransformerEncoder, TfidfEncoder, embed_nodes, VectorCache\n"
        "print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_vectors_from_the_cache_need_no_torch(tiny_bert, tmp_path):
    from encoders import TransformerEncoder, VectorCache, embed_texts

    expected = embed_texts(["a dark film"], TransformerEncoder(tiny_bert), VectorCache(tmp_path))
    code = (
        "import sys\n"
        "from encoders import TransformerEncoder, VectorCache, embed_texts\n"
        "model, folder = sys.argv[1:]\n"
        "vectors = embed_texts(['a dark film'], TransformerEncoder(model), VectorCache(folder))\n"
        "assert 'torch' not in sys.modules\n"
        "print(vectors.tobytes().hex())"
    )
    arguments = [sys.executable, "-c", code, str(tiny_bert), str(tmp_path)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = np.frombuffer(bytes.fromhex(run.stdout.strip()), np.float32)
    np.testing.assert_array_equal(found, expected[0])
