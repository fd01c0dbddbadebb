"""A second try for tests on real systems, counted and named: three Docker daemons on two processors are no clockwork.

A test outside tests/unit that fails is run once more. If it passes then, the run goes on, and says at its end which
test needed that and how it first failed: that is a race to look into, in Linkwire or in the test. More than AT_MOST
of them in a run are no accident, and the next one that fails has failed. LINKWIRE_ONE_TRY=1 gives everybody one try.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol  # it has no public name

AT_MOST = 3
UNIT = "unit"
"""The suite with nothing in it that could be late."""


@dataclass
class SecondTries:
    """The plugin: give it to `config.pluginmanager.register`.

    Attributes:
        needed: name of each test that was tried again, and how it first failed.
    """

    needed: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if UNIT in Path(item.nodeid.split("::", 1)[0]).parts:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = next((report for report in reports if report.failed), None)
        if failed is not None and len(self.needed) < AT_MOST and "LINKWIRE_ONE_TRY" not in os.environ:
            self.needed[item.nodeid] = f"{failed.when}: {_last_line(failed)}"
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.needed:
            terminalreporter.section(f"tried twice: {len(self.needed)} of at most {AT_MOST}")
            for test, first in self.needed.items():
                terminalreporter.line(f"{test}\n    first failed at {first}")


def _last_line(report: pytest.TestReport) -> str:
    """What the test said as it failed."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longreprtext).strip().replace("\n", " | ")[:1000]
