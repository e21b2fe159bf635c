"""Exact search against reading the matrix once and against the bare product.

    OMP_NUM_THREADS=1 python -m benchmarks.search              # a million items, 64 and 512 floats
    OMP_NUM_THREADS=1 python -m benchmarks.search --users 4000 --rounds 6

Targets: the best 100 of a million items for one user within 1.3 x of reading the matrix once (a
matrix times a vector, in one piece); the best 100 of 100,000 items for 10,000 users within 1.5 x of
the bare product of both matrices (in the same blocks, nothing kept). Both sides take turns, and the
best of each is compared, in processor time, which other work disturbs less; wall time is told too.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from coldstart.approximate import ApproximateIndex
from coldstart.index import ExactIndex

K = 100


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--users", type=int, default=2000, help="of 100,000 items, together")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--faiss", action="store_true", help="also approximate search")
    arguments = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"load before: {load} on {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for dim in (64, 512):
        one_user(arguments.items, dim, arguments.rounds)
    for dim in (64, 512):
        many_users(arguments.users, 100_000, dim, max(arguments.rounds // 3, 1))
    if arguments.faiss:
        approximate(arguments.items, 64, arguments.rounds)


def one_user(num_items: int, dim: int, rounds: int) -> None:
    index, query = made(num_items, dim), torch.randn(1, dim)
    vector = torch.cat([query[0], torch.ones(1)])
    ratio(
        f"best {K} of {num_items:,} x {dim} for one user",
        lambda: index.search(query, K),
        lambda: index.rows @ vector,
        rounds,
    )


def many_users(num_users: int, num_items: int, dim: int, rounds: int) -> None:
    index, queries = made(num_items, dim), torch.randn(num_users, dim)
    columns = index.rows[:, :-1].T

    def product() -> None:
        for start in range(0, num_users, 256):
            queries[start : start + 256] @ columns

    name = f"best {K} of {num_items:,} x {dim} for {num_users:,} users"
    ratio(name, lambda: index.search(queries, K), product, rounds)


def approximate(num_items: int, dim: int, rounds: int) -> None:
    """Items around a thousand centres; without any order in them no search can leave some out."""
    torch.manual_seed(0)
    centres = torch.randn(1000, dim + 1)
    place = torch.randint(0, 1000, (num_items,))
    exact = ExactIndex(centres[place].addcmul_(torch.randn(num_items, dim + 1), torch.tensor(0.5)))
    queries = centres[:256, :-1] + 0.5 * torch.randn(256, dim)
    index = ApproximateIndex.of(exact, queries)  # logs recall and time
    assert isinstance(index, ApproximateIndex), "the items lie around centres"
    late = np.sort(np.random.default_rng(0).permutation(num_items)[: int(0.019 * num_items)])
    after = index.followed(exact, late)
    assert not after.is_stale, "so few do not have it made anew"
    for some, told in ((index, "nothing"), (after, f"{len(late):,}")):
        ratio(
            f"best {K} of {num_items:,} x {dim} by faiss for one user, recall {index.recall:.3f}, "
            f"{told} changed since",
            partial(some.search, queries[:1], K),
            lambda: exact.search(queries[:1], K),
            rounds,
        )


def made(num_items: int, dim: int) -> ExactIndex:
    torch.manual_seed(0)
    return ExactIndex(torch.randn(num_items, dim + 1))


def ratio(name: str, ours: Callable[[], Any], bare: Callable[[], Any], rounds: int) -> None:
    used: dict[str, list[float]] = {"ours": [], "bare": []}
    wall: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(rounds + 1):
        for side, work in (("ours", ours), ("bare", bare)):
            start, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                used[side].append(time.process_time() - cpu)
                wall[side].append(time.perf_counter() - start)
    best = {side: 1000 * min(values) for side, values in used.items()}
    fastest = {side: 1000 * min(values) for side, values in wall.items()}
    print(
        f"{name}: {best['ours']:.1f} ms, bare {best['bare']:.1f} ms, "
        f"{best['ours'] / best['bare']:.2f} x (wall {fastest['ours']:.1f} ms, "
        f"{fastest['bare']:.1f} ms, {fastest['ours'] / fastest['bare']:.2f} x)"
    )


if __name__ == "__main__":
    main()
