import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders import TransformerEncoder, encoder_from
from encoders import transformer as module
from encoders.base import EncoderError
from encoders.embed import embed_nodes
from encoders.weights import MINILM
from kg.toy import toy_graph
from tests.encoders.contract import EncoderContract

SENTENCES = [
    "Toy Story (1995). A cowboy doll is threatened by a new spaceman figure.",
    "Solaris",
    "A psychologist is sent to a station orbiting a distant planet. " * 12,
    "星球大战是一部关于太空的电影。",
    "A farm boy joins a rebellion and destroys a <b>moon</b>-sized station &amp; more.",
]


class TestTransformerEncoder(EncoderContract):
    @pytest.fixture
    def encoder(self, tiny_encoder):
        return tiny_encoder


@pytest.fixture
def a_copy(tiny_bert, tmp_path):
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def plain(folder, texts, pooling):
    """What transformers alone gives, a text at a time, so without padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state[0]
        rows.append({"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling])
    return torch.stack(rows).numpy()


def test_minilm_agrees_with_plain_transformers_to_five_digits(minilm):
    expected = plain(minilm.settings.folder, SENTENCES, "mean")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(minilm.encode(SENTENCES), expected, atol=1e-5)


def test_minilm_agrees_with_sentence_transformers(minilm):
    theirs = pytest.importorskip("sentence_transformers", reason="the reference is not installed")
    reference = theirs.SentenceTransformer(str(minilm.settings.folder), device="cpu")
    expected = reference.encode(SENTENCES, show_progress_bar=False)
    np.testing.assert_allclose(minilm.encode(SENTENCES), expected, atol=1e-5)


def test_minilm_puts_like_by_like(minilm):
    space, planet, wedding = minilm.encode(
        ["a space station far away", "astronauts orbit a planet", "a wedding in a village"]
    )
    assert space @ planet > space @ wedding + 0.2


def test_minilm_has_the_settings_of_sentence_transformers(minilm):
    settings = minilm.settings
    assert (settings.dim, settings.pooling, settings.max_tokens, settings.normalize) == (
        384,
        "mean",
        256,
        True,
    )


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_each_pooling_agrees_with_plain_transformers(tiny_bert, pooling):
    texts = ["a dark space film", "one", "the story of one two"]
    encoder = TransformerEncoder(tiny_bert, pooling=pooling, device="cpu", dtype="float32")
    np.testing.assert_allclose(encoder.encode(texts), plain(tiny_bert, texts, pooling), atol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode": "cls", "include_prompt": True},
    ],
)
def test_pooling_is_read_from_the_models_files(a_copy, content):
    (a_copy / "1_Pooling").mkdir()
    (a_copy / "1_Pooling" / "config.json").write_text(json.dumps(content))
    assert TransformerEncoder(a_copy).settings.pooling == "cls"
    assert TransformerEncoder(a_copy, pooling="last").settings.pooling == "last"


def test_a_pooling_we_lack_is_named(a_copy):
    (a_copy / "1_Pooling").mkdir()
    (a_copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(EncoderError, match=r"asks for pooling \['max_tokens'\]; pass pooling="):
        _ = TransformerEncoder(a_copy).dim


def test_a_layer_after_pooling_is_refused(a_copy):
    modules = [{"type": f"sentence_transformers.models.{m}"} for m in ("Transformer", "Dense")]
    (a_copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match=r"asks for \['Dense'\] after pooling"):
        _ = TransformerEncoder(a_copy).dim


class TestDecoder(EncoderContract):
    @pytest.fixture
    def encoder(self, tiny_llama):
        return TransformerEncoder(tiny_llama, device="cpu", dtype="float32")


def test_a_decoder_takes_the_last_token_as_with_padding_on_the_left(tiny_llama):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["a dark space film", "one", "the story of one two a romantic comedy"]
    tokenizer, model = (a.from_pretrained(tiny_llama) for a in (AutoTokenizer, AutoModel))
    assert tokenizer.padding_side == "left"
    tokens = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        positions = (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)
        padded = model.eval()(**_known(tokens), position_ids=positions).last_hidden_state[:, -1]
    encoder = TransformerEncoder(tiny_llama, device="cpu", dtype="float32")
    assert encoder.settings.pooling == "last"
    np.testing.assert_allclose(encoder.encode(texts), padded.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts), plain(tiny_llama, texts, "last"), atol=1e-5)


def _known(tokens):
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def test_a_prompt_stands_before_each_text_and_empty_ones_stay_empty(tiny_bert):
    plainly = TransformerEncoder(tiny_bert, device="cpu")
    told = TransformerEncoder(tiny_bert, device="cpu", prompt="a film ")
    texts = ["dark", "", "romantic comedy"]
    prefixed = plainly.encode(["a film dark", "", "a film romantic comedy"])
    np.testing.assert_array_equal(told.encode(texts), prefixed)
    assert told.fingerprint != plainly.fingerprint
    again = encoder_from(json.loads(json.dumps(told.describe())), ".")
    assert again.fingerprint == told.fingerprint


@pytest.mark.parametrize("pooled", [True, False])
def test_prompts_in_a_models_files_agree_with_sentence_transformers(a_copy, pooled):
    theirs = pytest.importorskip("sentence_transformers", reason="the reference is not installed")
    write = lambda name, value: (a_copy / name).write_text(json.dumps(value))  # noqa: E731
    (a_copy / "1_Pooling").mkdir()
    mode = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}
    write("1_Pooling/config.json", {**mode, "include_prompt": pooled})
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    parts = [
        {"idx": i, "name": str(i), "path": kinds[k], "type": f"sentence_transformers.models.{k}"}
        for i, k in enumerate(kinds)
    ]
    write("modules.json", parts)
    said = {"prompts": {"query": "the story of "}, "default_prompt_name": "query"}
    write("config_sentence_transformers.json", said)
    texts = ["a dark space film", "one two one two one"]
    expected = theirs.SentenceTransformer(str(a_copy), device="cpu").encode(texts)
    ours = TransformerEncoder(a_copy, device="cpu", dtype="float32").encode(texts)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(tiny_bert):
    with pytest.raises(EncoderError, match="the prompt 'a film ' has 4 tokens of the 4 that"):
        TransformerEncoder(tiny_bert, max_tokens=4, prompt="a film ", device="cpu").load()
    some = TransformerEncoder(tiny_bert, max_tokens=5, prompt="a film ", device="cpu")
    assert not np.array_equal(*some.encode(["dark", "one"]))


def test_a_prompt_of_a_node_type_that_leaves_no_room_for_a_text_is_refused(tiny_bert):
    told = TransformerEncoder(
        tiny_bert, max_tokens=5, prompt="a ", prompts={"Song": "film ", "Movie": "film one "}
    )
    with pytest.raises(EncoderError, match="the prompt 'a film one ' has 5 tokens of the 5 that"):
        told.encode(["a film one two"])
    TransformerEncoder(tiny_bert, max_tokens=6, prompt="a ", prompts=told.prompts).load()
    graph = toy_graph(num_users=4, num_items=4)
    with pytest.raises(EncoderError, match="the prompt 'a film one ' has 5 tokens of the 5 that"):
        embed_nodes(graph, told, prompts={"Movie": "film one "}, cache=None)


def test_tokens_are_counted_before_anything_is_cut(tiny_bert):
    encoder = TransformerEncoder(tiny_bert, max_tokens=6, prompt="a ")
    assert encoder.count_tokens(["one two one two one two", "", "one"]).tolist() == [9, 0, 4]


def test_long_texts_are_cut_counted_and_reported(tiny_bert, caplog):
    caplog.set_level("INFO", logger="encoders")
    encoder = TransformerEncoder(tiny_bert, max_tokens=6, device="cpu")
    vectors = encoder.encode(["one two one two one two", "one two one two", "one"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert encoder.num_truncated == 1
    assert "1 of 3 texts are longer than 6 tokens" in caplog.text


def test_the_limit_is_never_beyond_the_models(tiny_bert):
    assert TransformerEncoder(tiny_bert).settings.max_tokens == 64
    with pytest.raises(EncoderError, match=r"max_tokens=65, but .* takes at most 64 tokens"):
        _ = TransformerEncoder(tiny_bert, max_tokens=65).dim


def test_batches_shrink_when_memory_runs_out(tiny_bert, tiny_encoder, monkeypatch):
    texts = ["one " * n for n in range(1, 12)]
    expected, sizes = tiny_encoder.encode(texts), []
    forward = TransformerEncoder._forward

    def short_of_memory(self, tokens):
        sizes.append(len(tokens))
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, tokens)

    monkeypatch.setattr(TransformerEncoder, "_forward", short_of_memory)
    vectors = TransformerEncoder(tiny_bert, device="cpu", dtype="float32").encode(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]


def test_one_text_too_many_for_memory_is_an_error(tiny_encoder, monkeypatch):
    def no_memory(self, tokens):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    monkeypatch.setattr(TransformerEncoder, "_forward", no_memory)
    with pytest.raises(MemoryError, match="one text of 4 tokens does not fit into the memory of"):
        tiny_encoder.encode(["one two"])


def test_batches_keep_to_their_limit_and_hold_texts_of_like_length(tiny_bert, monkeypatch):
    seen, forward = [], TransformerEncoder._forward
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", {"cpu": 40})
    monkeypatch.setattr(
        TransformerEncoder,
        "_forward",
        lambda self, tokens: seen.append([len(t) for t in tokens]) or forward(self, tokens),
    )
    TransformerEncoder(tiny_bert, batch_size=4, device="cpu").encode(
        ["one " * 18, *["one"] * 6, "two " * 17]
    )
    assert seen == [[20, 19], [3, 3, 3, 3], [3, 3]]


def test_nothing_is_loaded_by_the_constructor(tmp_path):
    encoder = TransformerEncoder(tmp_path / "nowhere")
    with pytest.raises(EncoderError, match="nowhere: there is none; give an existing folder"):
        encoder.encode(["a"])


def test_settings_change_the_fingerprint_and_places_do_not(tiny_bert, a_copy):
    base = TransformerEncoder(tiny_bert).fingerprint
    assert TransformerEncoder(a_copy, batch_size=3, device="cpu").fingerprint == base
    for change in (
        {"pooling": "cls"},
        {"max_tokens": 5},
        {"normalize": True},
        {"dtype": "float32"},
    ):
        assert TransformerEncoder(tiny_bert, **change).fingerprint != base


def test_other_weights_than_described_are_refused(tiny_bert, a_copy):
    described = TransformerEncoder(tiny_bert).describe()
    edit(a_copy / "config.json", layer_norm_eps=1e-6)
    with pytest.raises(EncoderError, match="is not the one described"):
        encoder_from({**described, "model": str(a_copy)}, ".")
    del described["weights"]
    with pytest.raises(EncoderError, match=r"lacks \['weights'\]"):
        encoder_from(described, ".")


def test_an_incomplete_model_is_refused(a_copy):
    edit(a_copy / "config.json", num_hidden_layers=2)
    with pytest.raises(EncoderError, match="the weights do not fit the architecture"):
        TransformerEncoder(a_copy).load()


def test_weights_of_another_shape_are_refused(a_copy):
    edit(a_copy / "config.json", intermediate_size=16)
    with pytest.raises(EncoderError, match=r"cannot be loaded|do not fit the architecture"):
        TransformerEncoder(a_copy).load()


def test_a_damaged_file_is_refused(a_copy):
    weights = a_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        TransformerEncoder(a_copy).load()
    (a_copy / "config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"config.json cannot be read"):
        TransformerEncoder(a_copy).load()


def test_code_in_a_model_folder_is_not_run(a_copy, tmp_path):
    marker = tmp_path / "ran"
    (a_copy / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    auto_map = {"AutoConfig": "modeling_evil.C", "AutoModel": "modeling_evil.M"}
    edit(a_copy / "config.json", auto_map=auto_map, model_type="evil")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        TransformerEncoder(a_copy).load()
    assert not marker.exists()


def test_an_encoder_decoder_is_refused(a_copy):
    edit(a_copy / "config.json", is_encoder_decoder=True)
    with pytest.raises(EncoderError, match="is an encoder-decoder model"):
        _ = TransformerEncoder(a_copy).dim


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of"),
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"prompt": 3}, "the prompt of 'prompt' must be a string, got 3"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        TransformerEncoder(MINILM, **setting)


def test_a_wrong_device_is_named(tiny_bert):
    with pytest.raises(ValueError, match="device 'tpu9' is not known"):
        TransformerEncoder(tiny_bert, device="tpu9").load()


def test_half_precision_stays_near(tiny_bert, tiny_encoder):
    texts = ["a dark space film", "the story of one two"]
    half = TransformerEncoder(tiny_bert, dtype="bfloat16", device="cpu").encode(texts)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, tiny_encoder.encode(texts), atol=0.05)


@pytest.fixture(scope="module")
def in_int8():
    return TransformerEncoder(device="cpu", dtype="int8")


class TestInt8(EncoderContract):
    @pytest.fixture
    def encoder(self, in_int8):
        return in_int8

    def test_its_vectors_are_near_those_in_float32(self, encoder, minilm):
        texts = [*SENTENCES, "Ласковый Май", "Beth", "1"]
        near = (encoder.encode(texts) * minilm.encode(texts)).sum(axis=1)
        assert near.min() > 0.997
        assert near.mean() > 0.999
        assert encoder.fingerprint != minilm.fingerprint


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("which", ["minilm", "in_int8"])
def test_batches_side_by_side_give_the_vectors_of_one_by_one(which, request, monkeypatch):
    encoder = request.getfixturevalue(which)
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", {"cpu": 64})
    texts = [f"{'a film about ' * (n % 9)} {n}" for n in range(40)]
    together = encoder.encode(texts)
    torch.set_num_threads(1)
    np.testing.assert_allclose(together, encoder.encode(texts), atol=1e-6)


def test_int8_is_refused_for_a_decoder_and_named(tiny_llama):
    with pytest.raises(EncoderError, match="is a LlamaModel; dtype='int8' is for BERT models"):
        TransformerEncoder(tiny_llama, dtype="int8", device="cpu").load()


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(minilm):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_gpu = TransformerEncoder(device="cuda", dtype="float32").encode(SENTENCES)
    np.testing.assert_allclose(on_gpu, minilm.encode(SENTENCES), atol=1e-4)
    half = TransformerEncoder(device="cuda").encode(SENTENCES)
    assert (half * minilm.encode(SENTENCES)).sum(axis=1).min() > 0.997
