"""Runs groups of measurements one after the other: what fails in one takes no other's figures along."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.errors import LinkwireError
from tests.bench.by_hand import ReferenceFailed
from tests.bench.measure import Effort, NotHere, Row

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


def run_groups(groups: Mapping[str, Callable[[Effort], list[Row]]], effort: Effort) -> Run:
    """Run all, whatever becomes of one. An interrupt ends it, as it should."""
    run = Run()
    for name, measure in groups.items():
        print(f"bench: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            run.rows += measure(effort)
        except NotHere as why:
            run.not_here[name] = str(why)
        except Exception as error:  # noqa: BLE001 - whatever it is: the other groups' figures are not lost for it
            run.failed[name] = f"{type(error).__name__}: {error}"
            print(f"bench: {name}: {run.failed[name]}", file=sys.stderr)
            if not isinstance(error, EXPECTED):
                traceback.print_exception(error)
        run.seconds[name] = round(time.monotonic() - began, 1)
    return run
