"""Training on MovieLens 100K with texts cached: seconds, best of five, and peak memory.

    python -m benchmarks.train                 # the rich development set of DESIGN 11, split 0
    python -m benchmarks.train --whole         # the same with nothing held out
    python -m benchmarks.train --movielens     # titles, years and genres only, out of the box

Budget (DESIGN 9): under 10 s on two cores (issue 3: under 20 s).
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from benchmarks.quality import data as sets
from coldstart.engine import ColdStartEngine
from coldstart.splits import read_splits
from kg.datasets import load_movielens_100k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--movielens", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.movielens:
        graph = training = load_movielens_100k()
    else:
        graph = training = sets.ml100k()
        if not arguments.whole:
            splits = read_splits(sets.DATA / "ml100k" / "splits" / "cold_item.parquet", graph)
            training = splits[0].training_graph(graph)
    texts = sets.texts_of(graph)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        engine = ColdStartEngine.fit(training, texts=texts)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    listed = ", ".join(f"{s:.1f}" for s in sorted(seconds))
    print(f"fit on {training.positives().shape[1]} positives, dim {engine.dim}: {listed} s")
    print(f"best of five {min(seconds):.1f} s; peak memory of the process {peak:.1f} GiB")


if __name__ == "__main__":
    main()
