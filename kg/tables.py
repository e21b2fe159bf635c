"""Arrow tables in: whatever speaks Arrow becomes columns of the types we work with, or an error."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import GraphError, MissingColumnError

MAX_ROWS_SHOWN = 5
_NO_SINGLE_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)


def to_table(value: Any, what: str) -> pa.Table:
    """The Arrow table of a value.

    Args:
        value: a pyarrow table, pandas or polars frame, DuckDB relation, record batch reader
            (anything with ``__arrow_c_stream__``), or a mapping from column name to values.
        what: what the table is, for messages.

    Raises:
        TypeError: ``value`` is none of these, or a column of a mapping is no list.
        GraphError: a column holds values that have no common Arrow type, columns differ in length,
            or a name comes twice.
    """
    if isinstance(value, pa.Table):
        table = value
    elif isinstance(value, pa.RecordBatch):
        table = pa.Table.from_batches([value])
    elif hasattr(value, "__arrow_c_stream__"):
        try:
            table = pa.table(value)
        except _NO_SINGLE_TYPE as error:
            told = " ".join(str(part) for part in error.args)  # its last names the column
            raise GraphError(
                f"{what}: a column has no single type ({told}); convert its values to one, all "
                "numbers or all strings"
            ) from error
    elif isinstance(value, Mapping):
        columns = {str(k): _named_column(v, what, k) for k, v in value.items()}
        if len(set(map(len, columns.values()))) > 1:
            told = ", ".join(f"{name!r} {len(column)}" for name, column in columns.items())
            raise GraphError(f"{what}: columns must be equally long, their lengths are {told}")
        table = pa.table(columns)
    else:
        raise TypeError(
            f"{what}: expected a table that speaks Arrow (pandas, polars, pyarrow, DuckDB) or a "
            f"mapping of columns, got {type(value).__name__}"
        )
    if len(set(table.column_names)) != table.num_columns:
        raise GraphError(f"{what}: column names repeat: {table.column_names}")
    names = [n for n in table.column_names if not n.startswith("__index_level_")]  # of pandas
    if not names:
        return table.select([]).replace_schema_metadata(None)
    return pa.table({name: without_views(table[name]) for name in names})


def require_columns(
    table: pa.Table,
    columns: Iterable[str],
    what: str,
    advice: str = "rename or return them under these names",
) -> None:
    """Raise unless every column is there; ``advice`` is the next step where one is not.

    Raises:
        MissingColumnError: naming what is absent and what came.
    """
    if absent := [c for c in columns if c not in table.column_names]:
        raise MissingColumnError(
            f"{what}: expected the columns {absent}, got {table.column_names}; {advice}"
        )


def key_array(keys: Any, what: str) -> pa.ChunkedArray:
    """Keys as a chunked array of int64 or large strings, without nulls.

    Raises:
        GraphError: a key is null, or keys are neither all integers nor all strings.
    """
    array = keys if isinstance(keys, pa.ChunkedArray) else None
    if array is None:
        try:
            one = keys if isinstance(keys, pa.Array) else _column(keys)
        except OverflowError as error:
            raise GraphError(f"{what}: a key does not fit into 64 bits ({error})") from error
        except _NO_SINGLE_TYPE as error:
            raise GraphError(
                f"{what}: keys must be all integers or all strings; a mixture came ({error})"
            ) from error
        array = one if isinstance(one, pa.ChunkedArray) else pa.chunked_array([one])
    array = without_views(array)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if array.null_count:
        rows = np.flatnonzero(array.is_null().to_numpy())[:MAX_ROWS_SHOWN].tolist()
        raise GraphError(f"{what}: {array.null_count} keys are null, in rows {rows}; fill or drop")
    if are_keys(array) and not pa.types.is_string(array.type):
        return array
    if pa.types.is_integer(array.type):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise GraphError(f"{what}: a key does not fit into 64 bits ({error})") from error
    if is_string(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_null(array.type):
        return pa.chunked_array([], pa.large_string())
    raise GraphError(
        f"{what}: keys must be integers or strings, got {array.type}; convert the column first"
    )


def are_keys(column: pa.ChunkedArray) -> bool:
    """Whether a column holds whole numbers of 64 bits, or strings, and nothing is missing."""
    return column.type in (pa.int64(), pa.string(), pa.large_string()) and not column.null_count


def finite_array(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """A numeric column as float64 ``[n]``.

    Raises:
        GraphError: a value is null, NaN, infinite or not a number.
    """
    try:
        values = pc.cast(column, pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise GraphError(f"{what}: expected numbers, got {column.type} ({error})") from error
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.flatnonzero(bad)[:MAX_ROWS_SHOWN]
        raise GraphError(
            f"{what}: {int(bad.sum())} values are null, NaN or infinite, in rows {rows.tolist()} "
            f"({values[rows[0]]}); fill or drop them"
        )
    return values


def time_array(column: pa.ChunkedArray, what: str) -> np.ndarray:
    """A time column as int64 ``[n]``: integers as they are, Arrow times in microseconds since 1970.

    Raises:
        GraphError: a value is null or no time.
    """
    if column.null_count:
        raise GraphError(f"{what}: {column.null_count} times are null; fill or drop them")
    try:
        if pa.types.is_temporal(column.type):
            column = pc.cast(column, pa.timestamp("us"), safe=False)  # nanoseconds are cut off
        return column.cast(pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        advice = "to integers or timestamps"
        if is_string(column.type):
            advice = (
                "by pandas.to_datetime, or in pyarrow by .cast(pyarrow.timestamp('s')); for texts "
                "unlike 2024-05-31 12:00:00 by pyarrow.compute.strptime, or when a CSV file is "
                "read by timestamp_parsers of pyarrow.csv.ConvertOptions"
            )
        raise GraphError(
            f"{what}: expected times or integers, got {column.type}; convert the column {advice}"
        ) from error


def is_string(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of the string types."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with plain strings for string views (polars), which Arrow cannot take from."""
    kind = column.type
    if pa.types.is_dictionary(kind) and kind.value_type == pa.string_view():
        chunks = [c.dictionary.cast(pa.large_string()).take(c.indices) for c in column.chunks]
        return pa.chunked_array(chunks, pa.large_string())
    return column if (plain := _plain_type(kind)) == kind else column.cast(plain)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view():
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, _plain_type(f.type)) for f in kind])
    return kind


def text_column(column: pa.ChunkedArray) -> list[str | None]:
    """A property as text: lists joined by commas, numbers and dates written out, null is None."""
    return [_written(value) for value in column.to_pylist()]


def _written(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return ", ".join(w for w in map(_written, value) if w)
    if isinstance(value, float):
        if value != value:
            return ""
        whole = value.is_integer() and abs(value) < 1e15  # a budget of 1000000.0 is not 1e+06
        return str(int(value)) if whole else f"{value:g}"
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return str(value.date())  # a date that was stored as a point in time
    return str(value)


def one_row_each(table: pa.Table, name: str) -> pa.Table:
    """The table with a row for each value of a column of lists; other columns are as they are."""
    column = table[name]
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return table
    rows = pc.list_parent_indices(column)  # pyright: ignore
    values = without_views(pc.list_flatten(column))  # pyright: ignore
    return table.take(rows).set_column(table.column_names.index(name), name, values)


def require_mapping(value: Any, what: str) -> None:
    """Raise unless a value is a mapping; ``what`` says of what to what.

    Raises:
        TypeError: naming what came.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{what}, got {type(value).__name__}")


def require_list(values: Any, what: str) -> None:
    """Raise if a single value, a text above all, stands where a list of values must.

    Raises:
        TypeError: naming what came.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        kind = "the string" if isinstance(values, str) else type(values).__name__
        raise TypeError(f"{what}, got {kind} {values!r}; write [{values!r}] if it is the only one")


def _named_column(values: Any, what: str, name: Any) -> pa.Array | pa.ChunkedArray:
    require_list(values, f"{what}: expected a list as column {name!r}, with one value per row")
    try:
        return _column(values)
    except (*_NO_SINGLE_TYPE, pa.ArrowNotImplementedError) as error:
        raise GraphError(
            f"{what}: the column {name!r} has no single type that Arrow knows ({error}); make its "
            "values all integers, all strings or the like"
        ) from error


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        values = list(values)
    return pa.array(values)
