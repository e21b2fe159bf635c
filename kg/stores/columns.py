"""What comes over Bolt, as Arrow columns: one type per property, whatever the nodes hold.

- Numbers, texts, booleans, bytes, dates, times of day and local times come as Arrow has them, to
  the microsecond. A time with a zone comes in UTC; a time of day with one is text, as in Cypher.
- Durations are text as in Cypher, points are lists of coordinates (longitude first).
- A date outside the years 1 to 9999 is an error, as Python cannot hold it.
- A property that holds several kinds of value comes as float64 if all are numbers, else as text,
  with a line in the log. An empty list goes with lists of anything.
- A property that is missing is null.
"""

from __future__ import annotations

import datetime
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from kg.errors import StoreError
from kg.tables import is_string

_log = logging.getLogger(__name__)
_AS_THEY_ARE = (bool, int, float, str)


def to_array(values: list[Any], what: str) -> pa.Array:
    """Values of one property as an Arrow array.

    Raises:
        StoreError: a value that cannot be held; ``what`` names the property.
    """
    types = set(map(type, values)) - {type(None)}
    if types == {list}:
        types = {type(v[0]) for v in values if v}
    if len(types) == 1 and types.pop() in _AS_THEY_ARE and (found := _array(values)) is not None:
        return found
    values = [plain(v, what) for v in values]
    kinds = _without_empty_lists({_kind(v) for v in values if v is not None})
    if kinds == {"int", "float"}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if kinds == {"list of int", "list of float"}:
        lists = [None if v is None else [x if x is None else float(x) for x in v] for v in values]
        return pa.array(lists, pa.list_(pa.float64()))
    if len(kinds) <= 1 and (found := _array(values)) is not None:
        return found
    _log.warning("%s holds %s on different nodes; it is read as text", what, sorted(kinds))
    return pa.array([None if v is None else str(v) for v in values])


def _array(values: list[Any]) -> pa.Array | None:
    """Values as Arrow takes them; ``None`` where it does not, as lists may hold several kinds."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def plain(value: Any, what: str = "a result") -> Any:
    """A driver's value as Python's own.

    Raises:
        StoreError: Python has no such value.
    """
    if isinstance(value, _AS_THEY_ARE) or value is None:
        return value
    if isinstance(value, list):
        return [plain(v, what) for v in value]
    if isinstance(value, dict):
        return {n: plain(v, f"{what}.{n}") for n, v in value.items()}
    if hasattr(value, "raw_data") and hasattr(value, "error"):  # what the driver could not read
        raise StoreError(
            f"{what}: a value that Python cannot hold came ({value.error}); dates reach from year "
            "1 to 9999. Change it, or read with exclude=(...) or a query that returns toString(...)"
        )
    from neo4j.graph import Node, Path, Relationship
    from neo4j.time import Duration, Time

    if isinstance(value, Duration) or (isinstance(value, Time) and value.tzinfo is not None):
        return value.iso_format()
    if isinstance(value, tuple):  # points are tuples, and so are durations
        return [plain(v, what) for v in value]
    if hasattr(value, "to_native"):
        value = value.to_native()
        zoned = isinstance(value, datetime.datetime) and value.tzinfo is not None
        return value.astimezone(datetime.UTC) if zoned else value
    if isinstance(value, Node | Relationship):
        return {n: plain(v, f"{what}.{n}") for n, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _kind(value: Any) -> str:
    if isinstance(value, list):
        first = next((x for x in value if x is not None), None)
        return "list" if first is None else "list of " + _kind(first)
    if isinstance(value, datetime.datetime):
        return "datetime" if value.tzinfo is None else "zoned datetime"
    return type(value).__name__


def _without_empty_lists(kinds: set[str]) -> set[str]:
    full = any(kind.startswith("list of") for kind in kinds)
    return kinds - {"list"} if full else kinds


def table_of_maps(
    maps: Sequence[Mapping[str, Any]], what: str, exclude: Sequence[str] = ()
) -> pa.Table:
    """One column per name that occurs in any of the maps; null where a map lacks it."""
    names = [n for n in dict.fromkeys(itertools.chain.from_iterable(maps)) if n not in exclude]
    if not names:
        return pa.table({"_": pa.nulls(len(maps))}).select([])
    return pa.table({n: to_array([m.get(n) for m in maps], f"{what}.{n}") for n in names})


def joined(tables: Sequence[pa.Table], what: str) -> pa.Table:
    """Tables below each other; a column of several types becomes what :func:`to_array` makes it."""
    if not tables:
        return pa.table({})
    kinds: dict[str, dict[pa.DataType, None]] = {}
    for table in tables:
        for column in table.schema:
            kinds.setdefault(column.name, {})[column.type] = None
    mixed = [name for name, several in kinds.items() if not _go_together(several)]
    for name in mixed:
        _log.warning("%s.%s holds values of several types; it is read as text", what, name)
    floats = {n for n, several in kinds.items() if {pa.int64(), pa.float64()} <= several.keys()}
    tables = [_with_floats(_with_text(t, mixed), floats) for t in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _go_together(kinds: Iterable[pa.DataType]) -> bool:
    kinds = list(kinds)
    flat = [k.value_type if pa.types.is_list(k) else k for k in kinds]
    if any(map(is_string, flat)) and any(map(pa.types.is_binary, flat)):
        return False  # Arrow would turn the texts into bytes
    try:
        schemas = [pa.schema([("", kind)]) for kind in kinds]
        pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def _with_text(table: pa.Table, names: Iterable[str]) -> pa.Table:
    for name in names:
        if name in table.column_names and not is_string(table[name].type):
            values = [None if v is None else str(v) for v in table[name].to_pylist()]
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(values, pa.string()))
    return table


def _with_floats(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Integers as floats, also those beyond 2^53, which lose their last digits."""
    for name in names:
        if name in table.column_names and pa.types.is_integer(table[name].type):
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].cast(pa.float64(), safe=False))
    return table
