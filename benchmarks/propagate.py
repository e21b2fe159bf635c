"""Message passing without learnt weights, against other ways to do it and against reading alone.

    OMP_NUM_THREADS=1 python -m benchmarks.propagate    # needs numba: pip install numba
    python -m benchmarks.propagate --device cuda        # bytes a second, and what a copy reaches

A million nodes, ten million edges between random ones, 128 floats each. Floors on a CPU: 1.5 x as
fast as torch's CSR product, 10 x as fast as gather and index_add, at most 1.3 x the time of a
kernel that adds up the same rows and writes one number per target. All take turns; the best of
each is compared, in processor time, which other work disturbs less. Wall time is told too. Gather
and index_add come whole, as one writes them (5 GB for a moment), and in blocks of a million edges.
Floor on a GPU: 60% of the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from gnn.spmm import propagate
from gnn.typed import Incoming

BLOCK = 1_000_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nodes", type=int, default=1_000_000)
    options.add_argument("--edges", type=int, default=10_000_000)
    options.add_argument("--dim", type=int, default=128)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--device", default="cpu")
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    ends = rng.integers(arguments.nodes, size=(2, arguments.edges))
    edges = Incoming.from_edges(ends[0], ends[1], arguments.nodes)
    x = torch.randn(arguments.nodes, arguments.dim)
    if arguments.device == "cpu":
        on_cpu(edges, x, arguments.rounds)
    else:
        on_gpu(edges, x, torch.device(arguments.device), max(arguments.rounds, 20))


def on_cpu(edges: Incoming, x: torch.Tensor, rounds: int) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    os.environ["NUMBA_NUM_THREADS"] = threads  # otherwise numba gives torch all cores
    torch.set_num_threads(int(threads))
    ways = {
        "propagate, sum": lambda: propagate(edges, x, reduce="sum"),
        "propagate, mean": lambda: propagate(edges, x, reduce="mean"),
        "reading alone": reading(edges, x),
        "torch CSR": csr(edges, x),
        "gather and index_add": gather_and_add(edges, x, len(edges)),
        "gather and index_add, in blocks": gather_and_add(edges, x, BLOCK),
    }
    expected = ways["torch CSR"]()
    torch.testing.assert_close(ways["propagate, sum"](), expected)
    torch.testing.assert_close(ways["reading alone"](), expected.sum(1), rtol=1e-3, atol=1e-2)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            work()
            used[name].append(time.process_time() - cpu)
            wall[name].append(time.perf_counter() - start)
    ours, ours_wall = min(used["propagate, sum"]), min(wall["propagate, sum"])
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{torch.get_num_threads()} threads, load {load}, {rounds} rounds")
    for name in ways:
        print(
            f"{name}: {min(used[name]):.2f} s of processor, {min(used[name]) / ours:.2f} x ours "
            f"(worst {max(used[name]):.2f} s); wall {min(wall[name]):.2f} s, "
            f"{min(wall[name]) / ours_wall:.2f} x ours"
        )


def reading(edges: Incoming, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A kernel that adds up all numbers of a target's neighbours."""
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def read(
        indptr: np.ndarray, indices: np.ndarray, rows: np.ndarray, out: np.ndarray
    ) -> None:  # pragma: no cover
        for target in numba.prange(len(out)):
            total = np.float32(0)
            for edge in range(indptr[target], indptr[target + 1]):
                source = indices[edge]
                for column in range(rows.shape[1]):
                    total += rows[source, column]
            out[target] = total

    def work() -> torch.Tensor:
        out = np.empty(len(edges.indptr) - 1, np.float32)
        read(edges.indptr.numpy(), edges.indices.numpy(), x.numpy(), out)
        return torch.from_numpy(out)

    return work


def csr(edges: Incoming, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that CSR is in beta
        ones, shape = torch.ones(len(edges)), (len(edges.indptr) - 1, len(x))
        matrix = torch.sparse_csr_tensor(edges.indptr, edges.indices, ones, shape)
    return lambda: matrix @ x


def gather_and_add(edges: Incoming, x: torch.Tensor, block: int) -> Callable[[], torch.Tensor]:
    targets = torch.repeat_interleave(edges.indptr.diff())
    blocks = list(zip(targets.split(block), edges.indices.split(block), strict=True))

    def work() -> torch.Tensor:
        out = x.new_zeros(len(edges.indptr) - 1, x.shape[1])
        for into, source in blocks:
            out.index_add_(0, into, x[source])
        return out

    return work


def on_gpu(edges: Incoming, x: torch.Tensor, device: torch.device, rounds: int) -> None:
    edges, x = edges.to(device), x.to(device)
    moved = x.element_size() * x.shape[1] * (len(edges) + len(edges.indptr)) + 8 * len(edges)
    seconds = on_device(lambda: propagate(edges, x, reduce="sum"), rounds)
    copied = on_device(x.clone, rounds)
    rate, reached = moved / seconds, 2 * x.element_size() * x.numel() / copied
    print(
        f"{torch.cuda.get_device_name(device)}: {1000 * seconds:.2f} ms, {rate / 1e9:.0f} GB/s, "
        f"{rate / reached:.0%} of the {reached / 1e9:.0f} GB/s of a copy"
    )


def on_device(work: Callable[[], object], rounds: int) -> float:
    """Least seconds."""
    best = np.inf
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
