import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kg.errors import GraphError, MissingColumnError
from kg.tables import finite_array, key_array, require_columns, text_column, time_array, to_table

ROWS = {"id": [1, 2], "name": ["a", None]}


class SpeaksArrow:
    """What a DuckDB relation looks like from outside."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "make",
    [
        dict,
        pa.table,
        lambda rows: pa.RecordBatch.from_pydict(rows),
        lambda rows: pa.table(rows).to_reader(),
        lambda rows: SpeaksArrow(pa.table(rows)),
        pd.DataFrame,
        lambda rows: pd.DataFrame(rows, index=["x", "y"]),
        lambda rows: pd.DataFrame(rows).iloc[::-1].iloc[::-1],
        pl.DataFrame,
    ],
    ids=[
        "dict",
        "table",
        "batch",
        "reader",
        "arrow",
        "pandas",
        "pandas-index",
        "pandas-slice",
        "polars",
    ],
)
def test_whatever_speaks_arrow_is_a_table(make):
    table = to_table(make(ROWS), "people")
    assert table.select(["id", "name"]).to_pydict() == ROWS
    assert table.column_names == ["id", "name"]


def test_polars_strings_lists_and_categories_become_types_that_arrow_can_take_from():
    frame = pl.DataFrame(
        {
            "s": ["a", None],
            "l": [["x"], ["y", "z"]],
            "c": pl.Series(["u", None], dtype=pl.Categorical),
            "e": pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])),
            "b": [b"1", b"2"],
            "t": [{"a": "x"}, {"a": "y"}],
        }
    )
    table = to_table(frame, "films")
    assert table.take([1, 0]).to_pylist() == frame.reverse().to_dicts()
    assert table.schema.field("s").type == pa.large_string()


def test_columns_may_be_arrays_of_any_kind():
    values = {"a": np.array([1, 2]), "b": pa.array([1, 2]), "c": (1, 2), "d": range(1, 3)}
    values["e"] = pd.Series([1, 2])
    assert set(map(tuple, to_table(values, "t").to_pydict().values())) == {(1, 2)}


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match=r"people: expected a table that speaks Arrow .* got int"):
        to_table(3, "people")


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, "x"]},
        pd.DataFrame({"a": [1, "x"]}),
        {"a": [1, 2], "b": [1]},
        {"a": [object()]},
        {"a": [2**70]},
        {"a": np.array([1j])},
    ],
)
def test_a_column_without_one_type_is_refused_with_the_name_of_the_table(value):
    with pytest.raises(GraphError, match=r"^people: "):
        to_table(value, "people")


def test_columns_of_unequal_length_are_named_with_their_lengths():
    with pytest.raises(
        GraphError, match=r"people: .* equally long, their lengths are 'a' 2, 'b' 1"
    ):
        to_table({"a": [1, 2], "b": [1]}, "people")


def test_a_column_name_that_comes_twice_is_refused():
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(GraphError, match=r"people: column names repeat: \['a', 'a'\]"):
        to_table(twice, "people")


def test_a_missing_column_is_named_beside_those_that_came():
    expected = r"expected the columns \['target'\], got \['source', 'to'\]; rename"
    with pytest.raises(MissingColumnError, match=expected):
        require_columns(pa.table({"source": [1], "to": [2]}), ["source", "target"], "edges")


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(["x", "y"]),
        pl.Series(["x", "y"], dtype=pl.Categorical),
        pd.Series(["x", "y"], dtype="category"),
        np.array(["x", "y"]),
        pa.array(["x", "y"], pa.string_view()),
        iter(["x", "y"]),
    ],
    ids=["polars", "polars-cat", "pandas-cat", "numpy", "view", "iterator"],
)
def test_string_keys_of_any_kind_are_large_strings(column):
    if isinstance(column, pl.Series | pd.Series):
        column = to_table(type(column)(column).to_frame("k"), "keys")["k"]
    keys = key_array(column, "keys")
    assert keys.type == pa.large_string()
    assert keys.to_pylist() == ["x", "y"]


@pytest.mark.parametrize(
    "values", [[1, 2], [1.0, 2.0], ["1", "2"], pa.array([1, 2], pa.uint8())], ids=str
)
def test_numbers_become_finite_floats(values):
    array = finite_array(pa.chunked_array([values]), "weight")
    assert array.dtype == np.float64
    assert array.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, float("nan")], r"weight: 1 values are null, NaN or infinite, in rows \[1\] \(nan\)"),
        ([float("inf"), -float("inf")], r"2 values are .* in rows \[0, 1\] \(inf\); fill or drop"),
        ([1, None], r"1 values are null, NaN or infinite, in rows \[1\]"),
        (["good"], "weight: expected numbers, got string"),
        ([[1]], "weight: expected numbers, got list"),
    ],
)
def test_a_weight_that_is_no_finite_number_is_refused(values, text):
    with pytest.raises(GraphError, match=text):
        finite_array(pa.chunked_array([values]), "weight")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 4], [3, 4]),
        ([3.0, 4.0], [3, 4]),
        ([dt.datetime(1970, 1, 1, 0, 0, 1)], [1_000_000]),
        ([dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))], [0]),
        ([dt.date(1970, 1, 2)], [86_400_000_000]),
        (pa.array([1_999], pa.timestamp("ns")), [1]),
    ],
)
def test_times_are_integers_or_microseconds_since_1970(values, expected):
    times = time_array(pa.chunked_array([values]), "time")
    assert times.dtype == np.int64
    assert times.tolist() == expected


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, None], "1 times are null; fill or drop"),
        ([1.5], "expected times or integers, got double"),
        (["noon"], "expected times or integers, got string; convert .* pandas.to_datetime"),
        ([dt.timedelta(1)], "expected times or integers, got duration"),
    ],
)
def test_what_is_no_time_is_refused(values, text):
    with pytest.raises(GraphError, match=text):
        time_array(pa.chunked_array([values]), "time")


def test_the_way_to_times_by_arrow_is_one():
    column = pa.chunked_array([["2024-05-31 12:00:00", "2024-05-31"]])
    with pytest.raises(
        GraphError, match=r"by \.cast\(pyarrow\.timestamp\('s'\)\); .* by timestamp_p"
    ):
        time_array(column, "time")
    assert time_array(column.cast(pa.timestamp("s")), "time")[0] == 1_717_156_800_000_000


def test_properties_are_written_out_as_text():
    def text(values):
        return text_column(pa.chunked_array([values]))

    assert text(["a", None, ""]) == ["a", None, ""]
    assert text([["x", "y"], [], None]) == ["x, y", "", None]
    assert text([1990, None]) == ["1990", None]
    assert text([2.0, 2.5, float("nan")]) == ["2", "2.5", ""]
    assert text([dt.date(2020, 1, 2)]) == ["2020-01-02"]
