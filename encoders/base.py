"""The values and promises of this package: a text per node, and what turns texts into vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kg.errors import AlignmentError
from kg.vectors import Key, Vocabulary


class EncoderError(RuntimeError):
    """A text encoder cannot be loaded, or cannot do its work."""


@dataclass(frozen=True, eq=False)
class NodeTexts:
    """One text per node of one type.

    Args:
        nodes: keys in row order.
        texts: one string per key; empty is allowed, missing is not.
        num_cut: how many texts were longer than was allowed and lost their end.

    Raises:
        AlignmentError: there is not exactly one text per key.
        TypeError: a text is no string.
    """

    nodes: Vocabulary
    texts: Sequence[str]
    num_cut: int = 0

    def __post_init__(self) -> None:
        texts = checked_texts(self.texts, f"texts of {self.nodes.node_type}")
        if len(texts) != len(self.nodes):
            expected, got = len(self.nodes), len(texts)
            raise AlignmentError(
                f"{self.nodes.node_type} texts: expected one per key ({expected}), got {got}"
            )
        object.__setattr__(self, "texts", texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @property
    def node_type(self) -> str:
        """The type of node that the texts belong to."""
        return self.nodes.node_type

    def of(self, keys: Sequence[Key]) -> list[str]:
        """The texts of these keys.

        Raises:
            UnknownNodeError: a key has no text.
        """
        return [self.texts[int(row)] for row in self.nodes.rows(keys)]


@runtime_checkable
class TextEncoder(Protocol):
    """What turns texts into vectors. Frozen: the same text always gets the same vector.

    A text that is empty or only white space gets the zero vector, so that a node without text
    adds nothing to what is made from it.
    """

    @property
    def dim(self) -> int:
        """Length of each vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """A name for weights and settings together: equal only where the vectors are equal."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """One vector per text, float32 ``[len(texts), dim]``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind, settings and hash of the weights, as JSON holds them; see :func:`encoder_from`."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the files that :meth:`describe` relies on; none where a description is enough."""
        ...


def encoder_from(description: Mapping[str, Any], folder: str | Path) -> TextEncoder:
    """The encoder that ``describe`` told of.

    Args:
        description: what ``describe()`` returned.
        folder: where ``save(folder)`` wrote, for encoders that have files of their own.

    Raises:
        EncoderError: the kind is unknown, or the weights found are not those described.
        SavedFileError: the encoder's own files are absent, damaged or another encoder's.
    """
    kind = description.get("kind")
    if kind == "transformer":
        from encoders.transformer import TransformerEncoder

        return TransformerEncoder.from_description(description, folder)
    if kind == "tfidf":
        from encoders.tfidf import TfidfEncoder

        return TfidfEncoder.load(folder, fingerprint=description.get("fingerprint"))
    raise EncoderError(
        f"an encoder of kind {kind!r} cannot be made from its description, only 'transformer' and "
        "'tfidf'; make it yourself and pass it as encoder="
    )


def checked_texts(texts: Iterable[str], what: str = "texts") -> tuple[str, ...]:
    """The texts as a tuple of strings.

    Raises:
        TypeError: one string came instead of several, or a text is no string.
    """
    if isinstance(texts, str):
        raise TypeError(f"{what}: expected a list of strings, got the string {texts[:40]!r}")
    out = tuple(texts)
    for row, text in enumerate(out):
        if not isinstance(text, str):
            raise TypeError(
                f"{what}: row {row} is {text!r}, expected a string; use '' where there is no text"
            )
    return out


def is_empty(text: str) -> bool:
    """Whether a text has nothing to encode: no characters, or white space alone."""
    return not text or text.isspace()
