"""What holds for every suite: one that was skipped as a whole has failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, and not wrong: no test here is about time.
settings.register_profile("linkwire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("linkwire")

pytest_plugins = ["tests.lab.fixtures"]

_ran: Counter[str] = Counter()
_skipped: Counter[str] = Counter()


def _suite(nodeid: str) -> str:
    parts = Path(nodeid.split("::", 1)[0]).parts
    return "/".join(parts[:2])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped[_suite(report.nodeid)] += 1
    elif report.when == "call":
        _ran[_suite(report.nodeid)] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for suite in sorted(_ran | _skipped):
        terminalreporter.write_line(f"{suite}: {_ran[suite]} ran, {_skipped[suite]} skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    empty = [suite for suite in _skipped if not _ran[suite]]
    if empty and session.exitstatus == pytest.ExitCode.OK:
        print(f"\nskipped as a whole, which counts as failed: {', '.join(sorted(empty))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
