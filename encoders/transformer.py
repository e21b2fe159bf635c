"""Any Hugging Face encoder as a frozen text encoder: mean, first-token or last-token pooling."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.base import EncoderError, checked_texts, is_empty
from encoders.weights import MINILM, find_model, weights_hash

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

POOLINGS = ("mean", "cls", "last")
DTYPES = ("auto", "float32", "bfloat16", "float16")

_TOKENISE_AT_ONCE = 4096  # texts; bounds what the tokenizer's own objects take
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}  # padding included; CPU: measured, GPU: not yet
_POSITION_OFFSET = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}


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
    """

    folder: Path
    weights: str
    dim: int
    pooling: str
    max_tokens: int
    normalize: bool


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any
    device: torch.device
    autocast: torch.dtype | None  # None: everything in float32


class TransformerEncoder:
    """A frozen transformer from a folder, the Hugging Face cache, a package or the hub.

    Nothing is loaded until the first :meth:`encode` (or :meth:`load`); :attr:`dim` and
    :attr:`fingerprint` read the model's files without torch. Code in a model's repository is never
    run, and only safetensors weights are read.

    Args:
        model: a folder or a name on the hub; see :func:`encoders.weights.find_model`.
        pooling: ``"mean"``, ``"cls"`` (first token) or ``"last"``; by default what the model's
            sentence-transformers files say, else mean, and last for a decoder.
        max_tokens: longest text in tokens, special ones included; the rest is cut off, counted in
            :attr:`num_truncated` and logged. By default what the model's files say (MiniLM: 256).
        normalize: whether vectors are brought to unit length; by default what the model says.
        batch_size: most texts in a batch. Batches are made of texts of like length and are smaller
            where texts are long or memory is short.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the GPU
            or CPU multiplies it in hardware, else float32. Half precision keeps about three digits,
            so ``"auto"`` may differ that much between machines.
        progress: show a bar with texts per second.
    """

    def __init__(
        self,
        model: str | Path = MINILM,
        *,
        pooling: str | None = None,
        max_tokens: int | None = None,
        normalize: bool | None = None,
        batch_size: int = 256,
        device: str = "auto",
        dtype: str = "auto",
        progress: bool = False,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS} or None, got {pooling!r}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        for name, value in (("max_tokens", max_tokens), ("batch_size", batch_size)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.model = str(model)
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.progress = progress
        self.num_truncated = 0
        """Texts that lost their end so far, over all calls of :meth:`encode`."""
        self._settings: ModelSettings | None = None
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return f"TransformerEncoder({self.model!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # a copy loads the weights itself

    @property
    def settings(self) -> ModelSettings:
        """Pooling, limits and hash of the weights, read from the model's files.

        Raises:
            EncoderError: the model is not found, incomplete, or of a kind that is not supported.
        """
        if self._settings is None:
            self._settings = read_settings(
                find_model(self.model),
                pooling=self.pooling,
                max_tokens=self.max_tokens,
                normalize=self.normalize,
            )
        return self._settings

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self.settings.dim

    @property
    def fingerprint(self) -> str:
        """Identifies weights and every setting that changes a vector; not device or batch size."""
        content = json.dumps(self._content(), sort_keys=True).encode()
        return f"transformer-{hashlib.sha256(content).hexdigest()[:32]}"

    def _content(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "weights": settings.weights,
            "pooling": settings.pooling,
            "max_tokens": settings.max_tokens,
            "normalize": settings.normalize,
            "dtype": self.dtype,
        }

    def describe(self) -> dict[str, Any]:
        """Model, settings and hash of the weights; the weights themselves stay where they are."""
        return {"kind": "transformer", "model": self.model, **self._content()}

    def save(self, folder: str | Path) -> None:
        """Nothing to write: :meth:`describe` holds all that is needed."""

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TransformerEncoder:
        """The encoder that :meth:`describe` told of.

        Raises:
            EncoderError: the model found under that name has other weights, or there is none.
        """
        wanted = ("model", "pooling", "max_tokens", "normalize", "dtype")
        if absent := [n for n in (*wanted, "weights") if n not in description]:
            raise EncoderError(f"the description of a transformer lacks {absent}; save it again")
        encoder = cls(**{name: description[name] for name in wanted})
        if (got := encoder.settings.weights) != description["weights"]:
            raise EncoderError(
                f"model {encoder.model!r} in {encoder.settings.folder} is not the one described: "
                f"its weights hash to {got[:16]}..., expected {description['weights'][:16]}...; "
                "bring back the model of that time, or fit again with this one"
            )
        return encoder

    def load(self) -> TransformerEncoder:
        """Load weights and tokenizer now; returns this encoder.

        Raises:
            EncoderError: the files are incomplete, damaged or of an unsupported architecture.
        """
        if self._loaded is None:
            self._loaded = _load(self.settings, self.device, self.dtype)
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """One vector per text, float32 ``[len(texts), dim]``; zero for an empty text.

        Raises:
            EncoderError: the model cannot be loaded.
            MemoryError: not even a single text fits into memory.
        """
        texts = checked_texts(texts)
        out = np.zeros((len(texts), self.dim), np.float32)
        rows = np.array([r for r, text in enumerate(texts) if not is_empty(text)], np.int64)
        if not len(rows):
            return out
        self.load()
        tokens, truncated = self._tokenise([texts[r] for r in rows])
        if truncated:
            self.num_truncated += truncated
            logger.info(
                "%s: %d of %d texts are longer than %d tokens and lost their end",
                self.model,
                truncated,
                len(rows),
                self.settings.max_tokens,
            )
        with _bar(len(rows), self.progress) as bar:
            for which, vectors in self._batches(tokens):
                out[rows[which]] = vectors
                bar.update(len(which))
        return out

    def _tokenise(self, texts: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, int32, and how many texts were cut."""
        assert self._loaded is not None
        tokenizer, limit = self._loaded.tokenizer, self.settings.max_tokens
        ids: list[np.ndarray] = []
        truncated = 0
        for start in range(0, len(texts), _TOKENISE_AT_ONCE):
            encoded = tokenizer(
                list(texts[start : start + _TOKENISE_AT_ONCE]),
                truncation=True,
                max_length=limit,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            ids += [np.array(one, np.int32) for one in encoded["input_ids"]]
            truncated += sum(bool(one.overflowing) for one in encoded.encodings)
        return ids, truncated

    def _batches(self, tokens: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions and vectors, batch by batch, longest texts first; smaller when memory ends."""
        assert self._loaded is not None
        lengths = np.array([len(t) for t in tokens])
        order = np.argsort(-lengths, kind="stable")
        budget = _TOKENS_PER_BATCH.get(self._loaded.device.type, _TOKENS_PER_BATCH["cpu"])
        most, start = self.batch_size, 0
        while start < len(order):
            longest = max(int(lengths[order[start]]), 1)
            size = max(1, min(most, budget // longest))
            which = order[start : start + size]
            try:
                vectors = self._forward([tokens[i] for i in which])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(which) == 1:
                    raise MemoryError(
                        f"{self.model}: one text of {longest} tokens does not fit into the memory "
                        f"of {self._loaded.device}; lower max_tokens or use another device"
                    ) from error
                most, budget = len(which) // 2, budget // 2
                _free(self._loaded.device)
                logger.info("%s: out of memory, batches are now of %d texts", self.model, most)
                continue
            yield which, vectors
            start += len(which)

    def _forward(self, tokens: list[np.ndarray]) -> np.ndarray:
        """The vectors of one batch, float32 ``[len(tokens), dim]``."""
        import torch

        assert self._loaded is not None
        model, device = self._loaded.model, self._loaded.device
        width = max(1, max(len(t) for t in tokens))
        pad = self._loaded.tokenizer.pad_token_id or 0
        ids = np.full((len(tokens), width), pad, np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        autocast = torch.autocast(
            device.type, self._loaded.autocast, enabled=self._loaded.autocast is not None
        )
        with torch.inference_mode(), autocast:
            attention_mask = torch.from_numpy(mask).to(device)
            input_ids = torch.from_numpy(ids).to(device)
            hidden = model(input_ids=input_ids, attention_mask=attention_mask)[0]
            pooled = pool(hidden.float(), attention_mask, self.settings.pooling)
            if self.settings.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            return pooled.float().cpu().numpy()


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per text from its tokens' vectors.

    Args:
        hidden: ``[num_texts, num_tokens, dim]``, padded on the right.
        mask: ``[num_texts, num_tokens]``, 1 for a token and 0 for padding.
        pooling: ``"mean"``, ``"cls"`` or ``"last"``.

    Returns:
        ``[num_texts, dim]``.
    """
    import torch

    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1).clamp(min=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # [num_texts, num_tokens, 1]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def read_settings(
    folder: Path,
    *,
    pooling: str | None = None,
    max_tokens: int | None = None,
    normalize: bool | None = None,
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
        weights=weights_hash(folder),
        dim=dim,
        pooling=pooling or _pooling(folder, config),
        max_tokens=_max_tokens(folder, config, max_tokens),
        normalize="Normalize" in modules if normalize is None else bool(normalize),
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules = _json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise EncoderError(f"{path} is not a list of modules; fetch the model again")
    return modules


def _pooling(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        architectures = config.get("architectures") or [""]
        decoder = config.get("is_decoder") or str(architectures[0]).endswith("ForCausalLM")
        return "last" if decoder else "mean"
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


def _load(settings: ModelSettings, device: str, dtype: str) -> _Loaded:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise EncoderError(f"torch and transformers are needed to encode ({error})") from error

    where = _device(device)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.folder, use_fast=True, **safe)
        with _quiet_transformers():
            model, info = AutoModel.from_pretrained(
                settings.folder, use_safetensors=True, output_loading_info=True, **safe
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError...
        reason = (str(error) or repr(error)).strip()[:400]
        raise EncoderError(
            f"{settings.folder} cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
    # Weights that the file lacks were drawn at random. The pooler is not used, any other is fatal.
    missing = sorted(k for k in info["missing_keys"] if "pooler" not in k)
    if missing or info.get("mismatched_keys"):
        raise EncoderError(
            f"{settings.folder}: the weights do not fit the architecture in config.json "
            f"({len(missing)} absent, for example {missing[:2]}); fetch the model again"
        )
    if not tokenizer.is_fast:
        raise EncoderError(
            f"{settings.folder} has no tokenizer.json; save one with a fast tokenizer"
        )
    tokenizer.padding_side = "right"
    model = model.to(device=where, dtype=torch.float32).eval().requires_grad_(False)
    return _Loaded(model, tokenizer, where, _autocast(dtype, where))


def _device(name: str) -> torch.device:
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


def _autocast(dtype: str, device: torch.device) -> torch.dtype | None:
    import torch

    if dtype != "auto":
        chosen = getattr(torch, dtype)
        return None if chosen == torch.float32 else chosen
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    # Without these instructions bfloat16 is emulated: slower than float32, and less exact.
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if device.type == "cpu" and getattr(torch.cpu, name, bool)():
            return torch.bfloat16
    return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


class _quiet_transformers:
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


def _bar(total: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="encode", unit=" texts", disable=not show, delay=2, leave=False)
