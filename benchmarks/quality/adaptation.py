"""Does an encoder taught by the graph help cold items? The engine and text kNN, paired by split.

    python -m benchmarks.quality.adaptation ml100k --seeds 0,1,2
    python -m benchmarks.quality.adaptation lastfm --seeds 0,1,2

Stage one (facts of the graph, no interactions) is trained once a set, stage two (tastes) once a
split on its training part alone, starting from stage one. NDCG@20 on the test-cold items of each
split; nothing is chosen on them: early stopping looks at items held out of the training part.
What was trained stays under --folder, so that a second run only evaluates.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality import data as sets
from coldstart.baselines import BASELINES
from coldstart.evaluation import engine_maker, evaluate
from coldstart.report import paired
from coldstart.splits import Split, read_splits
from encoders import TransformerEncoder, embed_nodes
from encoders.adaptation import AdaptationConfig, Stage, adapt
from kg import KnowledgeGraph

NAMES = ("frozen", "facts", "facts and tastes", "tastes")
OFF = Stage(steps=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=("ml100k", "lastfm"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--config", help="TOML file of encoders.adaptation")
    parser.add_argument("--only", help="names by comma, of: " + ", ".join(NAMES))
    parser.add_argument("--folder", default="out/adaptation", help="where adapters are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("encoders.learning").setLevel(logging.INFO)
    config = AdaptationConfig.read(arguments.config) if arguments.config else AdaptationConfig()
    names = arguments.only.split(",") if arguments.only else NAMES[:3]
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only: no encoder is named {min(unknown)!r}; known: {', '.join(NAMES)}")
    graph = {"ml100k": sets.ml100k, "lastfm": sets.lastfm}[arguments.set]()
    folder = Path(arguments.folder) / arguments.set
    path = sets.DATA / {"ml100k": "ml100k", "lastfm": "lastfm_hetrec"}[arguments.set] / "splits"
    seeds = {f"seed {s}" for s in arguments.seeds.split(",")}
    splits = [s for s in read_splits(path / "cold_item.parquet", graph) if s.name in seeds]
    found: dict[str, dict[str, dict[str, float]]] = {n: {} for n in names}
    for split in splits:
        for name in names:
            adapter = adapted(name, graph, split, config, folder)
            found[name][split.name] = marks(graph, split, adapter)
            print(split.name, name, found[name][split.name], flush=True)
    for scorer in ("engine", "text kNN"):
        base = {s: v[scorer] for s, v in found[names[0]].items()}
        for name in names:
            values = {s: v[scorer] for s, v in found[name].items()}
            gain = "" if name == names[0] else f"  over {names[0]}: {paired(values, base)}"
            print(f"{scorer:9} {name:17} {np.mean(list(values.values())):.4f}{gain}")


def adapted(
    name: str, graph: KnowledgeGraph, split: Split, config: AdaptationConfig, folder: Path
) -> Path | None:
    """Folder of the adapter of that name, trained now if it is not there."""
    if name == "frozen":
        return None
    began, facts = time.perf_counter(), folder / "facts"
    if "facts" in name:
        # No interactions at all: facts are the same for every split, and nothing can leak.
        bare = graph.with_edges(
            graph.schema.interaction, graph.interactions.select(np.zeros(0, int))
        )
        adapt(bare, facts, replace(config, tastes=OFF))
    if name == "facts":
        target = facts
    else:
        target = folder / f"{name.replace(' ', '-')}-{split.name.replace(' ', '')}"
        start = facts if "facts" in name else None
        adapt(split.training_graph(graph), target, replace(config, triples=OFF), start=start)
    print(f"  {target}: {time.perf_counter() - began:.0f} s", flush=True)
    return target


def marks(graph: KnowledgeGraph, split: Split, adapter: Path | None) -> dict[str, float]:
    """NDCG@20 on cold items with the vectors of an encoder."""
    encoder = TransformerEncoder(adapter=adapter)
    texts = embed_nodes(graph, encoder, [graph.schema.item])
    scorers = {"engine": engine_maker(), "text kNN": BASELINES["text kNN"]}
    report = evaluate(graph, scorers, [split], texts=texts, segments={"cold_items": list(scorers)})
    return {name: report.values("cold_items", name)[split.name] for name in scorers}


if __name__ == "__main__":
    main()
