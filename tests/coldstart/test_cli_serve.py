import json

from coldstart.cli import main
from coldstart.feedback import EventLog, FeedbackEvent
from coldstart.journal import Journal
from tests.coldstart.test_feedback import NOW


def test_the_command_refits_from_a_log_and_keeps_the_old_engine_without_evidence(
    engine, tmp_path, capsys
):
    engine.save(tmp_path / "model")
    EventLog(tmp_path / "events.log").append([FeedbackEvent("u1", "m76", "like", NOW)])
    before = (tmp_path / "model" / "manifest.json").read_bytes()
    log = str(tmp_path / "events.log")
    assert main(["refit", str(tmp_path / "model"), "--log", log, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["promoted"], report["held_out"]) == (False, 1)
    assert (tmp_path / "model" / "manifest.json").read_bytes() == before
    assert main(["refit", str(tmp_path / "model"), "--log", "nowhere"]) == 1
    assert "no event log at nowhere" in capsys.readouterr().err
    with Journal(tmp_path / "changes.log") as journal:
        journal.append([{"seq": 1}])
    assert main(["refit", str(tmp_path / "model"), "--log", str(tmp_path / "changes.log")]) == 1
    assert "changes.log: expected events as EventLog of" in capsys.readouterr().err
