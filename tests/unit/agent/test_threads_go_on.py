"""Threads of the agent after an error that nobody thought of: they say so and go on, or a node would fall silent."""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from agent.containers import docker_client
from agent.containers.docker_client import Containers
from agent.reporting import reporter
from agent.reporting.reporter import Reporter
from mesh.model.snapshot import Snapshot
from tests.store.small_mesh import record
from tests.store.waiting import until


class EndedError(BaseException):
    """Ends a loop that has no end."""


def failing_once(calls: list[str], answer: Callable[[], Any]) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:  # noqa: ANN401
        calls.append("called")
        if len(calls) == 1:
            raise ZeroDivisionError
        return answer()

    return call


def test_reports_are_written_after_an_odd_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "RETRY_S", 0.0)
    calls: list[str] = []
    store: Any = SimpleNamespace(
        retry_preferred=lambda: None,
        uses_preferred=False,
        grant=failing_once(calls, lambda: 7),
        commit=lambda *_: 1,
        sign=lambda op, _: op,
    )
    follower: Any = SimpleNamespace(snapshot=Snapshot())
    identity: Any = SimpleNamespace(generation=lambda: 1, statement=SimpleNamespace(cluster="c"))
    with structlog.testing.capture_logs() as logs:
        made = Reporter(store, follower, record("n1"), identity)
        made.wake()
        until(lambda: any(entry["event"] == "node registered" for entry in logs))
        made.stop()
    assert [entry["event"] for entry in logs][:2] == ["writing of reports crashed, retrying", "node registered"]


def test_events_are_followed_after_an_odd_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def end() -> None:
        raise EndedError

    monkeypatch.setattr(docker_client, "RECONNECT_S", 0.0)
    containers = Containers("unix:///nowhere")
    monkeypatch.setattr(docker_client, "Docker", failing_once(asked, end))
    heard: Any = SimpleNamespace()
    with structlog.testing.capture_logs() as logs, pytest.raises(EndedError):
        containers._follow(queue.SimpleQueue(), heard)
    assert [entry["event"] for entry in logs] == ["following of container events crashed"]
