"""Runs groups of measurements one after the other: what fails in one takes no other's figures along."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import LinkwireError
from tests.bench import report
from tests.bench.measure import Effort, NotHere, Row
from tests.support.by_hand import ReferenceFailed

EXPECTED = (LinkwireError, ReferenceFailed)
"""What these say needs no traceback."""


@dataclass(slots=True)
class Run:
    """What came of a run.

    Attributes:
        rows: in the order of the groups.
        seconds: that each group took, by its name.
        not_here: why a group cannot be measured on this machine, by its name.
        failed: why a group ended without its rows, by its name.
    """

    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Run) -> None:
        """Take over what came of another."""
        self.rows += other.rows
        self.seconds |= other.seconds
        self.not_here |= other.not_here
        self.failed |= other.failed

    def as_json(self) -> dict[str, Any]:
        """All of it; `from_json` makes it a run again."""
        of_groups = {"seconds": self.seconds, "not_here": self.not_here, "failed": self.failed}
        return {**of_groups, "rows": [report.as_json(row) for row in self.rows]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Run:
        """Raises KeyError or ValueError where `as_json` has not written it."""
        rows = [report.from_json(row) for row in found["rows"]]
        return cls(rows, dict(found["seconds"]), dict(found["not_here"]), dict(found["failed"]))


Measure = Callable[[Effort], list[Row] | Run]
"""A group: its rows, or what came of groups of its own."""


def run_groups(groups: Mapping[str, Measure], effort: Effort, after: Callable[[Run], None] = lambda _: None) -> Run:
    """Run all, whatever becomes of one. An interrupt ends it, as it should.

    Args:
        groups: by their names.
        effort: how much each measures.
        after: is told after each group what came of all so far.
    """
    run = Run()
    for name, measure in groups.items():
        print(f"bench: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            found = measure(effort)
            run.add(found if isinstance(found, Run) else Run(found))
        except NotHere as why:
            run.not_here[name] = str(why)
        except Exception as error:  # noqa: BLE001 - whatever it is: the other groups' figures are not lost for it
            run.failed[name] = f"{type(error).__name__}: {error}"
            print(f"bench: {name}: {run.failed[name]}", file=sys.stderr)
            if not isinstance(error, EXPECTED):
                traceback.print_exception(error)
        run.seconds[name] = round(time.monotonic() - began, 1)
        after(run)
    return run
