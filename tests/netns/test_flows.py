"""New connections over links and refusals, watched in tasks' own namespaces, and no more of them than fit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import TypeVar

import pytest

from agent.flows import watcher
from agent.flows.events import Begun, Counts, Event, Refusal, Seen
from agent.flows.link_lookup import wanted_by
from agent.flows.watcher import Watcher
from agent.linux.netns import TaskNetns
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.net import UdpEndpoint
from mesh.model.records import Cluster, Endpoint, Record, Service
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.link_graph import LinkGraph, index
from tests.netns.programs import REFUSED, Servers, ask
from tests.netns.services import Link, Services, address
from tests.netns.world import MESH, MESH6, Task, World, delete_netns
from tests.support.signing import holding

T = TypeVar("T")


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def mesh(world: World) -> Services:
    """web links to db, on one port, by names of no stack; one task of each on two nodes."""
    made = Services.make(world, web=2, db=1)
    made.link(Link.of("web", "db", "80/tcp", "53/udp"))
    return made


def graph_of(mesh: Services) -> LinkGraph:
    records: list[Record] = [Cluster("cluster", MESH, MESH6)]
    for name, tasks in mesh.tasks.items():
        links = tuple(LinkLabel(link.provider, (link.provider,)) for link in mesh.links if link.consumer == name)
        vip = mesh.vip(name)
        assert isinstance(vip, IPv4Address)
        records.append(Service(name, name, vip, links, None, strict=True, dnsrr=False, elsewhere=()))
        for slot, task in enumerate(tasks, 1):
            underlay = UdpEndpoint(task.node.address.ip, task.port)
            node = str(task.node.address.ip)
            place = (name, task.name, slot, node, task.address.ip, task.key.public, 0, underlay)
            records.append(Endpoint(*place, ready=True, elsewhere=()))
    found = {keyspace.key_of(record): Versioned(record, number) for number, record in enumerate(records, 1)}
    contents = holding(*records)
    found["manifest"] = Versioned(contents.record(), 1, 1)
    return index(Snapshot(len(found), True, found, {}, contents=contents))


class Watch:
    """A watch in a thread of its own."""

    def __init__(self, mesh: Services, *tasks: Task, seconds: float = 3.0, name: str | None = None) -> None:
        graph = graph_of(mesh)
        self._found = list(tasks)
        made = Watcher(lambda: [(task.name, task.netns.path) for task in self._found], lambda: graph)
        self._events: list[Event] = []
        self._begun = threading.Event()
        until = time.monotonic() + seconds
        events = made.watch(wanted_by(name), lambda: time.monotonic() < until)

        def read() -> None:
            for event in events:
                self._events.append(event)
                self._begun.set()

        self._thread = threading.Thread(target=read, daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    def add(self, task: Task) -> None:
        """A task that is wired meanwhile."""
        self._found.append(task)

    def told(self, kind: type[T]) -> list[T]:
        """Wait until it has ended; the events of a kind."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return [event for event in self._events if isinstance(event, kind)]


def place(seen: Seen) -> tuple[str, str, int, str, str]:
    one = seen.connection
    return seen.task, one.protocol, one.destination_port, str(one.destination), str(one.backend)


@pytest.mark.parametrize("version", [4, 6])
def test_each_connection_is_told_once(mesh: Services, servers: Servers, version: int) -> None:
    web, other, (db,) = *mesh.tasks["web"], mesh.tasks["db"]
    servers.add("db", db.netns, 80)
    servers.add("db", db.netns, 53, protocol="udp")
    watch = Watch(mesh, web, db)
    direct, vip = address(db, version), mesh.vip("db", version)
    assert ask(web.netns, vip, 80) == "db"
    assert ask(web.netns, direct, 53, protocol="udp") == "db"
    assert ask(other.netns, direct, 80) == "db"
    told = watch.told(Seen)
    assert {place(one) for one in told} == {
        (web.name, "tcp", 80, str(vip), str(direct)),
        (web.name, "udp", 53, str(direct), str(direct)),
        (db.name, "tcp", 80, str(direct), str(direct)),  # nobody watches there: the provider's end tells of it
    }
    assert len(told) == 3
    assert watch.told(Begun) == [Begun(2, 2)]
    end = watch.told(Counts)[-1]
    assert (end.events >= 3, end.full_seconds, end.overflowed_tasks, end.tasks) == (True, 0, 0, 2)


def test_refusals_are_counted_from_the_beginning(mesh: Services) -> None:
    (web, _), (db,) = mesh.tasks["web"], mesh.tasks["db"]
    assert ask(web.netns, address(db), 81) == REFUSED  # before it is watched
    watch = Watch(mesh, web, db)
    for _ in range(2):
        assert ask(web.netns, address(db), 81) == REFUSED
    told = watch.told(Refusal)
    assert {(one.task, one.other, one.direction) for one in told} == {(web.name, "db", "out")}
    assert sum(one.packets for one in told) == 2
    assert watch.told(Seen) == []


def test_floods_are_read_in_part_and_said(mesh: Services, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MOST_EVENTS", 10)
    (web, _), (db,) = mesh.tasks["web"], mesh.tasks["db"]
    servers.add("db", db.netns, 53, protocol="udp")
    watch = Watch(mesh, web, seconds=2.0)

    def flood() -> None:
        for _ in range(200):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"x", (str(db.address.ip), 53))

    web.netns.run(flood)
    assert 10 <= len(watch.told(Seen)) <= 30
    assert watch.told(Counts)[-1].full_seconds >= 1


def test_a_sample_of_tasks_is_watched(mesh: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MOST_TASKS", 2)
    watch = Watch(mesh, *mesh.every(), seconds=0.1)
    assert watch.told(Begun) == [Begun(2, 3)]


def test_other_services_flows_are_left_out(mesh: Services) -> None:
    watch = Watch(mesh, *mesh.every(), seconds=0.1, name="nobody")
    assert watch.told(Begun) == [Begun(0, 0)]


def test_a_namespace_that_ended_is_let_go(mesh: Services, world: World) -> None:
    (web, _), (db,) = mesh.tasks["web"], mesh.tasks["db"]
    watch = Watch(mesh, web, db, seconds=4.0)
    web.node.backend.delete(web.netns, web.name)
    delete_netns(web.netns)
    assert watch.told(Counts)[-1].tasks == 1
    assert world


def test_a_task_that_comes_later_is_watched(mesh: Services, servers: Servers) -> None:
    (web, _), (db,) = mesh.tasks["web"], mesh.tasks["db"]
    servers.add("db", db.netns, 80)
    watch = Watch(mesh, seconds=5.0)
    watch.add(web)
    time.sleep(watcher.REFUSALS_S + 1.5)
    assert ask(web.netns, address(db), 80) == "db"
    assert [one.task for one in watch.told(Seen)] == [web.name]
    assert watch.told(Begun) == [Begun(0, 0), Begun(1, 1)]


def test_closing_a_watch_leaves_no_socket(mesh: Services) -> None:
    (web, _) = mesh.tasks["web"]
    graph = graph_of(mesh)
    made = Watcher(lambda: [(web.name, web.netns.path)], lambda: graph)
    watch = made.watch(wanted_by(None), lambda: True)
    next(watch)
    watch.close()  # type: ignore[attr-defined]
    assert isinstance(web.netns, TaskNetns)  # the world's own end tells whether the namespace lives on
