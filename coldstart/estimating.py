"""What a run will take, before it is started: memory, disk and time of every stage.

Counts and samples come from :mod:`kg.outlining`, the machine's rates from doing a little of the
work (:mod:`coldstart.probing`): 64 texts are encoded, a few hundred rows embedded, steps on the
weights made. What is written down here is how often training does what (:mod:`gnn.train`), and how
that grows with the graph.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coldstart.engine import EngineConfig
from coldstart.estimating_networks import network_cost
from coldstart.probing import Machine, fastest
from gnn.encoding import NetworkEncoder
from gnn.groups import NUM_FREQUENCIES
from gnn.iterative import PROBES, RANK
from gnn.popularity import MAX_ITEMS, MAX_JUDGES
from gnn.precision import MAX_DIM
from gnn.prominence import CENTRES, MEASURES
from gnn.propagate import (
    MAX_FAR_RELATIONS,
    MAX_RELATIONS,
    MOST_FAR_LINKS,
    MOST_ONWARD,
    most_telling,
)
from gnn.ridge import MAX_DUAL, in_columns
from gnn.train import TrainConfig
from gnn.weighting import NUM_FOLDS
from gnn.words import MAX_WORDS, pieces_of, words_of
from kg.files import write_folder
from kg.outlining import Outline, resident_bytes
from kg.schema import EdgeType

if TYPE_CHECKING:
    from encoders.base import TextEncoder
    from encoders.embed import CacheChoice

PROBE_TEXTS = 64
_VECTOR_ROW = 150
"""Bytes of a vector's row in the cache beside the vector: hash, keys, index."""
_PASSES = 3
"""Features of every warm node are made three times: for scales, for training, for priors."""
_LEFT_OUT = 5
"""Ridge predictions of each side: for precisions, reliability, three sweeps; and tables, once."""
_HALF_STEPS = 11
"""Of each side: five of plain ALS, three sweeps, the last one, and two for the weights of the other
side's groups: a quarter is left out four times, in few dimensions."""
_SMALL_HALF_STEPS = 2 * 3 + 3 + 3 * 7 + 2 * 5
"""Of each side in few dimensions: to tell whether weights count, twice; for precisions, plain ALS
and about so many tries; and two rehearsals to find the lift of new items."""
_STEPS = 8
_SOLVED = 4
_SMALL_SOLVED = 2 * 7 + 2 * 3
"""Of ridge by conjugate gradients: steps to a solution, and how many are sought in all dimensions
and in few."""
_BLOCK, _BLOCK_FLOATS = 8192, 2**24
_WRITTEN = 2**25


@dataclass(frozen=True)
class Stage:
    """What one stage takes.

    Args:
        name: ``import``, ``encode``, ``networks`` if there are any, ``train`` or ``index``.
        seconds: of this stage alone.
        memory: bytes that the process holds at the peak of this stage.
        disk: bytes that are on disk after it because of it.
    """

    name: str
    seconds: float
    memory: int
    disk: int


@dataclass(frozen=True)
class Estimate:
    """What a run takes, stage by stage.

    Args:
        stages: in order.
        counts: what it is about, in numbers: nodes, edges, positives, texts.
    """

    stages: tuple[Stage, ...]
    counts: Mapping[str, int]

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes at the peak of the stage that takes most."""
        return max(stage.memory for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes of all stages together."""
        return sum(stage.disk for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        total = {"seconds": self.seconds, "memory": self.memory, "disk": self.disk}
        stages = {s.name: {k: v for k, v in asdict(s).items() if k != "name"} for s in self.stages}
        return {"counts": dict(self.counts), "stages": stages, "total": total}

    def to_text(self) -> str:
        """A table for people."""
        lines = [", ".join(f"{n:,} {what}" for what, n in self.counts.items())]
        lines.append(f"{'':8}{'time':>10}{'memory':>12}{'disk':>12}")
        whole = Stage("total", self.seconds, self.memory, self.disk)
        for s in (*self.stages, whole):
            memory, disk = f"{s.memory / 2**20:,.0f} MiB", f"{s.disk / 2**20:,.0f} MiB"
            lines.append(f"{s.name:8}{_duration(s.seconds):>10}{memory:>12}{disk:>12}")
        return "\n".join(lines)


def estimate(
    outline: Outline,
    encoder: TextEncoder | None = None,
    config: EngineConfig | None = None,
    *,
    cache: CacheChoice = "default",
    machine: Machine | None = None,
    folder: str | Path | None = None,
) -> Estimate:
    """What import, encoding, training and indexing of a graph will take on this machine, now.

    Takes about ten seconds. Other work on the machine slows the probe as it would slow the run.

    Args:
        outline: of the graph; see :mod:`kg.outlining`.
        encoder: of node texts; MiniLM by default.
        config: of the engine. A graph network is trained on a few batches to tell what it takes;
            when it will stop cannot be known, a usual number of epochs is supposed.
        cache: where text vectors are kept; texts of the sample that are in it need no encoding, and
            of all texts the same share.
        machine: where training happens, perhaps with rates found before; the CPU by default.
        folder: on the disk that will be written to; by default the one for temporary files.
    """
    from encoders.embed import default_encoder

    encoder = encoder or default_encoder()
    config = config or EngineConfig()
    machine = machine or Machine(torch.device("cpu"))
    written = _disk_rate(folder)
    importing = _importing(outline, written)
    texts = _Texts.of(outline)
    encoding = _encoding(texts, outline, encoder, cache)
    types = (outline.schema.user, outline.schema.item)
    sides = [_Side.of(outline, t, texts, encoder.dim) for t in types]
    stages, saved = [importing, encoding], 0
    if network := next((e for e in config.graph_encoders if isinstance(e, NetworkEncoder)), None):
        text_dims = {t: side.text_dim for t, side in zip(types, sides, strict=True)}
        words = {t: side.words for t, side in zip(types, sides, strict=True) if side.words}
        cost = network_cost(outline, network, text_dims, words, machine.device)
        texts_held = sum(4 * side.nodes * side.text_dim for side in sides)
        memory = resident_bytes() + outline.graph_bytes + texts_held + cost.memory
        stages.append(Stage("networks", cost.seconds, memory, 0))
        saved = cost.saved
        plain = len(config.graph_encoders) > 1
        sides = [side.with_network(network.config.dim + 1, beside=plain) for side in sides]
    stages.append(_training(outline, sides, machine, config.propagation))
    stages.append(_indexing(outline, sides, machine, config.propagation, written, saved))
    return Estimate(tuple(stages), _counts(outline, texts))


@dataclass(frozen=True)
class _Texts:
    """The texts that training encodes, from a sample.

    Args:
        by_type: texts of the sample, by node type; only types with texts.
        nodes: number of nodes of these types.
        distinct: how many different texts there are, about.
        seconds: putting one node into words takes so long.
    """

    by_type: Mapping[str, list[str]]
    nodes: Mapping[str, int]
    distinct: int
    seconds: float

    @classmethod
    def of(cls, outline: Outline) -> _Texts:
        from encoders.texts import node_texts

        schema, sample = outline.schema, outline.sample
        types = [t for t in (schema.user, schema.item) if schema.text.get(t)]
        found, distinct, seconds, count = {}, 0.0, 0.0, 0
        for node_type in types:
            start = time.perf_counter()
            found[node_type] = list(node_texts(sample, node_type).texts)
            seconds += time.perf_counter() - start
            count += len(found[node_type])
            different = len({t for t in found[node_type] if t.strip()})
            few = different < len(found[node_type]) / 2  # so few that all were seen, it seems
            share = 1.0 if few else outline.nodes[node_type] / max(len(found[node_type]), 1)
            distinct += different * share
        nodes = {t: outline.nodes[t] for t in types}
        return cls(found, nodes, round(distinct), seconds / max(count, 1))

    def some(self) -> list[str]:
        """Different texts from all over the samples, ``PROBE_TEXTS`` at most."""
        every = list(dict.fromkeys(t for one in self.by_type.values() for t in one if t.strip()))
        return every[:: max(1, len(every) // PROBE_TEXTS)][:PROBE_TEXTS]


@dataclass(frozen=True)
class _Side:
    """What the features of users or of items are, in numbers.

    Args:
        nodes: how many nodes.
        warm: how many of them have a positive, at most.
        dense: widths of the dense feature groups.
        sparse: entries per node and width of the sparse ones.
        word_seconds: finding the words of one node takes so long; 0 without texts.
        text_dim: length of the text vectors that the features hold; 0 without.
        degrees: positives of some nodes.
    """

    nodes: int
    warm: int
    dense: tuple[int, ...]
    sparse: tuple[tuple[float, int], ...]
    word_seconds: float
    text_dim: int
    degrees: np.ndarray

    @classmethod
    def of(cls, outline: Outline, node_type: str, texts: _Texts, dim: int) -> _Side:
        schema, nodes = outline.schema, max(outline.nodes[node_type], 1)
        positives = round(outline.edges[schema.interaction] * outline.positive_share)
        dense, sparse = [1], []
        has_text = bool(texts.by_type.get(node_type))
        if has_text:
            dense += [dim, 2 * NUM_FREQUENCIES]
            sparse += [_terms(texts.by_type[node_type], nodes, of) for of in (words_of, pieces_of)]
        relations = []
        for edge_type in outline.edges:
            if {edge_type[0], edge_type[2]} == {schema.user, schema.item}:
                continue
            links = outline.edges[edge_type] / nodes
            if edge_type[0] == edge_type[2] == node_type:
                sparse.append((2 * links + 1, nodes))
                dense += [dim, dim] if has_text else []
                if node_type == schema.user and texts.by_type.get(schema.item):
                    dense.append(dim)
            elif node_type in (edge_type[0], edge_type[2]):
                far = edge_type[2] if edge_type[0] == node_type else edge_type[0]
                relations.append((links, far))
        near = [(links, outline.nodes[entity]) for links, entity in relations]
        sparse += near
        if len(near) > 1:
            sparse.append((sum(n for n, _ in near), sum(w for _, w in near)))
        sparse += _far_groups(outline, relations)
        if relations:
            dense.append(MEASURES * len(CENTRES) * (min(len(relations), MAX_RELATIONS) + 1))
        dense += [11] * len(schema.numeric.get(node_type, ()))
        sparse += [(1.0, 10)] * len(schema.categorical.get(node_type, ()))
        all_degrees = outline.degrees[node_type == schema.item]
        degrees = np.round(all_degrees * outline.positive_share).astype(np.int64)
        share = float((degrees > 0).mean()) if len(degrees) else 1.0
        warm = max(1, min(round(nodes * share), positives))
        return cls(
            nodes,
            warm,
            tuple(dense),
            tuple(sparse),
            texts.seconds if has_text else 0.0,
            dim if has_text else 0,
            degrees,
        )

    def with_network(self, width: int, *, beside: bool) -> _Side:
        """The side with a network's vectors, beside the other features or in their place."""
        if beside:
            return replace(self, dense=(*self.dense, width))
        return replace(self, dense=(1, width), sparse=())

    @property
    def words(self) -> tuple[float, int] | None:
        """Words per text and in the vocabulary; ``None`` without texts."""
        return self.sparse[0] if self.text_dim else None

    @property
    def entries(self) -> float:
        """Entries of the sparse groups of one node."""
        return sum(n for n, _ in self.sparse)

    @property
    def width(self) -> int:
        """Columns of all groups together."""
        return sum(self.dense) + sum(w for _, w in self.sparse)

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(self.dense) + len(self.sparse)

    def feature_bytes(self) -> int:
        """Of the warm nodes' raw features."""
        return int(self.warm * (4 * sum(self.dense) + 20 * self.entries))


def _far_groups(
    outline: Outline, relations: list[tuple[float, str]]
) -> Iterator[tuple[float, int]]:
    """Entries per node and widths of the groups of what entities are linked to."""
    roles, far = {outline.schema.user, outline.schema.item}, []
    for links, entity in relations:
        for edge_type, edges in outline.edges.items():
            onward = edges / max(outline.nodes[entity], 1)
            if not roles & {edge_type[0], edge_type[2]} and 0 < onward <= MOST_ONWARD:
                ends = [end for end in (0, 2) if edge_type[end] == entity]
                far += [(onward, links * onward, edge_type[2 - end]) for end in ends]
    told = most_telling([way[1] for way in far], [way[0] for way in far], MOST_FAR_LINKS)
    far = [far[at][1:] for at in told.tolist()]
    for links, there in sorted(far, reverse=True)[:MAX_FAR_RELATIONS]:
        yield links, outline.nodes[there]
    if len(far) > 1:
        there = {target for _, target in far}
        yield sum(links for links, _ in far), sum(outline.nodes[t] for t in there)


def _terms(texts: list[str], nodes: int, terms_of: Callable[[str], list[str]]) -> tuple[float, int]:
    """Terms per text, and how many the vocabulary will hold: it grows with the root (Heaps)."""
    found = [set(terms_of(text)) for text in texts]
    distinct = len(set().union(*found))
    grown = distinct * max(1.0, nodes / max(len(texts), 1)) ** 0.5
    return sum(map(len, found)) / max(len(texts), 1), min(MAX_WORDS, round(grown))


def _importing(outline: Outline, written: float) -> Stage:
    nodes = sum(n * outline.node_seconds[t] for t, n in outline.nodes.items())
    edges = sum(n * outline.edge_seconds[e] for e, n in outline.edges.items())
    disk = outline.folder_bytes()
    # Beside the graph: edges as they come and as they are put in order, an embedded store's pages.
    work = (2 if outline.store_bytes else 3) * outline.largest_edges_bytes
    memory = outline.resident + outline.graph_bytes + work
    seconds = outline.seconds + nodes + edges + disk / written
    return Stage("import", seconds, memory + outline.store_bytes, disk)


def _encoding(texts: _Texts, outline: Outline, encoder: TextEncoder, cache: CacheChoice) -> Stage:
    from encoders.cache import VectorCache

    some = texts.some()
    words = sum(texts.nodes.values()) * texts.seconds
    if not some:
        return Stage("encode", words, resident_bytes() + outline.graph_bytes, 0)
    store = VectorCache() if cache == "default" else cache
    known = np.zeros(len(some), bool)
    if store is not None:
        known = store.get_many(encoder.fingerprint, some, encoder.dim)[1]
    start = time.perf_counter()
    encoder.encode(some[:8])  # loads the weights
    loading = time.perf_counter() - start
    each = fastest(1, lambda: encoder.encode(some)) / len(some)
    todo = texts.distinct * (1 - float(known.mean()))
    vectors = 4 * encoder.dim * (texts.distinct + sum(texts.nodes.values()))
    disk = 0 if store is None else round(todo * (4 * encoder.dim + _VECTOR_ROW))
    memory = resident_bytes() + outline.graph_bytes + vectors
    return Stage("encode", loading + words + todo * each, memory, disk)


def _training(outline: Outline, sides: list[_Side], machine: Machine, config: TrainConfig) -> Stage:
    users, items = sides
    k = _dim(items, config)
    seconds = machine.loading
    memory = resident_bytes() + outline.graph_bytes
    small = min(k, MAX_DIM)
    few = min(k, config.weight_dim)
    for side, other, steps in (
        (items, users, config.item_weight_steps),
        (users, items, config.user_weight_steps),
    ):
        some = min(side.warm, config.weight_nodes)
        contexts = min(other.warm, config.weight_contexts)
        seconds += _feature_seconds(side, machine) + _ridge_seconds(side, k, machine)
        seconds += _gram_seconds(side, some, machine)
        # One step in six is judged, one in two of those that were measured.
        seconds += 0.8 * steps * machine.weight_seconds(side.num_groups, some, contexts, few)
        for times, size in ((_HALF_STEPS, k), (_SMALL_HALF_STEPS, small)):
            seconds += times * machine.half_step_seconds(side.degrees, side.warm, other.warm, size)
        seconds += _prior_seconds(side, k, machine)
        memory += side.feature_bytes() + 4 * side.width * k
        memory += 4 * (side.nodes * (side.text_dim + k) + 4 * side.warm * k)
        memory += _ridge_bytes(side, k)
        weights = 8 * side.num_groups * some**2 + 8 * contexts * some
        memory += weights if side is items else 0  # one side after the other
    # Four folds of items play cold, each with the users as they are without it.
    contexts = min(users.warm, config.weight_contexts)
    seconds += 4 * machine.half_step_seconds(users.degrees, contexts, items.warm, few)
    if config.item_popularity_scale is None:
        # They do so again to judge foretold popularity, once where it is clear and at most four
        # times. Four lists of everybody take as long as copying 300 bytes a score.
        judges, shown = min(users.warm, MAX_JUDGES), min(items.warm, NUM_FOLDS * MAX_ITEMS)
        once = NUM_FOLDS * machine.half_step_seconds(users.degrees, judges, items.warm, few)
        seconds += 2 * (once + 300 * judges * shown / machine.bytes_copied)
    return Stage("train", seconds, memory, 0)


def _feature_seconds(side: _Side, machine: Machine) -> float:
    n = side.warm
    kernel = 2 * side.text_dim * NUM_FREQUENCIES / machine.flops32
    kernel += 2 * NUM_FREQUENCIES * machine.cosines if side.text_dim else 0.0
    each = kernel + 8 * sum(side.dense) / machine.bytes_copied + side.word_seconds
    each += side.entries * machine.sorting
    return _PASSES * n * each


def _gram_seconds(side: _Side, rows: int, machine: Machine) -> float:
    dense = 2 * rows**2 * sum(side.dense) / machine.flops32
    return dense + rows**2 * side.entries * machine.sparse_gram


def _ridge_seconds(side: _Side, k: int, machine: Machine) -> float:
    n, width = side.warm, side.width
    solved = (_LEFT_OUT + 1) * k + _SMALL_SOLVED * min(k, MAX_DIM)
    if in_columns(n, width):
        system = 4 * n * width**2 / machine.flops64 + width**3 * machine.inversion
        return system + 4 * n * width * solved / machine.flops64
    if n <= MAX_DUAL:
        tables = 2 * n * sum(side.dense) * k / machine.flops32
        tables += side.entries * n * k * machine.sparse_product
        predicted = 2 * n**2 * solved / machine.flops64
        return _gram_seconds(side, n, machine) + n**3 * machine.inversion + predicted + tables
    columns = _STEPS * (_SOLVED * k + _SMALL_SOLVED * min(k, MAX_DIM) + 3 * PROBES) + 2 * RANK
    product = (4 * sum(side.dense) + 6 * RANK) / machine.flops32 + 60 / machine.bytes_copied
    product += 2 * side.entries * machine.sparse_product
    return n * columns * product + 3 * 4 * n * RANK**2 / machine.flops32


def _prior_seconds(side: _Side, k: int, machine: Machine) -> float:
    dense = 2 * side.nodes * sum(side.dense) * k / machine.flops32
    return dense + side.nodes * side.entries * k * machine.sparse_product


def _ridge_bytes(side: _Side, k: int) -> int:
    if in_columns(side.warm, side.width):
        return 16 * side.width**2 + 24 * _BLOCK * side.width
    if side.warm <= MAX_DUAL:
        return 16 * side.warm**2  # kept: the inverse; while made: its factor, too
    # Kept: axes, rows side by side and transposed, what was solved last. While made: four times as
    # much for axes, or while solving, seven blocks.
    kept = side.warm * (4 * RANK + 36 * side.entries + 4 * k)
    return int(kept + max(12 * side.warm * RANK, 28 * min(side.warm * k, _BLOCK_FLOATS)))


def _indexing(
    outline: Outline,
    sides: list[_Side],
    machine: Machine,
    config: TrainConfig,
    written: float,
    networks: int,
) -> Stage:
    """Of both directions, and the saved engine."""
    k = _dim(sides[1], config)
    index = sum(4 * side.nodes * (k + 1) for side in sides)
    engine = sum(4 * (s.nodes * (k + s.text_dim) + (s.warm + s.width) * k) for s in sides)
    saved = outline.folder_bytes() + engine + networks
    memory = resident_bytes() + outline.graph_bytes + 2 * engine + index
    return Stage("index", 2 * index / machine.bytes_copied + saved / written, memory, saved)


def _dim(items: _Side, config: TrainConfig) -> int:
    return max(1, min(config.max_dim, items.warm // 4))


def _disk_rate(folder: str | Path | None) -> float:
    """Bytes a second of a saved folder: written, flushed and checked."""
    block = np.random.default_rng(0).bytes(_WRITTEN)
    with tempfile.TemporaryDirectory(dir=folder) as at:
        start = time.perf_counter()
        write_folder(
            Path(at) / "probe", lambda f: _put(f / "block", block), kind="probe", version=1
        )
        return _WRITTEN / (time.perf_counter() - start)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _counts(outline: Outline, texts: _Texts) -> dict[str, int]:
    interactions: EdgeType = outline.schema.interaction
    return {
        "nodes": sum(outline.nodes.values()),
        "edges": sum(outline.edges.values()),
        "positives": round(outline.edges[interactions] * outline.positive_share),
        "texts": texts.distinct,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
