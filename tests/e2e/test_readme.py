"""The README's code runs as it stands."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from coldstart.cli import main
from kg.files import read_graph
from tests.coldstart.serving.process import running_server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """Code of the README: the mark before it, if any, its language and itself."""

    mark: str
    language: str
    code: str


BLOCKS = [
    Block(*found)
    for found in re.findall(r"(?:<!-- (\w+) -->\n)?```(python|sh|toml)\n(.*?)```", README, re.S)
]


def _blocks(mark: str = "", language: str = "python") -> list[str]:
    """Code in order, of the blocks with a mark before them or of those without any."""
    return [one.code for one in BLOCKS if (one.mark, one.language) == (mark, language)]


def _run(block: Block, names: dict) -> None:
    """Python in the names, or commands of the shell one by one, ours in this process; or a file."""
    if block.language == "toml":
        name, _, text = block.code.removeprefix("# ").partition("\n")
        Path(name).write_text(text, encoding="utf-8")
        return
    if block.language == "python":
        exec(compile(block.code, "README.md", "exec"), names)
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("coldstart "):
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        else:
            subprocess.run(["sh", "-ec", line], check=True)


class Ran(NamedTuple):
    """What the plain code and the commands of the README left behind."""

    folder: Path
    names: dict
    printed: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder, names, printed = tmp_path_factory.mktemp("readme"), {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for block in BLOCKS:
            if block.mark in ("", "shell"):
                _run(block, names)
    return Ran(folder, names, printed.getvalue())


@pytest.mark.slow
def test_the_code_of_the_readme_runs(ran):
    assert "9001" in ran.printed
    assert len(_blocks()) >= 4
    imported = read_graph(ran.folder / "imported")
    assert list(imported.items) == [f"s{n}" for n in range(60)]
    assert [len(edges) for edges in imported.edges.values()] == [1600, 75]
    assert ran.names["engine"].graph.users.rows(["zoe"]).tolist() == [80]
    assert (ran.folder / "out" / "model" / "manifest.json").exists()
    judged = {(row.scorer, row.segment) for row in ran.names["report"].rows}
    assert ("by genre", "warm_users_cold_items") in judged


@pytest.mark.slow
def test_the_examples_of_the_readme_have_something_to_show(ran):
    assert "shares genre Jazz with 1 song you rated" in ran.printed
    assert "MATCH p = (n0:`User`)-[r1:`RATED`]->" in ran.printed
    assert re.search(r"NDCG@20 \S+ after \S+ .* on \d\d positives of the last 7 days", ran.printed)
    assert "lists would be written" in ran.printed
    assert "engine ahead by" in ran.printed


@pytest.mark.slow
def test_the_requests_of_the_readme_are_answered(ran, capsys):
    model = shutil.copytree(ran.folder / "out" / "model", ran.folder / "served")
    with running_server(model, ran.folder / "served.state") as address:
        (requests,) = _blocks("server", "sh")
        here = requests.replace("http://127.0.0.1:8000", address).replace("curl -s", "curl -sS -f")
        found = subprocess.run(["sh", "-ec", here], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert '"of":"u1"' in found.stdout
        assert "coldstart_requests_total" in found.stdout
        (client,) = _blocks("server")
        exec(compile(client.replace("http://127.0.0.1:8000", address), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'of': 'zoe'" in printed
    assert "Blue Dawn" in printed


@pytest.mark.slow
@pytest.mark.neo4j
def test_the_neo4j_code_of_the_readme_runs(neo4j, neo4j_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = _blocks("neo4j")
    names: dict = {}
    at = next(n for n, one in enumerate(BLOCKS) if one.mark == "neo4j")
    for block in BLOCKS[:at]:
        if block[:2] == ("", "python"):
            _run(block, names)
    code = code.replace('"neo4j://localhost:7687"', repr(neo4j.uri))
    code = code.replace('("neo4j", "secret")', repr(tuple(neo4j.auth)))
    exec(compile(code, "README.md", "exec"), names)
    assert names["graph"].num_nodes("Song") == 60


def test_every_make_target_of_the_readme_exists():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_readme_is_finished_and_what_it_links_to_exists():
    folder = Path(__file__).parents[2]
    assert "%%" not in README
    measured = (folder / "docs" / "measured.md").read_text(encoding="utf-8")
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"^## (.*)", measured, re.M)}
    for place, text in ((folder, README), (folder / "docs", measured)):
        for link in re.findall(r"\]\(([^)]+)\)", text):
            file, _, part = link.partition("#")
            assert (place / file).is_file(), link
            assert not part or part in headings, link
