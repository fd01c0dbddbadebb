"""What somebody with NET_ADMIN does to a wired task's interface, behind the back of the node's running agent.

Rules flushed and peers removed (talos#9426), the device deleted or made anew by another (submariner#3031): all of it
comes back within seconds, and the node's other tasks lose nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Network
from pathlib import Path
from typing import Self

import pytest

from agent.containers import start_gate, watcher
from agent.holder import sockets
from agent.interface.reconcile import observe
from agent.loop import Agent
from mesh.crypto.keys import PrivateKey
from mesh.topology.ipam import twin
from mesh.topology.wgtypes import DeviceChange, Interface, PeerChange
from tests.netns.programs import Address, Servers, ask, connect, say
from tests.netns.test_confirmed import is_settled, running, start, swarm_id
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World, ip, is_own, wait_for
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh
from tests.store.waiting import until

SECONDS = 60.0
BACK_S = 10.0
"""Within which all is back: an agent reads its tasks' devices every 1.8 s."""
PORT = 80


@dataclass
class Wired:
    """A provider's task on one node; on another a consumer's task that is harmed, and one that is not."""

    db: Task
    web: Task
    other: Task
    vip: IPv4Address
    subnet6: IPv6Network

    def state(self) -> tuple[object, ...]:
        """Return what the harmed task has in its namespace, without what traffic changes."""
        found = observe(self.web.node.backend, self.web.netns, self.web.name)
        if found is None:
            return ()
        return (*_fixed(found), self.web.command("nft", "list", "ruleset").count("dnat"))

    def works(self) -> bool:
        return ask(self.web.netns, self.vip, PORT) == "db"


def _fixed(found: Interface) -> tuple[object, ...]:
    peers = {str(key): (peer.allowed_ips, peer.preshared_key) for key, peer in found.device.peers.items()}
    return found.device.public_key, peers, found.up, found.mtu, found.addresses, found.routes


@pytest.fixture
def wired(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    monkeypatch.setattr(watcher, "RESYNC_S", 86_400.0)
    monkeypatch.setattr(Agent, "_discard_surplus_devices", lambda _: None)  # each would end the other's
    served = sockets.served
    monkeypatch.setattr(sockets, "served", lambda *_folder: tuple(filter(is_own, served())))
    left, right = world.nodes()
    db, web, other = world.task(left), world.task(right), world.task(right)
    (tmp_path / "etcd").mkdir()
    with EtcdServer(tmp_path / "etcd") as etcd, Servers() as servers, ExitStack() as stack:
        mesh = SmallMesh(etcd.endpoint, "/linkwire/", tmp_path)
        mesh.swarm.tasks_now = {}
        for service, node, task in (("db", "n1", db), ("web", "n2", web), ("web", "n2", other)):
            start(mesh, service, node, task.name)
        agents = [stack.enter_context(running(db, mesh, tmp_path / "n1"))]
        agents.append(stack.enter_context(running(web, mesh, tmp_path / "n2", "n2", "web", more=(other,))))
        stack.enter_context(mesh.controller())
        until(lambda: all(map(is_settled, agents)) and agents[1]._desired.graph.ready("#db"), SECONDS)
        graph = agents[1]._desired.graph
        for task in (db, web, other):
            task.address = IPv4Interface((graph.by_task[swarm_id(task.name)].address, 32))
        servers.add("db", db.netns, PORT)
        applied = agents[1]._tasks.by_container["c"].interface.applied
        assert applied is not None
        made = Wired(db, web, other, graph.vips["#db"], applied.policy.subnet6)
        until(lambda: made.works() and ask(other.netns, made.vip, PORT) == "db", SECONDS)
        yield made


class Talk:
    """A connection on which something is said again and again; an answer comes each time."""

    def __init__(self, task: Task, where: Address) -> None:
        self.problem = ""
        self._connection = connect(task.netns, where, PORT)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        assert say(self._connection) == "db"
        self._connection.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                with contextlib.suppress(BlockingIOError):
                    self._connection.send(b"?")
                    self._connection.recv(1 << 16)
            except OSError as error:
                self.problem = repr(error)
                return

    def goes_on(self) -> bool:
        """Whether what is said now is answered."""
        self._stopped.set()
        self._thread.join()
        self._connection.settimeout(SECONDS)
        return not self.problem and say(self._connection).startswith("db")


def give_way_out(task: Task) -> None:
    """By the node, as Docker's bridge is: what has no other route leaves there."""
    inside, node = (Path(one.path).name for one in (task.netns, task.node.netns))
    ip("link", "add", "bridge", "netns", inside, "type", "veth", "peer", "name", "bridge", "netns", node)
    for name, last in ((node, 1), (inside, 2)):
        ip("-n", name, "address", "add", f"203.0.113.{last}/30", "dev", "bridge")
        ip("-n", name, "address", "add", f"2001:db8:1::{last}/64", "dev", "bridge", "nodad")
        ip("-n", name, "link", "set", "bridge", "up")
    ip("-n", inside, "route", "add", "default", "via", "203.0.113.1")
    ip("-n", inside, "-6", "route", "add", "default", "via", "2001:db8:1::1")


def flush_rules(wired: Wired) -> None:
    wired.web.command("nft", "flush", "ruleset")


def remove_peers(wired: Wired) -> None:
    device = wired.web.node.backend.read(wired.web.netns, wired.web.name)
    gone = tuple(PeerChange(key, remove=True) for key in device.peers)
    wired.web.node.backend.apply(wired.web.netns, wired.web.name, DeviceChange(peers=gone))


def delete_device(wired: Wired) -> None:
    wired.web.command("ip", "link", "delete", wired.web.name)


def remake_device(wired: Wired) -> None:
    """Of the same name, with another key, and empty."""
    wired.web.node.backend.delete(wired.web.netns, wired.web.name)
    wired.web.node.backend.create(wired.web.netns, wired.web.name)
    change = DeviceChange(PrivateKey.generate(), wired.web.port)
    wired.web.node.backend.apply(wired.web.netns, wired.web.name, change)


def flush_addresses_and_routes(wired: Wired) -> None:
    wired.web.command("ip", "address", "flush", "dev", wired.web.name)
    wired.web.command("ip", "route", "flush", "dev", wired.web.name)


HARMS = (flush_rules, remove_peers, delete_device, remake_device, flush_addresses_and_routes)


def test_all_comes_back_others_lose_nothing(wired: Wired, figure: Callable[[str], None]) -> None:
    whole = wired.state()
    await_first_packet(wired.other, wired.db)
    took = {}
    with Flood(wired.other, wired.db, per_second=100) as others:
        for harm in HARMS:
            harm(wired)
            began = time.monotonic()
            wait_for(lambda: wired.state() == whole, BACK_S)
            wait_for(wired.works, BACK_S)
            took[harm.__name__] = round(time.monotonic() - began, 1)
    figure(f"back after {took}; {len(others.lost)} of {others.sent} packets of the node's other task lost")
    assert others.lost == []


def test_open_connection_outlives_its_device(wired: Wired) -> None:
    """What is said while there is none leaves by no other device, and is not answered by a reset."""
    give_way_out(wired.web)
    whole = wired.state()
    with Talk(wired.web, wired.vip) as talk, Talk(wired.web, twin(wired.subnet6, wired.vip)) as talk6:
        delete_device(wired)
        wait_for(lambda: wired.state() == whole, BACK_S)
        assert talk.goes_on(), talk.problem
        assert talk6.goes_on(), talk6.problem
