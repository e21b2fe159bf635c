"""Whether the parts of a score tell what really happens when an edge is taken away.

    OMP_NUM_THREADS=1 python -m benchmarks.explain                # MovieLens 100K: genres, decades
    OMP_NUM_THREADS=1 python -m benchmarks.explain ml100k         # with cast, crew and companies

A thousand times: a random pair of a user and an item, a random one of the parts of its score that
come from an edge, the edge taken away and everything recomputed. Target: the sign of the true
change is that of the part in at least 90% of the cases.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np
import torch

from coldstart.engine import ColdStartEngine
from coldstart.explanation import Contribution, Explanation
from kg.datasets import load_movielens_100k


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("data", nargs="?", default="movielens", choices=["movielens", "ml100k"])
    options.add_argument("--cases", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    engine = fitted(arguments.data)
    rng = np.random.default_rng(arguments.seed)
    users, items = list(engine.graph.users), list(engine.graph.items)
    rows, milliseconds = [], []
    while len(rows) < arguments.cases:
        user, item = users[rng.integers(len(users))], items[rng.integers(len(items))]
        start = time.perf_counter()
        found = engine.explain(user, item)
        milliseconds.append(1000 * (time.perf_counter() - start))
        gap = abs(sum(part.share for part in found.parts) - found.score)
        assert gap < 1e-4, f"parts of {user} and {item} miss the score by {gap}"
        if case := drawn(found, rng):
            name, part = case
            assert part.edge is not None
            rows.append((name, part.share, found.without(part.edge).change))
    report(rows, milliseconds)


def fitted(data: str) -> ColdStartEngine:
    if data == "movielens":
        return ColdStartEngine.fit(load_movielens_100k())
    from benchmarks.quality.data import ml100k, texts_of

    graph = ml100k()
    return ColdStartEngine.fit(graph, texts=texts_of(graph))


def drawn(found: Explanation, rng: np.random.Generator) -> tuple[str, Contribution] | None:
    """A part that comes from an edge: any kind of part alike, and any edge within it alike."""
    by_name = {}
    for side, parts in (("item", found.parts), ("user", found.user_parts)):
        for part in parts:
            if some := [c for c in part.contributions if c.edge is not None]:
                by_name[f"{side}: {part.name}"] = some
    if not by_name:
        return None
    name = list(by_name)[rng.integers(len(by_name))]
    return name, by_name[name][rng.integers(len(by_name[name]))]


def report(rows: list[tuple[str, float, float]], milliseconds: list[float]) -> None:
    agree = [np.sign(share) == np.sign(change) for _, share, change in rows]
    n, share = len(rows), float(np.mean(agree))
    print(f"one explanation takes {np.median(milliseconds):.0f} ms at the median")
    error = (share * (1 - share) / n) ** 0.5
    print(f"sign of part and true change agree in {share:.1%} ± {error:.1%}")
    sizes = np.array([abs(s) for _, s, _ in rows])
    large = sizes >= np.median(sizes)
    print(f"  larger half of the parts: {np.mean(np.array(agree)[large]):.1%}")
    correlation = np.corrcoef([s for _, s, _ in rows], [c for _, _, c in rows])[0, 1]
    print(f"  correlation of part and change {correlation:.3f}; {n} cases")
    for name, count in Counter(name for name, _, _ in rows).most_common():
        these = [a for a, (other, _, _) in zip(agree, rows, strict=True) if other == name]
        print(f"  {name:28} {np.mean(these):6.1%} of {count}")


if __name__ == "__main__":
    main()
