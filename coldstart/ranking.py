"""Recommendations: ranked pairs with the evidence that stands behind each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kg.growing import taken
from kg.vectors import Vocabulary


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Ranked pairs, those of one query together, best first.

    Args:
        users: keys of all users.
        items: keys of all items.
        user_rows: int64 ``[num_pairs]``.
        item_rows: int64 ``[num_pairs]``.
        ranks: 1-based place in its list, int64 ``[num_pairs]``.
        scores: r_ui, float32 ``[num_pairs]``.
        evidence: further columns of ``[num_pairs]``; see :meth:`ColdStartEngine.evidence`.
    """

    users: Vocabulary
    items: Vocabulary
    user_rows: np.ndarray
    item_rows: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    evidence: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        users, items = len(np.unique(self.user_rows)), len(np.unique(self.item_rows))
        return f"Recommendations(pairs: {len(self):,}, users: {users:,}, items: {items:,})"

    def __str__(self) -> str:
        names = ("user", "rank", "item", "score")
        table = self.to_table().select(names).to_pylist()
        cells = [names, *((r["user"], r["rank"], r["item"], f"{r['score']:.3f}") for r in table)]
        widths = [max(len(str(row[c])) for row in cells) for c in range(len(names))]
        lines = (
            "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def to_table(self) -> pa.Table:
        """Arrow table with ``user``, ``item``, ``rank``, ``score`` and the evidence."""
        columns = {
            "user": taken(self.users.keys, self.user_rows),
            "item": taken(self.items.keys, self.item_rows),
            "rank": self.ranks,
            "score": self.scores,
        }
        return pa.table(columns | self.evidence)

    def to_pandas(self):
        """The same as a pandas frame.

        Raises:
            DependencyError: pandas is not installed.
        """
        try:
            return self.to_table().to_pandas()
        except ImportError as error:
            from kg.errors import DependencyError, how_to_install

            raise DependencyError(f"to_pandas needs pandas: {how_to_install('pandas')}") from error

    def to_pylist(self) -> list[dict]:
        """The same as a list of dictionaries."""
        return self.to_table().to_pylist()
