import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INI = "[pytest]\nmarkers = gpu: needs a GPU\n"


def run(folder, test, ci):
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "pytest.ini").write_text(INI)
    (folder / "test_it.py").write_text(f"import pytest\n{test}\ndef test_passes(): assert 1 == 1")
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


SKIPPED = "def test_that_needs_a_server(): pytest.skip('no server')"


def test_a_skipped_test_fails_on_ci_and_is_named_with_its_reason(tmp_path):
    code, output = run(tmp_path, SKIPPED, ci="true")
    assert code == 1
    assert "test_it.py::test_that_needs_a_server: Skipped: no server" in output


def test_a_module_that_skips_itself_fails_on_ci(tmp_path):
    code, output = run(tmp_path, "pytest.skip('not here', allow_module_level=True)", ci="true")
    assert code != 0
    assert "not here" in output


@pytest.mark.parametrize(
    ("test", "ci"),
    [(SKIPPED, ""), ("@pytest.mark.gpu\n" + SKIPPED, "true"), ("", "true")],
    ids=["not-on-ci", "gpu", "nothing-skipped"],
)
def test_all_else_passes(tmp_path, test, ci):
    assert run(tmp_path, test, ci)[0] == 0
