import os
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from encoders import VectorCache
from encoders import cache as module
from encoders.cache import CacheError, default_folder
from kg.errors import AlignmentError

# Writes its vectors chunk by chunk and tells of each chunk that is safe.
WRITER = """
import sys
import numpy as np
from encoders import VectorCache

folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = VectorCache(folder)
print("ready", flush=True)
sys.stdin.readline()
for start in range(first, last, 50):
    numbers = range(start, min(start + 50, last))
    matrix = np.array([[n, n + 0.5] * 100 for n in numbers], np.float32)
    cache.put_many("e", [f"text {n}" for n in numbers], matrix)
    print(start, flush=True)
"""


def writer(folder, first, last):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(last)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def start(process):
    process.stdin.write("\n")
    process.stdin.flush()


def expected(numbers):
    return np.array([[n, n + 0.5] * 100 for n in numbers], np.float32)


def vectors(n, dim=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return VectorCache(tmp_path / "cache")


def test_what_was_put_comes_back_bit_for_bit(cache):
    matrix = vectors(3)
    cache.put_many("e", ["a", "", "星球"], matrix)
    found, known = cache.get_many("e", ["星球", "new", "a", "a", ""], 3)
    assert known.tolist() == [True, False, True, True, True]
    np.testing.assert_array_equal(found, [matrix[2], [0, 0, 0], matrix[0], matrix[0], matrix[1]])


def test_it_outlives_the_object_that_wrote_it(cache):
    cache.put_many("e", ["a"], vectors(1))
    assert VectorCache(cache.folder).get_many("e", ["a"], 3)[1].all()


def test_encoders_do_not_see_each_others_vectors(cache):
    cache.put_many("e", ["a"], vectors(1))
    assert not cache.get_many("other", ["a"], 3)[1].any()
    assert not cache.get_many("e", ["a"], 4)[1].any()


def test_a_second_vector_of_a_text_replaces_the_first(cache):
    cache.put_many("e", ["a", "b"], vectors(2))
    cache.put_many("e", ["b", "b"], np.array([[1, 1, 1], [2, 2, 2]], np.float32))
    assert cache.get_many("e", ["b"], 3)[0].tolist() == [[2, 2, 2]]
    assert cache.stats().num_vectors == 2
    (count,) = sqlite3.connect(cache.path).execute("SELECT count(*) FROM vectors").fetchone()
    assert count == 2


def test_an_empty_cache_is_asked_without_making_a_file(cache):
    assert not cache.get_many("e", ["a"], 3)[1].any()
    assert cache.stats().num_vectors == 0
    assert cache.erase(["a"]) == 0
    assert not cache.folder.exists()


def test_erased_texts_are_gone_for_every_encoder_and_from_the_disk(cache):
    secret = np.full((1, 64), 1234.5678, np.float32)
    for name in ("e", "f"):
        cache.put_many(name, ["keep", "secret"], np.concatenate([vectors(1, 64), secret]))
    assert cache.erase(["secret", "never seen"]) == 2
    assert cache.stats().by_encoder == {"e": 1, "f": 1}
    on_disk = b"".join(p.read_bytes() for p in cache.folder.iterdir())
    assert secret.tobytes()[:32] not in on_disk


def test_the_least_recently_used_are_dropped_at_the_limit(cache, monkeypatch):
    clock = [0]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    monkeypatch.setattr(module, "_TOUCH_AFTER", 0)
    small = VectorCache(cache.folder, max_bytes=1_000_000)
    for clock[0] in range(1, 12):
        names = [f"{clock[0]} {i}" for i in range(50)]
        small.put_many("e", names, vectors(50, 384))
        small.get_many("e", [f"1 {i}" for i in range(50)], 384)
    assert small.get_many("e", [f"1 {i}" for i in range(50)], 384)[1].all()
    assert small.get_many("e", names, 384)[1].all()
    assert not small.get_many("e", [f"2 {i}" for i in range(50)], 384)[1].any()
    assert small.stats().num_bytes <= 1_000_000


def test_the_file_shrinks_when_the_limit_is_lowered(cache):
    cache.put_many("e", [f"{i}" for i in range(2000)], vectors(2000, 384))
    VectorCache(cache.folder, max_bytes=1_000_000).put_many("e", ["new"], vectors(1, 384))
    assert cache.path.stat().st_size < 1_100_000
    assert cache.get_many("e", ["new"], 384)[1].all()


def test_two_processes_that_start_on_a_new_folder_lose_nothing(cache):
    processes = [writer(cache.folder, 0, 2000), writer(cache.folder, 1000, 3000)]
    for process in processes:
        start(process)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    found, known = cache.get_many("e", [f"text {n}" for n in range(3000)], 200)
    assert known.all()
    np.testing.assert_array_equal(found, expected(range(3000)))


@pytest.mark.parametrize("chunks", [1, 4, 9])
def test_a_kill_loses_nothing_that_was_put(cache, chunks):
    process = writer(cache.folder, 0, 100_000)
    start(process)
    for _ in range(chunks):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    numbers = range(last + 50)
    found, known = cache.get_many("e", [f"text {n}" for n in numbers], 200)
    assert known.all()
    np.testing.assert_array_equal(found, expected(numbers))
    connection = sqlite3.connect(cache.path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    cache.put_many("e", ["after"], vectors(1, 200))


def test_threads_may_share_a_cache(cache):
    def work(number):
        cache.put_many("e", [f"{number} {i}" for i in range(50)], vectors(50, 3, number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.stats().num_vectors == 300


def test_a_file_that_is_no_database_is_moved_aside(cache, caplog):
    cache.folder.mkdir()
    cache.path.write_bytes(b"not a database, " * 1000)
    cache.put_many("e", ["a"], vectors(1))
    assert cache.get_many("e", ["a"], 3)[1].all()
    assert "is damaged (file is not a database): moved to" in caplog.text
    assert len(list(cache.folder.glob("*.damaged-*"))) == 1


def test_damage_in_the_middle_is_told_once_and_then_over(cache):
    cache.put_many("e", [f"{i}" for i in range(500)], vectors(500, 384))
    with cache.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 400_000)
    with pytest.raises(CacheError, match="was damaged and is now"):
        cache.get_many("e", [f"{i}" for i in range(500)], 384)
    assert not cache.get_many("e", ["1"], 384)[1].any()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="set KG_COLDSTART_CACHE to a folder that can be written"):
        VectorCache(tmp_path / "file" / "cache").put_many("e", ["a"], vectors(1))


def test_vectors_that_do_not_fit_are_refused(cache):
    with pytest.raises(AlignmentError, match=r"expected \[2, dim\] vectors, got \[1, 3\]"):
        cache.put_many("e", ["a", "b"], vectors(1))
    with pytest.raises(ValueError, match="vector 1 is NaN or infinite"):
        cache.put_many("e", ["a", "b"], np.array([[1, 2], [np.nan, 1]]))
    cache.put_many("e", ["a"], vectors(1, 3))
    with pytest.raises(AlignmentError, match="has its vectors with 3 numbers, these have 4"):
        cache.put_many("e", ["b"], vectors(1, 4))


def test_a_limit_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="max_bytes must be at least 1,000,000, got 5"):
        VectorCache(max_bytes=5)


def test_clear_removes_everything(cache):
    cache.put_many("e", ["a"], vectors(1))
    cache.clear()
    assert cache.stats().num_bytes == 0


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    assert VectorCache().folder == tmp_path
    monkeypatch.delenv("KG_COLDSTART_CACHE")
    assert default_folder().name == "kg-coldstart"


def test_what_is_there_is_told_by_encoder_with_name_and_age(cache, monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 86_400)
    cache.put_many("f1", ["a", "b"], vectors(2), label="a-model")
    monkeypatch.setattr(module.time, "time", lambda: 2 * 86_400)
    cache.put_many("f2", ["a"], vectors(1, 4))
    second, first = cache.stats().encoders
    assert (first.label, first.dim, first.num_vectors) == ("a-model", 3, 2)
    assert (second.label, second.last_used, first.last_used) == ("", 2 * 86_400, 86_400)
    assert "2 of 3 numbers, last used 1970-01-02" in cache.stats().to_text()
    assert cache.stats().to_text().splitlines()[1].endswith(": f2")


def test_a_cache_without_names_is_read(cache):
    cache.put_many("e", ["a"], vectors(1))
    assert cache.stats().by_encoder == {"e": 1}


def test_pruning_drops_the_longest_unused_down_to_a_size(cache, monkeypatch):
    clock = [0]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    for clock[0] in range(1, 5):
        cache.put_many("e", [f"{clock[0]} {i}" for i in range(200)], vectors(200, 384))
    assert 400 <= cache.prune(600_000) < 800
    assert cache.path.stat().st_size < 700_000
    assert cache.get_many("e", ["4 199"], 384)[1].all()
    assert not cache.get_many("e", ["1 0"], 384)[1].any()
    assert cache.prune(0) > 0
    assert cache.stats().num_vectors == 0
    with pytest.raises(ValueError, match="max_bytes must be 0 or more, got -1"):
        cache.prune(-1)
