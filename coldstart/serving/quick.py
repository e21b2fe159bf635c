"""The commonest request, answered without what a framework does around a call."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from coldstart.serving.batching import Batcher
from coldstart.serving.guard import Message, Receive, Send
from coldstart.serving.messages import RecommendRequest

_MOST_BYTES = 65_536
_JSON = (b"content-type", b"application/json")


class QuickLists:
    """ASGI middleware that answers plain requests for lists itself and passes on all others.

    A framework's routing, dependencies and exception handlers take longer than the search. Whatever
    is not plain, is wrong or fails is passed on as it came: the application says what is to be
    said, so that both ways answer alike.

    Args:
        app: the application.
        batcher: makes the lists.
    """

    path = "/recommend"

    def __init__(self, app: Any, batcher: Batcher) -> None:
        self.app, self.batcher = app, batcher

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope.get("path") != self.path or not _small_json(scope):
            await self.app(scope, receive, send)
            return
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body = await self._lists(message.get("body", b""))
            if body is not None:
                scope["route"] = self  # whose path the guard counts it under
                length = (b"content-length", b"%d" % len(body))
                head = {"type": "http.response.start", "status": 200, "headers": [_JSON, length]}
                await send(head)
                await send({"type": "http.response.body", "body": body})
                return
        first = iter([message])

        async def again() -> Message:
            return next(first, None) or await receive()

        await self.app(scope, again, send)

    async def _lists(self, body: bytes) -> bytes | None:
        """The answer to a plain request; ``None`` where the application must see to it."""
        try:
            asked = RecommendRequest.model_validate_json(body)
        except ValidationError:
            return None
        if not asked.plain:
            return None
        try:
            return to_json(await plain_lists(self.batcher, asked))
        except Exception:  # it happens again in the application, which knows what to say
            return None


async def plain_lists(batcher: Batcher, asked: RecommendRequest) -> dict[str, Any]:
    """The answer to a plain request.

    Raises:
        queue.Full: too many requests wait.
    """
    waiting = batcher.recommend(asked.users, asked.k, asked.exclude_seen)
    found = await asyncio.wrap_future(waiting)
    lists = [
        {"of": user, "keys": one.keys, "scores": one.scores}
        for user, one in zip(asked.users, found, strict=True)
    ]
    return {"version": found[0].number, "lists": lists}


def _small_json(scope: Any) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return (
        headers.get(b"content-type", b"").partition(b";")[0].strip() == b"application/json"
        and length.isdigit()
        and len(length) < 6
        and int(length) <= _MOST_BYTES
    )
