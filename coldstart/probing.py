"""How fast this machine does what training does, from a second or two of doing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gnn.data import Adjacency
from gnn.groups import unit_rows
from gnn.heads import Spectrum, half_step
from gnn.raws import gram
from gnn.weighting import learn_weights, one_fold
from gnn.words import pieces_of, words_of

_SIZE = 1024
_ROWS = 400
_SPARSE_ROWS, _SPARSE_ENTRIES = 1000, 20


@dataclass(frozen=True)
class Machine:
    """Rates of this machine, each worked out when it is first asked for; threads as they are."""

    device: torch.device

    @cached_property
    def flops32(self) -> float:
        """Floating-point operations a second of a float32 product."""
        return 2 * _SIZE**3 / self._product(torch.float32)

    @cached_property
    def flops64(self) -> float:
        """The same of a float64 product."""
        return 2 * _SIZE**3 / self._product(torch.float64)

    def _product(self, dtype: torch.dtype) -> float:
        a = torch.rand(_SIZE, _SIZE, dtype=dtype, device=self.device)
        return fastest(3, lambda: float((a @ a)[0, 0]))

    @cached_property
    def inversion(self) -> float:
        """Seconds per n^3 of inverting a positive definite float64 matrix ``[n, n]``."""
        n = _SIZE
        a = torch.rand(n, n, dtype=torch.float64, device=self.device)
        a = a @ a.T + n * torch.eye(n, dtype=torch.float64, device=self.device)
        work = lambda: float(torch.cholesky_inverse(torch.linalg.cholesky(a))[0, 0])  # noqa: E731
        return fastest(2, work) / n**3

    @cached_property
    def sparse_gram(self) -> float:
        """Seconds per entry and row of the inner products of sparse rows."""
        rows = self._sparse_rows()
        return fastest(2, lambda: gram(rows)) / (_SPARSE_ROWS**2 * _SPARSE_ENTRIES)

    @cached_property
    def sparse_product(self) -> float:
        """Seconds per entry and column of sparse rows times a dense table."""
        rows = self._sparse_rows()
        table = torch.rand(rows.width, 256, device=self.device)
        entries = _SPARSE_ROWS * _SPARSE_ENTRIES
        return fastest(3, lambda: (rows.matmul(table), rows.rmatmul(table[:_SPARSE_ROWS]))) / (
            2 * 256 * entries
        )

    def _sparse_rows(self) -> Any:
        rng, n = np.random.default_rng(0), _SPARSE_ROWS * _SPARSE_ENTRIES
        sources = np.repeat(np.arange(_SPARSE_ROWS), _SPARSE_ENTRIES)
        columns = rng.integers(0, 5 * _SPARSE_ROWS, n)
        sizes = (5 * _SPARSE_ROWS, _SPARSE_ROWS, self.device)
        return unit_rows([sources], [columns], [np.ones(n)], *sizes)

    @cached_property
    def sorting(self) -> float:
        """Seconds per link of putting pairs into adjacency and back."""
        rng, n = np.random.default_rng(0), 50_000
        pairs = rng.integers(0, 20_000, (2, n))
        return (
            fastest(2, lambda: Adjacency.from_pairs(pairs[0], pairs[1], 20_000, 20_000).transpose())
            / n
        )

    @cached_property
    def bytes_copied(self) -> float:
        """Bytes a second of copying an array that is larger than any cache."""
        a = torch.rand(2**23, device=self.device)
        return a.nbytes / fastest(3, lambda: a.clone())

    def word_seconds(self, texts: list[str]) -> float:
        """Seconds per text of finding its words and their pieces."""
        if not texts:
            return 0.0
        return fastest(2, lambda: [(words_of(text), pieces_of(text)) for text in texts]) / len(
            texts
        )

    def half_step_seconds(self, degrees: np.ndarray, num_rows: int, others: int, k: int) -> float:
        """Seconds of one half step of ``num_rows`` nodes with degrees like these.

        Args:
            degrees: of some of the nodes, int64.
            num_rows: how many nodes there are.
            others: how many nodes of the other side.
            k: length of an embedding.
        """
        fixed = self._spectrum(k) + others * k**2 * (2 / self.flops64 + 2 / self.flops32)
        degrees = degrees[degrees > 0]
        if not len(degrees):
            return fixed
        rng = np.random.default_rng(0)
        some = rng.choice(degrees, min(_ROWS, len(degrees)), replace=False)
        size = 2000
        pairs = np.repeat(np.arange(len(some)), np.minimum(some, size))
        links = Adjacency.from_pairs(pairs, rng.integers(0, size, len(pairs)), len(some), size)
        other = torch.randn(size, k, device=self.device)
        spectrum = Spectrum(torch.eye(k, device=self.device), torch.ones(k, device=self.device))
        ones = torch.ones(len(some), device=self.device)
        seconds = (
            fastest(2, lambda: half_step(links, other, spectrum, None, 10 * ones, ones))
            - 2 * size * k**2 / self.flops32
        )
        rate = max(seconds, 0.0) / _arithmetic(links.degrees, k).sum()
        return float(fixed + rate * _arithmetic(degrees, k).mean() * num_rows)

    def _spectrum(self, k: int) -> float:
        matrix = torch.randn(2 * k, k, device=self.device)
        return fastest(1, lambda: Spectrum.of(matrix))

    @cached_property
    def cosines(self) -> float:
        """Seconds per value of a cosine."""
        a = torch.rand(512, 512, device=self.device)
        return fastest(3, lambda: a.cos()) / a.numel()

    @cached_property
    def loading(self) -> float:
        """Seconds that the first training of a process spends on loading what torch loads late."""
        start = time.perf_counter()
        self._weight_step(1, 4, 4, 2, rounds=0)
        return time.perf_counter() - start

    def weight_seconds(self, groups: int, nodes: int, contexts: int, k: int) -> float:
        """Seconds of one step on the weights of feature groups."""
        few, many = min(contexts, 500), min(contexts, 3000)
        seconds = self._weight_step(groups, nodes, few, k)
        if many == few:
            return seconds
        each = (self._weight_step(groups, nodes, many, k) - seconds) / (many - few)
        return seconds + max(each, 0.0) * (contexts - few)

    def _weight_step(
        self, groups: int, nodes: int, contexts: int, k: int, rounds: int = 2
    ) -> float:
        grams = 0.01 * torch.rand(groups, nodes, nodes, device=self.device)
        grams += torch.eye(nodes, device=self.device)
        rng = np.random.default_rng(0)
        pairs = rng.integers(0, (nodes, contexts), (10 * contexts, 2)).T
        chosen = Adjacency.from_pairs(pairs[0], pairs[1], nodes, contexts)
        targets = 0.1 * torch.randn(nodes, k, device=self.device)
        folds = one_fold(chosen, 0.1 * torch.randn(contexts, k, device=self.device))
        work = lambda: learn_weights(grams, targets, folds, steps=2, rate=0.3)  # noqa: E731
        return fastest(rounds, work) / 2


def _arithmetic(degrees: np.ndarray, k: int) -> np.ndarray:
    """Operations of one row of a half step, up to a constant: by Woodbury or by a k x k system."""
    d = degrees.astype(np.float64)
    return np.where(d <= k, 2 * d**2 * k + d**3 / 3 + 6 * d * k, 2 * d * k**2 + k**3 / 3) + 10 * k


def fastest(rounds: int, work: Callable[[], Any]) -> float:
    """Seconds of the fastest of some rounds, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
