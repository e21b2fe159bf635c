import datetime as dt

import pytest

from coldstart.serving.operations import check_upsert, upsert_of, with_times
from kg import GraphDelta, KnowledgeGraph, Schema
from kg.errors import GraphError

LIKED = ("User", "LIKED", "Item")
DATED = KnowledgeGraph.from_tables(
    {"User": {"id": [1]}, "Item": {"id": [2, 3]}},
    {LIKED: {"source": [1], "target": [2], "time": [dt.date(2024, 6, 18)]}},
    Schema("User", "Item", LIKED),
)


def edge(time):
    return {"op": "upsert", "edges": [{"type": LIKED, "source": 1, "target": 3, "time": time}]}


def test_seconds_are_refused_where_times_are_dates():
    with pytest.raises(GraphError, match="1760000000 is none between 1973 and 2099"):
        check_upsert(DATED, edge(1_760_000_000))
    check_upsert(DATED, edge(1_760_000_000_000_000))
    check_upsert(DATED, edge(None))


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2024-12-01", dt.datetime(2024, 12, 1)),
        ("2024-12-01T18:30:00.5+01:00", dt.datetime(2024, 12, 1, 17, 30, 0, 500_000)),
        ("2024-12-01T18:30Z", dt.datetime(2024, 12, 1, 18, 30)),
    ],
)
def test_dates_are_times_where_times_are_dates(given, moment):
    operation = with_times(DATED, edge(given))
    check_upsert(DATED, operation)
    delta, _, _ = upsert_of(DATED.schema, operation)
    as_date = GraphDelta(edges={LIKED: {"source": [1], "target": [3], "time": [moment]}})
    after, expected = (DATED.apply(d).edges[LIKED].time for d in (delta, as_date))
    assert after is not None
    assert expected is not None
    assert after.tolist() == expected.tolist()
    assert with_times(DATED, edge(7)) == edge(7)


def test_dates_are_refused_where_times_are_numbers_and_what_is_no_date_everywhere():
    with pytest.raises(GraphError, match=r"edges\[0\]: the time 'soon' is no date as in ISO 8601"):
        with_times(DATED, edge("soon"))
    links = {LIKED: {"source": [1], "target": [2], "time": [1_735_000_000]}}
    nodes = {t: DATED.node_table(t) for t in DATED.node_types}
    numbered = KnowledgeGraph.from_tables(nodes, links, DATED.schema)
    with pytest.raises(GraphError, match="are numbers, such as 1735000000, got the date '2024-12"):
        with_times(numbered, edge("2024-12-01"))
