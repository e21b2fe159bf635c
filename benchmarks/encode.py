"""Encoding 20,000 distinct node texts on a CPU, against sentence-transformers, run by turns.

    python -m benchmarks.encode --sample 1500            # a random part, a few minutes
    python -m benchmarks.encode                          # all 20,000
    python -m benchmarks.encode --memory                 # 100,000 texts: peak memory alone

The texts are those of both development sets: every film with its plot, every artist with its text
by a language model, and a random part of the other artists. All get the same list and the same
number of threads; a block of it goes to one side, then to the others, so that other work on the
machine meets all alike. Time is wall time and, beside it, CPU time, which a busy machine disturbs
less. The cached second run is measured on the same texts.

Budget (DESIGN 9, issue 6): 2.3 x sentence-transformers' default with mean cosine to float32 of at
least .999 and a minimum of .997; a cached second run 200 x as fast; under 2 GB for 100,000 texts.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import data as sets
from encoders import TransformerEncoder, VectorCache, embed_texts

NUM_TEXTS = 20_000
Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=NUM_TEXTS, help="texts, drawn at random")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=4, help="turns that each side gets")
    parser.add_argument("--memory", action="store_true", help="peak memory of 100,000 texts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        memory()
        return
    texts = node_texts()
    rng = np.random.default_rng(0)
    texts = [texts[i] for i in rng.permutation(len(texts))[: arguments.sample]]
    print(f"{len(texts)} texts, {np.mean([len(t) for t in texts]):.0f} characters on average")
    compare(texts, arguments.blocks)
    cached(texts)


def node_texts() -> list[str]:
    """20,000 distinct texts, plots included, the same ones each time."""
    films = pd.read_parquet(sets.DATA / "ml100k" / "items.parquet").text
    artists = pd.read_parquet(sets.DATA / "lastfm_hetrec" / "items.parquet")
    long = [*films, *artists.llm_text.dropna()]
    short = [*dict.fromkeys(artists.text)]
    chosen = np.random.default_rng(0).permutation(len(short))
    every = dict.fromkeys([*long, *(short[i] for i in chosen)])
    return list(every)[:NUM_TEXTS]


def compare(texts: list[str], num_blocks: int) -> None:
    """Time and vectors of each side, block by block."""
    from sentence_transformers import SentenceTransformer

    plain = TransformerEncoder(device="cpu", dtype="float32").load()
    theirs = SentenceTransformer(str(plain.settings.folder), device="cpu")
    sides: dict[str, Encode] = {
        "sentence-transformers": lambda some: theirs.encode(some, show_progress_bar=False),
        "ours, float32": plain.encode,
        "ours, int8": TransformerEncoder(device="cpu", dtype="int8").load().encode,
    }
    seconds = {name: np.zeros((num_blocks, 2)) for name in sides}
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    for encode in sides.values():
        encode(texts[:64])  # first calls set things up
    for block in range(num_blocks):
        for name, encode in sides.items():
            some = texts[block::num_blocks]
            began = time.perf_counter(), time.process_time()
            vectors[name].append(encode(some))
            seconds[name][block] = time.perf_counter() - began[0], time.process_time() - began[1]
    base = seconds["sentence-transformers"]
    reference = np.concatenate(vectors["sentence-transformers"])
    for name, took in seconds.items():
        near = (np.concatenate(vectors[name]) * reference).sum(axis=1)
        wall, cpu = base.sum(axis=0) / took.sum(axis=0)
        by_block = ", ".join(f"{r:.2f}" for r in base[:, 0] / took[:, 0])
        print(
            f"{name:22} {took[:, 0].sum():7.1f} s, {len(texts) / took[:, 0].sum():5.0f} texts/s; "
            f"{wall:.2f} x (blocks {by_block}; by CPU time {cpu:.2f} x); "
            f"cosine mean {near.mean():.5f}, least {near.min():.5f}"
        )


def cached(texts: list[str]) -> None:
    """A first run into an empty cache and a second one out of it."""
    encoder = TransformerEncoder(device="cpu", dtype="int8").load()
    with tempfile.TemporaryDirectory() as folder:
        cache, seconds = VectorCache(folder), []
        for _ in range(4):
            began = time.perf_counter()
            embed_texts(texts, encoder, cache)
            seconds.append(time.perf_counter() - began)
    first, again = seconds[0], min(seconds[1:])
    print(f"int8 into the cache {first:.1f} s, out of it {again:.3f} s: {first / again:.0f} x")


def memory() -> None:
    """100,000 distinct texts, encoded and cached; what the process took at most."""
    texts = node_texts()
    short = sorted(texts, key=len)[:2000]  # length decides about batches, not about memory
    many = [f"{short[i % len(short)]} {i}" for i in range(99_000)] + texts[:1000]
    encoder = TransformerEncoder(device="cpu", dtype="int8")
    with tempfile.TemporaryDirectory() as folder:
        embed_texts(many, encoder, VectorCache(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(many)} texts, int8: peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
