import numpy as np
import pytest
import torch
from transformers import AutoModel

from encoders import int8
from encoders.base import EncoderError
from encoders.packed import PackedBert


def test_rounded_weights_are_near_and_no_pair_can_overflow():
    weight = torch.randn(20, 31, generator=torch.Generator().manual_seed(0))
    whole, scales = int8._rounded(weight)
    assert (whole == whole.round()).all()
    size = torch.nn.functional.pad(whole.abs(), (0, 1))
    assert (size[:, 0::2] + size[:, 1::2]).max() <= 128
    error = (whole * scales[:, None] - weight).square().mean() / weight.square().mean()
    assert error.sqrt() < 0.02


def test_surplus_of_a_pair_is_taken_from_the_larger():
    whole = torch.tensor([[100.0, 100.0, -120.0, 20.0, 3.0, -4.0]])
    assert int8._with_small_pairs(whole).tolist() == [[28.0, 100.0, -108.0, 20.0, 3.0, -4.0]]


def test_weights_that_make_up_for_each_other_are_nearer_in_what_they_give():
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 31, generator=random)
    rows = torch.randn(90, 8, generator=random) @ torch.randn(8, 31, generator=random)
    rows -= rows.mean(dim=0)
    whole, scales = int8._rounded(weight)
    better = int8._making_up(weight, scales, rows)
    assert (better == better.round()).all()
    size = torch.nn.functional.pad(better.abs(), (0, 1))
    assert (size[:, 0::2] + size[:, 1::2]).max() <= 128

    def error(of):
        return (rows @ (of * scales[:, None] - weight).T).norm()

    assert error(better) < 0.6 * error(whole)


@pytest.mark.parametrize("name", ["attention_in", "widen", "narrow"])
def test_rounded_weights_change_no_output_on_average(tiny_bert, name):
    model = AutoModel.from_pretrained(tiny_bert).eval().requires_grad_(False)
    texts = [np.random.default_rng(0).integers(0, 19, n) for n in (60, 40, 20)]
    watched = PackedBert(model)
    watch = int8._Watch(getattr(watched.layers[0], name))
    setattr(watched.layers[0], name, watch)
    watched(texts)
    quantised = getattr(int8.quantise(PackedBert(model), texts).layers[0], name)
    change = quantised(watch.rows.clone()) - watch.linear(
        watch.rows
    )  # the grids' part averages out
    assert change.mean(dim=0).norm() < 0.15 * change.std(dim=0).norm()


def test_bytes_are_rounded_and_clipped():
    rows = torch.tensor([[-200.0, -0.4, 0.6, 126.7], [127.0, 300.0, 1.0, -128.0]])
    assert int8._bytes(rows, 128).tolist() == [[0, 128, 129, 255], [255, 255, 129, 0]]


def test_a_quantised_layer_is_near_the_exact_one(tiny_bert):
    model = AutoModel.from_pretrained(tiny_bert).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 19, n) for n in (20, 12, 5)]
    (layer,) = int8.quantise(PackedBert(model), texts).layers
    packed = PackedBert(model)
    (exact,) = packed.layers
    x = packed.norm(packed.words[rng.integers(0, 19, 50)] + packed.places[:50])
    for name in ("attention_in", "widen"):
        error = (getattr(layer, name)(x.clone()) - getattr(exact, name)(x)).norm()
        assert error < 0.035 * getattr(exact, name)(x).norm()
    wide = exact.widen(x)
    expected = exact.narrow(wide)
    assert (layer.narrow(wide.clone()) - expected).norm() < 0.03 * expected.norm()


def test_texts_of_a_few_tokens_are_exact_and_longer_ones_rounded(tiny_bert):
    model = AutoModel.from_pretrained(tiny_bert).eval().requires_grad_(False)
    texts = [np.random.default_rng(0).integers(0, 19, n) for n in (20, 7, 6, 6, 2)]
    exact = PackedBert(model)
    both = int8.Int8Bert(int8.quantise(PackedBert(model), texts), exact)
    found, expected = both(texts), exact(texts)
    assert [tuple(run.shape) for run in found] == [tuple(run.shape) for run in expected]
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True)]
    assert same == [False, False, True, True]
    alone = [*both(texts[:2]), *both(texts[2:])]  # batches of long or short texts alone
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, alone, strict=True))


def test_a_processor_that_overflows_is_refused(monkeypatch):
    monkeypatch.setattr(int8._Packed, "__call__", lambda *_: torch.zeros(4, 64))
    with pytest.raises(EncoderError, match="8-bit products overflow; use dtype='float32'"):
        int8._check_processor()


def test_torch_without_these_operations_is_refused(monkeypatch):
    monkeypatch.setattr(int8, "_LINEAR", object())
    with pytest.raises(EncoderError, match="needs torch with oneDNN on an x86 processor"):
        int8._check_processor()
