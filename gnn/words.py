"""Words of a node's texts as features, beside the vector that a language model makes of them.

A sentence encoder blurs the rare words ("krautrock", "heist") that tell tastes apart; ridge finds
them. Any node, seen or not, has them at the cost of reading its text. Pieces of words tell what
words have in common that are not the same ("rocker", "punk-rock").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix

from gnn.data import NodeInputs
from gnn.groups import SparseRows, unit_rows

MAX_WORDS = 50_000
"""The vocabulary keeps so many words, those in most texts."""

PIECE = 4
"""Characters of a piece of a word."""

_TOKEN = re.compile(r"\w\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts that are written without spaces: Thai, Lao, Burmese, Japanese, Chinese."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, two characters or more, in order.

    Where words are not set apart by spaces, every two neighbouring characters are a word.
    """
    tokens, out = _TOKEN.findall(text.lower()), []
    if text.isascii():
        return tokens
    for token in tokens:
        if _UNSPACED.search(token):
            out += [a + b for a, b in pairwise(token)]
        else:
            out.append(token)
    return out


def pieces_of(text: str) -> list[str]:
    """The pieces of all words of a text, in order; see :func:`pieces_of_word`."""
    return [piece for word in words_of(text) for piece in pieces_of_word(word)]


def pieces_of_word(word: str) -> list[str]:
    """All :data:`PIECE` characters next to each other in <word>, which is one itself if shorter.

    Source: Bojanowski et al. (2017), Enriching word vectors with subword information, section 3.2.
    """
    marked = f"<{word}>"
    return [marked[at : at + PIECE] for at in range(max(1, len(marked) - PIECE + 1))]


@dataclass(frozen=True, eq=False)
class Terms:
    """What a node's texts consist of, rare terms weighing more, to unit length.

    Args:
        name: of the group.
        vocabulary: known terms in column order.
        idf: float32 ``[num_terms]``, 1 + log((n + 1) / (document frequency + 1)).

    A term that a text has t times counts 1 + log t. Source: Salton and Buckley (1988),
    Term-weighting approaches in automatic text retrieval, table 1.
    """

    name: str
    vocabulary: tuple[str, ...]
    idf: np.ndarray
    terms_of: ClassVar[Callable[[str], list[str]]]

    @classmethod
    def fit(cls, name: str, inputs: NodeInputs, warm: np.ndarray) -> Self | None:
        """The group with a column per term that at least two warm nodes have; ``None``: no term."""
        documents: Counter[str] = Counter()
        for text in _wording(inputs, warm):
            documents.update(set(cls.terms_of(text)))
        common = sorted(documents.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_WORDS]
        kept = sorted(term for term, count in common if count >= 2)
        if not kept:
            return None
        frequency = np.array([documents[term] for term in kept])
        return cls(
            name, tuple(kept), (1 + np.log((len(warm) + 1) / (frequency + 1))).astype(np.float32)
        )

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> SparseRows:
        """Sparse rows of unit length, ``[n, num_terms]``; empty for a node without known terms."""
        found = [self._counts(text) for text in _wording(inputs, rows)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        columns, values = self._arrays(found, int(lengths.sum()))
        sources = np.repeat(np.arange(len(rows)), lengths)
        return unit_rows([sources], [columns], [values], len(self.idf), len(rows), device)

    def weighted(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the known terms of a text, ascending, and their weights, float32."""
        found = self._counts(text)
        return self._arrays([found], len(found))

    def _counts(self, text: str) -> dict[int, int]:
        """How often a text has each known term, by column, ascending."""
        places, counts = self._places, {}
        for term in self.terms_of(text):
            if (at := places.get(term)) is not None:
                counts[at] = counts.get(at, 0) + 1
        return dict(sorted(counts.items()))

    def _arrays(self, found: list[dict[int, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
        columns = np.fromiter(chain.from_iterable(found), np.int64, size)
        times = np.fromiter(chain.from_iterable(f.values() for f in found), np.float32, size)
        return columns, self.idf[columns] * (1 + np.log(times))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: at for at, term in enumerate(self.vocabulary)}


@dataclass(frozen=True, eq=False)
class Words(Terms):
    """The words of a node's texts."""

    kind: ClassVar[str] = "words"
    terms_of: ClassVar[Callable[[str], list[str]]] = staticmethod(words_of)


@dataclass(frozen=True, eq=False)
class Pieces(Terms):
    """The pieces of the words of a node's texts."""

    kind: ClassVar[str] = "pieces"
    terms_of: ClassVar[Callable[[str], list[str]]] = staticmethod(pieces_of)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> SparseRows:
        """As :meth:`Terms.raw`; every distinct word is cut into its pieces only once."""
        number: dict[str, int] = {}
        texts = [words_of(text) for text in _wording(inputs, rows)]
        words = [[number.setdefault(word, len(number)) for word in text] for text in texts]
        places = self._places
        pieces = [
            [places[piece] for piece in pieces_of_word(word) if piece in places] for word in number
        ]
        counts = csr_matrix(_counts_of(words, len(number)) @ _counts_of(pieces, len(self.idf)))
        counts.sort_indices()
        sources = np.repeat(np.arange(len(rows)), np.diff(counts.indptr))
        columns = counts.indices.astype(np.int64)
        values = self.idf[columns] * (1 + np.log(counts.data))
        return unit_rows([sources], [columns], [values], len(self.idf), len(rows), device)


def _counts_of(lists: list[list[int]], width: int) -> csr_matrix:
    """How often each list has each number, float32 ``[len(lists), width]``."""
    indptr = np.cumsum([0, *map(len, lists)])
    columns = np.fromiter(chain.from_iterable(lists), np.int64, indptr[-1])
    counts = csr_matrix((np.ones(len(columns), np.float32), columns, indptr), (len(lists), width))
    counts.sum_duplicates()
    return counts


def _wording(inputs: NodeInputs, rows: np.ndarray) -> list[str]:
    return [""] * len(rows) if inputs.wording is None else inputs.wording(rows)
