"""Trained graph networks against the default propagation and the closed forms, on the same splits.

    python -m benchmarks.quality.networks ml100k --seeds 0,1,2 --seconds 120
    python -m benchmarks.quality.networks lastfm --models sage --engines propagation+sage

Every network gets the same wall time on every split to try settings, the default first and then
random ones; the validation part of the split chooses, as it does for the baselines' grids. The
engine has one setting. Quality is NDCG@20 with paired differences to the default engine; the
seconds of every training are printed as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality import data as sets
from coldstart.baselines import BASELINES
from coldstart.engine import EngineConfig
from coldstart.evaluation import Maker, engine_maker, evaluate
from coldstart.networks import network_family
from coldstart.report import paired
from coldstart.splits import read_splits
from coldstart.training_data import TrainingData
from gnn.network import MODELS, NetworkConfig

CLOSED = {
    "cold_items": ("ridge to ALS factors", "ridge to EASE columns"),
    "warm": ("popularity", "EASE"),
}
SPACE = {
    "learning_rate": (1.5e-3, 3e-3, 6e-3),
    "dropout": (0.02, 0.05, 0.2),
    "hidden_channels": (32, 64, 128),
    "cold_share": (0.3, 0.5, 0.8),
    "decoder": ("cosine", "dot"),
    "num_hard": (0, 2),
    "triple_loss": (None, "distmult", "transe"),
    "weight_decay": (1e-3, 1e-2),
}
"""What the random settings are drawn from."""


def settings_of(model: str, base: NetworkConfig, count: int = 24) -> dict[str, NetworkConfig]:
    """The default and random settings, the same for every model."""
    rng = np.random.default_rng(0)
    found = {"default": replace(base, model=model)}
    for number in range(1, count):
        drawn = {name: values[rng.integers(len(values))] for name, values in SPACE.items()}
        found[f"draw {number}"] = replace(base, model=model, **drawn)
    return found


def timed(name: str, maker: Maker) -> Maker:
    """The maker, which says how long it took."""

    def fit(data: TrainingData):
        began = time.perf_counter()
        found = maker(data)
        print(f"{name}: fitted in {time.perf_counter() - began:.0f} s", flush=True)
        return found

    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=["ml100k", "lastfm"])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--engines", default="propagation+sage")
    parser.add_argument("--seconds", type=float, default=120.0, help="a model's, on every split")
    parser.add_argument("--epochs", type=int, default=NetworkConfig().epochs)
    parser.add_argument("--batch-size", type=int, default=NetworkConfig().batch_size)
    parser.add_argument("--held-out", type=float, default=NetworkConfig().held_out)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graph, folder = {
        "ml100k": lambda: (sets.ml100k(), "ml100k"),
        "lastfm": lambda: (sets.lastfm(), "lastfm_hetrec"),
    }[arguments.set]()
    seeds = {f"seed {s}" for s in arguments.seeds.split(",")}
    path = sets.DATA / folder / "splits" / "cold_item.parquet"
    splits = [split for split in read_splits(path, graph) if split.name in seeds]
    network = NetworkConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        held_out=arguments.held_out,
    )
    makers: dict[str, Maker] = {"engine": engine_maker()}
    for encoder in filter(None, arguments.engines.split(",")):
        config = EngineConfig(graph_encoder=encoder, network=network)
        makers[f"engine, {encoder}"] = engine_maker(config)
    for model in filter(None, arguments.models.split(",")):
        family = network_family(
            settings_of(model, network), seconds=arguments.seconds, progress=print
        )
        makers[model] = family
    ours = list(makers)
    makers |= {name: BASELINES[name] for names in CLOSED.values() for name in names}
    segments = {segment: [*ours, *names] for segment, names in CLOSED.items()}
    report = evaluate(
        graph,
        {name: timed(name, maker) for name, maker in makers.items()},
        splits,
        texts=sets.texts_of(graph),
        segments=segments,
        progress=lambda sentence: print(sentence, flush=True),
    )
    print("\n" + report.to_text())
    for segment, names in segments.items():
        engine = report.values(segment, "engine")
        gains = ", ".join(
            f"{n} {paired(report.values(segment, n), engine)}" for n in names if n != "engine"
        )
        print(f"{segment}, difference to the engine: {gains}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(report.to_dict(), indent=1))


if __name__ == "__main__":
    main()
