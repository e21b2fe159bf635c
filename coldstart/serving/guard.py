"""What every request passes: size, key, time, and a last net under errors."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""Paths that need no key: they tell nothing of users or items."""


class Guard:
    """ASGI middleware around an application.

    Args:
        app: the application.
        keys: any of which a request must carry, as ``X-API-Key`` or ``Authorization: Bearer``;
            none: everybody may.
        max_bytes: of a body.
        registry: where the counts of requests go.
    """

    def __init__(
        self, app: Any, keys: tuple[str, ...], max_bytes: int, registry: CollectorRegistry
    ) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.keys = [key.encode() for key in keys]
        self.requests = Counter(
            "coldstart_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "coldstart_request_seconds",
            "Time to answer",
            ["path"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        size, taken = _length(headers.get(b"content-length", b"0")), 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_bytes:
                raise HTTPException(413, self._told())
            return message

        try:
            if self.keys and scope["path"] not in OPEN and not self._may(headers):
                message = "an API key is needed, in the header X-API-Key"
                await answer(watched, 401, message)
            elif size > self.max_bytes:
                await answer(watched, 413, self._told())
            else:
                await self.app(scope, limited, watched)
        except Exception as error:
            if not status:
                await answer(watched, 500, noted(error, scope["path"]))
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - start)

    def _may(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"x-api-key")
        if given is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            given = token.strip() if scheme.lower() == b"bearer" else b""
        # All are compared, so that the time tells nothing.
        return any([hmac.compare_digest(given, key) for key in self.keys])

    def _told(self) -> str:
        return f"the body is larger than {self.max_bytes} bytes; send it in parts"


def noted(error: Exception, path: str) -> str:
    """What a client may know of an error inside: a number, under which the log has the rest."""
    number = secrets.token_hex(4)
    log.error("error %s in %s", number, path, exc_info=error)
    return f"something went wrong here; the log has more under error {number}"


async def answer(send: Send, status: int, message: str) -> None:
    """Send an error as JSON."""
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _length(value: bytes) -> int:
    return int(value) if value.isdigit() and len(value) < 19 else 0
