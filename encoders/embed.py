"""Texts to vectors with each text encoded once: now, in an earlier run, or before the last kill."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from encoders.base import EncoderError, TextEncoder, checked_texts, is_empty
from encoders.cache import CacheError, VectorCache
from encoders.texts import node_texts
from kg.graph import KnowledgeGraph
from kg.memory import give_back_memory
from kg.vectors import NodeEmbeddings

logger = logging.getLogger(__name__)

CacheChoice = VectorCache | Literal["default"] | None

_FIRST_CHUNK, _LARGEST_CHUNK = 128, 8192  # texts
_SECONDS_AT_RISK = 2.0  # about what a kill may cost


def embed_nodes(
    graph: KnowledgeGraph,
    encoder: TextEncoder | None = None,
    node_types: Iterable[str] | None = None,
    *,
    cache: CacheChoice = "default",
    templates: Mapping[str, str] | None = None,
    neighbours: Mapping[str, bool | Iterable[Any]] | None = None,
    prompts: Mapping[str, str] | None = None,
    progress: bool = False,
) -> dict[str, NodeEmbeddings]:
    """A vector per node, by node type.

    Args:
        graph: where the nodes are.
        encoder: what encodes; MiniLM by default.
        node_types: which types; by default those with text properties in the schema or a template.
        cache: where vectors are kept between runs; ``None`` for nowhere.
        templates: how a node of a type is put into words; see :func:`encoders.texts.node_texts`.
        neighbours: relations whose neighbours are named in the text, by node type.
        prompts: what is put before each text that is not empty, by node type; by default the
            encoder's own ``prompts``, if it has any.
        progress: show a bar with texts per second where it takes longer than two seconds.

    Returns:
        Embeddings of every type chosen; the vector of a node without text is zero.

    Raises:
        SchemaError: a node type is not in the graph.
        EncoderError: the encoder cannot be loaded, or a prompt leaves no token for a text.
    """
    encoder = default_encoder() if encoder is None else encoder
    templates, neighbours = templates or {}, neighbours or {}
    before: Mapping[str, str] = getattr(encoder, "prompts", {}) if prompts is None else prompts
    named = {*graph.schema.text, *templates, *neighbours}
    if prompts is not None and (check := getattr(encoder, "check_prompts", None)):
        check(prompts)  # its own are checked when it is loaded
    types = (t for t in graph.node_types if t in named) if node_types is None else node_types
    texts = {
        node_type: node_texts(
            graph,
            node_type,
            template=templates.get(node_type),
            neighbours=neighbours.get(node_type, False),
        )
        for node_type in dict.fromkeys(types)
    }
    everything = [
        text if is_empty(text) else before.get(node_type, "") + text
        for node_type, one in texts.items()
        for text in one
    ]
    matrix = embed_texts(everything, encoder, cache, progress=progress)
    out, start = {}, 0
    for node_type, one in texts.items():
        out[node_type] = NodeEmbeddings(one.nodes, matrix[start : start + len(one)])
        start += len(one)
    return out


def embed_texts(
    texts: Sequence[str],
    encoder: TextEncoder | None = None,
    cache: CacheChoice = "default",
    *,
    progress: bool = False,
) -> np.ndarray:
    """One vector per text, float32 ``[len(texts), dim]``, zero for an empty text.

    Equal texts are encoded once. Vectors reach the cache every two seconds or so, so a run that was
    killed goes on where it was. A cache that fails is reported and done without. How many of the
    texts encoded now lost their end is logged as a warning.

    Args:
        texts: what to encode.
        encoder: what encodes; MiniLM by default.
        cache: where vectors are kept between runs; ``None`` for nowhere.
        progress: show a bar with texts per second where it takes longer than two seconds.
    """
    encoder = default_encoder() if encoder is None else encoder
    store = VectorCache() if cache == "default" else cache
    texts = checked_texts(texts)
    rows: dict[str, int] = {}
    place = np.array([-1 if is_empty(t) else rows.setdefault(t, len(rows)) for t in texts], int)
    distinct = list(rows)
    vectors = np.zeros((len(distinct) + 1, encoder.dim), np.float32)  # the last row: empty texts
    done = np.zeros(len(distinct), bool)
    if store is not None and distinct:
        try:
            vectors[:-1], done = store.get_many(encoder.fingerprint, distinct, encoder.dim)
        except CacheError as error:
            logger.warning("nothing is read from the cache: %s", error)
            store = None
    todo = np.flatnonzero(~done)
    if len(todo):
        _encode_into(vectors, todo, distinct, encoder, store, progress)
    if len(distinct) == len(texts):
        return vectors[:-1]  # in order already, and large
    return vectors[place]


def default_encoder() -> TextEncoder:
    """MiniLM, not loaded yet."""
    from encoders.transformer import TransformerEncoder

    return TransformerEncoder()


def _encode_into(
    vectors: np.ndarray,
    todo: np.ndarray,
    texts: list[str],
    encoder: TextEncoder,
    store: VectorCache | None,
    progress: bool,
) -> None:
    """Encode and keep the texts ``todo``, chunk by chunk, longest first, so chunks are alike."""
    from tqdm.auto import tqdm

    todo = todo[np.argsort([-len(texts[i]) for i in todo], kind="stable")]
    label, cut_before = _label(encoder), getattr(encoder, "num_truncated", 0)
    size, start = _FIRST_CHUNK, 0
    with tqdm(
        total=len(todo), desc="encode", unit=" texts", disable=not progress, delay=2, leave=False
    ) as bar:
        while start < len(todo):
            chunk, began = todo[start : start + size], time.perf_counter()
            some = [texts[i] for i in chunk]
            vectors[chunk] = _checked(encoder.encode(some), len(some), encoder)
            if store is not None:
                try:
                    store.put_many(encoder.fingerprint, some, vectors[chunk], label=label)
                except CacheError as error:
                    logger.warning("nothing more is kept in the cache: %s", error)
                    store = None
            bar.update(len(chunk))
            start += len(chunk)
            if time.perf_counter() - began < _SECONDS_AT_RISK / 2:
                size = min(2 * size, _LARGEST_CHUNK)
            else:
                give_back_memory()  # else 0.2 GB of gaps after 5000 texts, 0.3 GB after 8000
    if cut := getattr(encoder, "num_truncated", 0) - cut_before:
        logger.warning(
            "%s: %d of %d texts are longer than the model takes and lost their end; "
            "`coldstart texts` shows which",
            label,
            cut,
            len(todo),
        )


def _label(encoder: TextEncoder) -> str:
    """What people call an encoder, for the cache's list."""
    adapter = getattr(encoder, "adapter", None)
    name = str(getattr(encoder, "model", type(encoder).__name__))
    dtype = getattr(encoder, "dtype", "auto")
    return name + ("" if dtype == "auto" else f", {dtype}") + (f" + {adapter}" if adapter else "")


def _checked(matrix: np.ndarray, num_texts: int, encoder: TextEncoder) -> np.ndarray:
    if matrix.shape != (num_texts, encoder.dim):
        expected, got = [num_texts, encoder.dim], list(matrix.shape)
        raise EncoderError(f"{encoder!r} returned {got} for {num_texts} texts, expected {expected}")
    if not np.isfinite(matrix).all():
        raise EncoderError(f"{encoder!r} returned NaN or infinite numbers; try dtype='float32'")
    return matrix
