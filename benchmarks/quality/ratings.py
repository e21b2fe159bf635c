"""Ratings on MovieLens 100K: official folds, and users and items that nobody has seen.

    python -m benchmarks.quality.ratings                     # all of it
    python -m benchmarks.quality.ratings --kinds folds
    python -m benchmarks.quality.ratings --kinds cold_user --seeds 5,6,7,8,9 --part test

RMSE and MAE of `engine.rate` and of the mean plus damped biases of the same training ratings ("bias
only"), a line a split; then means and the paired difference with its standard error. In a strict
cold split all ratings of the cold nodes are hidden, those of validation and of test; trained on are
the positives of its training part and as many of the other ratings between warm nodes (80%, drawn
by seed), as the split files only name positives. Choices were made on the validation parts of seeds
0 to 4 and on inner splits of the folds' base parts (`--part val` prints both).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import data as sets
from coldstart.engine import ColdStartEngine
from coldstart.metrics import mae, rmse
from coldstart.report import paired
from coldstart.splits import TEST, VAL, WARM, read_splits
from kg import KnowledgeGraph

FOLDS = ("u1", "u2", "u3", "u4", "u5")
KINDS = ("folds", "cold_item", "cold_user", "cold_both")
DAMPING = 5.0


@dataclass(frozen=True, eq=False)
class RatingSplit:
    """Which of the graph's interactions are trained on, and which are asked for.

    Args:
        name: of the split.
        known: bool ``[num_interactions]``.
        hidden: bool ``[num_interactions]``.
    """

    name: str
    known: np.ndarray
    hidden: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--part", default=TEST, choices=(VAL, TEST))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graph = sets.ml100k()
    texts = sets.texts_of(graph)
    seeds = [int(s) for s in arguments.seeds.split(",")]
    for kind in arguments.kinds.split(","):
        splits = (
            folds(graph, arguments.part)
            if kind == "folds"
            else strictly_cold(graph, kind, seeds, arguments.part)
        )
        rows: dict[str, dict[str, float]] = {}
        for split in splits:
            rows[split.name] = compared(graph, texts, split)
            print(kind, split.name, *(f"{k} {v:.4f}" for k, v in rows[split.name].items()))
        for half, some in halves(kind, rows).items():
            print(f"  {kind}, {arguments.part}, {half}: {summary(some)}", flush=True)


def folds(graph: KnowledgeGraph, part: str) -> Iterator[RatingSplit]:
    """The official folds; for validation, a fifth of each base part instead of the test part."""
    frame = pd.read_parquet(sets.DATA / "ml100k" / "splits" / "official_folds.parquet")
    for number, name in enumerate(FOLDS):
        base = frame[(frame.fold == name) & (frame.part == "base")]
        in_base = np.isin(
            _ids(graph, graph.interactions.index),
            _ids(
                graph,
                np.stack(
                    [
                        graph.users.rows(base.user_id.to_numpy()),
                        graph.items.rows(base.item_id.to_numpy()),
                    ]
                ),
            ),
        )
        if part == TEST:
            yield RatingSplit(name, in_base, ~in_base)
            continue
        inner = np.random.default_rng(number).random(len(in_base)) < 0.2
        yield RatingSplit(name, in_base & ~inner, in_base & inner)


def strictly_cold(
    graph: KnowledgeGraph, kind: str, seeds: list[int], part: str
) -> Iterator[RatingSplit]:
    """The strict cold splits with all ratings, not only the positives."""
    user, item = graph.interactions.index
    for split in read_splits(sets.DATA / "ml100k" / "splits" / f"{kind}.parquet", graph):
        seed = int(split.name.removeprefix("seed "))
        if seed not in seeds:
            continue
        user_part, item_part = split.user_part[user], split.item_part[item]
        ids = _ids(graph, graph.interactions.index)
        is_positive = np.isin(ids, _ids(graph, split.pairs))
        is_training = np.isin(ids, _ids(graph, split.train))
        drawn = np.random.default_rng(seed).random(len(ids)) < 0.8
        warm = (user_part == WARM) & (item_part == WARM)
        hidden = {
            "cold_item": (user_part == WARM) & (item_part == part),
            "cold_user": (user_part == part) & (item_part == WARM),
            "cold_both": (user_part == part) & (item_part == part),
        }[kind]
        yield RatingSplit(split.name, warm & np.where(is_positive, is_training, drawn), hidden)


def compared(graph: KnowledgeGraph, texts: dict, split: RatingSplit) -> dict[str, float]:
    """RMSE and MAE of the engine and of biases alone."""
    edges = graph.interactions
    known, hidden = edges.select(split.known), edges.select(split.hidden)
    training = graph.with_edges(graph.schema.interaction, known)
    engine = ColdStartEngine.fit(training, texts=texts)
    users, items = hidden.index
    some_users, some_items = np.unique(users), np.unique(items)
    ratings = engine.rate(
        graph.users.keys.take(some_users).to_pylist(), graph.items.keys.take(some_items).to_pylist()
    )
    ours = ratings[np.searchsorted(some_users, users), np.searchsorted(some_items, items)]
    assert known.weight is not None
    assert hidden.weight is not None
    shape = len(graph.users), len(graph.items)
    plain = biases_only(known.index, known.weight, shape)[tuple(hidden.index)]
    return {
        "RMSE": rmse(ours, hidden.weight),
        "RMSE of biases": rmse(plain, hidden.weight),
        "MAE": mae(ours, hidden.weight),
        "MAE of biases": mae(plain, hidden.weight),
    }


def biases_only(pairs: np.ndarray, ratings: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean + b_u + b_i of all pairs, damped by 5 ratings, within the scale; 0 for cold nodes."""
    mean = ratings.mean()
    bias = [np.zeros(n) for n in shape]
    for _ in range(10):
        for own in (1, 0):
            rest = ratings - mean - bias[1 - own][pairs[1 - own]]
            count = np.bincount(pairs[own], minlength=shape[own])
            bias[own] = np.bincount(pairs[own], rest, shape[own]) / (count + DAMPING)
    return (mean + bias[0][:, None] + bias[1]).clip(ratings.min(), ratings.max())


def halves(kind: str, rows: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """All splits; of seeds also those that choices were made on and those that they were not."""
    if kind == "folds":
        return {"five folds": rows}
    number = {name: int(name.removeprefix("seed ")) for name in rows}
    parts = {
        "seeds 0 to 4": {n: r for n, r in rows.items() if number[n] < 5},
        "seeds 5 to 9": {n: r for n, r in rows.items() if number[n] >= 5},
    }
    return {half: some for half, some in parts.items() if some}


def summary(rows: dict[str, dict[str, float]]) -> str:
    """Means, and the paired difference with its standard error."""
    by = {name: {s: row[name] for s, row in rows.items()} for name in next(iter(rows.values()))}
    means = ", ".join(f"{name} {np.mean(list(values.values())):.4f}" for name, values in by.items())
    return f"{means}; paired RMSE difference {paired(by['RMSE'], by['RMSE of biases'])}"


def _ids(graph: KnowledgeGraph, pairs: np.ndarray) -> np.ndarray:
    return pairs[0] * len(graph.items) + pairs[1]


if __name__ == "__main__":
    main()
