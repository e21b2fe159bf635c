"""A model and its tokenizer from a folder: safetensors only, no code of the folder's, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.base import EncoderError
from encoders.settings import ModelSettings

if TYPE_CHECKING:
    import torch

    from encoders.int8 import Int8Bert
    from encoders.packed import PackedBert


@dataclass(frozen=True)
class Loaded:
    """A model ready to encode.

    Args:
        model: of transformers, frozen, in ``dtype``.
        tokenizer: a fast one.
        device: where the model is.
        dtype: what it computes in.
        prompt_tokens: how many leading tokens stay out of the mean.
        packed: the model without padding, where it is BERT in float32 or int8 on a CPU.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    prompt_tokens: int = 0
    packed: PackedBert | Int8Bert | None = None


def load_model(settings: ModelSettings, device: str, dtype: str) -> Loaded:
    """Read weights and tokenizer of a folder, with its adapter merged in if it has one.

    Raises:
        EncoderError: files are incomplete, damaged, of another architecture, or torch is absent.
        ValueError: the device is not known.
    """
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise EncoderError(f"torch and transformers are needed to encode ({error})") from error

    where = choose_device(device)
    precision = _precision(dtype, where)
    tokenizer = load_tokenizer(settings.folder)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            model, info = AutoModel.from_pretrained(
                settings.folder, use_safetensors=True, output_loading_info=True, **safe
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError...
        raise EncoderError(_reason(settings.folder, error)) from error
    # Weights that the file lacks were drawn at random. The pooler is not used, any other is fatal.
    missing = sorted(k for k in info["missing_keys"] if "pooler" not in k)
    if missing or info.get("mismatched_keys"):
        raise EncoderError(
            f"{settings.folder}: the weights do not fit the architecture in config.json "
            f"({len(missing)} absent, for example {missing[:2]}); fetch the model again"
        )
    if settings.adapter is not None:
        from encoders.adapters import merged

        model = merged(model.to(torch.float32), settings.adapter)
    model.config.use_cache = False  # keys and values of a decoder, which nothing here reads again
    model = model.to(device=where, dtype=precision).eval().requires_grad_(False)
    packed = None
    if where.type == "cpu" and precision == torch.float32:
        packed = _packed(model, tokenizer, settings, in_int8=dtype == "int8")
    prompt_tokens = _prompt_tokens(tokenizer, settings)
    return Loaded(model, tokenizer, where, precision, prompt_tokens, packed)


def _packed(
    model: Any, tokenizer: Any, settings: ModelSettings, *, in_int8: bool
) -> PackedBert | Int8Bert | None:
    """The model without padding, or nothing where it is of another kind."""
    import torch

    from encoders.packed import PackedBert, can_be_packed

    if not can_be_packed(model):
        if in_int8:
            raise EncoderError(
                f"{settings.folder} is a {type(model).__name__}; dtype='int8' is for BERT models "
                "with GELU only, use 'float32' or 'auto'"
            )
        return None
    if not in_int8:
        return PackedBert(model)
    from encoders.int8 import CALIBRATION, Int8Bert, quantise

    tokens = tokenizer(list(CALIBRATION), truncation=True, max_length=settings.max_tokens)
    texts = sorted((np.array(one) for one in tokens["input_ids"]), key=len, reverse=True)
    with torch.inference_mode():
        return Int8Bert(quantise(PackedBert(model), texts), PackedBert(model))


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        EncoderError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise many kinds
        raise EncoderError(_reason(folder, error)) from error
    if not tokenizer.is_fast:
        raise EncoderError(f"{folder} has no tokenizer.json; save one with a fast tokenizer")
    # Padding is ours and on the right, also for decoders: there no token sees a later one, so the
    # last token of a text is the same as with padding on the left, and positions start at 0.
    tokenizer.padding_side = "right"
    return tokenizer


def _reason(folder: Path, error: Exception) -> str:
    reason = (str(error) or repr(error)).strip()[:400]
    return f"{folder} cannot be loaded: {type(error).__name__}: {reason}"


def check_prompt(tokenizer: Any, prompt: str, max_tokens: int, who: object) -> list[int]:
    """The tokens of a prompt, special ones included.

    Args:
        tokenizer: of the model.
        prompt: what is put before every text.
        max_tokens: of prompt and text together.
        who: takes no more, for the message.

    Raises:
        EncoderError: the prompt leaves no token for a text.
    """
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    if prompt and len(ids) >= max_tokens:
        raise EncoderError(
            f"the prompt {prompt[:60]!r} has {len(ids)} tokens of the {max_tokens} that {who} "
            "takes, which leaves none for a text; give a shorter prompt or more max_tokens"
        )
    return ids


def _prompt_tokens(tokenizer: Any, settings: ModelSettings) -> int:
    ids = check_prompt(tokenizer, settings.prompt, settings.max_tokens, settings.folder)
    if settings.pool_prompt or not settings.prompt:
        return 0
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)


def choose_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is a GPU where there is one.

    Raises:
        ValueError: the name is not known.
        EncoderError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not known; use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"device {name!r}: no GPU that torch can use; use device='auto'")
    return device


def _precision(dtype: str, device: torch.device) -> torch.dtype:
    import torch

    if dtype == "int8":  # quantised from float32
        if device.type != "cpu":
            raise EncoderError(f"dtype='int8' is for CPUs, got device {str(device)!r}; use 'auto'")
        return torch.float32
    if dtype != "auto":
        return getattr(torch, dtype)
    return half_precision(device) or torch.float32


def half_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies it in hardware, else nothing."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    # Without these instructions bfloat16 is emulated: slower than float32, and less exact.
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if device.type == "cpu" and getattr(torch.cpu, name, bool)():
            return torch.bfloat16
    return None


class quiet_transformers:
    """Without the loading bar and the report of unused weights, which is ours to judge."""

    def __enter__(self) -> None:
        from transformers.utils import logging as theirs

        self.logging, self.level = theirs, theirs.get_verbosity()
        self.bar = theirs.is_progress_bar_enabled()
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.level)
        if self.bar:
            self.logging.enable_progress_bar()
