"""Quality as a cold node gets interactions through `update`: 0, 1, 2, 5, 10 of them.

    python -m benchmarks.quality.interactions ml100k --seeds 0,1,2,3,4

From every test-cold item (then: user) with at least 15 positives ten are revealed in a fixed random
order; quality is always measured on the same other pairs, the ten being masked for every n. So the
lines differ in what the engine knows and in nothing else. No training takes place in between.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from benchmarks.quality import data as sets
from coldstart.engine import ColdStartEngine
from coldstart.judging import evaluate_task
from coldstart.report import paired
from coldstart.splits import Split, Task, read_splits
from gnn.data import Adjacency
from kg import GraphDelta, KnowledgeGraph

STEPS = (0, 1, 2, 5, 10)
LEAST = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=("ml100k", "lastfm"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graph, folder = {
        "ml100k": (sets.ml100k, "ml100k"),
        "lastfm": (sets.lastfm, "lastfm_hetrec"),
    }[arguments.set]
    graph = graph()
    texts = sets.texts_of(graph)
    seeds = {f"seed {s}" for s in arguments.seeds.split(",")}
    for kind, segment in (("cold_item", "cold_items"), ("cold_user", "cold_users")):
        path = sets.DATA / folder / "splits" / f"{kind}.parquet"
        found: dict[int, dict[str, float]] = {n: {} for n in STEPS}
        for split in read_splits(path, graph):
            if split.name not in seeds:
                continue
            engine = ColdStartEngine.fit(split.training_graph(graph), texts=texts)
            for n, ndcg in revealed(graph, engine, split, segment).items():
                found[n][split.name] = ndcg
            print(split.name, segment, {n: round(v[split.name], 4) for n, v in found.items()})
        print(f"\n{segment}, NDCG@20 by interactions of the node, mean of {len(found[0])} splits")
        for before, n in zip((None, *STEPS), STEPS, strict=False):
            gain = "" if before is None else f"  paired gain {paired(found[n], found[before])}"
            print(f"  {n:>2}: {np.mean(list(found[n].values())):.4f}{gain}")
        print(flush=True)


def revealed(
    graph: KnowledgeGraph, engine: ColdStartEngine, split: Split, segment: str
) -> dict[int, float]:
    """NDCG@20 on the pairs that stay hidden, by number of pairs revealed per cold node."""
    task = split.task(segment)
    pairs = np.stack([task.users[task.relevant.sources], task.candidates[task.relevant.indices]])
    cold = pairs[1] if segment == "cold_items" else pairs[0]
    order = np.random.default_rng(0).permutation(len(cold))
    rank = np.empty(len(cold), np.int64)  # place of a pair among those of its cold node
    seen: dict[int, int] = {}
    for pair in order:
        rank[pair] = seen.get(cold[pair], 0)
        seen[cold[pair]] = rank[pair] + 1
    enough = np.array([seen[node] >= LEAST for node in cold])
    shown = enough & (rank < STEPS[-1])
    hidden = _restricted(task, enough & ~shown, shown)
    out = {}
    for n in STEPS:
        known = pairs[:, shown & (rank < n)]
        delta = GraphDelta(edges={graph.schema.interaction: _table(graph, known)} if n else {})
        scorer = engine.update(delta).scorer
        plain = replace(scorer, item_bias=np.zeros_like(scorer.item_bias))
        out[n] = evaluate_task(plain, hidden).mean()["ndcg"]
    return out


def _restricted(task: Task, relevant: np.ndarray, masked: np.ndarray) -> Task:
    """The task with only some of its right answers, others masked, users without any left out."""
    user, item = task.relevant.sources, task.relevant.indices
    users, place = np.unique(user[relevant], return_inverse=True)
    masked = masked & np.isin(user, users)
    at = np.searchsorted(users, user[masked])
    shape = len(users), len(task.candidates)
    more = task.excluded.take(users)
    return replace(
        task,
        users=task.users[users],
        relevant=Adjacency.from_pairs(place, item[relevant], *shape),
        excluded=Adjacency.from_pairs(
            np.concatenate([at, more.sources]), np.concatenate([item[masked], more.indices]), *shape
        ),
    )


def _table(graph: KnowledgeGraph, pairs: np.ndarray) -> dict:
    edges = graph.interactions
    table = {
        "source": graph.users.keys.take(pairs[0]),
        "target": graph.items.keys.take(pairs[1]),
    }
    if edges.weight is not None:
        table["weight"] = np.full(pairs.shape[1], graph.schema.positive_weight or 1.0)
    if edges.time is not None:
        table["time"] = np.zeros(pairs.shape[1], np.int64)
    return table


if __name__ == "__main__":
    main()
