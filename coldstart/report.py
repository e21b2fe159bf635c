"""What an evaluation found: a row per scorer, segment and split, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


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


class Difference(NamedTuple):
    """A paired difference over splits: mean and standard error of the mean (NaN for one split)."""

    mean: float
    error: float
    splits: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} +- {self.error:.4f}"


@dataclass(frozen=True)
class Report:
    """The rows of an evaluation.

    Args:
        rows: a row per scorer, segment and split.
        k: length of the lists.
    """

    rows: tuple[Row, ...]
    k: int

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
            row.split: getattr(row, metric)
            for row in self.rows
            if (row.segment, row.scorer) == (segment, scorer)
        }

    def chosen_on_validation(self, segment: str, among: Iterable[str]) -> dict[str, float]:
        """Test NDCG by split of whichever scorer did best on that split's validation part."""
        among = set(among)
        best: dict[str, Row] = {}
        for row in self.rows:
            if row.segment == segment and row.scorer in among:
                old = best.get(row.split)
                if old is None or row.validation > old.validation:
                    best[row.split] = row
        return {split: row.ndcg for split, row in best.items()}

    def difference(self, segment: str, scorer: str, other: str | dict[str, float]) -> Difference:
        """Paired difference in NDCG of a scorer to another one, or to values by split.

        Raises:
            ValueError: they have no split in common.
        """
        return paired(
            self.values(segment, scorer),
            self.values(segment, other) if isinstance(other, str) else other,
        )

    def to_table(self) -> pa.Table:
        """All rows as an Arrow table."""
        return pa.Table.from_pylist([row._asdict() for row in self.rows])

    def to_pandas(self) -> Any:
        """All rows as a pandas frame."""
        return self.to_table().to_pandas()

    def to_text(self, ours: str = "engine") -> str:
        """A table for people: means, standard errors over splits, and our paired differences."""
        lines = []
        for segment in self.segments:
            names = self.scorers(segment)
            splits = len(self.values(segment, names[0]))
            title = f"{segment.replace('_', ' ')} ({splits} splits)"
            lines += ["", f"{title:34} NDCG@{self.k:<4} recall@{self.k:<4} {ours} ahead by"]
            entries = [
                (n, self.values(segment, n), self.values(segment, n, "recall")) for n in names
            ]
            others = [n for n in names if not n.startswith(ours)]
            if len(others) > 1 and ours in names:
                entries.append(
                    ("(best on validation)", self.chosen_on_validation(segment, others), {})
                )
            for name, ndcg, recall in entries:
                line = f"  {name:32} {np.mean(list(ndcg.values())):.4f}    "
                line += f"{np.mean(list(recall.values())):.4f}     " if recall else " " * 11
                if name != ours and ours in names:
                    line += str(self.difference(segment, ours, ndcg))
                lines.append(line.rstrip())
        return "\n".join(lines[1:])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"k": self.k, "rows": [row._asdict() for row in self.rows]}


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
