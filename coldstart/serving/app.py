"""The application: each route turns a message into a call and the outcome into JSON."""

from __future__ import annotations

import hashlib
import json
import queue
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.exceptions import HTTPException

from coldstart.engine import ColdStartEngine
from coldstart.index import ExactIndex
from coldstart.journal import JournalError
from coldstart.ranking import Recommendations
from coldstart.refitting import Refit
from coldstart.refitting import refit as refitted
from coldstart.serving import messages as m
from coldstart.serving.batching import Batcher
from coldstart.serving.durable import DurableEngine, searching_on
from coldstart.serving.guard import Guard, noted
from coldstart.serving.looking import (
    found_nodes,
    names_of,
    next_key,
    page,
    title_property,
)
from coldstart.serving.operations import (
    Operation,
    checked_upsert,
    supposed,
)
from coldstart.serving.quick import QuickLists, plain_lists
from kg.errors import DependencyError, SavedFileError, UnknownNodeError

LONGEST_TOLD = 80
"""Characters of a wrong value that a refusal repeats."""

MAX_BYTES = 2_000_000
"""Of a body, unless said otherwise."""

_MOST_HEAVY = 4
"""So many requests that take long are worked on at once; further ones wait."""

_MOST_PAIRS = 100_000
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": m.Refused, "description": what}
    for status, what in (
        (400, "the body is no JSON"),
        (401, "no or a wrong API key"),
        (404, "a user, item or other node does not exist"),
        (409, "the model folder cannot be loaded"),
        (413, "the body is too large"),
        (422, "the request does not fit the graph"),
        (503, "too much at once, or the disk is full"),
    )
}

T = TypeVar("T")


class Busy(Exception):
    """Too many requests wait."""


def create_app(
    durable: DurableEngine,
    *,
    api_keys: tuple[str, ...] = (),
    max_bytes: int = MAX_BYTES,
    report: dict[str, Any] | None = None,
) -> Guard:
    """The application over an engine.

    Args:
        durable: the engine; closed when the application shuts down.
        api_keys: any of which a request must carry; none: everybody may ask.
        max_bytes: of a body.
        report: the table of the nine segments, for the page.
    """
    batcher, heavy = Batcher(durable), _Heavy()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(batcher.close)
        await anyio.to_thread.run_sync(durable.close)

    app = FastAPI(
        title="kg-coldstart",
        version="1",
        description="Recommendations for users and items nobody has seen.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_REFUSALS,
    )
    registry = CollectorRegistry()
    registry.register(_Gauges(durable))
    _refusals(app)
    _reading(app, durable, batcher, heavy)
    _changing(app, durable, heavy)
    _watching(app, durable, registry)
    _looking(app, durable, heavy, report)
    return Guard(QuickLists(app, batcher), api_keys, max_bytes, registry)


def _reading(app: FastAPI, durable: DurableEngine, batcher: Batcher, heavy: _Heavy) -> None:
    copying = _Heavy(1)  # or several copies of the graph were in memory

    async def answered(
        given: m.UpsertRequest | None, of: Callable[[ColdStartEngine], T]
    ) -> tuple[T, int]:
        engine, number = durable.current
        run = heavy if given is None else copying
        return await run(lambda: of(given_to(engine, given))), number

    @app.post("/recommend", response_model=m.RankedLists)
    async def recommend(asked: m.RecommendRequest) -> Response:
        """The best items for users, best first; what a user has seen is left out."""
        if asked.plain:  # most of these never come here, see QuickLists
            try:
                return JSONResponse(await plain_lists(batcher, asked))
            except queue.Full as full:
                raise Busy from full
        users = list(dict.fromkeys(asked.users))
        found, number = await answered(
            asked.given,
            lambda engine: engine.recommend(
                users,
                asked.k,
                candidates=asked.candidates,
                exclude_seen=asked.exclude_seen,
                where=asked.where,
                evidence=asked.evidence,
                diversity=asked.diversity,
            ),
        )
        return JSONResponse({"version": number, "lists": listed(found, users, "user")})

    @app.post("/audience", response_model=m.RankedLists)
    async def audience(asked: m.AudienceRequest) -> Response:
        """The users with the highest scores for items, best first."""
        items = list(dict.fromkeys(asked.items))
        found, number = await answered(
            asked.given,
            lambda engine: engine.audience(
                items,
                asked.k,
                candidates=asked.candidates,
                exclude_seen=asked.exclude_seen,
                where=asked.where,
                evidence=asked.evidence,
            ),
        )
        return JSONResponse({"version": number, "lists": listed(found, items, "item")})

    async def matrix(asked: m.PairsRequest, of: Callable[[ColdStartEngine], Any]) -> Response:
        if len(asked.users) * len(asked.items) > _MOST_PAIRS:
            raise ValueError(f"at most {_MOST_PAIRS} pairs at once, got more; ask in parts")
        values, number = await answered(asked.given, lambda engine: of(engine).tolist())
        return JSONResponse({"version": number, "values": values})

    @app.post("/score", response_model=m.Matrix)
    async def score(asked: m.PairsRequest) -> Response:
        """r_ui of all pairs; higher is better."""
        return await matrix(asked, lambda engine: engine.score(asked.users, asked.items))

    @app.post("/rate", response_model=m.Matrix)
    async def rate(asked: m.PairsRequest) -> Response:
        """Expected ratings of all pairs, in the scale of the interactions' weights."""
        return await matrix(asked, lambda engine: engine.rate(asked.users, asked.items))

    @app.post("/explain", response_model=m.Explained)
    async def explain(asked: m.ExplainRequest) -> Response:
        """Why the score of a pair is what it is."""
        options = {"paths": asked.paths, "removal": asked.removal}
        found, number = await answered(
            asked.given, lambda engine: engine.explain(asked.user, asked.item, **options)
        )
        told = found.to_dict() | {"sentence": found.sentence()}
        return JSONResponse({"version": number, "explanation": told})


def _changing(app: FastAPI, durable: DurableEngine, heavy: _Heavy) -> None:
    @app.post("/upsert", response_model=m.Changed)
    async def upsert(asked: m.UpsertRequest) -> Response:
        """Add or change nodes and edges. Without training; the next request sees it."""
        operation = checked_upsert(durable.current.engine, as_operation(asked))
        result, number = await heavy(lambda: durable.submit(operation))
        return JSONResponse({"version": number, "result": result})

    @app.post("/feedback", response_model=m.Changed)
    async def feedback(
        asked: m.FeedbackRequest, idempotency_key: m.IdempotencyKey = None
    ) -> Response:
        """Tell what people did; it counts at once for them and for the items."""
        day = durable.current.engine.config.feedback.day
        now = time.time() / 86_400 * day
        events = [event.model_dump() for event in asked.events]
        for at, event in enumerate(events):
            event["time"] = now if event["time"] is None else event["time"]
            if event["time"] > now + day:  # all that was heard before would fade at once
                raise ValueError(
                    f"event {at}: its time {event['time']:g} is more than a day after now, "
                    f"{now:g}; give times in the graph's unit, of which a day has {day:g}, or "
                    "leave them out"
                )
        operation: Operation = {"op": "feedback", "events": events, "now": now}
        if idempotency_key is not None:
            content = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
            operation["once"] = {"key": idempotency_key, "asked": content}
        result, number = await heavy(lambda: durable.submit(operation))
        return JSONResponse({"version": number, "result": result})

    @app.post("/erase", response_model=m.Changed)
    async def erase(asked: m.EraseRequest) -> Response:
        """Forget a user or item: engine, model folder, snapshots, journal, text cache."""
        done = await heavy(lambda: durable.erase(asked.type, asked.key))
        return JSONResponse({"version": durable.current.number, "result": {"done": done}})

    @app.post("/reload", response_model=m.Changed)
    async def reload() -> Response:
        """Take the engine that is now in the model folder; requests go on meanwhile."""
        found = await heavy(durable.reload)
        return JSONResponse({"version": found.number, "result": {"model": str(durable.model)}})

    @app.post("/refit", response_model=m.Changed)
    async def refit(asked: m.RefitRequest) -> Response:
        """Train anew on what was heard, and take that if it is no worse on the last days."""
        told: list[Refit] = []

        def make(engine: ColdStartEngine) -> ColdStartEngine:
            device = str(engine.item_vectors.device)
            told.append(refitted(engine, days=asked.days, tolerance=asked.tolerance, device=device))
            return told[0].engine

        found = await heavy(lambda: durable.replace(make))
        clean = json.loads(json.dumps(told[0].to_dict()), parse_constant=lambda _: None)
        return JSONResponse({"version": found.number, "result": clean})


def _watching(app: FastAPI, durable: DurableEngine, registry: CollectorRegistry) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "up"}

    @app.get("/ready")
    async def ready() -> dict[str, Any]:
        """Whether an engine is there to answer, and which."""
        return {"status": "ready", "version": durable.current.number}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")


def _looking(
    app: FastAPI, durable: DurableEngine, heavy: _Heavy, report: dict[str, Any] | None
) -> None:
    html, headers = page()

    @app.get("/", include_in_schema=False)
    async def look() -> Response:
        return HTMLResponse(html, headers=headers)

    @app.get("/graph")
    async def graph() -> dict[str, Any]:
        """Node types, their number and properties, and edge types."""
        engine, number = durable.current
        known = engine.graph
        return {
            "version": number,
            "user": known.schema.user,
            "item": known.schema.item,
            "interaction": list(known.schema.interaction),
            "nodes": {
                t: {
                    "count": known.num_nodes(t),
                    "key": known.schema.key_of(t),
                    "properties": known.attributes[t].column_names,
                    "keys_are": "whole numbers" if known.vocabularies[t].is_int else "strings",
                    "next": next_key(known, t),
                    "title": title_property(known, t),
                }
                for t in known.node_types
            },
            "edges": [{"type": list(e), "count": known.num_edges(e)} for e in known.edge_types],
        }

    @app.get("/report")
    async def nine() -> dict[str, Any]:
        """The table of the nine segments, if the server was given one."""
        return report or {}

    @app.post("/find", response_model=m.Named)
    async def find(asked: m.FindRequest) -> Response:
        """Nodes whose name or key has a part in it."""
        engine, number = durable.current
        found = await heavy(lambda: found_nodes(engine.graph, asked.type, asked.part, asked.most))
        return JSONResponse({"version": number, "nodes": found})

    @app.post("/names", response_model=m.Named)
    async def names(asked: m.NamesRequest) -> Response:
        """What nodes are called."""
        engine, number = durable.current
        found = await heavy(lambda: names_of(engine.graph, asked.type, asked.keys))
        return JSONResponse({"version": number, "nodes": found})


def as_operation(asked: m.UpsertRequest) -> Operation:
    """What a request asks for."""
    return {"op": "upsert", **asked.model_dump(exclude_defaults=True)}


def given_to(engine: ColdStartEngine, given: m.UpsertRequest | None) -> ColdStartEngine:
    """The engine as it would be with what a request gives for its answer alone."""
    if given is None:
        return engine
    out = supposed(engine, as_operation(given))
    searching_on(out)  # clusters take too long for a request
    return out


def listed(found: Recommendations, asked: list[Any], of: str) -> list[dict[str, Any]]:
    """Recommendations as one list for each user or item, also where it is empty."""
    lists: dict[Any, dict[str, Any]] = {key: {"of": key, "keys": [], "scores": []} for key in asked}
    other = "item" if of == "user" else "user"
    for row in found.to_pylist():
        one = lists[row.pop(of)]
        one["keys"].append(row.pop(other))
        one["scores"].append(row.pop("score"))
        row.pop("rank")
        if price := row.pop("price", None):
            one["price"] = price
        if row:
            one.setdefault("evidence", []).append(row)
    return [lists[key] for key in asked]


class _Heavy:
    """Runs what takes long in threads, a few at a time, so that quick requests are not kept.

    Args:
        most: so many at a time.
    """

    def __init__(self, most: int = _MOST_HEAVY) -> None:
        self.most = most
        self.limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, work: Callable[[], T]) -> T:
        if self.limiter is None:
            self.limiter = anyio.CapacityLimiter(self.most)
        if self.limiter.statistics().tasks_waiting > 100 * _MOST_HEAVY:
            raise Busy
        return await anyio.to_thread.run_sync(work, limiter=self.limiter)


class _Gauges:
    """What Prometheus is told about the engine when it asks."""

    def __init__(self, durable: DurableEngine) -> None:
        self.durable = durable

    def collect(self) -> list[GaugeMetricFamily]:
        engine, number = self.durable.current
        nodes = GaugeMetricFamily("coldstart_nodes", "Nodes by type", labels=["type"])
        for node_type in (engine.graph.schema.user, engine.graph.schema.item):
            nodes.add_metric([node_type], engine.graph.num_nodes(node_type))
        edges = GaugeMetricFamily(
            "coldstart_interactions", "Interactions", value=len(engine.graph.interactions)
        )
        version = GaugeMetricFamily("coldstart_version", "Number of the last change", value=number)
        search = engine._item_search
        recall = GaugeMetricFamily(
            "coldstart_search_recall",
            "Recall at 100 of the search for items against exact search, when it was made",
            value=1.0 if isinstance(search, ExactIndex) else search.recall,
        )
        return [nodes, edges, version, recall]


def _refusals(app: FastAPI) -> None:
    """Errors as statuses and sentences; never with what runs inside."""

    def refuse(status: int, headers: dict[str, str] | None = None) -> Any:
        async def handler(request: Request, error: Exception) -> Response:
            return _refused(status, str(error), headers)

        return handler

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        *_, place = first["loc"]
        if first["type"] == "json_invalid":
            why = first["ctx"]["error"]
            return _refused(400, f"the body is not valid JSON: {why} at character {place}")
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        if first["type"] == "extra_forbidden":
            return _refused(422, f"{where}: there is no such field; /openapi.json lists them")
        if first["type"] == "missing":
            return _refused(422, f"{where}: this is missing")
        return _refused(422, f"{where}: {first['msg']}, got {_briefly(first['input'])}")

    async def http(request: Request, error: Any) -> Response:
        return _refused(error.status_code, str(error.detail), error.headers)

    async def busy(request: Request, error: Exception) -> Response:
        return _refused(503, "too many requests at once; try again", {"retry-after": "1"})

    async def inside(request: Request, error: Exception) -> Response:
        return _refused(500, noted(error, request.url.path))

    app.add_exception_handler(Exception, inside)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(JournalError, refuse(503, {"retry-after": "30"}))
    app.add_exception_handler(UnknownNodeError, refuse(404))
    app.add_exception_handler(SavedFileError, refuse(409))
    app.add_exception_handler(DependencyError, refuse(422))
    for kind in (ValueError, TypeError, OverflowError, pa.ArrowException):
        app.add_exception_handler(kind, refuse(422))


def _briefly(value: Any) -> str:
    """A wrong value as far as it is short; what a list or an object holds is not looked at."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > LONGEST_TOLD:
        return f"{json.dumps(value[:LONGEST_TOLD], ensure_ascii=False)}..."
    return json.dumps(value, default=str, ensure_ascii=False)[:LONGEST_TOLD]


def _refused(status: int, message: str, headers: Any = None) -> Response:
    # A string from a request may hold half a surrogate pair, which no encoding takes.
    clean = message.encode("utf-8", "replace").decode()[:2000]
    return JSONResponse({"error": clean}, status, headers)
