"""Docker is slow, wrong or silent for one container, or its events do not come: nobody else waits, nothing is lost.

A proxy does that to a Docker that a program plays; tests/lab/test_slow_docker.py to a real one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from agent.containers import docker_api, netns_discovery, start_gate
from agent.containers.docker_api import Docker
from agent.containers.docker_client import SERVICE_LABEL, TASK_LABEL, Containers, LocalTask
from agent.containers.watcher import ContainerWatcher
from tests.store.waiting import until
from tests.support.docker_proxy import FAILURES, DockerProxy, Failure
from tests.support.faults.docker_api import Answer, DockerApi
from tests.support.patience import slowness

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of those we end
OTHERS = ("c1", "c2", "c3")
ILL = "c0"
WATCHING = ("container-events", "container-watch")
SOON_S = 3.0


class ManyContainers(DockerApi):
    """Docker with containers that run, each with a namespace of its name."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.running: tuple[str, ...] = (ILL, *OTHERS)

    def start(self, *names: str) -> None:
        self.running += names
        for name in names:
            self.say(name, "start")

    def end(self, name: str) -> None:
        self.running = tuple(one for one in self.running if one != name)
        self.say(name, "destroy")

    def say(self, name: str, action: str) -> None:
        self.tell("container", action, name, **{TASK_LABEL: f"t{name}"})

    def answer(self, path: str, query: dict[str, Any]) -> Answer:
        if path == "containers/json":
            asked = query["filters"].get("id") or self.running
            labels = {name: {TASK_LABEL: f"t{name}", SERVICE_LABEL: "s"} for name in self.running if name in asked}
            return 200, [{"Id": name, "State": "running", "Labels": of} for name, of in labels.items()]
        if path.startswith("containers/") and path.split("/")[1] in self.running:
            sandbox = {"SandboxKey": f"/run/docker/netns/{path.split('/')[1]}", "Networks": {}}
            return 200, {"State": {"Status": "running"}, "NetworkSettings": sandbox}
        return super().answer(path, query)


class Node:
    """A node's watcher, with the proxy between it and Docker."""

    def __init__(self, docker: ManyContainers, proxy: DockerProxy) -> None:
        self.docker, self.proxy = docker, proxy
        self._watch: ContainerWatcher | None = None

    def start(self) -> None:
        self._watch = ContainerWatcher(Containers(self.proxy.url), lambda: None)

    def wake(self) -> None:
        if self._watch is not None:
            self._watch._wake("resync")

    def settle(self) -> None:
        """Start, and wait until events are followed: then all are listed once more, or for the first time."""
        self.start()
        until(lambda: self.proxy.asked["events"] == 1 and self.lists)
        seen = 0
        while self.lists != seen:
            seen = self.lists
            time.sleep(0.5 * slowness())
        self.await_known(ILL, *OTHERS)

    def known(self) -> dict[str, LocalTask]:
        """Containers whose namespace is known."""
        assert self._watch is not None
        return {name: one for name, one in self._watch.local.tasks.items() if one.netns is not None}

    def await_known(self, *names: str, seconds: float = SOON_S) -> None:
        until(lambda: self.known().keys() == set(names), seconds * slowness())

    @property
    def lists(self) -> int:
        assert self._watch is not None
        return self._watch.local.lists


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    (tmp_path / "netns").mkdir()
    monkeypatch.setattr(netns_discovery, "FOLDER", tmp_path / "netns")
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    monkeypatch.setattr(docker_api, "PATIENCE_S", 0.5)
    real = tmp_path / "docker"
    before = set(threading.enumerate())
    with ManyContainers(real) as docker, DockerProxy(tmp_path / "proxy", real) as proxy:
        node = Node(docker, proxy)
        yield node
    with pytest.MonkeyPatch.context() as ended:
        # The watch ends with its process; here, what it goes on to log would stand among other tests' logs.
        ended.setattr(Docker, "asked_to", _end)
        node.wake()
        until(lambda: not any(one.name in WATCHING for one in set(threading.enumerate()) - before), 30)


def _end(_docker: Docker, _do: str) -> NoReturn:
    raise SystemExit  # which ends a thread without a word


@pytest.mark.parametrize("failure", FAILURES)
def test_others_are_known_at_once(node: Node, failure: Failure) -> None:
    """And the one when Docker answers again, or at last."""
    node.proxy.failing[ILL] = failure
    node.start()
    node.await_known(*OTHERS)
    assert node._watch is not None
    ill = node._watch.local.tasks[ILL]
    assert (ill.state, bool(ill.unread)) == ("created", True), "it is there, and nobody knows where"
    node.docker.start("new")
    node.await_known(*OTHERS, "new")
    if failure != "slow":
        node.proxy.heal()
    node.await_known(ILL, *OTHERS, "new", seconds=8)


@pytest.mark.parametrize("failure", FAILURES)
def test_known_container_stays_while_docker_fails(node: Node, failure: Failure) -> None:
    node.settle()
    before = node.known()[ILL]
    node.proxy.failing[ILL] = failure
    lists = node.lists
    node.docker.say(ILL, "health_status")
    node.docker.cut()  # so that all are listed again
    until(lambda: node.lists > lists, SOON_S * slowness())
    assert node.known()[ILL] == before
    node.docker.end(ILL)
    node.await_known(*OTHERS)


def test_docker_that_is_gone_is_asked_seldom(node: Node) -> None:
    """It fails for one container, and then for every question."""
    node.settle()
    node.proxy.failing[ILL] = "refused"
    node.docker.say(ILL, "health_status")
    until(lambda: bool(node._watch and node._watch._unread), SOON_S)
    before = node.proxy.asked.total()
    node.proxy.refuses = True
    time.sleep(1.5)
    assert node.proxy.asked.total() - before < 40
    node.proxy.refuses = False
    node.docker.start("new")
    node.await_known(ILL, *OTHERS, "new")


@pytest.mark.parametrize("how", ["stall", "drop"])
def test_namespace_without_event_is_noticed(node: Node, how: Any) -> None:  # noqa: ANN401
    """Long before the next list, which is due every 15 s."""
    node.settle()
    node.proxy.events(how)
    node.docker.start("new")
    until(lambda: node._watch is not None and node._watch._folder_changed_at is not None, SOON_S)
    (netns_discovery.FOLDER / "new").touch()
    node.await_known(ILL, *OTHERS, "new", seconds=5)
    node.proxy.events("pass")
    node.docker.start("newer")
    node.await_known(ILL, *OTHERS, "new", "newer")


def test_many_events_are_few_questions(node: Node) -> None:
    """What has changed is asked for together, while an answer is awaited."""
    node.settle()
    before = node.proxy.asked["list"]
    names = [f"many{number}" for number in range(100)]
    for name in names:
        node.docker.say(name, "create")
    node.docker.start(*names)
    for name in names:
        node.docker.say(name, "health_status")
    node.await_known(ILL, *OTHERS, *names, seconds=15)
    assert node.proxy.asked["list"] - before < len(names)
