"""Seconds of an epoch of a graph network over MovieLens 100K.

    python -m benchmarks.train_gnn                       # HGT, fan-out [5, 5], batch 4096
    torchrun --standalone --nproc-per-node 2 -m benchmarks.train_gnn --threads 1
    python -m benchmarks.train_gnn --threads 1           # what the two processes are compared with

The epochs are those of one training with the validation after each; the first, which warms up, is
left out. The budget is 60 s on two cores.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch

from benchmarks.quality import data as sets
from coldstart.networks import network_data
from coldstart.training_data import TrainingData
from gnn.network import NetworkConfig
from gnn.network_train import train_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hgt")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    graph = sets.ml100k()
    data = network_data(TrainingData(graph, sets.texts_of(graph)))
    config = NetworkConfig(
        arguments.model,
        fanouts=(5, 5),
        batch_size=4096,
        epochs=arguments.epochs,
        patience=arguments.epochs,
        held_out=0.1,
        refit=False,
    )
    found = train_network(data, config, device=torch.device(arguments.device))
    seconds = np.array([epoch["seconds"] for epoch in found.history[1:]])
    if int(os.environ.get("RANK", "0")) == 0:
        spread = ", ".join(f"{s:.1f}" for s in seconds)
        print(
            f"{arguments.model}, {data.positives.shape[1]} positives, {processes} processes of "
            f"{arguments.threads} threads: {spread} s an epoch; best {seconds.min():.1f} s, last "
            f"loss {found.history[-1]['loss']:.6f}"
        )
    if processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
