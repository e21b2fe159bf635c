import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from kg import KnowledgeGraph, Schema, files
from kg.errors import GraphError, SavedFileError
from kg.files import (
    check_folder,
    read_folder,
    read_graph,
    write_atomically,
    write_folder,
    write_graph,
)
from kg.toy import toy_graph

RATED = ("User", "RATED", "Movie")
SCHEMA = Schema(user="User", item="Movie", interaction=RATED)


def one_file(content):
    def write(folder):
        (folder / "data.txt").write_text(content)

    return write


def save(path, content="hello", version=1):
    write_folder(path, one_file(content), kind="thing", version=version)


def check(path, version=1):
    return check_folder(path, kind="thing", version=version)


def hidden(path):
    return sorted(p.name for p in path.parent.iterdir() if p.name.startswith("."))


def assert_equal(one, two):
    assert two.schema == one.schema
    assert two.node_types == one.node_types
    assert two.edge_types == one.edge_types
    assert dict(two.skipped) == dict(one.skipped)
    for node_type in one.node_types:
        assert two.vocabularies[node_type] == one.vocabularies[node_type]
        assert two.attributes[node_type].equals(one.attributes[node_type])
        assert two.attributes[node_type].schema == one.attributes[node_type].schema
    for edge_type, edges in one.edges.items():
        for name in ("index", "weight", "time"):
            np.testing.assert_array_equal(getattr(two.edges[edge_type], name), getattr(edges, name))


# one file


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_rename_keeps_the_old_file_and_removes_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"one")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert hidden(path) == []


# a folder


def test_a_folder_comes_back_with_its_kind_version_and_sizes(tmp_path):
    save(tmp_path / "a", "hello")
    manifest = check(tmp_path / "a")
    assert (manifest["kind"], manifest["version"]) == ("thing", 1)
    assert manifest["files"]["data.txt"]["size"] == 5
    assert hidden(tmp_path / "a") == []


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(tmp_path):
    save(tmp_path / "a", "one")
    save(tmp_path / "a", "two")
    check(tmp_path / "a")
    assert (tmp_path / "a" / "data.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_in_subfolders_are_checked_too(tmp_path):
    def write(folder):
        (folder / "graph").mkdir()
        (folder / "graph" / "x").write_text("x")

    write_folder(tmp_path / "a", write, kind="thing", version=1)
    assert list(check(tmp_path / "a")["files"]) == ["graph/x"]
    (tmp_path / "a" / "graph" / "x").write_text("y")
    with pytest.raises(SavedFileError, match="graph/x was changed after it was saved"):
        check(tmp_path / "a")


def test_one_tampered_byte_is_found(tmp_path):
    save(tmp_path / "a", "hello")
    (tmp_path / "a" / "data.txt").write_text("hellO")
    with pytest.raises(SavedFileError, match=r"data\.txt was changed after it was saved"):
        check(tmp_path / "a")


def test_a_truncated_file_is_found(tmp_path):
    save(tmp_path / "a", "hello")
    (tmp_path / "a" / "data.txt").write_text("hel")
    with pytest.raises(SavedFileError, match=r"data\.txt should have 5 bytes and has 3"):
        check(tmp_path / "a")


def test_a_missing_file_is_found(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "a" / "data.txt").unlink()
    with pytest.raises(SavedFileError, match=r"the file data\.txt is missing"):
        check(tmp_path / "a")


def test_a_file_that_was_added_is_found_and_a_hidden_one_is_ignored(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "a" / ".DS_Store").write_text("")
    check(tmp_path / "a")
    (tmp_path / "a" / "more.txt").write_text("")
    with pytest.raises(SavedFileError, match=r"more\.txt does not belong to this thing"):
        check(tmp_path / "a")


def test_a_missing_folder_is_no_saved_thing(tmp_path):
    with pytest.raises(SavedFileError, match=r"no saved thing at .*/a: there is no such folder"):
        check(tmp_path / "a")


def test_a_half_written_folder_has_no_manifest(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(SavedFileError, match=r"no manifest\.json, which is written last"):
        check(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"checksum": "x"}', "\udcff"])
def test_a_damaged_manifest_is_found(tmp_path, text):
    save(tmp_path / "a")
    content = text.encode(errors="surrogateescape")
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    with pytest.raises(SavedFileError, match=r"manifest\.json (is damaged|was changed)"):
        check(tmp_path / "a")


def test_a_checksum_edited_in_the_manifest_is_found(tmp_path):
    save(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["data.txt"]["size"] = 6
    path.write_text(json.dumps(manifest))
    with pytest.raises(SavedFileError, match=r"manifest\.json was changed"):
        check(tmp_path / "a")


def test_a_newer_version_says_what_to_update(tmp_path):
    save(tmp_path / "a", version=3)
    with pytest.raises(SavedFileError, match=r"version 3 is newer than the version 2 .* update kg"):
        check(tmp_path / "a", version=2)
    assert check(tmp_path / "a", version=4)["version"] == 3


def test_another_kind_is_neither_read_nor_replaced(tmp_path):
    save(tmp_path / "a")
    with pytest.raises(SavedFileError, match="expected a saved engine, this is a thing"):
        check_folder(tmp_path / "a", kind="engine", version=1)
    with pytest.raises(SavedFileError, match="is a thing, not a saved engine"):
        write_folder(tmp_path / "a", one_file("x"), kind="engine", version=1)
    check(tmp_path / "a")


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(SavedFileError, match="folder with other files, not a saved thing"):
        save(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_file_at_the_path_is_never_replaced(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(SavedFileError, match="is no folder; choose another path"):
        save(tmp_path / "a")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    save(tmp_path / "a")
    check(tmp_path / "a")


def test_a_writer_that_fails_leaves_the_old_folder_readable(tmp_path):
    save(tmp_path / "a", "old")

    def fail(folder):
        (folder / "data.txt").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_folder(tmp_path / "a", fail, kind="thing", version=1)
    check(tmp_path / "a")
    assert (tmp_path / "a" / "data.txt").read_text() == "old"
    assert hidden(tmp_path / "a") == []


def test_a_writer_killed_while_writing_leaves_the_old_folder_readable(tmp_path):
    save(tmp_path / "a", "old")
    program = (
        "import os, sys, pathlib; from kg.files import write_folder\n"
        "def write(at):\n"
        "    (at / 'data.txt').write_text('half'); os._exit(9)\n"
        "write_folder(sys.argv[1], write, kind='thing', version=1)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], check=False)
    assert done.returncode == 9
    check(tmp_path / "a")
    assert (tmp_path / "a" / "data.txt").read_text() == "old"
    assert len(hidden(tmp_path / "a")) == 1


def kill_between_the_renames(path, monkeypatch):
    """Save "new" over what is at ``path`` with a writer that stops after the first rename."""
    rename, calls = os.rename, []

    class Killed(BaseException):
        pass

    def stop_at_second(source, target):
        calls.append((source, target))
        rename(source, target)
        if not path.exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stop_at_second)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed writer cleans nothing
        with pytest.raises(Killed):
            save(path, "new")
    assert not path.exists()


def test_a_writer_killed_between_its_renames_is_undone_by_the_next_reader(tmp_path, monkeypatch):
    save(tmp_path / "a", "old")
    kill_between_the_renames(tmp_path / "a", monkeypatch)
    check(tmp_path / "a")
    assert (tmp_path / "a" / "data.txt").read_text() == "old"


def test_a_writer_killed_between_its_renames_is_undone_by_the_next_writer(tmp_path, monkeypatch):
    save(tmp_path / "a", "old")
    kill_between_the_renames(tmp_path / "a", monkeypatch)

    def fail(folder):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_folder(tmp_path / "a", fail, kind="thing", version=1)
    assert (tmp_path / "a" / "data.txt").read_text() == "old"


def test_leftovers_are_removed_once_they_are_stale(tmp_path, monkeypatch):
    (tmp_path / ".a.tmp-killed").mkdir()
    save(tmp_path / "a")
    assert hidden(tmp_path / "a") == [".a.tmp-killed"]
    in_two_hours = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: in_two_hours)
    save(tmp_path / "a")
    assert hidden(tmp_path / "a") == []


def test_writers_at_the_same_path_all_succeed_and_one_folder_is_left(tmp_path):
    failures = []

    def work(number):
        try:
            for _ in range(10):
                save(tmp_path / "a", f"writer {number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# a graph


def test_a_saved_graph_comes_back_equal(tmp_path):
    graph = toy_graph()
    write_graph(graph, tmp_path / "g")
    assert_equal(graph, read_graph(tmp_path / "g"))


def test_a_reader_sees_one_graph_whole_while_another_thread_keeps_replacing_it(tmp_path):
    graphs = [toy_graph(num_users=n) for n in (40, 60)]
    write_graph(graphs[0], tmp_path / "g")
    stopped = threading.Event()

    def replace() -> None:
        while not stopped.is_set():
            for graph in graphs:
                write_graph(graph, tmp_path / "g")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = []
        for _ in range(60):
            read = read_graph(tmp_path / "g")
            seen.append(read.num_nodes("User"))
            assert_equal(graphs[seen[-1] == 60], read)
    finally:
        stopped.set()
        writer.join()
    assert set(seen) == {40, 60}


def test_a_folder_that_is_replaced_at_every_read_is_given_up_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_TRIES", 2)
    write_graph(toy_graph(num_users=4, num_items=4), tmp_path / "g")

    def read(folder):
        write_graph(toy_graph(num_users=4, num_items=4), folder)

    with pytest.raises(SavedFileError, match="keeps replacing this knowledge graph"):
        read_folder(tmp_path / "g", read, kind="knowledge graph", version=1)


def test_types_with_awkward_names_are_saved(tmp_path):
    schema = Schema(user="../User", item="a/b\\c", interaction=("../User", "⭐ rates?", "a/b\\c"))
    graph = KnowledgeGraph.from_tables(
        {"../User": {"id": [1]}, "a/b\\c": {"id": ["é"]}},
        {schema.interaction: {"source": [1], "target": ["é"]}},
        schema,
    )
    write_graph(graph, tmp_path / "g")
    assert_equal(graph, read_graph(tmp_path / "g"))
    assert {p.parent for p in tmp_path.rglob("*.parquet")} == {tmp_path / "g"}


def test_an_awkward_folder_name_adds_no_columns(tmp_path):
    graph = toy_graph(num_users=4, num_items=4)
    write_graph(graph, tmp_path / "year=2024")
    assert_equal(graph, read_graph(tmp_path / "year=2024"))


def test_key_types_lists_nulls_and_skipped_edges_are_kept(tmp_path):
    movies = pa.table(
        {
            "id": pa.array([1, 2], pa.int32()),
            "key": ["own", "property"],
            "tags": [["a"], None],
            "nothing": pa.nulls(2),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    rated = {"source": ["u", "v"], "target": [1, 2], "weight": [1, 2], "time": [3, 4]}
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": ["u"]}, "Movie": movies}, {RATED: rated}, SCHEMA, on_dangling="skip"
    )
    write_graph(graph, tmp_path / "g")
    assert_equal(graph, read_graph(tmp_path / "g"))
    assert dict(read_graph(tmp_path / "g").skipped) == {RATED: 1}


def test_an_empty_graph_is_saved(tmp_path):
    graph = KnowledgeGraph.from_tables({"User": {"id": []}, "Movie": {"id": []}}, {}, SCHEMA)
    write_graph(graph, tmp_path / "g")
    assert_equal(graph, read_graph(tmp_path / "g"))


def test_a_property_that_parquet_cannot_hold_names_its_type(tmp_path):
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    graph = KnowledgeGraph.from_tables(
        {"User": {"id": [1]}, "Movie": pa.table({"id": [1], "u": union})}, {}, SCHEMA
    )
    with pytest.raises(GraphError, match="Movie: a property cannot be saved as Parquet"):
        write_graph(graph, tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_a_graph_with_a_changed_parquet_file_is_not_read(tmp_path):
    write_graph(toy_graph(), tmp_path / "g")
    path = tmp_path / "g" / "nodes-1.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(SavedFileError, match=r"nodes-1\.parquet was changed"):
        read_graph(tmp_path / "g")
