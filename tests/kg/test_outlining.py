from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kg import Schema, outlining
from kg.errors import SavedFileError
from kg.files import write_graph
from kg.outlining import outline_folder, outline_store
from kg.stores import LadybugStore
from kg.toy import toy_graph


def test_an_outline_of_a_folder_has_the_counts_degrees_and_positives_of_its_graph(tmp_path):
    graph = toy_graph(num_users=1500, num_items=40)
    write_graph(graph, tmp_path / "g")
    outline = outline_folder(tmp_path / "g")
    assert dict(outline.nodes) == {t: graph.num_nodes(t) for t in graph.node_types}
    assert dict(outline.edges) == {e: graph.num_edges(e) for e in graph.edge_types}
    assert [len(d) for d in outline.degrees] == [1500, 40]
    assert np.array_equal(outline.degrees[1], np.bincount(graph.interactions.index[1]))
    positives = outline.positive_share * len(graph.interactions)
    assert round(positives) == graph.positives().shape[1]
    assert 0.9 < outline.graph_bytes / graph.nbytes < 1.1


def test_the_size_of_a_folder_is_told_from_samples_within_half(tmp_path):
    graph = toy_graph(num_users=3000, num_items=1500)
    with LadybugStore(memory_limit=1 << 28) as store:
        store.write(graph)
        told = outline_store(store, graph.schema).folder_bytes()
    write_graph(graph, tmp_path / "g")
    size = sum(f.stat().st_size for f in (tmp_path / "g").glob("*.parquet"))
    assert 1 / 1.5 < told / size < 1.5


@pytest.mark.neo4j
def test_a_property_that_no_node_of_the_sample_has_is_null_there(neo4j_store, monkeypatch):
    monkeypatch.setattr(outlining, "SAMPLE_NODES", 1)
    neo4j_store.query("CREATE (:User {id: 1})-[:RATED]->(:Movie {id: 'a'}), (:Movie {id: 'b'})")
    neo4j_store.query("MATCH (m:Movie {id: 'b'}) SET m.title = 'Solaris'")
    schema = Schema("User", "Movie", ("User", "RATED", "Movie"), text={"Movie": ("title",)})
    outline = outline_store(neo4j_store, schema)
    assert outline.sample.attributes["Movie"]["title"].null_count == 1
    assert outline.nodes["Movie"] == 2


def test_a_folder_that_is_no_graph_has_no_outline(tmp_path):
    with pytest.raises(SavedFileError, match="no saved knowledge graph"):
        outline_folder(tmp_path / "nothing")


def test_resident_memory_grows_with_what_is_held():
    code = """
import numpy as np
from kg.outlining import resident_bytes
before = resident_bytes()
held = np.ones(2**24)
print((resident_bytes() - before) / held.nbytes)
"""
    # in a process of its own: here an allocator may give back old pages, or have some ready
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.5
