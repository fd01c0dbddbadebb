"""What is read from Docker's events and the agent's log."""

from __future__ import annotations

import json

import pytest

from tests.bench import starts
from tests.bench.starts import TASK, Start

CONTAINER = "c" * 64


def event(kind: str, action: str, milliseconds: int, task: str = "t1", container: str = CONTAINER) -> str:
    actor = {"ID": container, "Attributes": {TASK: task}}
    if kind == "network":
        actor = {"ID": "n" * 64, "Attributes": {"container": container}}
    return json.dumps({"Type": kind, "Action": action, "Actor": actor, "timeNano": milliseconds * 1_000_000})


def said(what: str, fraction: str, **more: object) -> str:
    return json.dumps({"event": what, "timestamp": f"1970-01-01T00:00:00.{fraction}Z", **more})


EVENTS = [
    event("container", "create", 100),
    event("network", "connect", 150),
    event("network", "connect", 190),
    event("container", "start", 600),
    event("container", "create", 200, task="t2", container="d" * 64),  # not started yet
]
LOGGED = [
    "WARNING: a banner",
    said("task wired", "350500", task="t1", seconds=0.02),
    said("task wired", "900000", task="t1", seconds=0.5),
    said("task wired", "350500", task="t2", seconds=0.02),
]


PLACED = [
    said("plan step committed", "200000", reason="task t1: placed on n1, address 10.0.0.1, UDP 10.0.0.1:1"),
    "not JSON",
]


def test_a_start_is_what_each_said_first() -> None:
    (start,) = starts.read(EVENTS, LOGGED, PLACED).values()
    assert start == Start(CONTAINER, 100, 150, 200, None, 350.5, 20, 600)
    assert start.ours == 200.5
    assert start.dockers == 500


def test_start_without_wired_event_is_skipped() -> None:
    assert starts.read(EVENTS, LOGGED[:1], PLACED) == {}


MANY = [Start("c", 0, 50, 80, 100 + n, 150 + n, 20, 500) for n in range(3)]


def test_where_the_time_goes() -> None:
    assert starts.where([*MANY, Start("c", 0, 50, None, None, 600, 20, 500)]) == (
        "medians after the connect event: 30 ms placed by the controller, 51 ms its namespace is there, "
        "82 ms reconcile begins, 102 ms wired, 450 ms started, says Docker; 3 of 4 wired before Docker said started"
    )


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (50, 50), (100, 99), (200, 198)])
def test_percentile_99_bounds_99_of_100(count: int, expected: int) -> None:
    assert starts.percentile([float(n) for n in range(count, 0, -1)], 99) == expected


def test_rows_are_median_p99_and_own_share() -> None:
    late = [Start("c", 0, 0, None, None, 10 + n, 5, 100) for n in range(100)]
    p50, p99 = starts.rows("docker.one", "wire", late)
    assert (p50.met, p99.met) == (False, False)
    assert (p99.ours, p99.theirs) == ([108], [100])
    *_, own = starts.rows("docker.one", "wire", MANY)
    assert own.ours == [50, 50, 50]
    assert own.met
