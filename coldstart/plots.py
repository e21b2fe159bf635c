"""Pictures of evaluations; matplotlib is imported only here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coldstart.report import Report
from coldstart.segments import spoken
from kg.errors import DependencyError

if TYPE_CHECKING:
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
    figure = _figure(4.6 * columns, 3.6 * rows)
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
    _save(figure, path)


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
    figure = _figure(6.2 * len(sides), 4.2)
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
    _save(figure, path)


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
    figure = _figure(13, 0.9 + 0.26 * rows)
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
    _save(figure, path)


def _counted(splits: int) -> str:
    return f"{splits} split" + "s" * (splits != 1)


def _bars(axis: Any, names: list[str], findings: list[Any]) -> None:
    colours = ["#d1495b" if f.is_fault else "#8d99ae" for f in findings]
    axis.barh(range(len(names)), [f.figure for f in findings], color=colours)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("a picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a file beside it, so that a picture is whole or not there.
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
