"""What an evaluation found: a row per scorer, segment and split, and paired differences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from coldstart.curves import Binned, Point, curve
from coldstart.segments import CLASSES, NINE, spoken

BEST = "(best on validation)"
"""Not one scorer but the baseline that validation chooses in each split."""

_DIFFERENCES = pa.schema(
    [(name, pa.string()) for name in ("segment", "metric", "scorer", "other")]
    + [("mean", pa.float64()), ("error", pa.float64()), ("splits", pa.int64())]
)


class Row(NamedTuple):
    """One scorer on one segment of one split.

    Args:
        scorer: its name.
        segment: see :data:`coldstart.splits.SEGMENTS`.
        split: its name.
        ndcg: mean over the test users.
        recall: the same.
        validation: NDCG on the validation part.
        users: number of test users.
        setting: which setting of a grid validation chose, empty where there is no grid.
        cold_boost: calibrated lift of cold items.
        metrics: mean over the test users of every metric that was asked for, by name.
    """

    scorer: str
    segment: str
    split: str
    ndcg: float
    recall: float
    validation: float
    users: int
    setting: str
    cold_boost: float
    metrics: Mapping[str, float] = MappingProxyType({})

    def value(self, metric: str) -> float:
        """A metric of this row.

        Raises:
            ValueError: it was not asked for.
        """
        if metric in self.metrics:
            return self.metrics[metric]
        if metric in ("ndcg", "recall", "validation"):
            return getattr(self, metric)
        known = dict.fromkeys(("ndcg", "recall", "validation", *self.metrics))
        raise ValueError(
            f"no metric {metric!r} of {self.scorer} on {self.segment}, only {', '.join(known)}; "
            f"ask for it: evaluate(..., metrics=[..., {metric!r}])"
        )


class Difference(NamedTuple):
    """A paired difference over splits: mean and standard error of the mean (NaN for one split)."""

    mean: float
    error: float
    splits: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + (f" +- {self.error:.4f}" if self.splits > 1 else "")


@dataclass(frozen=True)
class Report:
    """The rows of an evaluation.

    Args:
        rows: a row per scorer, segment and split.
        k: length of the lists.
        points: quality by training interactions, a point per scorer, side, split and bin.
    """

    rows: tuple[Row, ...]
    k: int
    points: tuple[Point, ...] = ()

    def __repr__(self) -> str:
        scorers, splits = {r.scorer for r in self.rows}, {r.split for r in self.rows}
        return (
            f"Report(rows: {len(self.rows)}, k: {self.k}, segments: {len(self.segments)}, "
            f"scorers: {len(scorers)}, splits: {len(splits)})"
        )

    @property
    def segments(self) -> list[str]:
        """Segments in the order they were judged."""
        return list(dict.fromkeys(row.segment for row in self.rows))

    def scorers(self, segment: str) -> list[str]:
        """Scorers of a segment in the order they were judged."""
        return list(dict.fromkeys(row.scorer for row in self.rows if row.segment == segment))

    def values(self, segment: str, scorer: str, metric: str = "ndcg") -> dict[str, float]:
        """A metric by split."""
        return {
            row.split: row.value(metric)
            for row in self.rows
            if (row.segment, row.scorer) == (segment, scorer)
        }

    def chosen_on_validation(
        self, segment: str, among: Iterable[str], metric: str = "ndcg"
    ) -> dict[str, float]:
        """A test metric by split, of the scorer with the best NDCG on that split's validation."""
        among = set(among)
        best: dict[str, Row] = {}
        for row in self.rows:
            if row.segment == segment and row.scorer in among:
                old = best.get(row.split)
                if old is None or row.validation > old.validation:
                    best[row.split] = row
        return {split: row.value(metric) for split, row in best.items()}

    def difference(
        self, segment: str, scorer: str, other: str | dict[str, float], metric: str = "ndcg"
    ) -> Difference:
        """Paired difference in a metric of a scorer to another one, or to values by split.

        Raises:
            ValueError: they have no split in common.
        """
        return paired(
            self.values(segment, scorer, metric),
            self.values(segment, other, metric) if isinstance(other, str) else other,
        )

    def differences(self, ours: str = "engine") -> pa.Table:
        """Paired differences of a scorer to every other one, a row per segment, metric and other.

        Columns segment, metric, scorer, other, mean (of ``scorer - other``), error (standard error
        of that mean, null for one split) and splits. Where there are several others, one of them
        is :data:`BEST`: whichever had the best NDCG on the validation part of each split.

        Args:
            ours: the scorer that is compared; segments without it have no row.
        """
        rows = []
        for segment in self.segments:
            names = self.scorers(segment)
            others = [name for name in names if name != ours] if ours in names else []
            for metric in self.metrics if others else ():
                theirs = {name: self.values(segment, name, metric) for name in others}
                if len(baselines := self._baselines(segment, ours)) > 1:
                    theirs[BEST] = self.chosen_on_validation(segment, baselines, metric)
                for other, values in theirs.items():
                    found = self.difference(segment, ours, values, metric)
                    rows.append((segment, metric, ours, other, *found))
        columns = zip(*rows, strict=True) if rows else [()] * len(_DIFFERENCES)
        arrays = (
            pa.array(list(column), field.type, from_pandas=True)  # NaN is null
            for column, field in zip(columns, _DIFFERENCES, strict=True)
        )
        return pa.Table.from_arrays(list(arrays), schema=_DIFFERENCES)

    def _baselines(self, segment: str, ours: str) -> list[str]:
        """The scorers of a segment other than ours and what it is called with another lift."""
        return [name for name in self.scorers(segment) if not name.startswith(ours)]

    @property
    def metrics(self) -> list[str]:
        """NDCG, recall and all that was asked for besides, in that order."""
        return list(dict.fromkeys(["ndcg", "recall", *(m for r in self.rows for m in r.metrics)]))

    def label(self, metric: str) -> str:
        """A metric as a heading: ``NDCG@20``; those of all candidates and all lists without k."""
        name = {"ndcg": "NDCG", "mrr": "MRR", "auc": "AUC"}.get(metric, metric.replace("_", " "))
        at_k = metric in ("ndcg", "recall", "precision", "hit_rate", "mrr")
        return f"{name}@{self.k}" if at_k else name

    def to_table(self) -> pa.Table:
        """All rows as an Arrow table, a column per metric."""
        fields = [name for name in Row._fields if name != "metrics"]
        columns = {name: [getattr(row, name) for row in self.rows] for name in fields}
        for metric in self.metrics:
            columns.setdefault(metric, [row.metrics.get(metric) for row in self.rows])
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """All rows as a pandas frame."""
        return self.to_table().to_pandas()

    def to_text(self, ours: str = "engine", metric: str = "ndcg") -> str:
        """Tables for people: means over splits, and our paired differences with standard error.

        Args:
            ours: the scorer that is compared with the others.
            metric: what they are compared in.
        """
        lines = []
        for title, (headings, *rows) in self._tables(ours, metric):
            width = max(34, len(title) + 2)
            lines += ["", title.ljust(width) + "  ".join(headings[1:]).rstrip()]
            for name, *cells in rows:
                padded = [c.ljust(len(h)) for c, h in zip(cells, headings[1:], strict=True)]
                lines.append(f"  {name}".ljust(width) + "  ".join(padded).rstrip())
        nine = [self.nine(ours, metric)] if self._has_nine(ours) else []
        return "\n\n".join(["\n".join(lines[1:]), *nine])

    def to_markdown(self, ours: str = "engine", metric: str = "ndcg") -> str:
        """The same as Markdown, a table per segment; the 3 x 3 table, where there is one, first."""
        parts = [self.nine(ours, metric, markdown=True)] if self._has_nine(ours) else []
        tables = self._tables(ours, metric)
        parts += [f"**{title}**\n\n{markdown_table(table)}" for title, table in tables]
        return "\n\n".join(parts) + "\n"

    def _has_nine(self, scorer: str) -> bool:
        return any(row.scorer == scorer and row.segment in NINE for row in self.rows)

    def nine(self, scorer: str, metric: str = "ndcg", *, markdown: bool = False) -> str:
        """The 3 x 3 table of a scorer: users by row, items by column.

        A cell is the mean over splits, its standard error where there are several, and in brackets
        how many users were judged, on average; a dash is a segment that could not be judged.

        Args:
            scorer: its name.
            metric: one of :attr:`metrics`.
            markdown: a Markdown table in place of plain text.

        Raises:
            ValueError: the scorer was judged on none of the nine segments, or not by that metric.
        """
        classes = [name.replace("_", "-") for name in CLASSES]
        title = f"{scorer}, {self.label(metric)}"
        table = [[title, *(f"{name} items" for name in classes)]]
        for users, label in zip(CLASSES, classes, strict=True):
            cells = [
                self._cell(f"{users}_users_{items}_items", scorer, metric) for items in CLASSES
            ]
            table.append([f"{label} users", *cells])
        if all(cell == "-" for row in table[1:] for cell in row[1:]):
            raise ValueError(
                f"{scorer!r} was judged on none of the nine segments, only on "
                f"{self.segments}; evaluate with segments=NINE of coldstart.segments"
            )
        if markdown:
            return markdown_table(table)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in table
        )
        return "\n".join(line.rstrip() for line in lines)

    def _cell(self, segment: str, scorer: str, metric: str) -> str:
        rows = [row for row in self.rows if (row.segment, row.scorer) == (segment, scorer)]
        if not rows:
            return "-"
        values = np.array([row.value(metric) for row in rows])
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
        spread = "" if error is None else f" +- {error:.4f}"
        return f"{values.mean():.4f}{spread} ({np.mean([row.users for row in rows]):.0f})"

    def _tables(self, ours: str, metric: str) -> Iterable[tuple[str, list[list[str]]]]:
        """A title and a table of cells, headings first, for every segment."""
        for segment in self.segments:
            names = self.scorers(segment)
            splits = {row.split for row in self.rows if row.segment == segment}
            versus = ours in names
            headings = [self.label(m).ljust(9) for m in self.metrics]
            ahead = f"{ours} ahead by ({self.label(metric)})" if versus else ""
            table = [["", *headings, ahead]]
            for name in names:
                cells = [
                    f"{np.mean(list(self.values(segment, name, m).values())):.4f}"
                    for m in self.metrics
                ]
                ahead = ""
                if versus and name != ours:
                    ahead = str(self.difference(segment, ours, name, metric))
                table.append([name, *cells, ahead])
            if len(others := self._baselines(segment, ours)) > 1 and versus:
                best = {m: self.chosen_on_validation(segment, others, m) for m in self.metrics}
                cells = [f"{np.mean(list(values.values())):.4f}" for values in best.values()]
                ahead = str(self.difference(segment, ours, best[metric], metric))
                table.append([BEST, *cells, ahead])
            yield f"{spoken(segment)} ({_counted(splits)})", table
        for side in dict.fromkeys(point.side for point in self.points):
            yield self._curves(side)

    def _curves(self, side: str) -> tuple[str, list[list[str]]]:
        """NDCG by training interactions: a row per scorer, a column per bin."""
        here = [point for point in self.points if point.side == side]
        ends = sorted({point.binned[:2] for point in here})
        labels = {point.binned[:2]: point.binned.label for point in here}
        table = [["", *(labels[bin_].ljust(16) for bin_ in ends)]]
        for name in dict.fromkeys(point.scorer for point in here):
            found = {binned[:2]: binned for binned in self.curve(side, name)}
            cells = [_spread(found[bin_]) if bin_ in found else "-" for bin_ in ends]
            table.append([name, *cells])
        count = _counted({point.split for point in here})
        return f"by training interactions of {side} ({count})", table

    def to_dict(self, ours: str = "engine") -> dict[str, Any]:
        """Plain values for JSON: rows, and our paired differences; what has no value is ``None``.

        Args:
            ours: see :meth:`differences`.
        """
        rows = [row._asdict() | {"metrics": dict(row.metrics)} for row in self.rows]
        differences = self.differences(ours).to_pylist()
        points = [p._asdict() | {"binned": p.binned._asdict()} for p in self.points]
        found = {"k": self.k, "rows": rows, "differences": differences, "points": points}
        return _without_nan(found)

    def curve(self, side: str, scorer: str) -> list[Binned]:
        """NDCG of a scorer by training interactions of users or items, over all splits.

        Args:
            side: ``users``: they rank the warm items; ``items``: they rank the warm users.
            scorer: its name.
        """
        return curve(self.points, side, scorer)


def _counted(splits: Collection[str]) -> str:
    return f"{len(splits)} split" + "s" * (len(splits) != 1)


def _spread(binned: Binned) -> str:
    error = "" if np.isnan(binned.error) else f" +- {binned.error:.4f}"
    return f"{binned.ndcg:.4f}{error}"


def markdown_table(table: list[list[str]]) -> str:
    """Cells as a Markdown table, the first row being its headings."""
    escaped = [[cell.strip().replace("|", "\\|") for cell in row] for row in table]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    """The value with ``None`` in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def paired(ours: dict[str, float], theirs: dict[str, float]) -> Difference:
    """Mean and standard error of ``ours - theirs`` over the splits both have.

    Raises:
        ValueError: they have no split in common.
    """
    common = [split for split in ours if split in theirs]
    if not common:
        raise ValueError(f"no split in common: {sorted(ours)} and {sorted(theirs)}")
    gaps = np.array([ours[split] - theirs[split] for split in common])
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
    return Difference(float(gaps.mean()), float(error), len(gaps))
