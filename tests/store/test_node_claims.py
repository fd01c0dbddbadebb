"""Claims of a node on what is not its own, on a real etcd with real controllers: each made twice.

Root on n2 has n2's keys and etcd user, so all that he writes is signed as it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from controller.planning import placement, underlay
from mesh.model.net import IPAddress
from mesh.model.records import Attachment, Endpoint, Node, Status, TaskReport
from mesh.model.snapshot import Put
from mesh.topology.ipam import ula
from mesh.topology.link_graph import index
from mesh.topology.strict_isolation import in_order
from tests.store import small_mesh
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import Reader, SmallMesh, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER
from tests.support.swarm_world import home

BRIDGE = "ab" * 32
"""Docker's id of n1's docker0: every node reads it in etcd."""
OUTSIDE = ip_address("198.51.100.7")
CLAIMS = tuple(map(ip_address, ("1.1.1.1", "172.17.0.1", "52.216.1.1")))


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


class Speaker(Reader):
    """An agent that also reports its tasks; root on its node changes what it says."""

    claims: tuple[Attachment, ...] = ()
    stated: Callable[[Node], Node] = staticmethod(lambda node: node)
    tasks: tuple[str, ...] = ()

    def speak(self) -> None:
        status = Status(self.node, 0.0, (), self.trust.manifest, self.trust.held)
        reports = [
            TaskReport(task, service, self.node, "running", True, None, None, self.claims)
            for service, task in (name.split("/") for name in self.tasks)
        ]
        said = (self.stated(small_mesh.record(self.node)), status, *reports)
        self.store.commit([Put(record, None) for record in said])


def tasks_of(mesh: SmallMesh, node: str) -> tuple[str, ...]:
    return tuple(f"{task.service}/{task.id}" for task in mesh.swarm.tasks_now.values() if task.node == node)


def isolated(reader: Reader) -> set[IPAddress]:
    """Addresses that the tasks of a reader's node refuse, all of them strict."""
    graph = index(reader.look())
    own = [endpoint for endpoint in graph.by_task.values() if endpoint.node == reader.node]
    return {address for endpoint in own for address in graph.networks.isolated_addresses(endpoint, {})}


def hosts(reader: Reader, node: str = "n2") -> dict[str, IPAddress]:
    """Task -> the address that its peers send to."""
    return {e.task: e.underlay.host for e in reader.look().all(Endpoint) if e.node == node}


def believing(
    task: object, before: tuple[Attachment, ...], report: TaskReport | None, swarms: object
) -> tuple[tuple[Attachment, ...], None]:
    """The defence off: a node may name any network and address."""
    del task, swarms
    return in_order({*before, *(report.elsewhere if report else ())}), None


@pytest.mark.parametrize("network", [BRIDGE, f"{BRIDGE[:12]}@n1", "lkd3ykw2mm4bkt1tkxkp63nny"])
def test_no_node_has_others_refuse_addresses(
    mesh: SmallMesh, attempt: Attempts, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    tried = attempt(f"a node's root: another node's strict tasks refuse an address of his choice, on {network[:14]}")
    honest = (Attachment(BRIDGE, IPv4Address("172.17.0.5")), Attachment(network, IPv4Address("172.17.0.6")))
    monkeypatch.setattr(Speaker, "claims", honest)
    with mesh.reader("n1", kind=Speaker) as one, mesh.reader("n2", kind=Speaker) as two:
        assert isinstance(one, Speaker)
        assert isinstance(two, Speaker)
        one.tasks, two.tasks = tasks_of(mesh, "n1"), tasks_of(mesh, "n2")
        two.claims = tuple(Attachment(network, address) for address in CLAIMS)
        with monkeypatch.context() as off:
            off.setattr(placement, "attachments", believing)
            with mesh.controller():
                settled(one, two)
                until(lambda: isolated(one) >= set(CLAIMS), 20)
                tried.works(isolated(one) >= set(CLAIMS), "where a node is believed about any network")
        with mesh.controller():  # what was believed before goes as well
            mesh.live(one, two)
            until(lambda: not isolated(one) & set(CLAIMS), 20)
            mesh.live(one, two)
        tried.stopped(not isolated(one) & set(CLAIMS))


@pytest.mark.parametrize(
    "address",
    [ip_address("127.0.0.1"), ip_address("224.0.0.5"), ip_address("10.1.0.9"), ula(CLUSTER)[9], home("n1"), OUTSIDE],
    ids=["loopback", "multicast", "the mesh's", "the mesh's IPv6", "another node's", "outside"],
)
def test_no_node_has_peers_send_elsewhere(
    mesh: SmallMesh, attempt: Attempts, monkeypatch: pytest.MonkeyPatch, address: IPAddress
) -> None:
    tried = attempt(f"a node's root: its tasks' peers send to an address of his choice, {address}")
    monkeypatch.setattr(Speaker, "stated", staticmethod(lambda node: _at(node, address)))
    with mesh.reader("n1") as one, mesh.reader("n2", kind=Speaker) as two:
        with monkeypatch.context() as off:
            off.setattr(underlay, "refusal", lambda *_: None)
            with mesh.controller():
                settled(one, two)
                tried.works(set(hosts(one).values()) == {address}, "where a node's own word counts")
        before = hosts(one)
        with mesh.controller() as controller:
            started = [mesh.swarm.start("web") for _ in range(2)][1]  # the second is on n2
            mesh.wake()
            until(lambda: started in hosts(one), 20)
            tried.stopped(hosts(one)[started] == home("n2"))
            until(lambda: any(f"states the address {address}" in p for p in controller._decider.problems.open), 20)
            kept = {address} if address == OUTSIDE else {home("n2")}  # its word of before, where it may be right
            until(lambda: {hosts(one)[task] for task in before} == kept, 20)


def _at(node: Node, address: IPAddress) -> Node:
    return replace(node, address=address)


def test_no_node_has_its_services_ports_used(
    mesh: SmallMesh, attempt: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = attempt("a node's root: its tasks' peers send to UDP ports of a node's own services")
    monkeypatch.setattr(Speaker, "stated", staticmethod(lambda node: replace(node, first_port=53, last_port=1050)))

    def ports(reader: Reader) -> list[int]:
        return [e.underlay.port for e in reader.look().all(Endpoint) if e.node == "n2"]

    with mesh.reader("n1") as one, mesh.reader("n2", kind=Speaker) as two:
        with monkeypatch.context() as off:
            off.setattr(underlay, "ports_refusal", lambda *_: None)
            with mesh.controller():
                settled(one, two)
                tried.works(any(port < 1024 for port in ports(one)), "where a node's own word counts")
        before = ports(one)
        with mesh.controller():
            for _ in range(8):
                mesh.swarm.start("web")
            mesh.wake()
            until(lambda: len(ports(one)) == len(before) + 4, 20)
        tried.stopped(all(port >= 1024 for port in ports(one) if port not in before))
