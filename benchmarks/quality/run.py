"""Cold-start quality on the splits of DESIGN 11: the engine against every closed-form baseline.

    python -m benchmarks.quality.run ml100k            # cold items, warm and mixed, seeds 0 to 9
    python -m benchmarks.quality.run ml100k --kind cold_user
    python -m benchmarks.quality.run ml100k_thin
    python -m benchmarks.quality.run lastfm
    python -m benchmarks.quality.run lastfm --kind study
    python -m benchmarks.quality.run articles --kind random --seeds 0,1   # books, shop, ...
    python -m benchmarks.quality.run ml100k --kind nine --seeds 100,101
    python -m benchmarks.quality.run ml100k --kind temporal

The first five use the splits of DESIGN 11. The others make theirs, random ones from the seeds, with
a tenth of users and items cold, or three by time; in the nine segments every baseline takes part.

A line a seed; at the end the mean and standard error of the paired difference to each baseline
family, and to the one family that validation chose, over all seeds, seeds 0 to 4 and 5 to 9. Every
baseline's setting is chosen on the validation part of the same split; the engine has one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import data as sets
from benchmarks.quality import packages
from coldstart.baselines import BASELINES
from coldstart.engine import ColdStartEngine, EngineConfig
from coldstart.evaluation import OWN_LIFT, evaluate, makers_named
from coldstart.judging import evaluate_task
from coldstart.report import Report, paired
from coldstart.scorer import Scorer
from coldstart.segments import NINE
from coldstart.splits import MIXED, Split, Task, random_split, read_splits
from coldstart.temporal import temporal_splits
from coldstart.training_data import TrainingData
from gnn.data import Adjacency
from kg import Edges, KnowledgeGraph, NodeEmbeddings

SETS = {
    "ml100k": sets.ml100k,
    "ml100k_thin": partial(sets.ml100k, thin=True),
    "lastfm": sets.lastfm,
    "books": packages.books,
    "articles": packages.articles,
    "shop": packages.shop,
    "filmtrust": packages.filmtrust,
    "machines": packages.machines,
    "dresses": packages.dresses,
    "baskets": packages.baskets,
    "debian": packages.debian,
    "debian_all": partial(packages.debian, users=3, items=3),
    "uploaders": packages.uploaders,
}
"""By name; the last ten have no splits of their own: --kind random, nine or temporal."""

SEGMENTS = {
    "cold_item": ("cold_items", "warm", "mixed"),
    "cold_user": ("cold_users",),
    "cold_both": ("cold_both", "cold_items", "cold_users", "cold_users_mixed"),
    "random": ("cold_items", "warm", *MIXED, "cold_users", "cold_both"),
    "nine": NINE,
    "temporal": NINE,
}
"""What each kind of split is asked."""

FAMILIES = {
    "cold_items": (
        "content popularity",
        "text kNN",
        "ridge to columns",
        "ridge to ALS factors",
        "ridge to EASE columns",
    ),
    "warm": ("popularity", "item kNN", "EASE", "ridge to ALS factors"),
    "mixed": ("ridge to columns", "ridge to ALS factors", "ridge to EASE columns"),
    "cold_users_mixed": (
        "popularity",
        "naive Bayes",
        "ridge on user attributes",
        "content popularity",
        "ridge x ridge",
    ),
    "cold_users": ("popularity", "naive Bayes", "ridge on user attributes"),
    "cold_both": ("content popularity", "ridge x ridge"),
}
"""Baselines that can say something about a segment; cold items tie under popularity and EASE."""

HALVES = range(5), range(5, 10)
"""Seeds that choices were made on, and those that no choice has seen."""


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
    graph = SETS[arguments.set]()
    if arguments.kind == "temporal" and arguments.set == "shop":  # weights count later purchases
        edges = replace(graph.interactions, weight=None)
        graph = graph.with_edges(graph.schema.interaction, edges)
    texts = sets.texts_of(graph)
    if arguments.kind == "study":
        study(graph, texts)
        return
    seeds = [int(s) for s in arguments.seeds.split(",")]
    folder = sets.DATA / ("lastfm_hetrec" if arguments.set == "lastfm" else "ml100k") / "splits"
    splits = splits_of(arguments.kind, graph, folder, seeds)
    ours = ("engine",) if arguments.engine_only else ("engine", *BASELINES)
    segments = {
        segment: [name for name in ("engine", *FAMILIES.get(segment, BASELINES)) if name in ours]
        for segment in SEGMENTS[arguments.kind]
    }
    for segment in set(MIXED) & segments.keys():
        segments[segment].append(OWN_LIFT)
    scorers = makers_named(["engine", OWN_LIFT, *BASELINES])
    report = evaluate(
        graph,
        scorers,
        splits,
        texts=texts,
        segments=segments,
        # Where dbus-tests needs dbus, its name says so.
        check_leaks=not arguments.set.startswith("debian"),
        progress=say,
    )
    print_report(report)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(report.to_dict(), indent=1))


def splits_of(kind: str, graph: KnowledgeGraph, folder: Path, seeds: list[int]) -> list[Split]:
    """The splits of a kind; those by time have no seeds."""
    if kind == "temporal":
        return temporal_splits(graph, 3)
    if kind in ("random", "nine"):
        held_out = ["cold_users", "cold_items", "warm_up_users", "warm_up_items"]
        shares = dict.fromkeys(held_out[: 2 if kind == "random" else 4], 0.1)
        rngs = {seed: np.random.default_rng(seed) for seed in seeds}
        return [random_split(graph, **shares, rng=r, name=f"seed {s}") for s, r in rngs.items()]
    names = {f"seed {seed}" for seed in seeds}
    return [s for s in read_splits(folder / f"{kind}.parquet", graph) if s.name in names]


def say(sentence: str) -> None:
    print(sentence, flush=True)


def print_report(report: Report) -> None:
    """Means over all seeds, then the engine's paired gains by half of the seeds."""
    print("\n" + report.to_text())
    halves = {f"seeds {h[0]} to {h[-1]}": [f"seed {s}" for s in h] for h in HALVES}
    for segment in report.segments:
        names = [n for n in report.scorers(segment) if not n.startswith("engine")]
        if not names:
            continue
        ours = report.values(segment, "engine")
        theirs = {n: report.values(segment, n) for n in names}
        theirs["(best on validation)"] = report.chosen_on_validation(segment, names)
        for half, seeds in halves.items():
            some = {s: v for s, v in ours.items() if s in seeds}
            if some:
                gains = ", ".join(f"{n} {paired(some, v)}" for n, v in theirs.items())
                print(f"{segment}, {half}, gain over: {gains}")


def study(graph: KnowledgeGraph, texts: dict[str, NodeEmbeddings]) -> None:
    """The ChatGPT study's split of Last.fm: nDCG@10 for all and for near-cold users."""
    frame = pd.read_parquet(sets.DATA / "lastfm_hetrec" / "splits" / "chatgpt_study.parquet")
    rows = {
        part: np.stack(
            [graph.users.rows(f.user_id.to_numpy()), graph.items.rows(f.item_id.to_numpy())]
        )
        for part, f in frame.groupby("part")
    }
    training = graph.with_edges(graph.schema.interaction, Edges(rows["train"]))
    engine = ColdStartEngine.fit(training, EngineConfig(), texts=texts)
    data = TrainingData(training, texts)
    scorers: dict[str, Callable[[], Scorer]] = {"engine": lambda: engine.scorer}
    scorers |= {f"EASE {name}": make for name, make in BASELINES["EASE"](data).items()}
    candidates = data.warm_items
    near_cold = np.unique(rows["test_cold_users"][0])
    for name, make in scorers.items():
        scorer, line = make(), []
        for part in ("test", "test_cold_users"):
            users = np.unique(rows[part][0])

            def positions(pairs: np.ndarray, users: np.ndarray = users) -> Adjacency:
                pairs = pairs[:, np.isin(pairs[0], users) & np.isin(pairs[1], candidates)]
                at = np.searchsorted(users, pairs[0]), np.searchsorted(candidates, pairs[1])
                return Adjacency.from_pairs(*at, len(users), len(candidates))

            cold = np.zeros(len(candidates), bool)
            task = Task(
                "warm",
                "test",
                users,
                candidates,
                positions(rows[part]),
                positions(rows["train"]),
                cold,
            )
            line.append(f"{part} nDCG@10 {evaluate_task(scorer, task, k=10).mean()['ndcg']:.4f}")
        print(f"{name:20} {', '.join(line)}  ({len(near_cold)} near-cold users)", flush=True)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    out.add_argument("set", choices=tuple(SETS))
    out.add_argument("--kind", default="cold_item", choices=(*SEGMENTS, "study"))
    out.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    out.add_argument("--threads", type=int, default=2)
    out.add_argument("--engine-only", action="store_true", help="leave the baselines out")
    out.add_argument("--out", help="also write every row as JSON")
    return out


if __name__ == "__main__":
    main()
