"""A genuine Neo4j server for tests, by the first means that this machine has.

In order: ``NEO4J_URI`` (with ``NEO4J_USER``, ``NEO4J_PASSWORD``), Docker through testcontainers,
Maven and Java. The last fetches the server's jars once into the user's cache and starts
``Neo4jServer.java`` from source.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

VERSION = "5.26.30"
PASSWORD = "for-tests-only"
HERE = Path(__file__).parent
START_SECONDS = 240
QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Compile little: many short queries that are planned once each are the most of what tests do."""


class NoServerError(Exception):
    """Why there is no server here; the reason for skipping."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        uri: where it listens.
        auth: user and password.
        stop: ends it; may be called twice.
        process: the server itself where we started one, for tests that kill it.
    """

    uri: str
    auth: tuple[str, str]
    stop: Callable[[], None]
    process: subprocess.Popen[bytes] | None = None


def start() -> Server:
    """A server that is empty and may be wiped.

    Raises:
        NoServerError: none can be had, and why.
    """
    if uri := os.environ.get("NEO4J_URI"):
        return _named(uri)
    reasons = []
    for means in (_docker, _java):
        try:
            return means()
        except NoServerError as reason:
            reasons.append(str(reason))
    raise NoServerError("no Neo4j: NEO4J_URI is not set; " + "; ".join(reasons))


def _named(uri: str) -> Server:
    import neo4j

    user, password = os.environ.get("NEO4J_USER", "neo4j"), os.environ.get("NEO4J_PASSWORD", "")
    with neo4j.GraphDatabase.driver(uri, auth=(user, password)) as driver:
        (record,) = driver.execute_query("MATCH (n) RETURN count(n) AS n").records
    if record["n"]:
        raise NoServerError(
            f"the database at NEO4J_URI={uri} holds {record['n']} nodes and the tests wipe theirs; "
            "point it at an empty one"
        )
    return Server(uri, (user, password), lambda: None)


def _docker() -> Server:
    if importlib.util.find_spec("testcontainers") is None:
        raise NoServerError("testcontainers is not installed")
    if (
        shutil.which("docker") is None
        or subprocess.run(
            ["docker", "info"], capture_output=True, timeout=30, check=False
        ).returncode
    ):
        raise NoServerError("no Docker engine answers")
    try:
        from testcontainers.neo4j import Neo4jContainer

        container = Neo4jContainer(f"neo4j:{VERSION}", password=PASSWORD)
        container.start()
    except Exception as error:
        raise NoServerError(f"the container does not start ({error})") from error
    atexit.register(container.stop)
    return Server(container.get_connection_url(), ("neo4j", PASSWORD), container.stop)


def _java() -> Server:
    if absent := [program for program in ("mvn", "java") if shutil.which(program) is None]:
        raise NoServerError(f"{' and '.join(absent)} not installed")
    try:
        return start_java(jars())
    except (subprocess.SubprocessError, OSError) as error:
        raise NoServerError(f"Maven and Java are there, and yet: {error}") from error


def jars() -> Path:
    """The folder with the server's jars; fetched by Maven the first time, whole or not at all."""
    folder = Path(platformdirs.user_cache_dir("kg-coldstart")) / f"neo4j-{VERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".neo4j-"))
        try:
            subprocess.run(
                [
                    *("mvn", "-q", "-B", "-f", str(HERE / "pom.xml")),
                    "dependency:copy-dependencies",
                    f"-DoutputDirectory={partial}",
                    "-DincludeScope=runtime",
                ],
                check=True,
                timeout=600,
                cwd=partial,
            )
            try:
                partial.rename(folder)
            except OSError:  # someone else was quicker
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def start_java(
    lib: Path, home: Path | None = None, options: tuple[str, ...] = QUICK_START
) -> Server:
    """A server started from source, on a free port, with a gigabyte of heap at most.

    It ends when ``stop`` is called, when this process exits, and when this process dies: the
    server reads its standard input, which is closed then.

    Args:
        lib: folder of jars.
        home: the database's folder, kept; a temporary one, removed, if ``None``.
        options: further options for Java; give ``()`` to measure speed.

    Raises:
        NoServerError: it does not come up; with the end of its output.
    """
    own = home is None
    home = Path(tempfile.mkdtemp(prefix="neo4j-test-")) if home is None else home
    port = _free_port()
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(
        [
            *("java", "-Xmx1g", *options, "-cp", f"{lib}/*"),
            *(str(HERE / "Neo4jServer.java"), str(home), str(port)),
        ],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
    )

    def stop() -> None:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()
        if own:
            shutil.rmtree(home, ignore_errors=True)

    atexit.register(stop)
    try:
        _wait_until_started(process, home / "server.log")
        uri = f"bolt://localhost:{port}"
        _set_password(uri)
    except BaseException:
        stop()
        raise
    return Server(uri, ("neo4j", PASSWORD), stop, process)


def _wait_until_started(process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while b"started" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > until:
            end = log.read_text(errors="replace")[-800:]
            raise NoServerError(f"the Java server did not start: {end}")
        time.sleep(0.1)


def _set_password(uri: str) -> None:
    """Replace the first password, unless that was done in this home before."""
    import neo4j
    from neo4j.exceptions import AuthError

    try:
        with neo4j.GraphDatabase.driver(uri, auth=("neo4j", "neo4j")) as driver:
            driver.execute_query(
                "ALTER CURRENT USER SET PASSWORD FROM 'neo4j' TO $new",
                new=PASSWORD,
                database_="system",
            )
    except AuthError:
        with neo4j.GraphDatabase.driver(uri, auth=("neo4j", PASSWORD)) as driver:
            driver.verify_connectivity()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
