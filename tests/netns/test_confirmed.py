"""The agent's loop reads a device that it changed without reading, on a real store, a real device, a real controller.

What is told is which containers there are: Docker is in tests/lab.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.containers import start_gate, watcher
from agent.containers.docker_client import LocalTask, NodeIdentity
from agent.desired_state import DesiredState
from agent.firewall.node_table import NodeTable
from agent.holder import sockets
from agent.interface import reconcile
from agent.loop import Agent
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.keeper import Keeper
from agent.node_encryption.key import NodeKeys
from agent.reporting import status_poller
from agent.reporting.metrics import Metrics
from agent.reporting.node_record import node_record
from agent.reporting.node_reports import NodeReports
from agent.state.clock import WatchedClock
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState
from controller.swarm.model import SwarmTask
from controller.trust.link_secrets import ControllerIdentity
from mesh.crypto.hpke import NodeKey
from mesh.crypto.preshared_keys import LinkSeed
from mesh.integrity.record_signing import RecordSigner
from mesh.store.client import Store
from mesh.topology.underlay import ports_beside
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World, device_name, is_own
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh
from tests.store.waiting import until
from tests.support import stage
from tests.support.signing import CLUSTER, KEYRING
from tests.support.told import FakeContainers

if TYPE_CHECKING:
    from agent.interface.diff import InterfaceDiff
    from mesh.crypto.keys import PublicKey
    from mesh.crypto.preshared_keys import PresharedKey

NEVER_S = 86_400.0
NEW_EPOCH_S = 20.0  # it is there within one; without, not before something else happens
SECONDS = 60.0  # for what takes one, or two where nobody else is busy


@contextmanager
def running(
    task: Task, mesh: SmallMesh, folder: Path, on: str = "n1", of: str = "db", *, more: tuple[Task, ...] = ()
) -> Iterator[Agent]:
    """The agent of a node, with the containers of the tasks there, which are of that service: "c", "c1" and so on."""
    folder.mkdir()
    key = load_or_make_node_key(folder)
    identity = Identity(folder, folder / "none", CLUSTER, on, key.public)
    mesh.swarm.approved[on] = identity.statement.fingerprint
    store = Store([mesh.endpoint], RecordSigner.agent(KEYRING, identity.key), root=mesh.root)
    told: Any = FakeContainers(local_task(f"c{n or ''}", one, of, folder) for n, one in enumerate((task, *more)))
    backend, address = task.node.backend, task.node.address.ip
    assert isinstance(address, IPv4Address)
    ports = (task.port, task.port + 19)
    own = NodeKeys(folder, ports_beside(*ports))
    node = node_record(NodeIdentity(on, on, address), identity, backend, ports, None, "0")
    desired = DesiredState(on, key, VerifiedState(folder), backend, node_keys=own)
    reports = NodeReports(node, identity, Metrics("0", backend.name), WatchedClock(folder), own)
    keeper = Keeper(NodeDevice(task.node.netns, backend, device_name()), folder)
    agent = Agent(told, store, desired, reports, NodeTable(task.node.netns), keeper=keeper)
    stopped = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stopped, lambda: None), daemon=True)
    thread.start()
    try:
        yield agent
    finally:
        stopped.set()
        agent.stop()
        thread.join(SECONDS)
        store.close()
        assert not thread.is_alive()


def local_task(container: str, task: Task, service: str, folder: Path) -> LocalTask:
    hosts = stage.hosts_file(folder, f"hosts-{container}")
    name, path = swarm_id(task.name), task.netns.path
    return LocalTask(container, name, f"#{service}", service, "running", path, hosts, None, (), gated=False)


def swarm_id(device: str) -> str:
    """The id of the task whose device the agent will call so."""
    return device.removeprefix("lw").ljust(25, "x")


def start(mesh: SmallMesh, service: str, node: str, device: str) -> None:
    task, slot = swarm_id(device), len(mesh.swarm.tasks_now) + 1
    found = SwarmTask(task, f"#{service}", slot, node, "running", "running", ())
    mesh.swarm.tasks_now = {**mesh.swarm.tasks_now, task: found}
    mesh.wake()


def peers(task: Task) -> set[PublicKey]:
    """Of its device as it is; none where there is none yet."""
    if task.name not in task.node.backend.found(task.netns):
        return set()
    return set(task.node.backend.read(task.netns, task.name).peers)


def preshared(task: Task) -> list[PresharedKey | None]:
    """Of its device's peers."""
    return [peer.preshared_key for peer in task.node.backend.read(task.netns, task.name).peers.values()]


@pytest.fixture
def advanced(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each attempt to go without a reading, whether it could."""
    found: list[bool] = []
    plain = reconcile.advance

    def advance(*arguments: Any) -> InterfaceDiff | None:  # noqa: ANN401 - as they are
        changes = plain(*arguments)
        found.append(changes is not None)
        return changes

    monkeypatch.setattr(reconcile, "advance", advance)
    return found


def is_settled(agent: Agent) -> bool:
    """Whether its task is wired, and nothing is left to be read."""
    state = agent._tasks.by_container.get("c")
    if state is None or state.interface.applied is None:
        return False
    return not state.schedule.dirty and state.schedule.confirm_at is None


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a list of containers nor a round of readings comes to the agent's aid."""
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    monkeypatch.setattr(watcher, "RESYNC_S", NEVER_S)
    monkeypatch.setattr(status_poller, "STATUS_S", NEVER_S)
    # Other tests that run now have devices too, of which it would end those that it does not know.
    served = sockets.served
    monkeypatch.setattr(sockets, "served", lambda *_folder: tuple(filter(is_own, served())))


@pytest.mark.usefixtures("alone")
def test_new_epoch_reaches_wired_task_at_once(world: World, tmp_path: Path) -> None:
    """Both ends of a link act on it when it is written: nothing else of their tasks changes with it."""
    task = world.task(world.nodes()[0])
    (tmp_path / "etcd").mkdir()
    with EtcdServer(tmp_path / "etcd") as etcd:
        mesh = SmallMesh(etcd.endpoint, "/linkwire/", tmp_path)
        mesh.swarm.tasks_now = {}
        start(mesh, "db", "n1", task.name)
        start(mesh, "web", "n2", device_name())
        with mesh.reader("n2"), running(task, mesh, tmp_path / "n1") as agent, mesh.controller():
            until(lambda: is_settled(agent) and len(peers(task)) == 1, SECONDS)
            until(lambda: agent._desired.graph.ready("#db") and is_settled(agent), SECONDS)  # nothing else comes
            graph, before = agent._desired.graph, preshared(task)
            mesh.swarm.renew("web")
            mesh.wake()
            until(lambda: preshared(task) != before, NEW_EPOCH_S)
            assert agent._desired.graph is graph, "who is linked to whom is as it was"


@pytest.mark.usefixtures("alone")
def test_renewed_link_seed_loses_no_packet(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """A controller with another seed begins a new epoch: both ends have it at once, and traffic goes on."""
    monkeypatch.setattr(Agent, "_discard_surplus_devices", lambda _: None)  # each would end the other's
    db, web = (world.task(node) for node in world.nodes())
    (tmp_path / "etcd").mkdir()
    with EtcdServer(tmp_path / "etcd") as etcd, ExitStack() as agents:
        mesh = SmallMesh(etcd.endpoint, "/linkwire/", tmp_path)
        mesh.swarm.tasks_now = {}
        start(mesh, "db", "n1", db.name)
        start(mesh, "web", "n2", web.name)
        both = [agents.enter_context(running(db, mesh, tmp_path / "n1"))]
        both.append(agents.enter_context(running(web, mesh, tmp_path / "n2", "n2", "web")))
        own = ControllerIdentity("n1", NodeKey.generate())
        with mesh.controller(own=own):
            until(lambda: all(map(is_settled, both)) and preshared(db) == preshared(web) != [], SECONDS)
            until(lambda: all(agent._desired.graph.ready("#db") for agent in both), SECONDS)
        graph = both[0]._desired.graph
        db.address, web.address = (IPv4Interface((graph.by_task[swarm_id(t.name)].address, 32)) for t in (db, web))
        await_first_packet(web, db)
        before = preshared(db)
        with Flood(web, db, per_second=100) as there, mesh.controller(own=own, link_seed=LinkSeed.generate()):
            until(lambda: preshared(db) != before or preshared(web) != before, SECONDS)
            began = time.monotonic()
            until(lambda: preshared(db) == preshared(web) != before, NEW_EPOCH_S)
            apart = time.monotonic() - began
            time.sleep(1)
        figure(f"new link seed: both ends within {apart:.2f} s, {len(there.lost)} of {there.sent} packets lost")
        assert there.lost == []


@pytest.mark.usefixtures("alone")
def test_loop_reads_back_changes_made_without_reading(world: World, tmp_path: Path, advanced: list[bool]) -> None:
    task = world.task(world.nodes()[0])
    (tmp_path / "etcd").mkdir()
    with EtcdServer(tmp_path / "etcd") as etcd:
        mesh = SmallMesh(etcd.endpoint, "/linkwire/", tmp_path)
        mesh.swarm.tasks_now = {}
        start(mesh, "db", "n1", task.name)
        start(mesh, "web", "n2", device_name())
        with mesh.reader("n2"), running(task, mesh, tmp_path / "n1") as agent, mesh.controller():
            until(lambda: is_settled(agent) and len(peers(task)) == 1, SECONDS)
            (first,) = peers(task)
            change = DeviceChange(peers=(PeerChange(first, remove=True),))
            task.node.backend.apply(task.netns, task.name, change)
            advanced.clear()
            start(mesh, "web", "n2", device_name())
            until(lambda: len(peers(task)) == 2, SECONDS)
            assert any(advanced), "it was read at once"
