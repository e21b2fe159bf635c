"""A server process: sockets, signals, and the end of it."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from coldstart.serving.durable import DurableEngine
from coldstart.updating import warm_up
from kg.errors import DependencyError, SavedFileError, how_to_install

log = logging.getLogger(__name__)

_SECONDS_TO_FINISH = 30


def run(
    durable: DurableEngine, app: Any, host: str, port: int, say: Callable[[str], object]
) -> None:
    """Serve until SIGTERM or SIGINT; requests that came are answered, and a snapshot is written.

    SIGHUP takes the engine that is in the model folder then.

    Args:
        durable: the engine.
        app: the application over it.
        host: address to listen on.
        port: 0 for any that is free.
        say: called with the address once it is listened on.

    Raises:
        DependencyError: uvicorn is not installed.
        OSError: see :func:`listen`.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise DependencyError(f"serving needs uvicorn: {how_to_install('serve')}") from error
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        backlog=2048,
    )

    listening = listen(host, port, config.backlog)  # whoever is told the address may connect

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for ending in (signal.SIGTERM, signal.SIGINT):
                # Uvicorn takes these over and, once all is done, raises them again.
                signal.signal(ending, lambda number, frame: None)
            loop.add_signal_handler(
                signal.SIGHUP, lambda: threading.Thread(target=_reload, args=[durable]).start()
            )
        threading.Thread(target=_warm_up, args=[durable], daemon=True).start()
        say(f"http://{host}:{listening.getsockname()[1]}")
        await uvicorn.Server(config).serve(sockets=[listening])

    spare_the_collector()
    runner = config.get_loop_factory()
    with asyncio.Runner(loop_factory=runner) as loop:
        loop.run(serve())


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        OSError: the address is taken, not ours to take, or none.
        ValueError: there is no such port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        why, advice = error.strerror, "choose another host or port"
        if error.errno == errno.EADDRINUSE:
            why = "the port is in use"
            advice = "stop what listens there, or choose another port (0: any that is free)"
        raise OSError(f"cannot listen on port {port} of {host}: {why}; {advice}") from error


def spare_the_collector() -> None:
    """Take all that is there from Python's garbage collector, so that it need not look through it.

    Each time it does, every request waits. An engine that is replaced goes without it.
    """
    gc.collect()
    gc.freeze()


def _warm_up(durable: DurableEngine) -> None:
    """Load what changes will need; where that fails, the first of them is told why."""
    try:
        if warm_up(durable.current.engine):
            spare_the_collector()
    except Exception as error:
        log.info("the text encoder is not loaded yet: %s", error)


def _reload(durable: DurableEngine) -> None:
    try:
        found = durable.reload()
    except SavedFileError as error:
        log.error("the model was not taken, the old one goes on: %s", error)
    else:
        log.warning("took the model at %s, with changes up to %d", durable.model, found.number)
