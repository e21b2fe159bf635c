from __future__ import annotations

import datetime
import logging

import pyarrow as pa
import pytest
from neo4j.spatial import CartesianPoint, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time

from kg.stores.columns import joined, to_array

DAY, MOMENT = Date(2024, 2, 29), DateTime(2024, 2, 29, 12, 0, 0)
PARIS = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 2.5], pa.float64(), [1.0, None, 2.5]),
        ([2**60 + 1, 0.5], pa.float64(), [2.0**60, 0.5]),
        ([[], ["a"], None], pa.list_(pa.string()), [[], ["a"], None]),
        ([[1], [2.5, None]], pa.list_(pa.float64()), [[1.0], [2.5, None]]),
        ([b"\xaa\0", None], pa.binary(), [b"\xaa\0", None]),
        ([DAY], pa.date32(), [datetime.date(2024, 2, 29)]),
        ([MOMENT], pa.timestamp("us"), [datetime.datetime(2024, 2, 29, 12)]),
        ([Duration(months=1, seconds=5)], pa.string(), ["P1MT5S"]),
        ([Time(12, 0, 0, tzinfo=PARIS)], pa.string(), ["12:00:00.000000000+01:00"]),
        ([CartesianPoint((1.0, 2.0))], pa.list_(pa.float64()), [[1.0, 2.0]]),
        ([WGS84Point((2.0, 1.0, 3.0)), None], pa.list_(pa.float64()), [[2.0, 1.0, 3.0], None]),
        ([None, None], pa.null(), [None, None]),
    ],
)
def test_values_of_one_kind_have_a_column_of_their_own(values, kind, expected, caplog):
    found = to_array(values, "Movie.p")
    assert (found.type, found.to_pylist()) == (kind, expected)
    assert not caplog.records


MIXED = [
    (["x", b"x"], ["x", "b'x'"]),
    ([True, 1], ["True", "1"]),
    ([1, "1"], ["1", "1"]),
    ([1, DAY], ["1", "2024-02-29"]),
    ([DAY, MOMENT], ["2024-02-29", "2024-02-29 12:00:00"]),
    ([MOMENT, MOMENT.replace(tzinfo=PARIS)], ["2024-02-29 12:00:00", "2024-02-29 11:00:00+00:00"]),
    ([[1], 1], ["[1]", "1"]),
    ([[1], ["a"]], ["[1]", "['a']"]),
    ([[], 1], ["[]", "1"]),
    ([CartesianPoint((1.0, 2.0)), "here"], ["[1.0, 2.0]", "here"]),
]


@pytest.mark.parametrize(("values", "expected"), MIXED)
def test_values_of_several_kinds_are_text_whichever_comes_first(values, expected, caplog):
    for step in (1, -1):
        with caplog.at_level(logging.WARNING):
            assert to_array(values[::step], "Movie.p").to_pylist() == expected[::step]
        assert "Movie.p holds" in caplog.text


@pytest.mark.parametrize(("values", "expected"), MIXED)
def test_values_of_several_kinds_are_the_same_text_in_batches_of_their_own(values, expected):
    for step in (1, -1):
        tables = [pa.table({"p": to_array([v], "Movie.p")}) for v in values[::step]]
        assert joined(tables, "Movie")["p"].to_pylist() == expected[::step]


def test_batches_of_numbers_and_of_missing_values_go_together():
    batches = [[2**60 + 1], [None], [0.5]]
    found = joined([pa.table({"p": to_array(b, "Movie.p")}) for b in batches], "Movie")["p"]
    assert (found.type, found.to_pylist()) == (pa.float64(), [2.0**60, None, 0.5])


def test_zoned_times_of_different_zones_are_moments_in_utc():
    zones = [PARIS, datetime.UTC]
    batches = [pa.table({"p": to_array([MOMENT.replace(tzinfo=z)], "p")}) for z in zones]
    found = joined(batches, "Movie")["p"]
    assert found.type == pa.timestamp("us", "UTC")
    assert [t.hour for t in found.to_pylist()] == [11, 12]
