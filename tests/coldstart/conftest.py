import pytest

from coldstart import ColdStartEngine
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors


@pytest.fixture(scope="session")
def graph():
    """Sixty people and eighty films, six and eight of them without a rating."""
    return toy_graph(num_cold_items=8, num_cold_users=6)


@pytest.fixture(scope="session")
def engine(graph):
    """An engine of that graph; it never changes, so all tests may share it."""
    return ColdStartEngine.fit(graph, texts=word_vectors(graph), device="cpu")
