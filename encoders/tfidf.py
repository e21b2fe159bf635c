"""Texts to vectors without a pretrained model: TF-IDF and a truncated SVD, fitted, then frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encoders.base import checked_texts
from kg.errors import AlignmentError, SavedFileError
from kg.files import write_atomically

_JSON, _TENSORS = "tfidf.json", "tfidf.safetensors"
_VERSION = 1
_ENOUGH = 100  # distinct texts, from which on a term that only one of them has is left out

# Chinese and Japanese are written without spaces: each sign is a term, and pairs of signs are, too.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = rf"[{_CJK}]|[^\W{_CJK}]{{2,}}"


@dataclass(frozen=True, eq=False)
class TfidfEncoder:
    """A fitted TF-IDF vocabulary and the directions that its SVD found; see :meth:`fit`.

    Term frequencies count by their logarithm; vectors have unit length, or are zero where a text is
    empty or has no known term. The vectors of a text do not depend on the others encoded with it.

    Args:
        terms: words and pairs of neighbouring words.
        idf: float32 ``[num_terms]``, weight of each term.
        components: float32 ``[num_terms, dim]``, directions of the SVD.

    Raises:
        AlignmentError: the three do not fit each other.
    """

    terms: tuple[str, ...]
    idf: np.ndarray
    components: np.ndarray
    fingerprint: str = field(init=False, repr=False)
    """Hash of terms, weights and directions."""

    def __post_init__(self) -> None:
        for name in ("idf", "components"):
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            object.__setattr__(self, name, array)
        expected, got = (len(self.terms),), self.idf.shape
        if got != expected or self.components.ndim != 2 or len(self.components) != len(self.terms):
            raise AlignmentError(
                f"TF-IDF of {len(self.terms)} terms: idf is {list(got)} and components are "
                f"{list(self.components.shape)}"
            )
        digest = hashlib.sha256(json.dumps([_VERSION, _TOKEN, *self.terms]).encode())
        digest.update(self.idf.tobytes())
        digest.update(self.components.tobytes())
        object.__setattr__(self, "fingerprint", f"tfidf-{digest.hexdigest()[:32]}")

    def __repr__(self) -> str:
        return f"TfidfEncoder({len(self.terms)} terms, dim={self.dim})"

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        dim: int = 256,
        max_terms: int = 50_000,
        rng: int | np.random.Generator = 0,
    ) -> TfidfEncoder:
        """The encoder for texts like these.

        Args:
            texts: what to learn terms and directions from; duplicates count once.
            dim: length of the vectors, if there are as many texts and terms; else fewer.
            max_terms: terms kept, the most frequent.
            rng: start of the randomised SVD.

        Raises:
            ValueError: the texts hold no word.
        """
        from sklearn.decomposition import TruncatedSVD

        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        distinct = list(dict.fromkeys(checked_texts(texts)))
        counter = _counter(
            min_df=2 if len(distinct) >= _ENOUGH else 1, max_features=max_terms, vocabulary=None
        )
        try:
            counts = counter.fit_transform(distinct)
        except ValueError as error:  # sklearn: empty vocabulary; After pruning, no terms remain
            raise ValueError(
                f"none of the {len(distinct)} texts holds a word that TF-IDF can count ({error}); "
                "fit on more texts, or use TransformerEncoder"
            ) from error
        terms = tuple(counter.get_feature_names_out().tolist())
        frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
        idf = (np.log((1 + len(distinct)) / (1 + frequency)) + 1).astype(np.float32)
        weighted = _weighted(counts, idf)
        dim = min(dim, *weighted.shape)
        seed = int(np.random.default_rng(rng).integers(2**31))
        components = np.eye(len(terms))
        if dim < len(terms):
            components = np.asarray(
                TruncatedSVD(dim, random_state=seed).fit(weighted).components_
            ).T
        return cls(terms, idf, components)

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self.components.shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """One vector per text, float32 ``[len(texts), dim]``; zero where no term is known."""
        texts = checked_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        counts = _counter(vocabulary=self.terms).transform(texts)
        vectors = _weighted(counts, self.idf) @ self.components
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Kind, size and fingerprint; the rest is in the files that :meth:`save` writes."""
        return {"kind": "tfidf", "dim": self.dim, "fingerprint": self.fingerprint}

    def save(self, folder: str | Path) -> None:
        """Write ``tfidf.json`` (terms) and ``tfidf.safetensors`` (numbers) into a folder."""
        from safetensors.numpy import save

        content = {"version": _VERSION, "fingerprint": self.fingerprint, "terms": self.terms}
        tensors = save({"idf": self.idf, "components": self.components})
        write_atomically(Path(folder) / _TENSORS, tensors)
        write_atomically(Path(folder) / _JSON, json.dumps(content, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: str | Path, *, fingerprint: str | None = None) -> TfidfEncoder:
        """The encoder that :meth:`save` wrote.

        Args:
            folder: where it was written.
            fingerprint: which encoder it must be, if that is known.

        Raises:
            SavedFileError: a file is absent, was changed since, or is of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(folder)
        try:
            content = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            if content["version"] != _VERSION:
                raise SavedFileError(
                    f"{folder / _JSON} is of version {content['version']!r}, this program reads "
                    f"{_VERSION}; update it, or fit again"
                )
            tensors = load((folder / _TENSORS).read_bytes())
            encoder = cls(tuple(content["terms"]), tensors["idf"], tensors["components"])
            expected = fingerprint or content["fingerprint"]
        except SavedFileError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise SavedFileError(
                f"no TF-IDF encoder can be read from {folder} ({type(error).__name__}: {error}); "
                "save it again"
            ) from error
        if encoder.fingerprint != expected:
            raise SavedFileError(
                f"{folder}: the TF-IDF encoder is {encoder.fingerprint}, expected {expected}; the "
                "files were changed after they were written, or belong to another engine"
            )
        return encoder


def _counter(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(lowercase=True, token_pattern=_TOKEN, ngram_range=(1, 2), **settings)


def _weighted(counts: Any, idf: np.ndarray) -> Any:
    """Sparse rows of (1 + log count) idf, of unit length."""
    import scipy.sparse as sp
    from sklearn.preprocessing import normalize

    counts = sp.csr_matrix(counts)
    counts.data = (1 + np.log(counts.data.astype(np.float32))) * idf[counts.indices]
    return normalize(counts)
