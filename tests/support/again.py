"""A second try for tests on real systems, counted and named: three Docker daemons on two processors are no clockwork.

A test outside tests/unit that fails is run once more. If it passes then, the run goes on, and says at its end which
test needed that and how it first failed: that is a race to look into, in Linkwire or in the test. More than AT_MOST
of them in a run are no accident, and the next one that fails has failed. LINKWIRE_ONE_TRY=1 gives everybody one try.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # it has no public name

from tests.support.gathered import is_worker, kept

AT_MOST = 3
UNIT = "unit"
"""The suite with nothing in it that could be late."""


_FOLDER = "second_tries"


class SecondTries:
    """The plugin: give it to `config.pluginmanager.register`."""

    def __init__(self, config: pytest.Config) -> None:
        """Begin to count, or count on: all workers of a run have the same few tries."""
        self._config = config
        self._needed = kept(config, "tried twice")
        # A file for each try that was taken: only one process can make it.
        given: str | None = config.workerinput[_FOLDER] if is_worker(config) else None  # type: ignore[attr-defined]
        self._taken = Path(given or tempfile.mkdtemp(prefix="linkwire-tries-"))

    def _take(self) -> bool:
        for number in range(AT_MOST):
            try:
                (self._taken / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - xdist's controller of a worker
        node.workerinput[_FOLDER] = str(self._taken)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if not is_worker(config):
            shutil.rmtree(self._taken)

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if UNIT in Path(item.nodeid.split("::", 1)[0]).parts:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = next((report for report in reports if report.failed), None)
        if failed is not None and "LINKWIRE_ONE_TRY" not in os.environ and self._take():
            self._needed.append([item.nodeid, f"{failed.when}: {_last_line(failed)}"])
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if needed := kept(self._config, "tried twice"):
            terminalreporter.section(f"tried twice: {len(needed)} of at most {AT_MOST}")
            for test, first in needed:
                terminalreporter.line(f"{test}\n    first failed at {first}")


def _last_line(report: pytest.TestReport) -> str:
    """What the test said as it failed."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longreprtext).strip().replace("\n", " | ")[:1000]
