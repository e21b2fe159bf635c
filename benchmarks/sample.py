"""Seeds a second of the neighbour sampler, on a typed graph of a million nodes.

    python -m benchmarks.sample            # two threads and one, batches of 4096 and 50,000
    python -m benchmarks.sample --parts    # and what each part of the work costs
    python -m benchmarks.sample --device cuda

500,000 users, 400,000 items and 100,000 entities; seven million interactions and three million
links of items to entities, each followed in both directions; a few items have most of the
interactions. Seeds are users; ten neighbours per relation and hop, two hops, without replacement:
in the second hop an item draws ten users and ten entities. Floor: 50,000 a second on two cores.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from gnn.sampler import sample
from gnn.typed import Incoming, TypedGraph, reverse_type

NUM_NODES = {"user": 500_000, "item": 400_000, "entity": 100_000}
NUM_LINKS = {("user", "bought", "item"): 7_000_000, ("item", "has", "entity"): 3_000_000}
FANOUTS = [10, 10]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    options.add_argument("--batches", type=int, nargs="+", default=[4096, 50_000])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--replace", action="store_true")
    options.add_argument("--device", default="cpu")
    options.add_argument("--parts", action="store_true", help="what the operators of torch cost")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    graph = made().to(device)
    for threads in arguments.threads if device.type == "cpu" else [1]:
        torch.set_num_threads(threads)
        for size in arguments.batches:
            measure(graph, size, arguments.rounds, arguments.replace, device)
    if arguments.parts:
        with profile(activities=[ProfilerActivity.CPU]) as parts:
            sample(graph, {"user": users(0, arguments.batches[0], device)}, FANOUTS, seed=0)
        print(parts.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def users(number: int, size: int, device: torch.device) -> torch.Tensor:
    rows = np.random.default_rng(number).choice(NUM_NODES["user"], size, replace=False)
    return torch.from_numpy(rows).to(device)


def made() -> TypedGraph:
    """The same graph in every run."""
    rng = np.random.default_rng(0)
    edges = {}
    for (source, relation, target), count in NUM_LINKS.items():
        # Squared, a tenth of the targets has a third of the links, and the first has thousands.
        targets = (NUM_NODES[target] * rng.random(count) ** 2).astype(np.int64)
        targets = rng.permutation(NUM_NODES[target])[targets]
        sources = rng.integers(NUM_NODES[source], size=count)
        edge_type = (source, relation, target)
        edges[edge_type] = Incoming.from_edges(sources, targets, NUM_NODES[target])
        back = Incoming.from_edges(targets, sources, NUM_NODES[source])
        edges[reverse_type(edge_type)] = back
    return TypedGraph(NUM_NODES, edges)


def measure(graph: TypedGraph, size: int, rounds: int, replace: bool, device: torch.device) -> None:
    seconds, edges = [], []
    for number in range(rounds + 1):
        seeds = {"user": users(number, size, device)}
        start = time.perf_counter()
        out = sample(graph, seeds, FANOUTS, seed=number, replace=replace)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:  # the first one warms up
            seconds.append(time.perf_counter() - start)
            edges.append(sum(i.shape[1] for b in out.blocks for i in b.edge_index.values()))
    best, median = min(seconds), float(np.median(seconds))
    print(
        f"{torch.get_num_threads()} threads, {size:,} seeds: {size / best:,.0f} seeds a second, "
        f"median {size / median:,.0f}; {1000 * best:.0f} ms for {np.mean(edges):,.0f} edges, "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
