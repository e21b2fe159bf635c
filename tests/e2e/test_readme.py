"""The README's code runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def _blocks() -> tuple[list[str], list[str]]:
    """Python blocks in order, those for Neo4j apart."""
    plain, neo4j = [], []
    for mark, code in re.findall(r"(<!-- neo4j -->\n)?```python\n(.*?)```", README, re.S):
        (neo4j if mark else plain).append(code)
    return plain, neo4j


@pytest.mark.slow
def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    plain, _ = _blocks()
    for code in plain:
        exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "9001" in printed
    assert len(plain) >= 4
    assert names["engine"].graph.users.rows(["dan"]).tolist() == [3]
    assert (tmp_path / "out" / "model" / "manifest.json").exists()
    judged = {(row.scorer, row.segment) for row in names["report"].rows}
    assert ("by genre", "warm_users_cold_items") in judged


@pytest.mark.slow
@pytest.mark.neo4j
def test_the_neo4j_code_of_the_readme_runs(neo4j, neo4j_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, (code,) = _blocks()
    names: dict = {}
    for block in plain[:3]:
        exec(compile(block, "README.md", "exec"), names)
    code = code.replace('"neo4j://localhost:7687"', repr(neo4j.uri))
    code = code.replace('("neo4j", "secret")', repr(tuple(neo4j.auth)))
    exec(compile(code, "README.md", "exec"), names)
    assert names["graph"].num_edges(("User", "PLAYED", "Song")) == 4


def test_every_make_target_of_the_readme_exists():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_readme_is_finished_and_its_pictures_exist():
    folder = Path(__file__).parents[2]
    assert "%%" not in README
    for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (folder / link).is_file(), link
