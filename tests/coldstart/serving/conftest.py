import pytest
from starlette.testclient import TestClient

from coldstart.serving.app import create_app
from coldstart.serving.durable import DurableEngine

KEY = {"X-API-Key": "secret"}


@pytest.fixture(scope="session")
def saved(engine, tmp_path_factory):
    """The engine in a folder that no test may change."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    engine.save(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A copy that a test may change."""
    import shutil

    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def durable(model, tmp_path):
    made = DurableEngine(model, tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def client(model, tmp_path):
    """A client of a server over that model."""
    app = create_app(DurableEngine(model, tmp_path / "state"), api_keys=("secret", "other"))
    with TestClient(app, headers=KEY) as made:
        yield made
