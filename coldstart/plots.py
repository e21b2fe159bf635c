"""Pictures of evaluations; matplotlib is imported only here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coldstart.report import Report
from kg.errors import DependencyError


def plot_comparison(report: Report, path: Path, *, ours: str = "engine") -> None:
    """Bars of NDCG by segment and scorer, with standard errors over splits, as a PNG.

    Args:
        report: what was found.
        path: of the file; its folder is made where it is missing.
        ours: the scorer that is set off from the others.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("a picture needs matplotlib: pip install matplotlib") from error
    segments = report.segments
    figure = Figure(figsize=(4.6 * len(segments), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(segments), squeeze=False)[0]
    for axis, segment in zip(axes, segments, strict=True):
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
        axis.set_title(segment.replace("_", " "))
        axis.set_xlabel(f"NDCG@{report.k} (mean ± s.e., {len(values[0])} splits)")
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a file beside it, so that a picture is whole or not there.
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
