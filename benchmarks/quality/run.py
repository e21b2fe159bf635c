"""Cold-start quality on the splits of DESIGN 11: the engine against every closed-form baseline.

    python -m benchmarks.quality.run ml100k            # cold items, warm and mixed, seeds 0 to 9
    python -m benchmarks.quality.run ml100k --kind cold_user
    python -m benchmarks.quality.run ml100k_thin
    python -m benchmarks.quality.run lastfm
    python -m benchmarks.quality.run lastfm --kind study

A line a seed; at the end the mean and standard error of the paired difference to each baseline
family, and to the one family that validation chose, over all seeds, seeds 0 to 4 and 5 to 9. Every
baseline's setting is chosen on the validation part of the same split; the engine has one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import data as sets
from coldstart.baselines import BASELINES, TrainingData
from coldstart.engine import ColdStartEngine, EngineConfig
from coldstart.evaluation import calibrate_cold_boost, choose, evaluate_task
from coldstart.scorer import CosineBiasScorer, Scorer
from coldstart.splits import Split, read_splits
from kg import KnowledgeGraph, NodeEmbeddings

SEGMENTS = {
    "cold_item": ("cold_items", "warm", "mixed"),
    "cold_user": ("cold_users",),
    "cold_both": ("cold_both", "cold_items", "cold_users"),
}
"""What each kind of split is asked."""

FAMILIES = {
    "cold_items": ("text kNN", "ridge to columns", "ridge to ALS factors", "ridge to EASE columns"),
    "warm": ("popularity", "EASE", "ridge to ALS factors"),
    "mixed": ("ridge to columns", "ridge to ALS factors", "ridge to EASE columns"),
    "cold_users": ("popularity", "ridge on user attributes"),
    "cold_both": (),
}
"""Baselines that can say something about a segment; cold items tie under popularity and EASE."""


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
    graph, folder = {
        "ml100k": lambda: (sets.ml100k(), "ml100k"),
        "ml100k_thin": lambda: (sets.ml100k(thin=True), "ml100k"),
        "lastfm": lambda: (sets.lastfm(), "lastfm_hetrec"),
    }[arguments.set]()
    texts = sets.texts_of(graph)
    if arguments.kind == "study":
        study(graph, texts)
        return
    path = sets.DATA / folder / "splits" / f"{arguments.kind}.parquet"
    seeds = [int(s) for s in arguments.seeds.split(",")]
    rows = []
    for split in read_splits(path, graph):
        seed = int(split.name.removeprefix("seed "))
        if seed in seeds:
            rows += one_split(
                graph, texts, split, seed, SEGMENTS[arguments.kind], arguments.engine_only
            )
    frame = pd.DataFrame(rows)
    report(frame)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(rows, indent=1))


def one_split(
    graph: KnowledgeGraph,
    texts: dict[str, NodeEmbeddings],
    split: Split,
    seed: int,
    segments: tuple[str, ...],
    engine_only: bool,
) -> list[dict]:
    training = split.training_graph(graph)
    start = time.perf_counter()
    engine = ColdStartEngine.fit(training, EngineConfig(), texts=texts)
    seconds = time.perf_counter() - start
    plain = CosineBiasScorer(
        engine.scorer.users, engine.scorer.items, np.zeros(len(graph.items), np.float32)
    )
    rows = []
    data = TrainingData(training, texts)
    grids = {name: make(data) for name, make in BASELINES.items()} if not engine_only else {}
    for segment in segments:
        rows.append(judged("engine", "", plain, split, segment, seed))
        if segment == "mixed":
            result = evaluate_task(engine.scorer, split.task(segment)).mean()
            rows.append(row_of("engine, auto boost", "", segment, seed, float("nan"), result))
        for name in FAMILIES[segment] if not engine_only else ():
            if not grids[name]:
                continue
            setting, scorer, _ = choose(grids[name], split.task(segment, "val"))
            rows.append(judged(name, setting, scorer, split, segment, seed))
        best = {r["scorer"]: round(r["ndcg"], 4) for r in rows if r["segment"] == segment}
        print(f"seed {seed} {segment}: {best} (fit {seconds:.1f} s)", flush=True)
    return rows


def judged(name: str, setting: str, scorer: Scorer, split: Split, segment: str, seed: int) -> dict:
    boost = 0.0
    if segment == "mixed":
        boost = calibrate_cold_boost(scorer, split.task(segment, "val"))
    validation = evaluate_task(scorer, split.task(segment, "val"), cold_boost=boost).mean()["ndcg"]
    result = evaluate_task(scorer, split.task(segment), cold_boost=boost).mean()
    return row_of(name, setting, segment, seed, validation, result)


def row_of(
    name: str, setting: str, segment: str, seed: int, validation: float, result: dict
) -> dict:
    return {
        "scorer": name,
        "setting": setting,
        "segment": segment,
        "seed": seed,
        "validation": validation,
        **result,
    }


def report(frame: pd.DataFrame) -> None:
    for segment, rows in frame.groupby("segment", sort=False):
        print(f"\n{segment}: test NDCG@20, recall@20, and the engine's paired gain in NDCG@20")
        table = rows.pivot(index="seed", columns="scorer", values="ndcg")
        recall = rows.pivot(index="seed", columns="scorer", values="recall")
        families = [c for c in table if not str(c).startswith("engine")]
        if families:
            # One family per seed, the one that looked best on validation.
            chosen = (
                rows[rows.scorer.isin(families)].sort_values("validation").groupby("seed").tail(1)
            )
            table["best on validation"] = chosen.set_index("seed").ndcg
            recall["best on validation"] = chosen.set_index("seed").recall
        for name in table:
            line = f"  {name:28} {table[name].mean():.4f}  {recall[name].mean():.4f}"
            if name != "engine":
                gain = table["engine"] - table[name]
                parts = {"all": gain, "0-4": gain[gain.index < 5], "5-9": gain[gain.index >= 5]}
                line += "  gain " + ", ".join(
                    f"{k}: {paired(v)}" for k, v in parts.items() if len(v)
                )
            print(line)


def paired(gain: pd.Series) -> str:
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
    return f"{gain.mean():+.4f} +- {error:.4f}"


def study(graph: KnowledgeGraph, texts: dict[str, NodeEmbeddings]) -> None:
    """The ChatGPT study's split of Last.fm: nDCG@10 for all and for near-cold users."""
    from gnn.data import Adjacency
    from kg import Edges
    from coldstart.splits import Task

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
    out.add_argument("set", choices=("ml100k", "ml100k_thin", "lastfm"))
    out.add_argument("--kind", default="cold_item", choices=(*SEGMENTS, "study"))
    out.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    out.add_argument("--threads", type=int, default=2)
    out.add_argument("--engine-only", action="store_true", help="leave the baselines out")
    out.add_argument("--out", help="also write every row as JSON")
    return out


if __name__ == "__main__":
    main()
