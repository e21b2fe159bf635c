"""Text into arrays: node texts, encoders, and a cache on disk. Torch loads at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.base import NodeTexts, TextEncoder, encoder_from
    from encoders.cache import VectorCache
    from encoders.embed import embed_nodes, embed_texts
    from encoders.texts import node_texts
    from encoders.tfidf import TfidfEncoder
    from encoders.transformer import TransformerEncoder

__all__ = [
    "NodeTexts",
    "TextEncoder",
    "TfidfEncoder",
    "TransformerEncoder",
    "VectorCache",
    "embed_nodes",
    "embed_texts",
    "encoder_from",
    "node_texts",
]

_HOMES = {
    "NodeTexts": "base",
    "TextEncoder": "base",
    "TfidfEncoder": "tfidf",
    "TransformerEncoder": "transformer",
    "VectorCache": "cache",
    "embed_nodes": "embed",
    "embed_texts": "embed",
    "encoder_from": "base",
    "node_texts": "texts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'encoders' has no name {name!r}; it has {__all__}")
    return getattr(import_module(f"encoders.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
