"""Any Hugging Face encoder or decoder as a frozen text encoder."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.adapters import copy_adapter
from encoders.base import EncoderError, checked_texts, is_empty
from encoders.settings import POOLINGS, ModelSettings, read_settings
from encoders.weights import MINILM, find_model

if TYPE_CHECKING:
    import torch

    from encoders.int8 import Int8Bert
    from encoders.loading import Loaded
    from encoders.packed import PackedBert

logger = logging.getLogger(__name__)

_LOADING = threading.Lock()
"""Weights that two threads ask for are loaded once."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")

_ADAPTER = "adapter"  # folder within that of a saved engine
_PLACE = {"cls": 0, "last": -1}
_ROUNDING = 3  # of int8: counts the ways in which encoders.int8 has rounded, for the fingerprint
_TOKENISE_AT_ONCE = 4096  # texts; bounds what the tokenizer's own objects take
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}  # padding included; CPU: measured, GPU: not yet


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
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"int8"`` (BERT models on a CPU, see
            :mod:`encoders.int8`), or ``"auto"``: bfloat16 where the GPU or CPU multiplies it in
            hardware, else float32. Half precision keeps about three digits, so ``"auto"`` may
            differ that much between machines.
        adapter: a folder that :func:`encoders.adaptation.adapt` wrote for this model (needs peft).
        prompt: an instruction put before every text that is not empty; by default the one that the
            model's sentence-transformers files name as their default, mostly none.
        prompts: further instructions by node type, put between ``prompt`` and the text by
            :func:`encoders.embed.embed_nodes`, so that an engine uses them for new nodes, too.
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
        prompt: str | None = None,
        prompts: Mapping[str, str] | None = None,
        adapter: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS} or None, got {pooling!r}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        for name, value in (("max_tokens", max_tokens), ("batch_size", batch_size)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, value in {"prompt": prompt, **dict(prompts or {})}.items():
            if value is not None and not isinstance(value, str):
                raise ValueError(f"the prompt of {name!r} must be a string, got {value!r}")
        self.model = str(model)
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.prompt = prompt
        self.prompts = dict(prompts or {})
        self.adapter = None if adapter is None else str(adapter)
        self.progress = progress
        self.num_truncated = 0
        """Texts that lost their end so far, over all calls of :meth:`encode`."""
        self._settings: ModelSettings | None = None
        self._loaded: Loaded | None = None

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
                prompt=self.prompt,
                adapter=None if self.adapter is None else Path(self.adapter).expanduser(),
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
        content = {
            "weights": settings.weights,
            "pooling": settings.pooling,
            "max_tokens": settings.max_tokens,
            "normalize": settings.normalize,
            "dtype": self.dtype,
        }
        if self.dtype == "int8":
            content["rounding"] = _ROUNDING
        if settings.prompt:
            content |= {"prompt": settings.prompt, "pool_prompt": settings.pool_prompt}
        return content

    def describe(self) -> dict[str, Any]:
        """Model, settings and hash of the weights; the weights themselves stay where they are."""
        description = {"kind": "transformer", "model": self.model, **self._content()}
        if self.prompts:
            description["prompts"] = self.prompts
        if self.adapter is not None:
            description["adapter"] = str(Path(self.adapter).expanduser().resolve())
        return description

    def save(self, folder: str | Path) -> None:
        """Write the adapter, if there is one; for the model its description is enough."""
        if self.settings.adapter is not None:
            copy_adapter(self.settings.adapter, Path(folder) / _ADAPTER)

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], folder: str | Path | None = None
    ) -> TransformerEncoder:
        """The encoder that :meth:`describe` told of.

        Args:
            description: what :meth:`describe` returned.
            folder: where :meth:`save` wrote; an adapter there goes before the place described.

        Raises:
            EncoderError: the model found under that name has other weights, or there is none.
        """
        wanted = ("model", "pooling", "max_tokens", "normalize", "dtype")
        if absent := [n for n in (*wanted, "weights") if n not in description]:
            raise EncoderError(f"the description of a transformer lacks {absent}; save it again")
        adapter = description.get("adapter")
        if adapter is not None and folder is not None and (Path(folder) / _ADAPTER).is_dir():
            adapter = Path(folder) / _ADAPTER
        encoder = cls(
            **{name: description[name] for name in wanted},
            prompt=description.get("prompt", ""),
            prompts=description.get("prompts"),
            adapter=adapter,
        )
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
        with _LOADING:
            if self._loaded is None:
                from encoders.loading import load_model

                self.check_prompts(self.prompts)
                self._loaded = load_model(self.settings, self.device, self.dtype)
        return self

    def check_prompts(self, prompts: Mapping[str, str]) -> None:
        """Raise where a prompt by node type leaves no token for a text.

        Raises:
            EncoderError: one does, behind :attr:`prompt`; or there is no tokenizer.
        """
        from encoders.loading import check_prompt, load_tokenizer

        settings, distinct = self.settings, set(prompts.values())
        if any(distinct):
            tokenizer = load_tokenizer(settings.folder)
            for prompt in sorted(distinct):
                before = settings.prompt + prompt
                check_prompt(tokenizer, before, settings.max_tokens, settings.folder)

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
        tokens, truncated = self._tokenise([self.settings.prompt + texts[r] for r in rows])
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

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text before anything is cut, prompt and special ones included.

        Returns:
            int64 ``[len(texts)]``; 0 for an empty text. Those above ``settings.max_tokens`` lose
            their end in :meth:`encode`.

        Raises:
            EncoderError: the model cannot be loaded.
        """
        from encoders.loading import load_tokenizer

        texts = checked_texts(texts)
        tokenizer = load_tokenizer(self.settings.folder)
        counts = np.zeros(len(texts), np.int64)
        for row, text in enumerate(texts):
            if not is_empty(text):
                ids = tokenizer(self.settings.prompt + text, verbose=False)["input_ids"]
                counts[row] = len(ids)
        return counts

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
        from encoders.batches import Batches

        assert self._loaded is not None
        device = self._loaded.device
        batches = Batches(
            lambda which: self._forward([tokens[i] for i in which]),
            np.array([len(one) for one in tokens]),
            self.batch_size,
            _TOKENS_PER_BATCH.get(device.type, _TOKENS_PER_BATCH["cpu"]),
            device,
            self.model,
        )
        return batches.one_by_one() if self._loaded.packed is None else batches.side_by_side()

    def _forward(self, tokens: list[np.ndarray]) -> np.ndarray:
        """The vectors of one batch, float32 ``[len(tokens), dim]``."""
        import torch

        assert self._loaded is not None
        if self._loaded.packed is not None:
            return self._forward_packed(self._loaded.packed, tokens)
        model, device = self._loaded.model, self._loaded.device
        width = max(1, max(len(t) for t in tokens))
        pad = self._loaded.tokenizer.pad_token_id or 0
        ids = np.full((len(tokens), width), pad, np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        with torch.inference_mode():
            attention_mask = torch.from_numpy(mask).to(device)
            input_ids = torch.from_numpy(ids).to(device)
            hidden = model(input_ids=input_ids, attention_mask=attention_mask)[0]
            if self.settings.pooling == "mean":
                attention_mask[:, : self._loaded.prompt_tokens] = 0
            pooled = pool(hidden.float(), attention_mask, self.settings.pooling)
            return self._finished(pooled)

    def _forward_packed(
        self, packed: PackedBert | Int8Bert, tokens: list[np.ndarray]
    ) -> np.ndarray:
        """The same without padding: the texts of one length are pooled together."""
        import torch

        assert self._loaded is not None
        start, pooling = self._loaded.prompt_tokens, self.settings.pooling
        with torch.inference_mode():
            rows = [
                part[:, start:].mean(dim=1) if pooling == "mean" else part[:, _PLACE[pooling]]
                for part in packed(tokens)  # [num_texts, num_tokens, dim] for each length
            ]
            return self._finished(torch.cat(rows))

    def _finished(self, pooled: torch.Tensor) -> np.ndarray:
        """Pooled vectors as they leave: to unit length if wanted, float32 on the CPU."""
        import torch

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


def _bar(total: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="encode", unit=" texts", disable=not show, delay=2, leave=False)
