import signal
import socket
import threading
import time

import httpx
import pytest

from coldstart.cli import main
from coldstart.serving.durable import DurableEngine
from coldstart.serving.running import listen
from tests.coldstart.serving.conftest import KEY
from tests.coldstart.serving.process import running


@pytest.fixture
def server(model, tmp_path):
    """A server process and a client of it."""
    with (
        running(model, tmp_path / "state") as (process, address),
        httpx.Client(base_url=address, headers=KEY, timeout=30) as client,
    ):
        yield process, client


@pytest.mark.slow
def test_a_server_takes_a_new_model_without_a_failed_request_and_ends_in_order(
    server, model, engine, tmp_path
):
    process, client = server
    statuses, ended = [], threading.Event()

    def keep_asking():
        while not ended.is_set():
            statuses.append(client.post("/recommend", json={"users": ["u1"]}).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    client.post("/feedback", json={"events": [{"user": "u1", "item": "m78", "kind": "like"}]})
    before = len(statuses)
    engine.save(model)
    process.send_signal(signal.SIGHUP)
    while len(statuses) < before + 50 or not any((tmp_path / "state" / "snapshots").glob("*1")):
        time.sleep(0.05)  # the reload ends with a snapshot
        assert process.poll() is None
    ended.set()
    asking.join()
    assert set(statuses) == {200}
    assert client.get("/ready").json()["version"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    durable = DurableEngine(model, tmp_path / "state")
    assert durable.current.engine.heard
    durable.close()


def test_a_server_without_a_key_does_not_start_by_accident(model, monkeypatch, capsys):
    monkeypatch.delenv("COLDSTART_API_KEY", raising=False)
    assert main(["serve", str(model)]) == 1
    assert "set $COLDSTART_API_KEY, or pass --open" in capsys.readouterr().err


def test_a_port_in_use_is_told(model, monkeypatch, capsys):
    monkeypatch.setenv("COLDSTART_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for _ in range(2):  # the state is free again
            assert main(["serve", str(model), "--port", str(port)]) == 1
            told = f"cannot listen on port {port} of 127.0.0.1: the port is in use; stop what"
            assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match="port must be from 0 to 65535, got 80000"):
        listen("127.0.0.1", 80000, 1)


def test_a_model_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLDSTART_API_KEY", "secret")
    assert main(["serve", str(tmp_path / "model")]) == 1
    assert "no saved cold-start engine" in capsys.readouterr().err
