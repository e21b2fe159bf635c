"""What a model's folder says about its use: pooling, limits, prompt; read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.base import EncoderError
from encoders.weights import adapter_hash, weights_hash

POOLINGS = ("mean", "cls", "last")

_POSITION_OFFSET = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}
# Families whose tokens see only those before them, so that the last one alone has seen the text.
_DECODERS = (
    "bloom cohere deepseek falcon gemma glm gpt granite llama mistral mixtral olmo opt phi qwen "
    "smollm stablelm starcoder"
)


@dataclass(frozen=True)
class ModelSettings:
    """What a model folder says about its use, after the caller's own wishes.

    Args:
        folder: the model's files.
        weights: SHA-256 over weights, configuration and tokenizer.
        dim: length of the vectors.
        pooling: how token vectors become one.
        max_tokens: a text's tokens beyond this number, special ones included, are cut off.
        normalize: whether vectors are brought to unit length.
        prompt: what is put before every text.
        pool_prompt: whether the prompt's tokens take part in the mean.
        adapter: folder of what was learnt on top of the model; see :mod:`encoders.adaptation`.
    """

    folder: Path
    weights: str
    dim: int
    pooling: str
    max_tokens: int
    normalize: bool
    prompt: str = ""
    pool_prompt: bool = True
    adapter: Path | None = None


def read_settings(
    folder: Path,
    *,
    pooling: str | None = None,
    max_tokens: int | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    adapter: Path | None = None,
) -> ModelSettings:
    """What the files of a model say, with the caller's own wishes put first.

    Raises:
        EncoderError: a file is damaged, or asks for something that is not supported.
    """
    config = _json(folder / "config.json")
    if config.get("is_encoder_decoder"):
        raise EncoderError(f"{folder} is an encoder-decoder model; use an encoder or a decoder")
    dim = config.get("hidden_size") or config.get("d_model") or config.get("dim")
    if not isinstance(dim, int):
        raise EncoderError(f"{folder}/config.json has no hidden_size; is it a text model?")
    modules = [str(m.get("type", "")).rsplit(".", 1)[-1] for m in _modules(folder)]
    if unknown := set(modules) - {"Transformer", "Pooling", "Normalize"}:
        raise EncoderError(
            f"{folder}/modules.json asks for {sorted(unknown)} after pooling, which is not "
            "supported; vectors without it would not be this model's"
        )
    return ModelSettings(
        folder=folder,
        weights=weights_hash(folder) if adapter is None else adapter_hash(folder, adapter),
        dim=dim,
        pooling=pooling or _pooling(folder, config),
        max_tokens=_max_tokens(folder, config, max_tokens),
        normalize="Normalize" in modules if normalize is None else bool(normalize),
        prompt=_default_prompt(folder) if prompt is None else prompt,
        pool_prompt=_pool_prompt(folder),
        adapter=adapter,
    )


def _default_prompt(folder: Path) -> str:
    """The prompt that sentence-transformers would put before every text."""
    path = folder / "config_sentence_transformers.json"
    said = _json(path) if path.is_file() else {}
    name = said.get("default_prompt_name")
    if name is None:
        return ""
    if not isinstance(prompt := (said.get("prompts") or {}).get(name), str):
        raise EncoderError(
            f"{path} names {name!r} as default but holds no such prompt; pass prompt="
        )
    return prompt


def _pool_prompt(folder: Path) -> bool:
    path = folder / "1_Pooling" / "config.json"
    return not path.is_file() or bool(_json(path).get("include_prompt", True))


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules = _json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise EncoderError(f"{path} is not a list of modules; fetch the model again")
    return modules


def _pooling(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        family = str(config.get("model_type", "")).startswith(tuple(_DECODERS.split()))
        return "last" if config.get("is_decoder") or family else "mean"
    said = _json(path)
    asked = [k.removeprefix("pooling_mode_") for k, v in said.items() if v is True]
    asked = [a for a in asked if a != "include_prompt"]
    if "pooling_mode" in said:
        mode = said["pooling_mode"]
        asked = [mode] if isinstance(mode, str) else list(mode)
    names = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
    found = [names.get(a, a) for a in asked]
    if len(found) != 1 or found[0] not in POOLINGS:
        raise EncoderError(f"{path} asks for pooling {asked}; pass pooling=, one of {POOLINGS}")
    return found[0]


def _max_tokens(folder: Path, config: dict[str, Any], wanted: int | None) -> int:
    """The caller's limit, else sentence-transformers', else the tokenizer's; within the model's."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or 512
    if config.get("model_type") in _POSITION_OFFSET:
        most -= 2  # positions count from the padding index on
    if config.get("position_embedding_type") in ("relative_key", "rotary"):
        most = max(most, wanted or 0)
    if wanted is not None:
        if wanted > most:
            raise EncoderError(f"max_tokens={wanted}, but {folder} takes at most {most} tokens")
        return wanted
    said: list[int] = []
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        if (path := folder / name).is_file() and isinstance(limit := _json(path).get(key), int):
            said.append(limit)
    return min([*said[:1], most])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read ({error}); fetch the model again") from error
