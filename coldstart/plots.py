"""Pictures of evaluations; matplotlib is imported only here."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from coldstart.report import Report
from coldstart.segments import spoken
from kg.errors import DependencyError

if TYPE_CHECKING:
    from coldstart.explanation import Explanation
    from coldstart.paths import Place
    from kg.auditing import Audit


_OTHERS = ("#2b2d42", "#00798c", "#edae49", "#8d99ae", "#6a4c93")


def plot_comparison(report: Report, path: Path, *, ours: str = "engine") -> None:
    """Bars of NDCG by segment and scorer, with standard errors over splits, as a PNG.

    Args:
        report: what was found.
        path: of the file; its folder is made where it is missing.
        ours: the scorer that is set off from the others.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    segments = report.segments
    columns = min(len(segments), 3)
    rows = -(-len(segments) // columns)
    figure = new_figure(4.6 * columns, 3.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(segments) :]:
        axis.set_visible(False)
    for axis, segment in zip(axes, segments, strict=False):
        names = sorted(
            report.scorers(segment),
            key=lambda n: float(np.mean(list(report.values(segment, n).values()))),
        )
        values = [np.array(list(report.values(segment, n).values())) for n in names]
        means = [v.mean() for v in values]
        errors = [v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values]
        colours = ["#d1495b" if n == ours else "#8d99ae" for n in names]
        axis.barh(names, means, xerr=errors, color=colours, ecolor="#2b2d42", capsize=3)
        for place, mean in enumerate(means):
            axis.text(mean / 2, place, f"{mean:.3f}", va="center", ha="center", color="white")
        axis.set_title(spoken(segment))
        axis.set_xlabel(f"NDCG@{report.k} (mean ± s.e., {_counted(len(values[0]))})")
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_by_interactions(report: Report, path: Path, *, ours: str = "engine") -> None:
    """NDCG by how many training interactions users and items have, with standard errors, as a PNG.

    It compares scorers, bin by bin; what differs from bin to bin is told in
    :mod:`coldstart.curves`.

    Args:
        report: what was found with ``curves``.
        path: of the file; its folder is made where it is missing.
        ours: the scorer that is set off from the others.

    Raises:
        DependencyError: matplotlib is not installed.
        ValueError: the report has no curve.
    """
    sides = list(dict.fromkeys(point.side for point in report.points))
    if not sides:
        raise ValueError(
            "the report has no quality by interactions to draw; evaluate with curves=['users', "
            "'items']"
        )
    figure = new_figure(6.2 * len(sides), 4.2)
    for axis, side in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        here = [point for point in report.points if point.side == side]
        labels = {p.binned[:2]: p.binned.label for p in here}
        places = {ends: place for place, ends in enumerate(sorted(labels))}
        for number, name in enumerate(dict.fromkeys(point.scorer for point in here)):
            found = report.curve(side, name)
            axis.errorbar(
                [places[binned[:2]] for binned in found],
                [binned.ndcg for binned in found],
                yerr=[np.nan_to_num(binned.error) for binned in found],
                label=name,
                color="#d1495b" if name == ours else _OTHERS[number % len(_OTHERS)],
                linewidth=2.2 if name == ours else 1.2,
                zorder=3 if name == ours else 2,
                marker="o",
                markersize=4,
                capsize=2,
            )
        axis.set_xticks(range(len(places)), [labels[ends] for ends in places], fontsize=8)
        axis.set_xlabel(f"training interactions of the {side[:-1]}")
        other = {"users": "warm items", "items": "warm users"}[side]
        splits = _counted(len({point.split for point in here}))
        axis.set_ylabel(f"NDCG@{report.k} over {other} (mean ± s.e., {splits})")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8)
    save_figure(figure, path)


def plot_audit(audit: Audit, path: Path) -> None:
    """How informative each relation is, and how far the other figures are from their limits.

    Args:
        audit: what was found.
        path: of the PNG file; its folder is made where it is missing.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    known = [f for f in audit.findings if f.verdict != "unknown"]
    relations = sorted(
        (f for f in known if f.check == "informative relation"), key=lambda f: f.figure
    )
    shares = [f for f in known if not f.at_least and (f.is_fault or f.figure > 0)]
    shares.sort(key=lambda f: (f.is_fault, f.figure))
    rows = max(len(relations), len(shares), 4)
    figure = new_figure(13, 0.9 + 0.26 * rows)
    left, right = figure.subplots(1, 2)
    left.set_title("links against shuffled links")
    left.set_xlabel("standard deviations above chance (likeness in taste)")
    left.set_xscale("symlog", linthresh=4)
    _bars(left, [f.subject for f in relations], relations)
    for found in relations[:1]:
        left.axvline(found.threshold, color="#2b2d42", linestyle="--", linewidth=1)
    right.set_title("shares; a tick marks the limit")
    right.set_xlim(0, 1)
    _bars(right, [f"{f.check}: {f.subject}" for f in shares], shares)
    right.plot([f.threshold for f in shares], range(len(shares)), "|", color="#2b2d42", ms=11)
    save_figure(figure, path)


def _counted(splits: int) -> str:
    return f"{splits} split" + "s" * (splits != 1)


def plot_explanation(found: Explanation, path: Path) -> None:
    """The paths of an explanation as a graph, and beside it the parts of the score.

    Args:
        found: the explanation.
        path: of the PNG file; its folder is made where it is missing.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    import networkx as nx

    figure = new_figure(14, 6)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    graph = nx.DiGraph()
    for each in found.paths:
        names = [_place_name(place) for place in each.places]
        for at, name in enumerate(names):
            column = at / (len(names) - 1)
            graph.add_node(name, column=max(column, graph.nodes.get(name, {}).get("column", 0.0)))
        for at, hop in enumerate(each.hops):
            ends = names[at : at + 2] if hop.direction != "in" else names[at : at + 2][::-1]
            share = each.share + graph.edges.get(ends, {}).get("share", 0.0)
            graph.add_edge(*ends, share=share, name=hop.edge_type[1])
    if graph:
        where = _columns(graph)
        shares = [graph.edges[e]["share"] for e in graph.edges]
        most = max(map(abs, shares)) or 1.0
        colours = ["#2a9d8f" if s >= 0 else "#d1495b" for s in shares]
        widths = [0.6 + 4 * abs(s) / most for s in shares]
        nx.draw_networkx_edges(graph, where, ax=left, edge_color=colours, width=widths, alpha=0.6)
        nx.draw_networkx_nodes(graph, where, ax=left, node_color="#edf2f4", node_size=500)
        nx.draw_networkx_labels(graph, where, ax=left, font_size=7)
        named = {e: graph.edges[e]["name"] for e in graph.edges}
        nx.draw_networkx_edge_labels(graph, where, named, ax=left, font_size=6)
    left.set_title(f"what leads from {found.user_name} to {found.item_name}", fontsize=10)
    left.axis("off")
    left.margins(0.15)
    parts = [p for p in found.parts if abs(p.share) > 1e-6][:14][::-1]
    colours = ["#2a9d8f" if p.share >= 0 else "#d1495b" for p in parts]
    right.barh(range(len(parts)), [p.share for p in parts], color=colours)
    right.set_yticks(range(len(parts)), [p.name for p in parts], fontsize=8)
    right.set_title(f"parts of the score, {found.score:.3f} in all", fontsize=10)
    right.axvline(0, color="#2b2d42", linewidth=0.8)
    right.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _place_name(place: Place) -> str:
    """A name for a place that is the same for the same nodes, and different for others."""
    if not place.names:
        return f"{place.node_type}s there"
    more = len(place.names) - 1
    wrapped = "\n".join(wrap(place.names[0], 22))
    return wrapped + (f"\nand {more} more" if more else "")


def _columns(graph: Any) -> dict[str, tuple[float, float]]:
    """Where the nodes of a graph go: left to right by column, spread from top to bottom."""
    by_column: dict[float, list[str]] = {}
    for name, column in graph.nodes(data="column"):
        by_column.setdefault(column, []).append(name)
    return {
        name: (column, 1 - (place + 1) / (len(names) + 1))
        for column, names in by_column.items()
        for place, name in enumerate(names)
    }


def _bars(axis: Any, names: list[str], findings: list[Any]) -> None:
    colours = ["#d1495b" if f.is_fault else "#8d99ae" for f in findings]
    axis.barh(range(len(names)), [f.figure for f in findings], color=colours)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("a picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, making its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a file beside it, so that a picture is whole or not there.
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
