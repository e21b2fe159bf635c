import datetime as dt

import pytest

from coldstart.serving.operations import check_upsert
from kg import KnowledgeGraph, Schema
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
