import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from encoders import TransformerEncoder, embed_texts, encoder_from
from encoders.adaptation import AdaptationConfig, Stage, adapt
from encoders.base import EncoderError
from encoders.learning import Learner
from kg import KnowledgeGraph, Schema

pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

RATED, GENRE = ("User", "RATED", "Movie"), ("Movie", "GENRE", "Genre")
FAST = Stage(steps=8, batch_size=16, learning_rate=0.02, examine_every=4)


@pytest.fixture(scope="module")
def graph():
    """Forty films of two kinds, told apart by a word each, and users who like one kind."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 2
    words = [["dark", "romantic"][k] + " " + " ".join(rng.choice(FILLER, 3)) for k in kinds]
    liked = [(f"u{u}", int(i)) for u in range(30) for i in rng.choice(20, 6, False) * 2 + u % 2]
    users, films = zip(*liked, strict=True)
    schema = Schema(user="User", item="Movie", interaction=RATED, text={"Movie": ["title"]})
    return KnowledgeGraph.from_tables(
        nodes={"Movie": {"id": list(range(40)), "title": words}},
        edges={
            RATED: {"source": list(users), "target": list(films)},
            GENRE: {"source": list(range(40)), "target": [["space", "comedy"][k] for k in kinds]},
        },
        schema=schema,
    )


FILLER = ["a", "film", "the", "story", "of", "one", "two", "星", "球"]


@pytest.fixture(scope="module")
def config(tiny_bert):
    return AdaptationConfig(str(tiny_bert), layers=0, held_out=0.3, triples=FAST, tastes=FAST)


@pytest.fixture(scope="module")
def taught(graph, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "adapter"
    return folder, adapt(graph, folder, config)


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_held_out_items_come_out_better_after_each_stage(taught):
    _, card = taught
    for name in ("triples", "tastes"):
        stage = card["stages"][name]
        assert stage["best_mark"] >= stage["mark_before"]
        assert stage["loss_first_and_last"][1] < stage["loss_first_and_last"][0]
    assert card["stages"]["triples"]["best_mark"] > card["stages"]["triples"]["mark_before"]


def test_the_card_tells_what_it_was_trained_on(taught, config):
    folder, card = taught
    assert json.loads((folder / "card.json").read_text()) == card
    assert card["trained_on"]["edges"] == {"User-RATED-Movie": 180, "Movie-GENRE-Genre": 40}
    assert card["trained_on"]["held_out_items"] == 12
    assert AdaptationConfig.from_dict(card["config"]) == config
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}


def test_the_result_is_a_frozen_encoder_with_a_fingerprint_of_its_own(taught, tiny_bert, tmp_path):
    from encoders import VectorCache

    folder, _ = taught
    base = TransformerEncoder(tiny_bert, device="cpu")
    encoder = TransformerEncoder(tiny_bert, adapter=folder, device="cpu")
    assert encoder.fingerprint != base.fingerprint
    texts, cache = ["dark space", "romantic comedy"], VectorCache(tmp_path)
    expected = encoder.encode(texts)
    assert np.abs(expected - base.encode(texts)).max() > 0.01
    for one in (base, encoder, encoder):
        got = embed_texts(texts, one, cache)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert len(cache.stats().by_encoder) == 2


def test_a_saved_encoder_carries_its_adapter(taught, tiny_bert, tmp_path):
    folder = shutil.copytree(taught[0], tmp_path / "adapter-there")
    encoder = TransformerEncoder(tiny_bert, adapter=folder, device="cpu")
    expected = encoder.encode(["dark film"])
    encoder.save(tmp_path / "saved")
    described = json.loads(json.dumps(encoder.describe()))
    shutil.rmtree(folder)
    again = encoder_from(described, tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(["dark film"]), expected)


@pytest.mark.parametrize("stop_at", [6, 13])
def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(
    graph, config, taught, tmp_path, monkeypatch, stop_at
):
    steps, step = [], Learner._step

    def stopping(self, *given):
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *given)

    monkeypatch.setattr(Learner, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        adapt(graph, tmp_path / "a", config)
    assert not (tmp_path / "a").exists()
    stop_at, steps[:] = -1, []
    again = adapt(graph, tmp_path / "a", config)
    assert len(steps) < 16
    assert again["stages"] == taught[1]["stages"]
    for key, value in tensors(taught[0]).items():
        np.testing.assert_array_equal(tensors(tmp_path / "a")[key], value)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_is_done_is_not_done_again_and_not_overwritten(graph, config, taught, monkeypatch):
    monkeypatch.setattr(Learner, "__init__", None)
    assert adapt(graph, taught[0], config) == taught[1]
    with pytest.raises(ValueError, match="holds an adapter of another graph, text or setting"):
        adapt(graph, taught[0], replace(config, seed=1))


def test_a_checkpoint_of_something_else_is_refused(graph, config, tmp_path):
    (tmp_path / "a.checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"cannot be read .*; delete it to start anew"):
        adapt(graph, tmp_path / "a", config)


def test_a_second_stage_may_begin_with_the_adapter_of_the_first(graph, config, taught, tmp_path):
    off = Stage(steps=0)
    adapt(graph, tmp_path / "facts", replace(config, tastes=off))
    card = adapt(graph, tmp_path / "both", replace(config, triples=off), start=tmp_path / "facts")
    assert card["stages"]["tastes"] == taught[1]["stages"]["tastes"]


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_the_saved_adapter_encodes_as_the_trained_model(graph, config, tmp_path, method):
    import torch

    learner = Learner(replace(config, method=method), Path(config.model), "cpu", None)
    with torch.no_grad():
        for weight in learner.weights.values():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 9)
    learner.model.eval()
    texts = ["dark space film", "one"]
    expected = learner._vectors(texts).detach().numpy()
    learner.save(tmp_path)
    card = {"base_weights": learner.base_weights}
    (tmp_path / "card.json").write_text(json.dumps(card))
    exact = {"normalize": True, "device": "cpu", "dtype": "float32"}
    encoder = TransformerEncoder(config.model, adapter=tmp_path, **exact)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    plain = TransformerEncoder(config.model, **exact).encode(texts)
    assert np.abs(plain - expected).max() > 0.001


def test_adalora_and_a_decoder_learn_too(graph, config, tiny_llama, tmp_path):
    both = replace(config, model=str(tiny_llama), method="adalora", tastes=Stage(steps=0))
    card = adapt(graph, tmp_path / "a", replace(both, triples=replace(FAST, accumulate=2)))
    assert card["stages"]["triples"]["steps"] == 8
    assert TransformerEncoder(tiny_llama, adapter=tmp_path / "a", device="cpu").encode(["a"]).any()


def test_an_adapter_of_another_model_or_without_a_file_is_refused(taught, tiny_llama, tmp_path):
    with pytest.raises(EncoderError, match=r"was trained on weights that hash to .* use the model"):
        _ = TransformerEncoder(tiny_llama, adapter=taught[0]).fingerprint
    folder = shutil.copytree(taught[0], tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(EncoderError, match=r"is absent \(pickled weights are not read\); train it"):
        _ = TransformerEncoder(taught[1]["base_model"], adapter=folder).fingerprint


def test_without_peft_the_message_says_what_to_install(graph, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EncoderError, match=r"pip install '\.\[adapt\]' in"):
        adapt(graph, tmp_path / "a", config)


def test_settings_come_from_toml_and_unknown_ones_are_named(tmp_path):
    path = tmp_path / "adapt.toml"
    path.write_text('method = "adalora"\nrank = 4\n[tastes]\nsteps = 7\n')
    config = AdaptationConfig.read(path)
    assert (config.method, config.rank, config.tastes.steps) == ("adalora", 4, 7)
    assert config.tastes.batch_size == AdaptationConfig().tastes.batch_size
    path.write_text("[tastes]\nstep = 7\n")
    with pytest.raises(ValueError, match=r"adapt\.toml: unknown entry 'step' in tastes; known: "):
        AdaptationConfig.read(path)
    path.write_text("rank = 0\n")
    with pytest.raises(ValueError, match="rank must be at least 1"):
        AdaptationConfig.read(path)


def test_a_prompt_that_fills_the_texts_of_learning_is_refused(config, tiny_bert, tmp_path):
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    said = {"prompts": {"film": "a film of one "}, "default_prompt_name": "film"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(said))
    told = "the prompt 'a film of one ' has 6 tokens of the 6 that this adaptation takes"
    with pytest.raises(EncoderError, match=told):
        Learner(replace(config, max_tokens=6), model, "cpu", None)
    Learner(replace(config, max_tokens=7), model, "cpu", None)


def test_items_without_texts_cannot_be_learnt_from(graph, config, tmp_path):
    bare = KnowledgeGraph.from_tables(
        {"Movie": {"id": [1]}}, {RATED: {"source": ["u"], "target": [1]}},
        Schema(user="User", item="Movie", interaction=RATED),
    )  # fmt: skip
    with pytest.raises(ValueError, match="Movie has no texts to learn from"):
        adapt(bare, tmp_path / "a", config)
