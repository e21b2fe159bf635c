import os

import pytest

from coldstart.journal import Journal, JournalError, read_journal
from kg.errors import SavedFileError


def test_records_come_back_in_order_also_after_reopening(tmp_path):
    for part in ([{"a": 1}, "zwölf\nlines"], [[None, 2.5]]):
        with Journal(tmp_path / "log") as journal:
            journal.append(part)
    assert list(read_journal(tmp_path / "log")) == [{"a": 1}, "zwölf\nlines", [None, 2.5]]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_record_is_dropped_with_a_line_in_the_log(tmp_path, caplog, cut):
    path = tmp_path / "log"
    with Journal(path) as journal:
        journal.append(["first", "the second"])
    os.truncate(path, path.stat().st_size - cut)
    assert list(read_journal(path)) == ["first"]
    with Journal(path) as journal:
        journal.append(["third"])
    assert "torn record" in caplog.text
    assert list(read_journal(path)) == ["first", "third"]


def test_damage_in_the_middle_is_an_error_that_names_the_record(tmp_path):
    path = tmp_path / "log"
    with Journal(path) as journal:
        journal.append(["first", "second", "third"])
    path.write_bytes(path.read_bytes().replace(b"second", b"sEcond"))
    with pytest.raises(SavedFileError, match="record 2 is damaged"):
        list(read_journal(path))


@pytest.mark.parametrize("content", ["id,name\n1,Ada\n", "id\n", "id,name"])
def test_a_file_that_never_was_a_journal_is_told_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "members.csv"
    path.write_text(content)
    for act in (lambda: list(read_journal(path)), lambda: Journal(path)):
        with pytest.raises(
            SavedFileError, match=r"members.csv: expected .* EventLog .*, check the"
        ):
            act()
    assert path.read_text() == content


def test_a_full_disk_in_the_middle_of_a_write_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    write, calls = os.write, []

    def full(handle, content):
        calls.append(content)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(handle, content[:7])

    with Journal(tmp_path / "log") as journal:
        journal.append(["first"])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.append(["second"])
        monkeypatch.undo()
        journal.append(["third"])
    assert list(read_journal(tmp_path / "log")) == ["first", "third"]


@pytest.mark.parametrize("torn", [b"", b"0a", b"0a1b2c3d", b'0a1b2c3d {"a', b"\0\0\0"])
def test_what_a_kill_left_of_the_first_record_is_dropped(torn, tmp_path):
    (tmp_path / "log").write_bytes(torn)
    with Journal(tmp_path / "log") as journal:
        journal.append(["first"])
    assert list(read_journal(tmp_path / "log")) == ["first"]
