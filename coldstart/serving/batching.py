"""Requests that come at the same time are answered together: one search for many users."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from itertools import pairwise
from typing import NamedTuple

from coldstart.serving.durable import DurableEngine, Version
from kg.growing import taken
from kg.vectors import Key

MOST_TOGETHER = 64


class Ranked(NamedTuple):
    """One list: keys and scores, best first, and the version that made it."""

    keys: list[Key]
    scores: list[float]
    number: int


class _Request(NamedTuple):
    users: tuple[Key, ...]
    k: int
    exclude_seen: bool
    future: Future[list[Ranked]]


class Batcher:
    """Lists for users, by one thread that takes all requests there are.

    A list does not depend on its company (see :meth:`ColdStartEngine.recommend`), so nobody can
    tell; under load a request costs a share of one search instead of one of its own.

    Args:
        durable: where the engine is.
        most_waiting: further requests are refused.
    """

    def __init__(self, durable: DurableEngine, *, most_waiting: int = 1000) -> None:
        self.durable = durable
        self._waiting: queue.Queue[_Request | None] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._run, name="recommend", daemon=True)
        self._thread.start()

    def recommend(self, users: list[Key], k: int, exclude_seen: bool) -> Future[list[Ranked]]:
        """Lists for some users, when they are ready.

        Raises:
            queue.Full: too many requests wait.
        """
        future: Future[list[Ranked]] = Future()
        self._waiting.put_nowait(_Request(tuple(users), k, exclude_seen, future))
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            together, ended = [first], False
            while len(together) < MOST_TOGETHER and not self._waiting.empty():
                if (another := self._waiting.get()) is None:
                    ended = True
                    break
                together.append(another)
            alike: dict[tuple[int, bool], list[_Request]] = {}
            for request in together:
                if not request.future.set_running_or_notify_cancel():
                    continue  # whoever asked has gone
                alike.setdefault((request.k, request.exclude_seen), []).append(request)
            for requests in alike.values():
                _answer(self.durable.current, requests)
            if ended:
                return


def _answer(version: Version, requests: list[_Request]) -> None:
    """Answer requests for lists of one length; where one is wrong, each by itself."""
    users = [user for request in requests for user in request.users]
    k, exclude_seen = requests[0].k, requests[0].exclude_seen
    try:
        lists = iter(ranked(version, users, k, exclude_seen))
    except Exception as error:
        if len(requests) == 1:
            requests[0].future.set_exception(error)
        else:
            for request in requests:
                _answer(version, [request])
        return
    for request in requests:
        request.future.set_result([next(lists) for _ in request.users])


def ranked(version: Version, users: list[Key], k: int, exclude_seen: bool) -> list[Ranked]:
    """A list for each of some users, whatever their order and however often they come."""
    engine, number = version
    found = engine.recommend(users, k, exclude_seen=exclude_seen, evidence=False)
    keys = taken(found.items.keys, found.item_rows).to_pylist()
    scores = found.scores.tolist()
    starts = [at for at, rank in enumerate(found.ranks.tolist()) if rank == 1] + [len(scores)]
    if len(starts) == len(users) + 1:
        return [Ranked(keys[a:b], scores[a:b], number) for a, b in pairwise(starts)]
    # Some have seen everything and got an empty list.
    out = {}
    for a, b in pairwise(starts):
        out[int(found.user_rows[a])] = Ranked(keys[a:b], scores[a:b], number)
    rows = engine.graph.users.rows(users).tolist()
    return [out.get(row, Ranked([], [], number)) for row in rows]
