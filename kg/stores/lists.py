"""Ranked lists on their way into a store: a relation from a user to every recommended item."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import GraphError
from kg.schema import EdgeType
from kg.stores.names import quoted
from kg.tables import key_array, require_columns, to_table

REQUIRED = ("user", "item", "rank", "score")


@dataclass(frozen=True)
class Lists:
    """Ranked lists.

    Args:
        edge_type: labels and relation.
        keys: properties that identify a user and an item.
        table: columns ``source``, ``target``, and a column per property.
    """

    edge_type: EdgeType
    keys: tuple[str, str]
    table: pa.Table

    @property
    def properties(self) -> list[str]:
        """Names of the relation's properties."""
        return self.table.column_names[2:]

    @property
    def users(self) -> list[Any]:
        """Keys of the users who have a list, in order of appearance."""
        return self.table["source"].unique().to_pylist()

    def of(self, users: list[Any]) -> pa.Table:
        """The rows of some users."""
        kind = self.table["source"].type
        return self.table.filter(pc.is_in(self.table["source"], pa.array(users, kind)))

    def changed(self, users: list[Any], there: pa.Table) -> list[Any]:
        """Those of the users whose list is not what the store holds."""
        wanted, held = _by_user(self.of(users)), _by_user(there)
        return [user for user in users if wanted.get(user) != held.get(user)]


def lists_of(recommendations: Any, edge_type: EdgeType, keys: tuple[str, str]) -> Lists:
    """Recommendations as lists that a store can hold.

    Raises:
        MissingColumnError: a column is lacking.
        GraphError: an item is twice in a list.
    """
    for name in edge_type:
        quoted(name)
    if hasattr(recommendations, "to_table"):
        recommendations = recommendations.to_table()
    table = to_table(recommendations, "recommendations")
    require_columns(table, REQUIRED, "recommendations")
    columns: dict[str, Any] = {
        "source": key_array(table["user"], "recommendations, user"),
        "target": key_array(table["item"], "recommendations, item"),
        "rank": table["rank"].cast(pa.int64()),
        "score": table["score"].cast(pa.float64()),
    }
    for name in table.column_names:
        if name not in REQUIRED:
            if name in ("source", "target"):
                raise GraphError(f"recommendations: rename the column {name!r}, an end of an edge")
            quoted(name)
            columns[name] = _plain(table[name])
    ends = pa.table({n: columns[n] for n in ("source", "target")})
    if len(distinct := ends.group_by(["source", "target"]).aggregate([])) < len(ends):
        raise GraphError(
            f"recommendations: {len(ends) - len(distinct)} rows name an item twice for one user; "
            "keep one of them"
        )
    return Lists(edge_type, keys, pa.table(columns))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in a type that every store holds: structures and lists as JSON text."""
    kind = column.type
    if pa.types.is_nested(kind):
        texts = [None if v is None else json.dumps(v, default=str) for v in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    return column.cast(pa.int64()) if pa.types.is_integer(kind) else column


def _by_user(table: pa.Table) -> dict[Any, dict[Any, tuple[Any, ...]]]:
    found: dict[Any, dict[Any, tuple[Any, ...]]] = {}
    columns = [table[name].to_pylist() for name in table.column_names]
    for user, item, *values in zip(*columns, strict=True):
        row = tuple(values)
        held = found.setdefault(user, {})
        held[item] = row if item not in held else (*held[item], *row)  # twice is never equal
    return found
