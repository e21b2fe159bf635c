import numpy as np
import pytest
import torch
from transformers import AutoModel

from encoders.packed import PackedBert, can_be_packed


@pytest.fixture(scope="module")
def model(tiny_bert):
    return AutoModel.from_pretrained(tiny_bert).eval().requires_grad_(False)


def test_texts_laid_end_to_end_get_the_vectors_they_get_alone(model):
    tokens = [np.arange(n) % 19 for n in (9, 4, 4, 4, 1)]
    parts = PackedBert(model)(tokens)
    assert [tuple(part.shape) for part in parts] == [(1, 9, 32), (3, 4, 32), (1, 1, 32)]
    got = [text for part in parts for text in part]
    for one, vectors in zip(tokens, got, strict=True):
        alone = model(torch.from_numpy(one)[None]).last_hidden_state[0]
        torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=1e-5)


def test_models_that_compute_something_else_are_not_packed(model, tiny_llama):
    assert can_be_packed(model)
    assert not can_be_packed(AutoModel.from_pretrained(tiny_llama))
    model.config.hidden_act = "relu"
    assert not can_be_packed(model)
    model.config.hidden_act = "gelu"
