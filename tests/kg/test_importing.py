from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import time

import pytest

from kg.errors import SavedFileError, SchemaError
from kg.files import read_graph
from kg.importing import NOTE, _heard, _told, import_graph
from kg.stores import LadybugStore
from kg.toy import toy_graph
from tests.contracts import FILMS, RATED, films, same_graph, stamped_films


@pytest.fixture
def store():
    with LadybugStore(memory_limit=1 << 28) as store:
        store.write(films(**stamped_films()))
        yield store


def test_the_first_import_reads_all_and_the_next_only_what_changed(store, tmp_path):
    first = import_graph(store, tmp_path / "g", FILMS, updated_at="changed")
    assert first.changes is None
    store.query("MATCH (m:Movie) WHERE m.id = 'm2' SET m.title = 'Alien', m.changed = 20")
    second = import_graph(store, tmp_path / "g", FILMS, updated_at="changed")
    assert second.changes is not None
    assert second.changes.compared["Movie"] == "time"
    assert second.changes.delta.nodes["Movie"]["id"].to_pylist() == ["m2"]
    same_graph(read_graph(tmp_path / "g"), store.read(FILMS))


def test_an_unchanged_store_leaves_the_folder_untouched(store, tmp_path):
    import_graph(store, tmp_path / "g", FILMS)
    before = (tmp_path / "g").stat().st_ino
    again = import_graph(store, tmp_path / "g", FILMS)
    assert again.changes is not None
    assert not again.changes.delta
    assert (tmp_path / "g").stat().st_ino == before


def test_another_schema_or_a_wish_for_all_reads_everything(store, tmp_path):
    import_graph(store, tmp_path / "g", FILMS)
    other = type(FILMS)("User", "Movie", RATED, weight="rating")
    assert import_graph(store, tmp_path / "g", other).changes is None
    assert import_graph(store, tmp_path / "g", other, full=True).changes is None


def test_a_folder_with_something_else_in_it_and_an_empty_store_are_refused(store, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SavedFileError, match="would be replaced"):
        import_graph(store, tmp_path, FILMS)
    with LadybugStore(memory_limit=1 << 28) as empty, pytest.raises(SchemaError, match="is empty"):
        import_graph(empty, tmp_path / "g", FILMS)
    assert not (tmp_path / "g").exists()


def test_a_damaged_note_is_an_error_that_says_what_to_do(store, tmp_path):
    import_graph(store, tmp_path / "g", FILMS)
    (tmp_path / "g" / NOTE).write_text("{")
    with pytest.raises(SavedFileError, match="import with full"):
        import_graph(store, tmp_path / "g", FILMS)
    same_graph(import_graph(store, tmp_path / "g", FILMS, full=True).graph, store.read(FILMS))


@pytest.mark.parametrize(
    "mark",
    [
        None,
        5,
        2.5,
        "2024-01-01",
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.UTC),
    ],
)
def test_a_mark_survives_as_json(mark):
    assert _heard(_told(mark)) == mark


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_import_that_is_stopped_leaves_the_old_folder_or_none(kind, tmp_path):
    code = (
        "import signal, sys; from kg.stores import LadybugStore; from kg.toy import toy_graph\n"
        "from kg.importing import import_graph\n"
        # A test run in the background hands down that Ctrl-C is to be ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "graph = toy_graph(num_users=3000, num_items=900)\n"
        "with LadybugStore(memory_limit=1 << 28) as store:\n"
        "    store.write(graph); print('written', flush=True)\n"
        "    while True: import_graph(store, sys.argv[1], graph.schema, full=True)\n"
    )
    for seconds in (0.02, 0.1, 0.3):
        folder = tmp_path / f"{kind}-{seconds}"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            time.sleep(seconds)
            try:
                assert _stopped(process, kind) != 0
            finally:
                process.kill()
        if folder.exists():
            assert read_graph(folder).num_nodes("User") == 3000


def _stopped(process, kind):
    """Send a signal until the process ends: ladybug asks Python for the handler of Ctrl-C before
    each query, and one that arrives while it asks is printed and lost (1 of some 400)."""
    for _ in range(5):
        process.send_signal(kind)
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"signal {kind}, sent five times, stopped nothing")


IMPORTER = (
    "import sys; from kg.importing import import_graph; from kg.stores import LadybugStore\n"
    "from kg.toy import toy_graph\n"
    "schema = toy_graph().schema; print('up', flush=True); sys.stdin.readline()\n"
    "with LadybugStore(sys.argv[1], read_only=True, memory_limit=1 << 28) as store:\n"
    "    for n in range(int(sys.argv[3])):\n"
    "        import_graph(store, sys.argv[2], schema, full=n % 2 == 0)\n"
)


@pytest.mark.slow
def test_two_imports_into_one_folder_succeed_beside_one_that_is_killed(tmp_path):
    graph, places = toy_graph(num_users=300, num_items=80), [str(tmp_path / n) for n in "sg"]
    with LadybugStore(places[0], memory_limit=1 << 28) as store:
        store.write(graph)
    importers = [
        subprocess.Popen(
            [sys.executable, "-c", IMPORTER, *places, times],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for times in ("6", "6", "1000")
    ]
    assert [one.stdout.readline() for one in importers if one.stdout] == [b"up\n"] * 3
    for one in importers:
        assert one.stdin is not None
        one.stdin.write(b"go\n")
        one.stdin.flush()
    time.sleep(0.5)
    importers[2].kill()
    for one in importers:
        one.communicate()
    assert [one.returncode for one in importers] == [0, 0, -signal.SIGKILL]
    same_graph(read_graph(tmp_path / "g"), graph)
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"s", "g"}
