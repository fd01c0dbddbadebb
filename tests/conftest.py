"""What holds for every suite: one that was skipped as a whole has failed."""

from __future__ import annotations

import importlib
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support import fault_rows, gathered
from tests.support.again import SecondTries
from tests.support.gathered import is_worker, kept

# A busy machine is slow, and not wrong: no test here is about time.
settings.register_profile("linkwire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("linkwire")
# Of `make mutants`, where nobody looks for the smallest example.
settings.register_profile("unshrunk", settings.get_profile("linkwire"), phases=[Phase.explicit, Phase.generate])

pytest_plugins = [
    "tests.support.attacks",
    "tests.support.emulation",
    "tests.support.slow_tests",
    "tests.lab.fixtures",
]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(gathered)
    config.pluginmanager.register(SecondTries(config))
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(importlib.import_module("tests.support.lanes"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started by a shell in the background, and every program under test would take that over.
        signal.signal(signal.SIGINT, signal.default_int_handler)


_ran: Counter[str] = Counter()
_skipped: Counter[str] = Counter()
_seconds: Counter[str] = Counter()


def _suite(nodeid: str) -> str:
    parts = Path(nodeid.split("::", 1)[0]).parts
    return "/".join(parts[:2])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    suite = _suite(report.nodeid)
    _seconds[suite] += round(1000 * report.duration)
    if report.skipped:
        _skipped[suite] += 1
    elif report.when == "call":
        _ran[suite] += 1


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Puts a line with what was measured at the end of the report, passed or not."""
    return kept(request.config, "measured").append


@pytest.fixture(scope="session")
def fault_row(request: pytest.FixtureRequest) -> Callable[[fault_rows.FaultRow], None]:
    """Puts a row into the table of faults at the end of the report, passed or not."""
    rows = kept(request.config, "faults")
    return lambda row: rows.append(str(row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title in ("in the guest", "measured"):
        if lines := kept(config, title):
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)
    if rows := kept(config, "faults"):
        terminalreporter.section("faults")
        for line in fault_rows.table(rows):
            terminalreporter.line(line)
        fault_rows.write(rows)
    for suite in sorted(_ran | _skipped):
        seconds = _seconds[suite] / 1000
        terminalreporter.write_line(f"{suite}: {_ran[suite]} ran, {_skipped[suite]} skipped, {seconds:.0f} s")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if is_worker(session.config):
        return  # it has seen a part
    empty = [suite for suite in _skipped if not _ran[suite]]
    if empty and session.exitstatus == pytest.ExitCode.OK:
        print(f"\nskipped as a whole, which counts as failed: {', '.join(sorted(empty))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
