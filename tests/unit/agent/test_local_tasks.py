"""When an agent that was told to stop may leave, and which devices its tasks have."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest

from agent.containers.docker_client import LocalTask
from agent.containers.watcher import LocalContainers
from agent.dns.responder_client import Responder
from agent.local_tasks import SETTLE_S, LocalTasks, may_leave
from mesh.topology.desired import device_name
from mesh.topology.link_graph import index
from tests.support import cluster

GRAPH = index(cluster.stored(4))
LINKED = min(GRAPH.by_task)


@pytest.mark.parametrize(
    ("told_for", "stopping", "leaves"),
    [
        (0.0, 0, False),  # a task beside it may be told in a moment
        (SETTLE_S, 0, True),
        (SETTLE_S, 1, False),
        (SETTLE_S + 600, 1, False),
        (0.0, 1, False),
    ],
)
def test_it_leaves_when_no_linked_task_stops(told_for: float, stopping: int, leaves: bool) -> None:
    assert may_leave(told_for, stopping) == leaves


@pytest.mark.parametrize(
    ("state", "task", "namespace", "is_whole", "has_one"),
    [
        ("running", "ended", "there", True, True),  # its device is taken away, not ended
        ("created", LINKED, None, True, True),  # it begins any moment
        ("created", "ended", None, False, True),
        ("created", "ended", None, True, False),
        ("created", "ended", "there", True, True),
        ("created", "ended", "gone", True, False),  # its start was broken off
        ("created", LINKED, "gone", True, True),
        ("gone", LINKED, "there", True, False),
    ],
)
def test_task_has_a_device_while_it_may_run(
    state: Literal["created", "running", "gone"],
    task: str,
    namespace: str | None,
    tmp_path: Path,
    *,
    is_whole: bool,
    has_one: bool,
) -> None:
    """wireguard-go is started before a task's namespace is there; nothing else ends one whose task never begins."""
    (tmp_path / "there").touch()
    path = str(tmp_path / namespace) if namespace else None
    local = LocalTask("c", task, "#web", "web", state, path, "/nowhere", None, (), gated=True)
    backend: Any = None  # nothing ends here
    tasks = LocalTasks(Responder(), backend)
    tasks.update(LocalContainers(MappingProxyType({"c": local}), 1, (), frozenset()))
    assert list(tasks.devices(GRAPH, is_whole=is_whole)) == [device_name(task)] * has_one
