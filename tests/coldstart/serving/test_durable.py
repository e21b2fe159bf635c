import errno
import os
import platform
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.kill import film, rounds_survived
from coldstart.approximate import ApproximateIndex
from coldstart.journal import JournalError, journal_content, read_journal
from coldstart.serving.app import given_to
from coldstart.serving.batching import Batcher
from coldstart.serving.durable import DurableEngine
from coldstart.serving.messages import UpsertRequest
from kg import GraphDelta
from kg.errors import GraphError, SavedFileError, UnknownNodeError
from tests.memory import resident_bytes


def items(durable):
    return set(durable.current.engine.graph.items)


def test_a_change_is_there_after_a_restart_without_a_goodbye(durable, model, tmp_path):
    _, number = durable.submit(film("new"))
    assert number == 1
    copied = shutil.copytree(durable.folder, tmp_path / "copy")  # as a kill would leave it
    again = DurableEngine(model, copied)
    assert again.current.number == 1
    for node_type in ("User", "Movie"):
        one, other = (d.current.engine.embeddings(node_type).matrix for d in (durable, again))
        np.testing.assert_array_equal(one, other)
    again.close()


@pytest.fixture
def threads_as_before():
    """A process that is forked needs torch in one thread; other tests get back what there was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("threads_as_before")
def test_no_kill_loses_what_was_acknowledged(saved, tmp_path):
    assert rounds_survived(saved, tmp_path, rounds=3, at_least=50, seed=1) == 3


def test_a_snapshot_stands_for_the_changes_before_it(durable, model, tmp_path):
    durable.submit(film("one"))
    durable.snapshot()
    durable.submit(film("two"))
    for old in (durable.folder / "journal").glob("*1.log"):
        old.unlink()  # what the snapshot has is not read again
    again = DurableEngine(model, shutil.copytree(durable.folder, tmp_path / "copy"))
    assert {"one", "two"} <= items(again)
    again.close()


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc is told to")
def test_a_snapshot_gives_back_what_changes_left_in_gaps(durable):
    pieces = [b"x" * 40_000 for _ in range(2000)]
    kept, pieces = pieces[::2], []  # 40 MB; between them 40 MB are free
    before = resident_bytes()
    durable.snapshot(anew=True)
    assert resident_bytes() - before < -20e6
    assert len(kept) == 1000


def test_a_damaged_snapshot_is_left_out_and_the_journal_replayed(durable, model, tmp_path, caplog):
    durable.submit(film("one"))
    durable.snapshot()
    copied = shutil.copytree(durable.folder, tmp_path / "copy")
    arrays = next((copied / "snapshots").rglob("arrays.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-1])
    again = DurableEngine(model, copied)
    assert "one" in items(again)
    assert "snapshot left out" in caplog.text
    again.close()


def test_a_lost_part_of_the_journal_is_an_error(durable, model, tmp_path):
    for name in ("one", "two", "three"):
        durable.submit(film(name))
        durable.snapshot()
    copied = shutil.copytree(durable.folder, tmp_path / "copy")
    shutil.rmtree(copied / "snapshots")
    (copied / "journal" / f"{2:012d}.log").unlink()
    with pytest.raises(SavedFileError, match="from change 1 to 3"):
        DurableEngine(model, copied)


def test_a_change_that_does_not_fit_changes_nothing(durable):
    before = durable.current
    wrong = {"op": "upsert", "nodes": {"Movie": [{"id": "a"}, {"id": "b", "year": 1999}]}}
    with pytest.raises(GraphError, match="row 1 has the properties"):
        durable.submit(wrong)
    assert durable.current is before
    assert list(durable._records()) == []


def test_what_cannot_be_written_is_the_error_of_its_own_sender(durable):
    event = {"user": "u1", "item": "m1", "kind": "like", "time": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        durable.submit({"op": "feedback", "events": [event]})
    assert durable.current.number == 0


def test_who_asked_and_went_away_harms_nobody(durable):
    batcher = Batcher(durable)
    futures = [batcher.recommend(["u1"], 3, True) for _ in range(50)]
    for future in futures[::2]:
        future.cancel()
    assert all(len(future.result()[0].keys) == 3 for future in futures[1::2])
    batcher.close()


def test_on_a_full_disk_nothing_changes_and_later_it_goes_on(durable, monkeypatch):
    def full(handle, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left"):
        durable.submit(film("one"))
    monkeypatch.undo()
    assert "one" not in items(durable)
    assert durable.submit(film("two"))[1] == 1
    assert [r["seq"] for r in durable._records()] == [1]


def test_many_writers_at_once_are_all_heard(durable):
    threads = [threading.Thread(target=durable.submit, args=[film(f"new{n}")]) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"new{n}" for n in range(12)} <= items(durable)
    assert [record["seq"] for record in durable._records()] == list(range(1, 13))


def test_readers_see_the_old_or_the_new_engine_and_never_a_mixture(durable):
    batcher, expected, seen = Batcher(durable), {}, []

    def note():
        engine, number = durable.current
        found = engine.recommend(["u1", "u2"], 5, exclude_seen=False, evidence=False)
        expected[number] = found.to_table()["score"].to_pylist()

    def read():
        while len(expected) < 15:
            first, second = batcher.recommend(["u1", "u2"], 5, False).result()
            seen.append((first.number, second.number, first.scores + second.scores))

    note()
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(14):
        event = {"user": f"u{1 + n % 2}", "item": f"m{n}", "kind": "like", "time": 2e9 + n}
        durable.submit({"op": "feedback", "events": [event]})
        note()
    for reader in readers:
        reader.join()
    batcher.close()
    assert len({number for number, _, _ in seen}) > 3
    for first, second, scores in seen:
        assert first == second
        assert scores == expected[first]


def test_a_new_model_is_taken_with_the_changes_since(durable, engine):
    durable.submit(film("new"))
    other = engine.feedback([]).engine.update(GraphDelta(removed_nodes={"Movie": ["m5"]}))
    other.save(durable.model)
    assert "m5" in items(durable)
    durable.reload()
    assert "m5" not in items(durable)
    assert "new" in items(durable)


def test_a_damaged_model_is_not_taken(durable):
    before = durable.current
    (durable.model / "engine.json").write_text("{}")
    with pytest.raises(SavedFileError, match=r"engine\.json"):
        durable.reload()
    assert durable.current is before


def test_two_processes_do_not_serve_one_state(durable, model):
    with pytest.raises(RuntimeError, match="another process"):
        DurableEngine(model, durable.folder)


def test_who_is_erased_is_in_no_file_any_more(durable, model, tmp_path, monkeypatch):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    durable.submit({"op": "upsert", "nodes": {"User": [{"id": "someone-special", "age": 33}]}})
    event = {"user": "someone-special", "item": "m1", "kind": "like", "time": 2e9}
    durable.submit({"op": "feedback", "events": [event, event | {"user": "u1"}]})
    empty = {"vectors": {"User": {"keys": [], "matrix": []}}}
    durable.submit({"op": "upsert", "nodes": {"User": [{"id": "u1", "age": 40}]}, **empty})
    durable.snapshot()
    assert any(b"someone-special" in f.read_bytes() for f in durable.folder.rglob("*.log"))
    with pytest.raises(UnknownNodeError):  # records of others are no trace of someone unheard of
        durable.erase("User", "someone else")
    durable.erase("User", "someone-special")
    for file in (*durable.folder.rglob("*"), *model.rglob("*")):
        assert file.is_dir() or b"someone-special" not in file.read_bytes(), file
    records = [record for path in durable._segments() for record in read_journal(path)]
    told = ["upsert", "feedback", "upsert", "redacted"]
    assert [record["op"] for record in records] == told
    assert records[1]["events"][0]["user"] == "u1"
    with pytest.raises(UnknownNodeError):
        durable.erase("User", "someone-special")


def test_an_erasure_that_was_killed_is_finished_at_the_next_start(durable, model, tmp_path):
    durable.submit({"op": "upsert", "nodes": {"User": [{"id": "someone-special", "age": 33}]}})
    durable.submit({"op": "erase", "type": "User", "key": "someone-special"})
    again = DurableEngine(model, shutil.copytree(durable.folder, tmp_path / "copy"))
    for file in again.folder.rglob("*"):
        assert file.is_dir() or b"someone-special" not in file.read_bytes(), file
    again.close()


def test_a_change_that_fails_before_the_write_is_not_there_after_a_restart(
    durable, model, tmp_path, monkeypatch
):
    def no_memory(version):
        raise MemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr("coldstart.serving.durable.searching_on", no_memory)
        with pytest.raises(MemoryError):
            durable.submit(film("refused"))
    assert durable.submit(film("kept"))[1] == 1
    again = DurableEngine(model, shutil.copytree(durable.folder, tmp_path / "copy"))
    assert "kept" in items(again)
    assert "refused" not in items(again)
    again.close()


def test_an_erasure_leaves_what_others_said_as_it_was(durable):
    def click(user, days):
        time = 2e9 + days * 86_400
        event = {"user": user, "item": "m76", "kind": "click", "time": time}
        durable.submit({"op": "feedback", "events": [event]})

    click("u58", 0)
    click("u1", 400)
    click("u2", 400)
    before = durable.current.engine.heard.users["u58"]
    durable.erase("User", "u2")
    durable.reload()
    assert durable.current.engine.heard.users["u58"] == before


def test_a_reload_among_writes_that_fail_or_are_half_done_loses_and_doubles_nothing(
    durable, monkeypatch
):
    """An event arrives while the journal is read: written, taken back, and another in its place."""
    durable.submit(film("before"))
    load = durable.load

    def half_written(folder):
        with durable._writing, durable._journal.path.open("ab") as file:
            file.write(journal_content([{"seq": 2, **film("taken back")}]))
        return load(folder)

    def written(version):
        if "taken back" not in items(durable) and durable.current.number == 1:
            with durable._writing:
                os.truncate(durable._journal.path, durable._journal._size)
            monkeypatch.setattr(durable, "_replayed", replayed)
            durable.submit(film("after"))
        return version

    replayed = durable._replayed
    monkeypatch.setattr(durable, "load", half_written)
    monkeypatch.setattr(durable, "_replayed", lambda *version: written(replayed(*version)))
    found = durable.reload()
    assert found.number == durable.current.number == 2
    assert {"before", "after"} <= items(durable)
    assert "taken back" not in items(durable)


def test_a_change_with_a_key_is_applied_once_also_after_a_restart(durable, model, tmp_path):
    change = {**film("new"), "once": {"key": "a", "asked": "x"}}
    first = durable.submit(change)
    assert durable.submit(change) == first
    assert durable.current.number == 1
    with pytest.raises(ValueError, match="'a' came before, as change 1, with other content"):
        durable.submit({**film("other"), "once": {"key": "a", "asked": "y"}})
    durable.snapshot()
    again = DurableEngine(model, shutil.copytree(durable.folder, tmp_path / "copy"))
    assert again.submit(change) == first
    assert again.current.number == 1
    again.close()


def in_clusters(engine, tmp_path, monkeypatch, approximate_from, most_late=0.0):
    """A served engine of 80 items that are looked for by faiss."""
    pytest.importorskip("faiss", reason="needs the extra faiss")
    of_few = partial(ApproximateIndex.of, least_recall=0.0)  # a hundred are more than there are
    monkeypatch.setattr(ApproximateIndex, "of", of_few)
    monkeypatch.setattr("coldstart.approximate._MOST_LATE", most_late)
    config = replace(engine.config, approximate_from=approximate_from)
    replace(engine, config=config).save(tmp_path / "model")
    return DurableEngine(tmp_path / "model", tmp_path / "state")


def held_up(monkeypatch):
    """Clusters are made only when the second event is set; the first tells that it has begun."""
    made, begun, go_on = ApproximateIndex.of, threading.Event(), threading.Event()

    def slowly(*given):
        begun.set()
        assert go_on.wait(60)
        return made(*given)

    monkeypatch.setattr(ApproximateIndex, "of", slowly)
    return begun, go_on


def await_search():
    for making in (t for t in threading.enumerate() if t.name == "search"):
        making.join(60)


@pytest.mark.parametrize("approximate_from", [50, 81])
def test_changes_do_not_wait_while_clusters_are_made_anew_and_are_in_them_or_beside(
    engine, tmp_path, monkeypatch, approximate_from
):
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from)
    before = durable.current.engine._item_search
    begun, go_on = held_up(monkeypatch)
    durable.submit(film("before", liked_by=("u1", "u2", "u3")))
    assert begun.wait(60)
    durable.submit(film("meanwhile"))
    durable.submit({"op": "erase", "type": "Movie", "key": "m5"})
    waiting = durable.current.engine
    held = waiting._item_search
    assert getattr(held, "clusters", None) is getattr(before, "clusters", None)
    go_on.set()
    await_search()
    found = durable.current.engine
    assert waiting._item_search is held  # whoever has that engine goes on with it
    assert found._item_search.clusters.ntotal == 81
    assert found.graph.items.row("before") not in found._item_search.late
    assert found.graph.items.row("meanwhile") in found._item_search.late
    lists = [
        e.recommend(["u1", "u58"], 81, exclude_seen=False, evidence=False).to_table()
        for e in (waiting, found)
    ]
    assert lists[0] == lists[1]
    assert set(lists[1]["item"].to_pylist()) == set(found.graph.items)
    assert "m5" not in found.graph.items
    durable.close()


def test_erasures_and_snapshots_do_not_wait_while_clusters_are_made(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from=50)
    begun, go_on = held_up(monkeypatch)
    durable.submit(film("new", liked_by=("u1", "u2", "u3")))
    assert begun.wait(60)
    with ThreadPoolExecutor(1) as aside:
        aside.submit(durable.erase, "Movie", "m5").result(60)
        aside.submit(durable.snapshot, anew=True).result(60)
    go_on.set()
    await_search()
    found = durable.current.engine
    assert found._item_search.clusters.ntotal == 81
    keys = found.recommend(["u58"], 81, exclude_seen=False, evidence=False).to_table()["item"]
    assert set(keys.to_pylist()) == set(found.graph.items)
    assert "m5" not in found.graph.items
    durable.close()


def test_clusters_of_a_model_that_was_replaced_meanwhile_are_dropped(engine, tmp_path, monkeypatch):
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from=50)
    made = ApproximateIndex.of
    begun, go_on = held_up(monkeypatch)
    durable.submit(film("new", liked_by=("u1", "u2", "u3")))
    assert begun.wait(60)
    monkeypatch.setattr(ApproximateIndex, "of", made)
    with ThreadPoolExecutor(1) as aside:
        version = aside.submit(durable.reload).result(60)
    search = version.engine._item_search
    go_on.set()
    await_search()
    assert durable.current is version
    assert version.engine._item_search is search
    durable.close()


def test_a_draft_that_counts_for_one_answer_does_not_have_clusters_made_in_the_request(
    engine, tmp_path, monkeypatch
):
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from=81)
    monkeypatch.setattr(ApproximateIndex, "of", None)
    vectors = {"Movie": {"keys": ["draft"], "matrix": [[1.0] + [0.0] * 23]}}
    draft = {"nodes": {"Movie": [{"id": "draft", "year": 1990}]}, "vectors": vectors}
    found = given_to(durable.current.engine, UpsertRequest.model_validate(draft))
    assert len(found.graph.items) == 81
    keys = found.recommend(["u58"], 81, exclude_seen=False, evidence=False).to_table()["item"]
    assert "draft" in keys.to_pylist()
    durable.close()


def test_clusters_that_cannot_be_made_leave_the_search_as_it_is(
    engine, tmp_path, monkeypatch, caplog
):
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from=50)
    monkeypatch.setattr(ApproximateIndex, "of", None)
    durable.submit(film("new", liked_by=("u1", "u2", "u3")))
    await_search()
    assert "was not made anew, the old one goes on" in caplog.text
    found = durable.current.engine.recommend(["u58"], 81, exclude_seen=False, evidence=False)
    assert "new" in found.to_table()["item"].to_pylist()
    durable.close()


def test_a_removal_does_not_wait_for_clusters_and_what_is_gone_is_not_found(
    engine, tmp_path, monkeypatch
):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    durable = in_clusters(engine, tmp_path, monkeypatch, approximate_from=50, most_late=0.9)
    monkeypatch.setattr(ApproximateIndex, "of", None)
    done = durable.erase("Movie", "m5")
    found = durable.current.engine.recommend(["u1", "u58"], 80, exclude_seen=False, evidence=False)
    assert len(found) == 2 * 79
    assert "m5" not in found.to_table()["item"].to_pylist()
    assert any("in the memory of this process, in the clusters of faiss" in line for line in done)
    assert not any("memory of this process" in line for line in durable.erase("User", "u2"))
    durable.close()


def test_a_change_whose_only_text_vector_was_erased_is_still_replayed(
    durable, monkeypatch, tmp_path
):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    both = film("gone")
    both["nodes"]["User"] = [{"id": "stays", "age": 33}]
    durable.submit(both)
    durable.erase("Movie", "gone")
    durable.reload()
    assert "stays" in durable.current.engine.graph.users
