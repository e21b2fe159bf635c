"""On CI a skipped test is a failure, unless it needs a GPU: a green run must mean that it ran."""

import os
from typing import Any

import pytest


def _wrongly_skipped(config: pytest.Config) -> list[Any]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return []
    skipped = reporter.stats.get("skipped", [])  # a module that skips itself has no keywords
    return [report for report in skipped if "gpu" not in getattr(report, "keywords", {})]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and _wrongly_skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if skipped := _wrongly_skipped(config):
        terminalreporter.section("skipped on CI, where only gpu tests may be", red=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.write_line(f"{report.nodeid}: {reason}", red=True)
