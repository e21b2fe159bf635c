"""What may be asked over HTTP and how much of it at once; a wrong request is told what is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Header
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

MOST_NODES, MOST_K, MOST_CANDIDATES, MOST_ROWS = 1000, 1000, 100_000, 10_000

_Whole = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
_Text = Annotated[StrictStr, Field(max_length=100_000)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
KeyValue = Annotated[
    _Whole | Annotated[StrictStr, Field(max_length=1000)],
    Field(description="The key of a user, item or other node: a whole number or a string."),
]
Number = Annotated[float, Field(allow_inf_nan=False)]
Plain = StrictBool | _Whole | Number | _Text | None
Value = Plain | list[Plain]
Keys = Annotated[list[KeyValue], Field(min_length=1, max_length=MOST_NODES)]
K = Annotated[int, Field(ge=1, le=MOST_K, strict=True)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Of your choice, new for each request. Send one again with the same key where "
        "no answer came: it counts once, and is answered like the first time.",
    ),
]


class Message(BaseModel):
    """What comes in; names that are not known are errors."""

    model_config = ConfigDict(extra="forbid")


class EdgeRow(Message):
    """An edge; weight and time go by these names, whatever the graph calls them."""

    type: Annotated[list[Name], Field(min_length=3, max_length=3)]
    source: KeyValue
    target: KeyValue
    weight: Number | None = Field(None, description="Of an interaction, a rating say.")
    time: _Whole | Annotated[StrictStr, Field(max_length=100)] | None = Field(
        None,
        description="In the unit of the graph's times: as the tables had it, or, where they had "
        'dates, a date as in ISO 8601 ("2024-12-01", "2024-12-01T18:30:00+01:00"; UTC if it does '
        "not say) or microseconds since 1970.",
    )


class EdgeEnds(Message):
    """An edge to remove."""

    type: Annotated[list[Name], Field(min_length=3, max_length=3)]
    source: KeyValue
    target: KeyValue


class Vectors(Message):
    """A vector for each of some nodes of this request."""

    keys: Annotated[list[KeyValue], Field(max_length=MOST_NODES)]
    matrix: Annotated[
        list[Annotated[list[Number], Field(min_length=1, max_length=8192)]],
        Field(max_length=MOST_NODES),
    ]


Rows = Annotated[list[dict[Name, Value]], Field(max_length=MOST_ROWS)]


class UpsertRequest(Message):
    """Nodes and edges that are new or changed, and edges that are gone."""

    nodes: dict[Name, Rows] = Field(
        default_factory=dict,
        description="Rows by node type, each with the key and the same properties.",
    )
    edges: Annotated[list[EdgeRow], Field(max_length=MOST_ROWS)] = []
    remove_edges: Annotated[list[EdgeEnds], Field(max_length=MOST_ROWS)] = []
    vectors: dict[Name, Vectors] = Field(
        default_factory=dict,
        description="Text vectors by node type, instead of encoding the texts: "
        '`{"Movie": {"keys": ["m1"], "matrix": [[0.1, 0.2]]}}`.',
    )
    ready_vectors: dict[Name, dict[Name, Vectors]] = Field(
        default_factory=dict,
        description="Ready-made vectors by node type and the name they had when the engine was "
        'fitted: `{"Movie": {"poster": {"keys": ["m1"], "matrix": [[0.3, 0.4]]}}}`. A new node '
        "without one has none; a known one keeps what it had.",
    )


class _Supposing(Message):
    """What may be supposed of the graph."""

    given: UpsertRequest | None = Field(
        None,
        description="Nodes and edges, as for `/upsert`, that count for this answer alone: a "
        "visitor with three likes, a draft of an item. They are not kept. It takes a copy of what "
        "they are added to, and the longer the larger the graph is; one is answered at a time.",
    )


class _Ranking(_Supposing):
    k: K = 10
    candidates: Annotated[list[KeyValue], Field(max_length=MOST_CANDIDATES)] | None = None
    where: dict[Name, Value] | None = Field(
        None, description="Properties and the value, or list of values, they may have."
    )
    exclude_seen: StrictBool = True
    evidence: StrictBool = Field(False, description="What stands behind each, too.")


class RecommendRequest(_Ranking):
    """Items for users."""

    users: Keys
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def plain(self) -> bool:
        """Whether lists of the best are asked for and nothing else, which is quick."""
        whole = self.candidates is None and self.where is None and self.given is None
        return whole and not self.evidence and not self.diversity


class AudienceRequest(_Ranking):
    """Users for items."""

    items: Keys


class PairsRequest(_Supposing):
    """All pairs of some users and some items."""

    users: Keys
    items: Keys


class ExplainRequest(_Supposing):
    """Why a user gets an item."""

    user: KeyValue
    item: KeyValue
    paths: Annotated[int, Field(ge=0, le=50, strict=True)] = 8
    removal: StrictBool = Field(False, description="Take edges away and recompute; slow.")


class Event(Message):
    """Something a user did with an item."""

    user: KeyValue
    item: KeyValue
    kind: Annotated[
        Literal["rating", "like", "dislike", "click", "impression", "undo"],
        Field(description="What the user did."),
    ]
    value: Number | None = Field(None, description="The rating; nothing else has one.")
    time: Annotated[Number, Field(ge=0, le=1e18)] | None = Field(
        None, description="In the unit of the graph's times, seconds by default; now if left out."
    )


class FeedbackRequest(Message):
    """What people did."""

    events: Annotated[list[Event], Field(min_length=1, max_length=MOST_ROWS)]


class EraseRequest(Message):
    """Who is to be forgotten."""

    type: Name
    key: KeyValue


class FindRequest(Message):
    """Nodes by a part of their name or key."""

    type: Name
    part: Annotated[StrictStr, Field(max_length=200)] = ""
    most: Annotated[int, Field(ge=1, le=1000, strict=True)] = 20


class NamesRequest(Message):
    """Names of nodes."""

    type: Name
    keys: Keys


class Named(BaseModel):
    """Nodes with their names."""

    version: int
    nodes: list[dict[str, Any]]


class RefitRequest(Message):
    """How a new engine is compared with the old one."""

    days: Annotated[Number, Field(gt=0, le=3650)] = 7.0
    tolerance: Annotated[Number, Field(ge=0, le=1)] = 0.0


class Ranked(BaseModel):
    """A list, best first."""

    of: KeyValue
    keys: list[KeyValue]
    scores: list[float]
    evidence: list[dict[str, Any]] | None = None
    price: float | None = None


class RankedLists(BaseModel):
    """Lists, and the number of the last change that they know of."""

    version: int
    lists: list[Ranked]


class Matrix(BaseModel):
    """A row for each user, a column for each item."""

    version: int
    values: list[list[float]]


class Changed(BaseModel):
    """What a change came to; it is on disk, and the next request sees it."""

    version: int
    result: dict[str, Any]


class Explained(BaseModel):
    """Parts of the score, paths and nearest items."""

    version: int
    explanation: dict[str, Any]


class Refused(BaseModel):
    """Why a request was refused."""

    error: str
