"""What the confidence of a recommendation says: its value against the share of hits.

    python -m benchmarks.quality.confidence                       # three splits, a table
    python -m benchmarks.quality.confidence --part val            # the part to choose on
    python -m benchmarks.quality.confidence --plot confidence.png

Lists of ten on MovieLens 100K (``cold_both`` splits of DESIGN 11), in four segments. The
recommendations of a segment and split are cut into five equal parts by confidence. Of a warm user a
tenth of the positives are held out, of a cold one all are, so that hits can be compared within a
segment only. A list also hits more often where a user has more positives to hit; ``of chance`` is
the share of hits divided by that of lists drawn at random for the same users.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.quality import data as sets
from coldstart.engine import ColdStartEngine
from coldstart.plots import new_figure, save_figure
from coldstart.splits import Split, Task, read_splits
from kg import KnowledgeGraph, NodeEmbeddings

SEGMENTS = ("warm", "cold_items", "cold_users", "cold_both")
K, BINS = 10, 5


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--part", default="test", choices=("val", "test"))
    options.add_argument("--plot", type=Path, help="also as a picture")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    graph = sets.ml100k()
    texts = sets.texts_of(graph)
    seeds = {f"seed {s}" for s in arguments.seeds.split(",")}
    splits = read_splits(sets.DATA / "ml100k" / "splits" / "cold_both.parquet", graph)
    parts = [
        of_split(graph, texts, split, arguments.part) for split in splits if split.name in seeds
    ]
    table = binned(pd.concat(parts))
    print(table.to_string(index=False, float_format="%.3f"))
    for segment, some in pd.concat(parts).groupby("segment", sort=False):
        ranks = {name: some[name].rank().to_numpy() for name in ("confidence", "score", "hit")}
        by_confidence, by_score, _ = (np.corrcoef(r, ranks["hit"])[0, 1] for r in ranks.values())
        print(
            f"{segment}: rank correlation of hits with confidence {by_confidence:+.3f}, "
            f"with the score {by_score:+.3f}"
        )
    if arguments.plot:
        plot(table, arguments.plot)


def of_split(
    graph: KnowledgeGraph, texts: dict[str, NodeEmbeddings], split: Split, part: str
) -> pd.DataFrame:
    """A row for each recommendation: segment, split, confidence, score, hit, chance."""
    engine = ColdStartEngine.fit(split.training_graph(graph), texts=texts)
    tasks = {segment: split.task(segment, part) for segment in SEGMENTS}
    frames = [of_task(engine, task).assign(segment=name) for name, task in tasks.items()]
    return pd.concat(frames).assign(split=split.name)


def of_task(engine: ColdStartEngine, task: Task) -> pd.DataFrame:
    """Recommendations for the users of a task, out of its candidates."""
    users, items = engine.graph.users.take(task.users), engine.graph.items
    keys = list(items.take(task.candidates))
    found = engine.recommend(list(users), K, candidates=keys).to_table().to_pandas()
    user = users.rows(found.user.to_numpy())
    item = np.searchsorted(task.candidates, items.rows(found.item.to_numpy()))
    relevant = np.zeros((len(task.users), len(keys)), bool)
    relevant[task.relevant.sources, task.relevant.indices] = True
    allowed = len(keys) - task.excluded.degrees
    return pd.DataFrame(
        {
            "confidence": found.confidence,
            "score": found.score,
            "hit": relevant[user, item].astype(float),
            "chance": (task.relevant.degrees / allowed)[user],
        }
    )


def binned(rows: pd.DataFrame) -> pd.DataFrame:
    """Five parts of each segment by confidence; the standard error is over splits."""
    out: list[dict[str, Any]] = []
    for segment, some in rows.groupby("segment", sort=False):
        within = some.groupby("split").confidence.rank(method="first", pct=True)
        place = np.ceil(within * BINS)
        for _, one in some.groupby(place):
            by_split = one.groupby("split").hit.mean()
            out.append(
                {
                    "segment": segment,
                    "confidence": one.confidence.mean(),
                    "hits": one.hit.mean(),
                    "s.e.": by_split.std(ddof=1) / len(by_split) ** 0.5,
                    "of chance": one.hit.mean() / one.chance.mean(),
                    "lists' places": len(one),
                }
            )
    return pd.DataFrame(out)


def plot(table: pd.DataFrame, path: Path) -> None:
    """Hits and hits of chance by confidence, a line for each segment, as a PNG."""
    figure = new_figure(10, 4)
    axes = figure.subplots(1, 2)
    for axis, column in zip(axes, ("hits", "of chance"), strict=True):
        for segment, some in table.groupby("segment", sort=False):
            errors = some["s.e."] * some[column] / some["hits"]
            axis.errorbar(some.confidence, some[column], errors, marker="o", label=segment)
        axis.set(xlabel="confidence", ylabel=f"share of {column}" if column == "hits" else column)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
