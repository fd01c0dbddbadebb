"""The connectivity test's sums: what the nodes' tasks printed, as one table."""

from __future__ import annotations

from typing import Any

import pytest

from compose_ext.connectivity import run
from compose_ext.connectivity.run import summed
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.observe.test import table
from compose_ext.swarm import listings, node_jobs
from compose_ext.swarm.node_jobs import Outcome


def report(ok: int, failed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "cases": {"TCP, IPv4": {"tried": 2, "ok": ok, "ms": 1.5}, "closed": {"tried": 1, "ok": 1, "ms": None}},
        "failed": failed or [],
        "load": {"requests": 100, "lost": 0, "longest_gap_ms": 70.0},
    }


def test_nodes_are_summed_by_case() -> None:
    tested = summed([Outcome("n1", (), report(2)), Outcome("n2", (), report(2))], 12.34)
    assert [(case.name, case.tried, case.ok, case.ms) for case in tested.cases] == [
        ("TCP, IPv4", 4, 4, 1.5),
        ("closed", 2, 2, None),
    ]
    assert tested.load == {"requests": 200, "lost": 0, "longest_gap_ms": 70.0}
    assert (tested.nodes, tested.problems, tested.seconds) == (("n1", "n2"), (), 12.3)
    assert [row[-1] for row in table(tested).rows] == ["ok", "ok", "ok"]


def test_failure_is_told_once_with_both_ends() -> None:
    failed = {"case": "TCP, IPv4", "to": "n2", "said": "no answer in 2 s"}
    tested = summed([Outcome("n1", ("TCP, IPv4: n2: no answer in 2 s",), report(1, [failed]))], 1)
    shown = table(tested)
    assert [row[-1] for row in shown.rows] == ["failed", "ok", "ok"]
    assert shown.problems == ("n1 -> n2: TCP, IPv4: no answer in 2 s",)


def test_task_that_prints_nonsense_is_a_problem() -> None:
    printed: tuple[dict[str, Any], ...] = (
        {"cases": []},
        {"cases": {"x": {}}},
        {"failed": [1]},
        {"load": {"requests": "many"}},
    )
    for nonsense in printed:
        tested = summed([Outcome("n1", (), nonsense)], 1)
        assert tested.problems == ("n1: its task printed what this program does not understand",)


def test_names_that_control_a_terminal_are_shown() -> None:
    failed = {"case": "TCP\x1b[2J", "to": "n2\x07", "said": "no"}
    shown = str(table(summed([Outcome("n1", ("no",), report(1, [failed]))], 1)))
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_older_linkwire_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = 'exec: "linkwire-connectivity": executable file not found in $PATH (the task is rejected)'
    ended = [{"NodeID": "a", "Status": {"State": "rejected"}}]
    monkeypatch.setattr(run, "remove", lambda *_: None)
    monkeypatch.setattr(run, "deploy", lambda *_: None)
    monkeypatch.setattr(node_jobs, "active", lambda _: {"a": "n1"})
    monkeypatch.setattr(listings, "tasks", lambda *_: ended)
    monkeypatch.setattr(run, "_under_load", lambda *_: set())
    monkeypatch.setattr(node_jobs, "outcomes", lambda *_: [Outcome("n1", (problem,))])
    with pytest.raises(DockerError, match="older than this program and has no connectivity test"):
        run.test(Docker("docker"), "image:1", print, seconds=60, load=True, keep=False)
