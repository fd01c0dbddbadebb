"""A flow of datagrams from one port while its provider goes from one task to none and to another (kubernetes#48370).

The kernel takes it for one connection for as long as anything is sent, and a connection keeps its backend.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.containers import start_gate
from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from agent.linux import conntrack
from mesh.topology.ipam import twin
from mesh.topology.policy import Balance
from tests.netns.programs import Servers
from tests.netns.world import MESH6, Task, World
from tests.support import stage
from tests.support.patience import slowness

if TYPE_CHECKING:
    from mesh.topology.wgtypes import InterfaceConfig

PORT = 53
EVERY_S = 0.02
WITHIN_S = 1.0


class Flow:
    """Datagrams to a VIP from one socket, whatever comes of them; who answered, and when last."""

    def __init__(self, task: Task, vip: IPv4Address, version: int) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._socket = task.netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._socket.settimeout(EVERY_S)
        self._socket.connect((str(vip if version == 4 else twin(MESH6, vip)), PORT))
        self._stopped = threading.Event()
        self.heard: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._run, name="flow")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            try:
                self._socket.send(b"who?")
                answer = self._socket.recv(64).decode()
            except OSError:  # refused, or no answer
                answer = ""
            self.heard.append((time.monotonic(), answer))

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def answered_by(self, who: str, since: float) -> float:
        """Wait until all is answered by one; how many seconds after `since` that began."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            last = list(itertools.takewhile(lambda one: one[1] == who, reversed(self.heard)))
            if len(last) > 5 and last[0][0] > since:
                return max(0.0, last[-1][0] - since)
            time.sleep(EVERY_S)
        raise AssertionError(f"{who or 'nobody'} does not answer: {self.heard[-5:]}")


class Consumer:
    """A wired consumer, whose provider's tasks are what a test says."""

    def __init__(self, task: Task, hosts: str) -> None:
        local = LocalTask(task.name, "t", "s", "n", "running", task.netns.path, hosts, None, (), gated=False)
        self.task = task
        self._state = TaskState(local)

    def is_to_have(self, *providers: Task, ready: bool = True) -> float:
        """Wire it for these; when that was done."""
        config = stage.interface(self.task.name, self.task, tuple(map(stage.peer_of, providers)))
        self.wire(config if ready else replace(config, policy=replace(config.policy, balance=(nobody(config),))))
        return time.monotonic()

    def wire(self, config: InterfaceConfig) -> None:
        self._state.wire(self.task.node.backend, config, complete=True)
        assert self._state.error is None


def nobody(config: InterfaceConfig) -> Balance:
    return replace(config.policy.balance[0], backends=())


@pytest.fixture
def made(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Consumer, Task, Task]]:
    """A consumer, and two tasks of its provider that answer with their names."""
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    left, right = world.nodes()
    web, one, two = world.task(left), world.task(right), world.task(right)
    with Servers() as servers:
        for name, task in (("one", one), ("two", two)):
            Consumer(task, stage.hosts_file(tmp_path, name)).is_to_have(web)
            servers.add(name, task.netns, PORT, protocol="udp")
        yield Consumer(web, stage.hosts_file(tmp_path, "web")), one, two


@pytest.fixture
def flows(made: tuple[Consumer, Task, Task]) -> Iterator[Callable[[int], Flow]]:
    opened: list[Flow] = []

    def flow(version: int) -> Flow:
        vip = stage.interface("any", made[0].task, ()).policy.balance[0].vip
        opened.append(Flow(made[0].task, vip, version))
        return opened[-1]

    yield flow
    for one in opened:
        one.close()


def tracked(task: Task) -> list[str]:
    """Who would answer the connections that the kernel tracks in a task."""
    found: list[str] = []

    def look(address: object) -> bool:
        found.append(str(address))
        return False

    conntrack.forget(task.netns, look)
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ends_slowly", [False, True])
def test_flow_resumes_with_next_task_after_none(
    made: tuple[Consumer, Task, Task], flows: Callable[[int], Flow], version: int, *, ends_slowly: bool
) -> None:
    consumer, one, two = made
    began = consumer.is_to_have()
    flow = flows(version)
    flow.answered_by("", began)  # refused, before there is anybody
    assert flow.answered_by("one", consumer.is_to_have(one)) < WITHIN_S * slowness()
    if ends_slowly:
        consumer.is_to_have(one, ready=False)
        time.sleep(0.2)
    assert flow.answered_by("", consumer.is_to_have()) < WITHIN_S * slowness()
    assert str(one.address.ip) not in tracked(consumer.task)
    assert str(one.address6) not in tracked(consumer.task)
    assert flow.answered_by("two", consumer.is_to_have(two)) < WITHIN_S * slowness()


@pytest.mark.parametrize("version", [4, 6])
def test_flow_leaves_a_replaced_task_at_once(
    made: tuple[Consumer, Task, Task], flows: Callable[[int], Flow], version: int
) -> None:
    consumer, one, two = made
    consumer.is_to_have(one)
    flow = flows(version)
    flow.answered_by("one", 0.0)
    assert flow.answered_by("two", consumer.is_to_have(two)) < WITHIN_S * slowness()
