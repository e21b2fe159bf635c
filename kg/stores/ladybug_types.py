"""Which Arrow types the embedded store has columns for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from kg.errors import StoreError
from kg.tables import is_string

_COLUMN_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_boolean, "BOOL"),
    (pa.types.is_integer, "INT64"),
    (pa.types.is_floating, "DOUBLE"),
    (is_string, "STRING"),
    (pa.types.is_null, "STRING"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_binary, "BLOB"),
    (pa.types.is_large_binary, "BLOB"),
)


def column_type(kind: pa.DataType, what: str) -> str:
    """The store's type for an Arrow type.

    Raises:
        StoreError: there is none.
    """
    if pa.types.is_dictionary(kind):
        return column_type(kind.value_type, what)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return column_type(kind.value_type, what) + "[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP_TZ" if kind.tz else "TIMESTAMP"
    for matches, name in _COLUMN_TYPES:
        if matches(kind):
            return name
    raise StoreError(
        f"{what}: the embedded store cannot hold {kind}; convert it to text or numbers"
    )


def storable(table: pa.Table) -> pa.Table:
    """The table in the widest type of each family, as the engine's columns are made."""
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = table[name].cast(_widened(table[name].type))
        except pa.ArrowInvalid as error:
            raise StoreError(f"{name}: the embedded store cannot hold a value: {error}") from error
    return pa.table(columns)


def _widened(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _widened(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_widened(kind.value_type))
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if is_string(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.date32() if pa.types.is_date(kind) else kind


def may_become(given: pa.DataType, kept: pa.DataType) -> bool:
    """Whether a value still means the same: numbers as other numbers, times as integers."""
    if pa.types.is_nested(given) and pa.types.is_nested(kept):
        return may_become(given.value_type, kept.value_type)
    numbers = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in (given, kept)]
    time = pa.types.is_integer(given) and pa.types.is_timestamp(kept)
    return all(numbers) or time or (is_string(given) and is_string(kept))
