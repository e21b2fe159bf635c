import numpy as np
import pytest

from encoders.modalities import joined, ready_vectors
from kg import NodeEmbeddings, Vocabulary
from kg.errors import AlignmentError, UnknownNodeError

NODES = Vocabulary("Movie", ["a", "b", "c"])


def test_ready_vectors_come_in_the_graphs_order_and_missing_ones_are_counted(caplog):
    found = ready_vectors(NODES, ["c", "a", "b"], np.array([[3, 4], [1, 2], [np.nan, 1]]))
    assert found.matrix.tolist() == [[1, 2], [0, 0], [3, 4]]
    assert "Movie: 1 of 3 nodes have no vector" in caplog.text


def test_vectors_that_do_not_fit_the_nodes_are_refused():
    with pytest.raises(AlignmentError, match=r"expected \[2, dim\], got \[1, 2\]"):
        ready_vectors(NODES, ["a", "b"], np.ones((1, 2)))
    with pytest.raises(AlignmentError, match="Movie 'a' has two vectors; keep one of them"):
        ready_vectors(NODES, ["a", "a"], np.ones((2, 2)))
    with pytest.raises(UnknownNodeError):
        ready_vectors(NODES, ["z"], np.ones((1, 2)))
    with pytest.raises(ValueError, match="the vector of Movie 'b' is infinite"):
        ready_vectors(NODES, ["b"], np.array([[np.inf]]))


def test_joined_parts_weigh_alike_and_a_missing_part_is_the_mean():
    text = NodeEmbeddings(NODES, np.array([[2, 0], [0, 5], [0, 0]], np.float32))
    image = NodeEmbeddings(NODES, np.array([[9], [0], [0]], np.float32))
    both = joined(text, image).matrix
    np.testing.assert_allclose(both, [[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    other = NodeEmbeddings(Vocabulary("Movie", ["b", "a", "c"]), image.matrix)
    with pytest.raises(AlignmentError, match="are of other nodes, or in another order"):
        joined(text, other)


def test_an_engine_takes_joined_vectors_and_embeds_a_film_with_an_image_alone():
    from coldstart import ColdStartEngine
    from kg import GraphDelta
    from kg.toy import toy_graph
    from tests.coldstart.toys import word_vectors

    graph = toy_graph()
    image = np.random.default_rng(0).normal(size=(len(graph.items) // 2, 5))
    images = ready_vectors(graph.items, list(graph.items)[::2], image)
    texts = {"Movie": joined(word_vectors(graph)["Movie"], images)}
    engine = ColdStartEngine.fit(graph, texts=texts, cache=None)
    given = NodeEmbeddings(Vocabulary("Movie", ["new"]), texts["Movie"].matrix[:1])
    engine = engine.update(GraphDelta(nodes={"Movie": {"id": ["new"]}}), texts={"Movie": given})
    assert engine.embed("Movie", ["new"]).matrix.any()
