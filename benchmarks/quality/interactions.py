"""Quality and embedding of a cold node as it gets interactions, through `update` and through refit.

    python -m benchmarks.quality.interactions ml100k                 # 0, 1, 2, 5, 10; update alone
    python -m benchmarks.quality.interactions ml100k --steps 0,1,2,5,10,20,50 --refit \
        --seeds 0,1,2 --threads 1 --plot out/continuity.png

From every test-cold item (then: user) with enough positives (5 more than the last step) so many are
revealed in a fixed random order; quality is always measured on the same other pairs, all revealed
ones being masked for every n. So the lines differ in what the engine knows and in nothing else.
`update` takes them into an engine that was trained without them; refit trains a new one with them,
dated after everything else, as they come last; with --undated nothing tells when they came.
Users rank all cold items, those that get no interactions among them; "of users for an item" is the
other direction: each item ranks the users, and need not compete with items that stay cold.

Of the embeddings x_n of these nodes: the cosine of x_n with that of the step before and the ratio
of their lengths, along `update`, and the cosine and ratio of refit to update at the same n. Two
trainings agree up to a rotation only, which is taken out first (orthogonal Procrustes on the warm
nodes of both sides that are not revealed); how well that works shows in the cosine of the warm
nodes of the same kind, beside it. The lift b_i of cold items takes no part in quality and is shown
alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes

from benchmarks.quality import data as sets
from coldstart.curves import Transposed
from coldstart.engine import ColdStartEngine
from coldstart.judging import evaluate_task
from coldstart.plots import new_figure, save_figure
from coldstart.report import paired
from coldstart.splits import Split, Task, positions_of, read_splits
from gnn.data import Adjacency
from kg import GraphDelta, KnowledgeGraph

SPARE = 5
KINDS = {"cold_item": "cold_items", "cold_user": "cold_users"}

Found = dict[str, dict[int, dict[str, float]]]
"""What was measured, by its name, number of interactions, and split."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Cold nodes that get interactions.

    Args:
        of_items: whether they are items.
        nodes: their rows.
        pairs: what can be revealed, int64 ``[2, num_pairs]``.
        rank: place of each pair in the order in which its node gets them.
        hidden: the task on the pairs that stay hidden: users rank items.
        turned: of items, the same turned round: each of them ranks the users.
    """

    of_items: bool
    nodes: np.ndarray
    pairs: np.ndarray
    rank: np.ndarray
    hidden: Task
    turned: Task | None

    def known(self, n: int) -> np.ndarray:
        """The pairs that are known when every node has n."""
        return self.pairs[:, self.rank < n]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", choices=("ml100k", "lastfm"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--steps", default="0,1,2,5,10")
    parser.add_argument("--refit", action="store_true", help="also train anew at every step")
    parser.add_argument("--undated", action="store_true", help="interactions have no times")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of splits: cold_item, cold_user")
    parser.add_argument("--plot", help="draw it, as PNG")
    parser.add_argument("--out", help="write every figure as JSON")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make, folder = {
        "ml100k": (sets.ml100k, "ml100k"),
        "lastfm": (sets.lastfm, "lastfm_hetrec"),
    }[arguments.set]
    graph = make()
    if arguments.undated:
        bare = replace(graph.interactions, time=None)
        graph = graph.with_edges(graph.schema.interaction, bare)
    texts = sets.texts_of(graph)
    seeds = {f"seed {s}" for s in arguments.seeds.split(",")}
    steps = sorted({0, *map(int, arguments.steps.split(","))})
    everything: dict[str, Found] = {}
    for kind in arguments.kinds.split(","):
        segment = KINDS[kind]
        found = everything[segment] = Found()
        for split in read_splits(sets.DATA / folder / "splits" / f"{kind}.parquet", graph):
            if split.name in seeds:
                cohort = chosen(split, segment, steps)
                measure(graph, texts, split, cohort, steps, found, refit=arguments.refit)
        show(segment, found, steps)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(everything, indent=1))
    if arguments.plot:
        plot(everything, steps, Path(arguments.plot))


def chosen(split: Split, segment: str, steps: Sequence[int]) -> Cohort:
    """The cold nodes with enough positives, what is revealed of each, and what stays hidden."""
    task = split.task(segment)
    pairs = np.stack([task.users[task.relevant.sources], task.candidates[task.relevant.indices]])
    of_items = segment == "cold_items"
    cold = pairs[1] if of_items else pairs[0]
    order = np.random.default_rng(0).permutation(len(cold))
    rank = np.empty(len(cold), np.int64)  # place of a pair among those of its cold node
    seen: dict[int, int] = {}
    for pair in order.tolist():
        rank[pair] = seen.get(int(cold[pair]), 0)
        seen[int(cold[pair])] = int(rank[pair]) + 1
    enough = np.array([seen[node] >= steps[-1] + SPARE for node in cold])
    shown = enough & (rank < steps[-1])
    if not enough.any():
        raise SystemExit(f"no node of {segment} has {steps[-1] + SPARE} positives; fewer --steps")
    hidden = _restricted(task, enough & ~shown, shown)
    nodes = np.unique(cold[enough])
    turned = _turned_round(split, task, pairs, enough & ~shown, shown) if of_items else None
    return Cohort(of_items, nodes, pairs[:, shown], rank[shown], hidden, turned)


def _turned_round(
    split: Split, task: Task, pairs: np.ndarray, relevant: np.ndarray, masked: np.ndarray
) -> Task:
    """Each item ranks the warm users; right are those whose like of it stays hidden."""
    items, users = np.unique(pairs[1, relevant]), np.unique(split.train[0])
    found, known = (
        positions_of(pairs[::-1][:, which], items, users) for which in (relevant, masked)
    )
    return replace(
        task,
        users=items,
        candidates=users,
        relevant=found,
        excluded=known,
        cold=np.zeros(len(users), bool),
    )


def measure(
    graph: KnowledgeGraph,
    texts: dict,
    split: Split,
    cohort: Cohort,
    steps: Sequence[int],
    found: Found,
    *,
    refit: bool,
) -> None:
    """Put what one split says into ``found``."""

    def note(name: str, n: int, value: float) -> None:
        found.setdefault(name, {}).setdefault(n, {})[split.name] = float(value)

    def judge(way: str, n: int, engine: ColdStartEngine) -> None:
        plain = replace(engine, cold_boost=0.0).scorer
        note(f"{way}: NDCG@20", n, evaluate_task(plain, cohort.hidden).mean()["ndcg"])
        if cohort.turned:
            ndcg = evaluate_task(Transposed(plain), cohort.turned).mean()["ndcg"]
            note(f"{way}: NDCG@20 of users for an item", n, ndcg)

    base = _fitted(graph, texts, split, cohort.known(0))
    others = _untouched(split, cohort)
    before: np.ndarray | None = None
    for n in steps:
        delta = GraphDelta(edges={graph.schema.interaction: _table(graph, cohort.known(n))})
        engine = base.update(delta) if n else base
        vectors = _vectors(engine, cohort.of_items)[cohort.nodes]
        judge("update", n, engine)
        note("update: length", n, np.linalg.norm(vectors, axis=1).mean())
        if before is not None:
            note("update: cosine with the step before", n, _cosine(vectors, before).mean())
            note("update: length over the step before", n, _ratio(vectors, before))
        before = vectors
        if cohort.of_items:
            note("update: lift b_i", n, float(engine.item_bias[cohort.nodes].mean()))
        if refit:
            anew = base if not n else _fitted(graph, texts, split, cohort.known(n))
            turned, same_kind = _turned(anew, base, others, cohort.of_items)
            judge("refit", n, anew)
            note("refit: length", n, np.linalg.norm(turned[cohort.nodes], axis=1).mean())
            note("refit and update: cosine", n, _cosine(turned[cohort.nodes], vectors).mean())
            note("refit and update: length", n, _ratio(turned[cohort.nodes], vectors))
            note("refit and base: cosine of other warm nodes", n, same_kind)
            if cohort.of_items:
                note("refit: lift b_i", n, float(anew.item_bias[cohort.nodes].mean()))
    nodes = f"{len(cohort.nodes)} nodes, {len(cohort.hidden.users)} users judged"
    print(f"{split.name}, {nodes}: {_line(found, split.name, steps)}", flush=True)


def _fitted(graph: KnowledgeGraph, texts: dict, split: Split, known: np.ndarray) -> ColdStartEngine:
    """With the times that interactions have, and the pairs of the cohort that are known."""
    edges, width = graph.interactions, len(graph.items)
    pairs = np.hstack([split.train, known])
    keep = np.isin(edges.index[0] * width + edges.index[1], pairs[0] * width + pairs[1])
    kept = edges.select(keep)
    if kept.time is not None:  # the revealed pairs came just now, as they did for `update`
        of_pair = kept.index[0] * width + kept.index[1]
        new = np.isin(of_pair, known[0] * width + known[1])
        kept = replace(kept, time=np.where(new, kept.time.max() + 1, kept.time))
    return ColdStartEngine.fit(graph.with_edges(graph.schema.interaction, kept), texts=texts)


def _vectors(engine: ColdStartEngine, of_items: bool) -> np.ndarray:
    return (engine.item_vectors if of_items else engine.user_vectors).cpu().numpy()


def _untouched(split: Split, cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the warm users and warm items that are not in the cohort."""
    users, items = (np.unique(rows) for rows in split.train)
    if cohort.of_items:
        return users, np.setdiff1d(items, cohort.nodes)
    return np.setdiff1d(users, cohort.nodes), items


def _turned(
    engine: ColdStartEngine,
    base: ColdStartEngine,
    others: tuple[np.ndarray, np.ndarray],
    of_items: bool,
) -> tuple[np.ndarray, float]:
    """The vectors of one side, rotated into the space of another engine.

    Returns:
        The vectors, and the mean cosine with the other engine's for the warm nodes of that side.
    """
    mine, theirs = (
        [_vectors(e, side)[rows] for side, rows in zip((False, True), others, strict=True)]
        for e in (engine, base)
    )
    width = max(engine.dim, base.dim)

    def wide(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (0, width - x.shape[1])))

    rotation, _ = orthogonal_procrustes(wide(np.vstack(mine)), wide(np.vstack(theirs)))
    turned = wide(_vectors(engine, of_items)) @ rotation
    rows = others[int(of_items)]
    same = _cosine(turned[rows], wide(_vectors(base, of_items)[rows]))
    return turned[:, : base.dim] if width == base.dim else turned, float(same.mean())


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    width = max(one.shape[1], other.shape[1])
    one, other = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (one, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / np.maximum(lengths, 1e-12)


def _ratio(one: np.ndarray, other: np.ndarray) -> float:
    """Mean ratio of lengths."""
    lengths = [np.linalg.norm(x, axis=1) for x in (one, other)]
    return float((lengths[0] / np.maximum(lengths[1], 1e-12)).mean())


def _line(found: Found, split: str, steps: Sequence[int]) -> str:
    names = [name for name in ("update: NDCG@20", "refit: NDCG@20") if name in found]
    return "; ".join(
        f"{name} " + ", ".join(f"{n}: {found[name][n][split]:.4f}" for n in steps) for name in names
    )


def show(segment: str, found: Found, steps: Sequence[int]) -> None:
    """Means over the splits with their standard errors, and paired gains in quality."""
    count = len(found["update: NDCG@20"][0])
    print(f"\n{segment}, by interactions of the node, mean of {count} splits")
    for name, by_step in found.items():
        cells = []
        for n, values in sorted(by_step.items()):
            numbers = np.array(list(values.values()))
            error = numbers.std(ddof=1) / len(numbers) ** 0.5 if len(numbers) > 1 else np.nan
            cells.append(f"{n}: {numbers.mean():.4f} +- {error:.4f}")
        print(f"  {name}: " + ", ".join(cells))
    for name, quality in found.items():
        if "NDCG" in name:
            gains = (f"{a} to {b} {paired(quality[b], quality[a])}" for a, b in pairwise(steps))
            print(f"  {name}, paired gain: " + ", ".join(gains))
    for name, quality in found.items():
        if name.startswith("refit: NDCG"):
            other = found[name.replace("refit", "update")]
            gaps = (f"{n}: {paired(quality[n], other[n])}" for n in steps)
            print(f"  {name}, less that through update: " + ", ".join(gaps))
    print(flush=True)


def plot(everything: dict[str, Found], steps: Sequence[int], path: Path) -> None:
    """Quality above, embeddings below; items left, users right."""
    audience = "NDCG@20 of users for an item"
    rows = (
        ("NDCG@20 on hidden pairs", ("update: NDCG@20", "refit: NDCG@20")),
        (audience, (f"update: {audience}", f"refit: {audience}")),
        ("cosine", ("update: cosine with the step before", "refit and update: cosine")),
        ("length of the embedding", ("update: length", "refit: length")),
    )
    figure = new_figure(11, 12.5)
    axes = figure.subplots(len(rows), len(everything), squeeze=False)
    places = {n: place for place, n in enumerate(steps)}
    for column, (segment, found) in enumerate(everything.items()):
        for axis, (label, names) in zip(axes[:, column], rows, strict=True):
            if not any(name in found for name in names):
                axis.set_visible(False)
                continue
            for name, colour in zip(names, ("#d1495b", "#00798c"), strict=True):
                points = sorted(found.get(name, {}).items())
                values = [np.array(list(v.values())) for _, v in points]
                errors = [v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values]
                axis.errorbar(
                    [places[n] for n, _ in points],
                    [v.mean() for v in values],
                    yerr=errors,
                    label=name if "cosine" in name else name.split(":")[0],
                    color=colour,
                    marker="o",
                    markersize=4,
                    capsize=3,
                )
            axis.set_xticks(range(len(steps)), [str(n) for n in steps])
            axis.set_ylabel(label)
            axis.set_xlabel("interactions of the node")
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(fontsize=8)
        count = len(found["update: NDCG@20"][0])
        axes[0, column].set_title(f"{segment.replace('_', ' ')} ({count} splits, mean ± s.e.)")
    save_figure(figure, path)


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
