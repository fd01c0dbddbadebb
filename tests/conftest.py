"""What holds for every suite: one that was skipped as a whole has failed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.again import SecondTries

# A busy machine is slow, and not wrong: no test here is about time.
settings.register_profile("linkwire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("linkwire")

pytest_plugins = ["tests.attacks", "tests.lab.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SecondTries())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started by a shell in the background, and every program under test would take that over.
        signal.signal(signal.SIGINT, signal.default_int_handler)


FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()

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


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Puts a line with what was measured at the end of the report, passed or not."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
    for suite in sorted(_ran | _skipped):
        terminalreporter.write_line(f"{suite}: {_ran[suite]} ran, {_skipped[suite]} skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    empty = [suite for suite in _skipped if not _ran[suite]]
    if empty and session.exitstatus == pytest.ExitCode.OK:
        print(f"\nskipped as a whole, which counts as failed: {', '.join(sorted(empty))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
