"""Counts a run's attacks: which were tried, which were stopped, which were seen to work with the defence off.

A pytest plugin. A test names what it tries, shows that it works where nothing stops it, and that the defence does:

    tried = attempt("an endpoint is forged")
    tried.works(without_defence == forged)
    tried.stopped(believed == genuine)

What was tried and not shown to be stopped fails its test, and the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import pytest

from tests.support.gathered import kept


@dataclass
class Attempt:
    """One attack as it was tried in one test."""

    name: str
    where: str
    """The test's node id."""
    was_stopped: bool = False
    has_worked: bool = False

    def works(self, seen: object, message: str = "") -> None:
        """Say that it succeeds with the defence off, and fail if that was not seen."""
        assert seen, f"{self.name}: it does nothing even where nothing stops it {message}"
        self.has_worked = True

    def stopped(self, seen: object = True, message: str = "") -> None:
        """Say that the defence stops it, and fail if that was not seen."""
        assert seen, f"{self.name}: not stopped {message}"
        self.was_stopped = True


Attempts = Callable[[str], Attempt]


@pytest.fixture
def attempt(request: pytest.FixtureRequest) -> Iterator[Attempts]:
    """Begins an attack, by what the attacker tries; it is counted from then on."""
    every = kept(request.config, "attacks")
    every[:] = [one for one in every if one["where"] != request.node.nodeid]  # of a first try that failed
    mine: list[Attempt] = []

    def begin(name: str) -> Attempt:
        mine.append(Attempt(name, request.node.nodeid))
        return mine[-1]

    yield begin
    every.extend(map(asdict, mine))
    # A test that failed has said why itself; this is for the one that forgot to look.
    open_ = [one.name for one in mine if not one.was_stopped]
    assert not open_ or request.session.testsfailed, f"tried, and not shown to be stopped: {', '.join(open_)}"


def _all(config: pytest.Config) -> list[Attempt]:
    return [Attempt(**one) for one in kept(config, "attacks")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    every = _all(config)
    if not every:
        return
    terminalreporter.section("attacks")
    for one in every:
        shown = "works with the defence off" if one.has_worked else "not tried with the defence off"
        terminalreporter.line(f"{'stopped' if one.was_stopped else 'NOT STOPPED'}; {shown}: {one.name} ({one.where})")
    stopped, worked = sum(one.was_stopped for one in every), sum(one.has_worked for one in every)
    terminalreporter.line(
        f"attacks: {len(every)} tried, {stopped} stopped; {worked} shown to work with the defence off"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if any(not one.was_stopped for one in _all(session.config)) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
