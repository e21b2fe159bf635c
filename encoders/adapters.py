"""What was learnt on top of a model, as a small folder: read, merged in, copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from encoders.base import EncoderError
from encoders.weights import ADAPTER_CARD, ADAPTER_FILES
from kg.errors import how_to_install


def merged(model: Any, adapter: Path) -> Any:
    """The model with an adapter's weights added to its own, so that it encodes as fast as before.

    Args:
        model: of transformers, in float32; changed in place.
        adapter: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        EncoderError: peft is not installed, or the adapter does not fit the model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise EncoderError(
            f"peft is needed to read {adapter} ({error}); {how_to_install('adapt')}"
        ) from error
    try:
        return PeftModel.from_pretrained(
            model, str(adapter), use_safetensors=True, local_files_only=True
        ).merge_and_unload()
    except Exception as error:  # peft and safetensors raise many kinds
        reason = (str(error) or repr(error)).strip()[:400]
        raise EncoderError(f"{adapter} cannot be used: {type(error).__name__}: {reason}") from error


def copy_adapter(adapter: Path, folder: Path) -> None:
    """Copy an adapter's files, its card included, into another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*ADAPTER_FILES, ADAPTER_CARD):
        shutil.copyfile(adapter / name, folder / name)
