"""BERT's forward pass over texts laid end to end: no padding, no mask, the same numbers.

Linear layers and norms see one row per token, whatever text it is from; attention runs once for all
texts of one length. On a CPU this saves what padding and masks cost, and it leaves the linear
layers as plain functions of rows, which :mod:`encoders.int8` replaces by faster ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

RowFunction = Callable[[torch.Tensor], torch.Tensor]
"""float32 ``[num_tokens, width in]`` to ``[num_tokens, width out]``; may overwrite its input."""


@dataclass
class PackedLayer:
    """One layer: what makes queries, keys and values; what follows attention; the two of the MLP.

    ``widen`` includes the activation. Attributes may be replaced by faster or watching functions.
    """

    attention_in: RowFunction
    attention_out: RowFunction
    attention_norm: RowFunction
    widen: RowFunction
    narrow: RowFunction
    norm: RowFunction


class PackedBert:
    """A BERT model of transformers, in float32 on a CPU, without its padding.

    Args:
        model: a ``BertModel`` for which :func:`can_be_packed` holds; its weights are shared.
        in_training: call the model's own linear layers, so that those which an adapter wraps learn;
            dropout is then the adapter's alone.
    """

    def __init__(self, model: Any, *, in_training: bool = False) -> None:
        embeddings = model.embeddings
        self.words = embeddings.word_embeddings.weight
        self.places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings(
            torch.zeros(1, dtype=torch.long)
        )
        self.norm = embeddings.LayerNorm
        self.num_heads: int = model.config.num_attention_heads
        make = _wrapped_layer if in_training else _packed_layer
        self.layers = [make(layer) for layer in model.encoder.layer]

    def __call__(self, tokens: list[np.ndarray]) -> list[torch.Tensor]:
        """The last layer's vectors, one tensor for each run of texts of one length.

        Args:
            tokens: ids of each text, longest text first, none empty.

        Returns:
            float32 ``[number of texts, number of tokens, dim]`` for each length, in order.
        """
        runs = runs_of(tokens)
        x = self.through(self.embedded(tokens, runs), runs)
        sizes = [count * length for count, length in runs]
        parts = zip(x.split(sizes), runs, strict=True)
        return [part.view(count, length, -1) for part, (count, length) in parts]

    def embedded(self, tokens: list[np.ndarray], runs: list[tuple[int, int]]) -> torch.Tensor:
        """What the first layer gets, ``[num_tokens, dim]``."""
        ids = torch.from_numpy(np.concatenate(tokens).astype(np.int64))
        places = torch.cat([torch.arange(length).repeat(count) for count, length in runs])
        return self.norm(self.words[ids] + self.places[places])

    def through(
        self, x: torch.Tensor, runs: list[tuple[int, int]], first: int = 0, last: int | None = None
    ) -> torch.Tensor:
        """Rows of tokens through the layers from ``first`` to before ``last``."""
        for layer in self.layers[first:last]:
            attended = _attention(layer.attention_in(x), runs, self.num_heads)
            x = layer.attention_norm(layer.attention_out(attended).add_(x))
            x = layer.norm(layer.narrow(layer.widen(x)).add_(x))
        return x


def can_be_packed(model: Any) -> bool:
    """Whether :class:`PackedBert` computes what this model does."""
    config = model.config
    return (
        type(model).__name__ == "BertModel"
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
        and not getattr(config, "is_decoder", False)
    )


def _packed_layer(layer: Any) -> PackedLayer:
    own, out = layer.attention.self, layer.attention.output
    parts = (own.query, own.key, own.value)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    return PackedLayer(
        attention_in=Linear(weight, bias),
        attention_out=Linear(out.dense.weight, out.dense.bias),
        attention_norm=out.LayerNorm,
        widen=Linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias, gelu=True),
        narrow=Linear(layer.output.dense.weight, layer.output.dense.bias),
        norm=layer.output.LayerNorm,
    )


def _wrapped_layer(layer: Any) -> PackedLayer:
    own, out = layer.attention.self, layer.attention.output
    return PackedLayer(
        attention_in=lambda x: torch.cat([own.query(x), own.key(x), own.value(x)], dim=1),
        attention_out=out.dense,
        attention_norm=out.LayerNorm,
        widen=lambda x: functional.gelu(layer.intermediate.dense(x)),
        narrow=layer.output.dense,
        norm=layer.output.LayerNorm,
    )


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer in float32, with GELU after it if asked."""

    weight: torch.Tensor
    bias: torch.Tensor
    gelu: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows through the layer."""
        y = functional.linear(x, self.weight, self.bias)
        return functional.gelu(y) if self.gelu else y


def _attention(rows: torch.Tensor, runs: list[tuple[int, int]], num_heads: int) -> torch.Tensor:
    """Attention of each text within itself.

    Args:
        rows: ``[num_tokens, 3 * dim]``, query, key and value of each token.
        runs: number of texts and of their tokens, for each length.
        num_heads: of the model.

    Returns:
        ``[num_tokens, dim]``.
    """
    dim = rows.shape[1] // 3
    out = []
    for part, (count, length) in zip(rows.split([c * n for c, n in runs]), runs, strict=True):
        heads = part.view(count, length, 3, num_heads, dim // num_heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        out.append(attended.transpose(1, 2).reshape(count * length, dim))
    return torch.cat(out)


def runs_of(tokens: list[np.ndarray]) -> list[tuple[int, int]]:
    """How many texts in a row have one length, and which; longest first."""
    found, counts = np.unique([len(one) for one in tokens], return_counts=True)
    return [(int(c), int(n)) for n, c in zip(found[::-1], counts[::-1], strict=True)]
