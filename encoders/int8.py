"""Linear layers in 8-bit integers, for BERT models on x86 CPUs: faster, and nearly as exact.

Weights are rounded per output, activations on a grid per input feature that is fixed once, from
:data:`CALIBRATION`; so a text's vector does not depend on the texts beside it. A feature with a
wide range gets a coarser grid and its weights a finer one (``alpha`` says how far), and each weight
is rounded so as to make up for those before it. The MLP's second layer is harder: a few features of
its input are 20 times as wide as the rest. Those stay in float32, and the grid of the others is
fitted to each token. What rounded weights add on average goes into the bias. Texts of a few tokens,
over which errors do not average out, stay in float32 altogether.

Processors without VNNI add two products in 16 bits, which overflows for large pairs; weights are
scaled so that no pair can, and :func:`quantise` checks that none does. Vectors are then the same
with and without VNNI.

Source: Xiao et al. (2023), SmoothQuant, eq. (4), for the grids; Dettmers et al. (2022), LLM.int8(),
section 3.2, for the wide features in float32; Frantar et al. (2023), GPTQ, eq. (2) and (3), for the
weights, here about the mean of the inputs and with pairs bounded; Nagel et al. (2019), Data-free
quantization, section 4.2, for the bias.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from encoders.base import EncoderError
from encoders.packed import Linear, PackedBert

CALIBRATION = (
    "A retired detective returns to the harbour town where she grew up, to find out who killed her "
    "brother. Thriller, drama. Directed by Anna Berg. Cast: Paul Weston, Mei Lin, Omar Haddad.",
    "Blue Horizon (1987). Genres: Comedy, Romance. Two rivals run the same hotel for one summer.",
    "The quartet plays slow, melancholic post-rock with strings and field recordings; listeners "
    "who enjoy ambient music and modern classical composers will feel at home with their albums.",
    "Electronic, Synthpop, Ambient",
    "Jazz",
    "1995",
    "black metal, norwegian, true kvlt",
    "What a wonderful evening! We laughed, we cried, and we would certainly come again.",
    "Stainless steel water bottle, 750 ml, keeps drinks cold for 24 hours. Dishwasher safe.",
    "How to bake sourdough bread at home: flour, water, salt, and a lot of patience.",
    "Introduction to linear algebra: vectors, matrices, eigenvalues, applications in statistics.",
    "User 42, age 24, technician, likes science fiction and war films from the 1970s.",
    "流浪地球：太阳即将毁灭，人类带着地球离开太阳系。科幻，冒险。",  # noqa: RUF001
    "Ein Kommissar ermittelt in Hamburg; die Spur führt zurück in die Nachkriegszeit.",
    "Una familia de músicos viaja por el país en una vieja furgoneta. Música, comedia.",
    "http://example.org/resource/The_Long_Road_(film)",
    "Sci-fi & fantasy // 3.5 stars (n=1,204) -- winner: best visual effects, best sound",
    "the",
    "Wireless noise-cancelling headphones with 30-hour battery, Bluetooth 5.3 and USB-C charging.",
    "In this paper we study the cold-start problem of recommender systems and propose a graph "
    "neural network that embeds users and items without any interactions. Experiments show gains.",
    "John Smith, Maria García, Li Wei, Fatima Al-Sayed, Ivan Petrov, Aiko Tanaka, Chen Zhang, Ana "
    "Souza, Tom Brown, Lars Nielsen",
    "Museum of Modern Art, New York, 11 West 53rd Street: painting, sculpture, photography.",
    "He is a farmer. She is a pilot. They have never met. Tonight the storm brings them together "
    "in an old lighthouse, and neither of them tells the truth about why they came. A slow, quiet "
    "film about guilt, chance and the sea, shot in black and white on the coast of Galicia over "
    "two winters, with non-professional actors and a score for solo cello.",
)
"""What the grids of activations are fitted to: short and long, prose, lists, names, languages."""

# What follows attention stays in float32: a fourteenth of the work, and rare texts were clipped.
_ALPHA = {"attention_in": 0.65, "widen": 0.7}
_MARGIN = 1.2  # how much wider than on CALIBRATION a feature may get before it is clipped
_NUM_WIDE = 4  # features of the MLP's inner layer that stay in float32
_LEVELS = 127
_GELU_LEAST = -0.17005  # just below the least value of GELU
_DAMPING = 0.3  # added to the variances of inputs, in parts of their mean; few tokens tell of them
_BLOCK = 64  # weights of an output that make up for each other before the rest hears of it
_TRIED = (0.75, 0.85, 0.92, 1.0)  # parts of the full range tried as a weight's grid
_EXACT_TOKENS = 6  # texts of up to so many stay in float32: a hundredth of a catalogue's tokens
_LINEAR = torch.ops.onednn

with warnings.catch_warnings():  # torch warns once a process that this may move to another package
    warnings.simplefilter("ignore")
    torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)


@dataclass(frozen=True)
class Int8Bert:
    """A model in 8 bits, and in float32 for texts of a few tokens.

    Args:
        rounded: see :func:`quantise`.
        exact: the same model in float32.
    """

    rounded: PackedBert
    exact: PackedBert

    def __call__(self, tokens: list[np.ndarray]) -> list[torch.Tensor]:
        """As :class:`PackedBert`."""
        num_long = sum(len(text) > _EXACT_TOKENS for text in tokens)
        parts = (self.rounded, tokens[:num_long]), (self.exact, tokens[num_long:])
        return [run for model, texts in parts if texts for run in model(texts)]


def quantise(packed: PackedBert, calibration: Sequence[np.ndarray]) -> PackedBert:
    """Replace a model's linear layers by 8-bit ones, in place.

    Args:
        packed: the model in float32.
        calibration: token ids of :data:`CALIBRATION`, longest first.

    Raises:
        EncoderError: this processor or build of torch cannot multiply 8-bit integers exactly.
    """
    _check_processor()
    names = (*_ALPHA, "narrow")
    watched = [{name: _Watch(getattr(layer, name)) for name in names} for layer in packed.layers]
    for layer, watches in zip(packed.layers, watched, strict=True):
        vars(layer).update(watches)
    packed(list(calibration))
    for layer, watches in zip(packed.layers, watched, strict=True):
        for name, alpha in _ALPHA.items():
            setattr(layer, name, FixedGrid(watches[name], alpha))
        layer.narrow = RowGrid(watches["narrow"])
    return packed


class _Watch:
    """A linear layer that keeps its inputs, ``[num_tokens, width in]``."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear
        self.rows = linear.weight[:0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.rows = torch.cat([self.rows, x])
        return self.linear(x)

    def limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest value of each feature."""
        return self.rows.amin(dim=0), self.rows.amax(dim=0)


class FixedGrid:
    """A linear layer whose inputs are rounded on one grid per feature, the same for every token.

    Args:
        watch: the layer and inputs of it.
        alpha: 0 gives every feature the grid that suits the weights best, 1 the one that suits the
            activations best.
    """

    def __init__(self, watch: _Watch, alpha: float) -> None:
        weight, bias = watch.linear.weight, watch.linear.bias
        least, most = watch.limits()
        middle = (most + least) / 2
        half = ((most - least) / 2 * _MARGIN).clamp(min=1e-4)
        ease = half**alpha / weight.abs().amax(dim=0).clamp(min=1e-4) ** (1 - alpha)
        step = ease * (half / ease).max() / _LEVELS  # of each feature's grid
        self.scale, self.offset = 1 / step, -middle / step
        weight, rows = weight * step, (watch.rows - middle) / step
        mean = rows.mean(dim=0)
        _, scales = _rounded(weight)
        whole = _making_up(weight, scales, rows - mean)
        self.weight = _Packed(whole, scales)
        lost = (weight - whole * scales[:, None]) @ mean
        self.bias = bias + weight @ (middle / step) + lost
        self.after = "gelu" if watch.linear.gelu else "none"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows through the layer."""
        rows = _bytes(torch.addcmul(self.offset, x, self.scale), 128)
        return self.weight(rows, 128, self.bias, self.after)


class RowGrid:
    """The layer after GELU: inputs are rounded on a grid per token, the widest features not at all.

    Args:
        watch: the layer and inputs of it.
    """

    def __init__(self, watch: _Watch) -> None:
        weight = watch.linear.weight
        least, most = watch.limits()
        self.wide = (most - least).argsort(descending=True)[:_NUM_WIDE]
        self.wide_weight = weight[:, self.wide].T.contiguous()
        weight = weight.index_fill(1, self.wide, 0.0)
        whole, scales = _rounded(weight)
        self.weight = _Packed(whole, scales)
        lost = (weight - whole * scales[:, None]) @ watch.rows.mean(dim=0)
        self.shift = watch.linear.bias + _GELU_LEAST * self.weight.sums + lost

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows through the layer; overwrites ``x``."""
        extra = torch.addmm(self.shift, x[:, self.wide], self.wide_weight)
        x.index_fill_(1, self.wide, 0.0)
        step = (x.amax(dim=1, keepdim=True) - _GELU_LEAST).div_(255)  # [num_tokens, 1]
        rows = x.sub_(_GELU_LEAST).mul_(1 / step)
        return self.weight(_bytes(rows, 0), 0, None, "none").mul_(step).add_(extra)


class _Packed:
    """A weight matrix in 8 bits, laid out for the processor.

    Args:
        whole: whole numbers, float32 ``[width out, width in]``; see :func:`_rounded`.
        scales: float32 ``[width out]``, what they stand for.
    """

    def __init__(self, whole: torch.Tensor, scales: torch.Tensor) -> None:
        self.scales = scales
        self.sums = (whole.sum(dim=1) * self.scales).contiguous()
        self.zeros = torch.zeros(len(whole), dtype=torch.int64)
        self.packed = _LINEAR.qlinear_prepack(whole.to(torch.int8), None)

    def __call__(
        self, rows: torch.Tensor, zero: int, bias: torch.Tensor | None, after: str
    ) -> torch.Tensor:
        """uint8 rows, of which ``zero`` stands for 0, times the weights; then bias and GELU."""
        return _LINEAR.qlinear_pointwise(
            rows, 1.0, zero, self.packed, self.scales, self.zeros, bias,
            1.0, 0, torch.float32, after, [], "none",
        )  # fmt: skip


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers and a scale per row that come nearest to the weights.

    Neighbours' magnitudes add up to at most 128, so that 255 times both stays below 2^15.
    """
    size = weight.abs()
    pairs = size[:, 0::2] + functional.pad(size[:, 1::2], (0, size.shape[1] % 2))
    full = pairs.amax(dim=1).clamp(min=1e-12) / _LEVELS  # the scale at which nothing is clipped
    best, whole, scales = torch.full_like(full, torch.inf), torch.zeros_like(weight), full
    for part in _TRIED:
        tried = (weight / (full * part)[:, None]).round_()
        tried = _with_small_pairs(tried)
        error = (tried * (full * part)[:, None] - weight).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        whole = torch.where(better[:, None], tried, whole)
        scales = torch.where(better, full * part, scales)
    return whole, scales.contiguous()


def _making_up(weight: torch.Tensor, scales: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Whole numbers that, one after the other, make up for what rounding those before has changed.

    Args:
        weight: float32 ``[width out, width in]``.
        scales: float32 ``[width out]``, what a whole number stands for.
        rows: float32 ``[num_tokens, width in]``, inputs less their mean.

    Returns:
        float32 as ``weight``; neighbours' magnitudes add up to at most 128.
    """
    spread = (rows.T @ rows).double() / max(len(rows), 1)
    spread.diagonal().add_(_DAMPING * spread.diagonal().mean() + 1e-9)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(spread))
    passed_on = torch.linalg.cholesky(inverse, upper=True).float()  # row i: to those after i
    passed_on = passed_on / passed_on.diagonal()[:, None]
    wanted = (weight / scales[:, None]).T.contiguous()  # [width in, width out]
    whole = torch.zeros_like(wanted)
    for start in range(0, len(wanted), _BLOCK):
        end = min(start + _BLOCK, len(wanted))
        for i in range(start, end):
            room = 128 - whole[i - 1].abs() if i % 2 else torch.full_like(scales, _LEVELS)
            room = room.clamp(max=_LEVELS)
            whole[i] = torch.clamp(wanted[i].round(), -room, room)
            wanted[i] -= whole[i]  # from here on what is left over
            wanted[i + 1 : end] -= passed_on[i, i + 1 : end, None] * wanted[i]
        wanted[end:] -= passed_on[start:end, end:].T @ wanted[start:end]
    return whole.T.contiguous()


def _with_small_pairs(whole: torch.Tensor) -> torch.Tensor:
    """Neighbours whose magnitudes add up to more than 128 give up the surplus, the larger first."""
    for _ in range(2):
        size = whole.abs().clamp(max=_LEVELS)
        if size.shape[1] % 2:
            size = functional.pad(size, (0, 1))
        surplus = (size[:, 0::2] + size[:, 1::2] - 128).clamp(min=0)
        first = size[:, 0::2] >= size[:, 1::2]
        size[:, 0::2] -= torch.where(first, surplus, 0)
        size[:, 1::2] -= torch.where(first, 0, surplus)
        whole = whole.sign() * size.clamp(min=0)[:, : whole.shape[1]]
    return whole


def _bytes(rows: torch.Tensor, zero: int) -> torch.Tensor:
    """Rows rounded and clipped to whole numbers from 0 to 255 after adding ``zero``, uint8."""
    quantised = torch.quantize_per_tensor(rows, 1.0, zero, torch.quint8)
    plain = torch.empty(0, dtype=torch.uint8)
    return plain.set_(quantised.untyped_storage(), 0, rows.shape, rows.stride())


def _check_processor() -> None:
    """Raise unless the largest products that can occur come out exactly."""
    weight = torch.full((64, 64), 64.0)
    weight[1::2] *= -1
    rows = torch.full((4, 64), 255.0)
    try:
        packed = _Packed(weight, torch.ones(len(weight)))
        got = packed(_bytes(rows, 0), 0, None, "none")
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EncoderError(
            f"dtype='int8' needs torch with oneDNN on an x86 processor ({reason}); use 'float32'"
        ) from error
    if not torch.allclose(got, rows @ weight.T, rtol=1e-5):
        raise EncoderError(
            "dtype='int8': this processor's 8-bit products overflow; use dtype='float32'"
        )
