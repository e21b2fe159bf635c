"""Requests that nobody would think of, made from the server's own description of itself."""

import threading
import time

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings

from coldstart.serving.app import create_app
from coldstart.serving.durable import DurableEngine
from tests.coldstart.serving.conftest import KEY

ROUTES = ["recommend", "audience", "score", "rate", "explain", "upsert", "feedback", "erase"]
ROUTES += ["find", "names"]


@pytest.fixture(scope="module")
def described(saved, tmp_path_factory):
    """The description that a server over a copy of the engine gives of itself."""
    import shutil

    folder = tmp_path_factory.mktemp("fuzz")
    durable = DurableEngine(shutil.copytree(saved, folder / "model"), folder / "state")
    app = create_app(durable, api_keys=("secret",))
    config = uvicorn.Config(app, port=0, log_level="critical")
    listening = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    yield schemathesis.openapi.from_url(f"{address}/openapi.json", headers=KEY)
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("route", ROUTES)
def test_no_request_makes_the_server_fail(described, route):
    operation = described[f"/{route}"]["POST"]
    statuses = []

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def fuzzed(case):
        found = case.call(headers=KEY)
        statuses.append(found.status_code)
        assert found.status_code < 500, found.text
        if found.status_code >= 400:
            assert set(found.json()) == {"error"}

    fuzzed()
    assert len(statuses) >= 20
