"""What every text encoder promises; a new one inherits this and supplies ``encoder``."""

import json

import numpy as np
import pytest

from encoders.base import TextEncoder, encoder_from

TEXTS = [
    "a dark space film",
    "romantic comedy",
    "",
    "space",
    "星球大战",
    "a dark space film",
    " \n ",
]


class EncoderContract:
    def test_it_is_a_text_encoder(self, encoder):
        assert isinstance(encoder, TextEncoder)

    def test_one_finite_float32_row_per_text(self, encoder):
        vectors = encoder.encode(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert np.isfinite(vectors).all()

    def test_no_texts_give_no_rows(self, encoder):
        assert encoder.encode([]).shape == (0, encoder.dim)

    def test_an_empty_text_gets_the_zero_vector_and_others_do_not(self, encoder):
        lengths = np.linalg.norm(encoder.encode(TEXTS), axis=1)
        np.testing.assert_array_equal(lengths == 0, [not t.strip() for t in TEXTS])

    def test_a_vector_does_not_depend_on_the_company(self, encoder):
        together = encoder.encode([*TEXTS, "space film " * 30])
        for row, text in enumerate(TEXTS):
            np.testing.assert_allclose(encoder.encode([text])[0], together[row], atol=1e-5)

    def test_it_comes_back_from_its_description(self, encoder, tmp_path):
        encoder.save(tmp_path)
        again = encoder_from(json.loads(json.dumps(encoder.describe())), tmp_path)
        assert again.fingerprint == encoder.fingerprint
        np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))

    def test_a_missing_text_is_an_error(self, encoder):
        with pytest.raises(TypeError, match="row 1 is None, expected a string; use ''"):
            encoder.encode(["a", None])

    def test_a_bare_string_is_an_error(self, encoder):
        with pytest.raises(TypeError, match="expected a list of strings, got the string 'a'"):
            encoder.encode("a")
