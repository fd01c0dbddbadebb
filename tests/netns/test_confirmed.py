"""The agent's loop reads a device that it changed without reading, on a real store, a real device, a real controller.

What is told is which containers there are: Docker is in tests/lab.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.containers import start_gate, watcher
from agent.containers.docker_client import LocalTask, NodeIdentity
from agent.desired_state import DesiredState
from agent.firewall.node_table import NodeTable
from agent.interface import reconcile
from agent.loop import Agent
from agent.reporting import status_poller
from agent.reporting.metrics import Metrics
from agent.reporting.node_record import node_record
from agent.reporting.node_reports import NodeReports
from agent.state.clock import WatchedClock
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState
from agent.wireguard import uapi
from controller.swarm.model import SwarmTask
from mesh.integrity.record_signing import RecordSigner
from mesh.store.client import Store
from mesh.topology.wgtypes import DeviceChange, PeerChange
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

NEVER_S = 86_400.0
SECONDS = 60.0  # for what takes one, or two where nobody else is busy


@contextmanager
def running(task: Task, mesh: SmallMesh, folder: Path) -> Iterator[Agent]:
    """The agent of node n1, with the container of the only task there."""
    folder.mkdir()
    key = load_or_make_node_key(folder)
    identity = Identity(folder, folder / "none", CLUSTER, "n1", key.public)
    mesh.swarm.approved["n1"] = identity.statement.fingerprint
    store = Store([mesh.endpoint], RecordSigner.agent(KEYRING, identity.key), root=mesh.root)
    hosts = stage.hosts_file(folder, "hosts")
    local = LocalTask("c", swarm_id(task.name), "#db", "db", "running", task.netns.path, hosts, None, (), gated=False)
    told: Any = FakeContainers([local])
    backend, address = task.node.backend, task.node.address.ip
    assert isinstance(address, IPv4Address)
    node = node_record(NodeIdentity("n1", "n1", address), identity, backend, (task.port, task.port + 9), None, "0")
    desired = DesiredState("n1", key, VerifiedState(folder), backend)
    reports = NodeReports(node, identity, Metrics("0", backend.name), WatchedClock(folder))
    agent = Agent(told, store, desired, reports, NodeTable(task.node.netns))
    stopped = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stopped,), daemon=True)
    thread.start()
    try:
        yield agent
    finally:
        stopped.set()
        agent.stop()
        thread.join(SECONDS)
        store.close()
        assert not thread.is_alive()


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


def test_loop_reads_back_changes_made_without_reading(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advanced: list[bool]
) -> None:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    # Neither a list of containers nor a round of readings comes to its aid.
    monkeypatch.setattr(watcher, "RESYNC_S", NEVER_S)
    monkeypatch.setattr(status_poller, "STATUS_S", NEVER_S)
    # Other tests that run now have devices too, of which it would end those that it does not know.
    served = uapi.served
    monkeypatch.setattr(uapi, "served", lambda: tuple(filter(is_own, served())))
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
