"""A key that came into another task's namespace: the node's report asks for another one, also after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from agent.reporting.metrics import Metrics
from agent.reporting.node_reports import NodeReports
from agent.state.clock import WatchedClock
from mesh.crypto.keys import PrivateKey
from tests.unit.mesh.test_codec import NODE

KEY = PrivateKey.generate().public


def spent(reports: NodeReports, states: Iterable[TaskState], epoch: int) -> int | None:
    endpoint = SimpleNamespace(public_key=KEY, epoch=epoch, task="t")
    graph: Any = SimpleNamespace(by_task={"t": endpoint}, services={"s": None})
    tasks: Any = list(states)
    return reports._task_reports(tasks, graph)["t"].spent


def made(folder: Path) -> tuple[NodeReports, WatchedClock]:
    identity: Any = None
    clock = WatchedClock(folder)
    return NodeReports(NODE, identity, Metrics("0", "kernel"), clock), clock


def test_exposed_key_is_reported_as_spent(tmp_path: Path) -> None:
    reports, clock = made(tmp_path)
    local = LocalTask("c", "t", "s", "n", "running", None, "", None, (), gated=False)
    state = TaskState(local)
    assert spent(reports, [state], 3) is None
    state.exposed = PrivateKey.generate().public
    assert spent(reports, [state], 3) is None, "that one has been replaced"
    state.exposed = KEY
    assert spent(reports, [state], 3) == 3
    clock.save()
    reports, clock = made(tmp_path)
    assert spent(reports, [TaskState(local)], 3) == 3, "by a new agent too"
    clock.look({"t": 4})
    assert spent(reports, [TaskState(local)], 4) is None
