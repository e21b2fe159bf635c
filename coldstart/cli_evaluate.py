"""The command ``coldstart evaluate``: a graph, splits, scorers, and what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldstart import cli_vectors

if TYPE_CHECKING:
    from coldstart.splits import Split
    from kg.graph import KnowledgeGraph

METRICS = "ndcg,recall,hit_rate,mrr,auc,coverage,novelty"
SUITED = {
    "cold_items": (
        "content popularity",
        "text kNN",
        "ridge to columns",
        "ridge to ALS factors",
        "ridge to EASE columns",
    ),
    "cold_users": ("popularity", "naive Bayes", "ridge on user attributes"),
    "cold_both": ("content popularity", "ridge x ridge"),
    "cold_users_mixed": (
        "engine, own lift",
        "popularity",
        "ridge on user attributes",
        "content popularity",
        "ridge x ridge",
    ),
    "warm": ("popularity", "item kNN", "EASE", "ridge to ALS factors"),
    "mixed": ("engine, own lift", "ridge to ALS factors", "ridge to EASE columns"),
}
"""Who can say something about a segment besides the engine; on the others they tie or guess."""

CURVES = {
    "users": ("popularity", "naive Bayes", "item kNN", "EASE"),
    "items": ("text kNN", "ridge to ALS factors", "ridge to EASE columns"),
}
"""The same for quality by the number of training interactions of a node."""


def add_command(commands: Any) -> None:
    """Add ``evaluate`` to the commands of ``coldstart``."""
    command = commands.add_parser(
        "evaluate", help="the engine against baselines, by segment, on splits of a graph"
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("graph", nargs="?", help="folder that `coldstart import` wrote")
    where.add_argument("--movielens", action="store_true", help="MovieLens 100K, fetched if needed")
    command.add_argument("--splits", type=int, default=3, help="how many (default: 3)")
    command.add_argument(
        "--kind",
        choices=("random", "temporal"),
        default="random",
        help="random: a tenth of users and items cold for test; temporal: points in time, a tenth "
        "of the interactions for each test, one after another (default: random)",
    )
    command.add_argument(
        "--segments",
        default="nine",
        help="by comma: nine (cold, warm-up and warm users by cold, warm-up and warm items), "
        f"{', '.join(SUITED)} (default: nine)",
    )
    command.add_argument(
        "--baselines",
        help="names by comma, such as item_knn,ease; all or none (default: those that suit each "
        "segment)",
    )
    command.add_argument("--metrics", default=METRICS, help=f"by comma (default: {METRICS})")
    cli_vectors.add_option(command)
    command.add_argument("-k", type=int, default=20, help="list length (default: 20)")
    command.add_argument("--seed", type=int, default=0, help="of splits and training")
    command.add_argument("--json", action="store_true", help="print every row as JSON instead")
    command.add_argument("--markdown", metavar="FILE", help="also write the tables as Markdown")
    command.add_argument(
        "--plot",
        metavar="FILE",
        help="also draw the segments, as PNG, and beside it, in FILE_by_interactions.png, quality "
        "by how many training interactions users and items have",
    )
    command.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from coldstart.baselines import BASELINES
    from coldstart.evaluation import ENGINE, OWN_LIFT, evaluate, makers_named
    from kg.files import write_atomically

    segments = segments_named(_listed(arguments.segments))
    everybody = makers_named([ENGINE, OWN_LIFT, *BASELINES], rng=arguments.seed)
    named = arguments.baselines
    if named is not None:
        chosen = {"all": list(BASELINES), "none": []}.get(named, _listed(named))
        named = [name for name in makers_named(chosen) if name != ENGINE]
    vectors = cli_vectors.read_vectors(arguments.vectors)
    graph = _graph(arguments)
    _say(graph)
    report = evaluate(
        graph,
        everybody,
        make_splits(graph, arguments.kind, arguments.splits, arguments.seed, segments),
        vectors=vectors,
        segments={segment: (ENGINE, *_against(segment, named)) for segment in segments},
        metrics=_listed(arguments.metrics),
        curves={
            side: (ENGINE, *(suited if named is None else named))
            for side, suited in (CURVES.items() if arguments.plot else ())
        },
        k=arguments.k,
        progress=_say,
    )
    if arguments.markdown:
        write_atomically(Path(arguments.markdown), report.to_markdown().encode())
        _say(f"tables: {arguments.markdown}")
    if arguments.plot:
        from coldstart.plots import plot_by_interactions, plot_comparison

        path = Path(arguments.plot)
        beside = path.with_name(f"{path.stem}_by_interactions.png")
        plot_comparison(report, path)
        plot_by_interactions(report, beside)
        _say(f"pictures: {path}, {beside}")
    print(json.dumps(report.to_dict(), indent=1) if arguments.json else report.to_text())


def segments_named(names: Iterable[str]) -> list[str]:
    """Segments by name, ``nine`` standing for the nine.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    from coldstart.segments import NINE

    found: list[str] = []
    for name in names:
        if name != "nine" and name not in (*SUITED, *NINE):
            known = ", ".join(("nine", *SUITED, *NINE))
            raise ValueError(f"no segment is named {name!r}; known: {known}")
        found += NINE if name == "nine" else [name]
    if not found:
        raise ValueError("no segment is named; give --segments nine, for example")
    return list(dict.fromkeys(found))


def _against(segment: str, named: Iterable[str] | None) -> tuple[str, ...]:
    """Who is compared with the engine: who is named, or who suits the segment."""
    from coldstart.evaluation import OWN_LIFT
    from coldstart.splits import MIXED

    if named is None:
        return _suited(segment)
    lifted = [OWN_LIFT] if segment in MIXED else []
    return (*dict.fromkeys([*lifted, *named]),)


def _suited(segment: str) -> tuple[str, ...]:
    from coldstart.segments import ends_of

    if segment in SUITED:
        return SUITED[segment]
    users_are_cold, items_are_cold = (end == "cold" for end in ends_of(segment))
    if users_are_cold:
        return SUITED["cold_both" if items_are_cold else "cold_users"]
    return SUITED["cold_items" if items_are_cold else "warm"]


def make_splits(
    graph: KnowledgeGraph, kind: str, number: int, seed: int, segments: Iterable[str]
) -> list[Split]:
    """So many splits of a kind; random ones have nodes that warm up where a segment asks for them.

    Raises:
        ValueError: ``number`` is below 1, or too high for splits by time.
    """
    import numpy as np

    from coldstart.segments import NINE
    from coldstart.splits import random_split
    from coldstart.temporal import temporal_splits

    if number < 1:
        raise ValueError(f"expected at least 1 split, got {number}")
    if kind == "temporal":
        return temporal_splits(graph, number)
    warming = 0.1 if set(segments) & set(NINE) else 0.0
    return [
        random_split(
            graph,
            cold_users=0.1,
            cold_items=0.1,
            warm_up_users=warming,
            warm_up_items=warming,
            rng=np.random.default_rng([seed, n]),
            name=f"split {n}",
        )
        for n in range(number)
    ]


def _graph(arguments: argparse.Namespace) -> KnowledgeGraph:
    if arguments.movielens:
        from kg.datasets import load_movielens_100k

        return load_movielens_100k(progress=True)
    from kg.files import read_graph

    return read_graph(arguments.graph)


def _say(what: object) -> None:
    """Progress goes where it does not mix with results."""
    print(what, file=sys.stderr, flush=True)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
