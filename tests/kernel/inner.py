"""A pytest run inside the guest, and its results outside."""

from __future__ import annotations

import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tests.kernel import guest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPORT = "junit.xml"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One inner test: its name, how it ended (passed, failed, error or skipped), and why if it did not pass."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class InnerRun:
    """All inner tests of one run, and the guest's own result."""

    outcomes: tuple[Outcome, ...]
    guest: guest.Result

    def count(self, state: str) -> int:
        """How many inner tests ended like this."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def summary(self) -> str:
        """One line of counts, then one block for each inner test that did not pass."""
        states = ("passed", "failed", "error", "skipped")
        counts = ", ".join(f"{self.count(state)} {state}" for state in states)
        lines = [f"{counts} in {self.guest.seconds:.0f} s (boot {self.guest.boot_seconds:.1f} s)"]
        lines += [
            f"  {outcome.state.upper()} {outcome.name}\n    " + outcome.reason.replace("\n", "\n    ")
            for outcome in self.outcomes
            if outcome.state != "passed"
        ]
        return "\n".join(lines)

    def problem(self) -> str | None:
        """Why this run does not count as a success, or None if it does."""
        if self.count("failed") or self.count("error"):
            return "tests failed in the guest"
        if not self.count("passed"):
            return "no test passed in the guest: it ran none, or skipped all"
        if self.guest.returncode != 0:
            return f"pytest ended with {self.guest.returncode} in the guest"
        return None


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """This interpreter's pytest, without a cache: the guest's disk is thrown away."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def run(
    arguments: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None, stream: TextIO | None = None
) -> InnerRun:
    """Run pytest with these arguments in a guest, within `timeout` seconds, and read its report.

    Raises:
        GuestError: See guest.run.
    """
    with tempfile.TemporaryDirectory(prefix="linkwire-inner-") as name:
        exchange = Path(name)
        command = pytest_command([*arguments, f"--junitxml={guest.EXCHANGE}/{REPORT}"])
        result = guest.run(command, timeout=timeout, env=env, exchange=exchange, stream=stream)
        report = exchange / REPORT
        return InnerRun(read_report(report) if report.exists() else (), result)


def read_report(path: Path) -> tuple[Outcome, ...]:
    """Read pytest's JUnit XML."""
    cases = ET.parse(path).getroot().iter("testcase")  # noqa: S314 - our own pytest wrote it a moment ago
    return tuple(_outcome(case) for case in cases)


def _outcome(case: ET.Element) -> Outcome:
    name = f"{case.get('classname')}::{case.get('name')}"
    for tag, state in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return Outcome(name, state, (found.text or found.get("message") or "").strip())
    return Outcome(name, "passed", "")
