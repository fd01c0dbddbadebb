"""A Swarm of any size, made up, and the store that says the same: nothing is left to plan."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from controller.swarm.model import Swarm, SwarmNode, SwarmService, SwarmTask
from mesh.crypto.hpke import NodeKey, NodePublicKey
from mesh.crypto.keys import KEY_BYTES, PublicKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels, key_name
from mesh.model.net import UdpEndpoint
from mesh.model.records import (
    Address,
    Attachment,
    Cluster,
    Endpoint,
    LinkKeyEpoch,
    Node,
    Port,
    Record,
    SealedKey,
    SealedLinkKey,
    Service,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.ipam import ula
from mesh.topology.strict_isolation import in_order

SUBNET = IPv4Network("100.96.0.0/16")
_TASKS_OF_A_SERVICE = 10
_TASKS_OF_A_NODE = 33
_FIRST_PORT, _LAST_PORT = 51820, 53819
_FIRST_VIP = 1 << 15  # of the subnet; tasks' addresses are below
_OVERLAY, _BRIDGE = IPv4Address("10.0.0.2"), IPv4Address("172.17.0.2")
_NODE_KEY = NodeKey(bytes(KEY_BYTES)).public
_REPORT_KEY = SigningKey(bytes(KEY_BYTES)).verify_key
_SEALED = bytes(1169)  # as long as a sealed key


def _service(number: int) -> str:
    return f"service{number:018d}"


def _task(number: int) -> str:
    return f"task{number:021d}"


def _node(number: int) -> str:
    return f"node{number:021d}"


def _key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(KEY_BYTES, "big"))


def _count(tasks: int, of_one: int) -> int:
    return -(-tasks // of_one)


def _links(number: int, services: int) -> tuple[LinkLabel, ...]:
    """Each service links to the next, the last to the first."""
    return (LinkLabel(f"name{(number + 1) % services}", ("next",)),)


def _on_overlay(number: int) -> tuple[Attachment, ...]:
    """What Swarm says of a task: each service has an overlay of its own."""
    return (Attachment(f"overlay{number // _TASKS_OF_A_SERVICE:018d}", _OVERLAY + number % _TASKS_OF_A_SERVICE),)


def _on_bridge(number: int, nodes: int) -> tuple[Attachment, ...]:
    """What its node says of it."""
    return (Attachment(f"{number % nodes:064x}", _BRIDGE + number // nodes),)


def _recorded(attachment: Attachment, node: str) -> Attachment:
    return Attachment(f"{attachment.network[:12]}@{node}", attachment.address)


def swarm(tasks: int) -> Swarm:
    """What Swarm's managers say: every task runs."""
    services = _count(tasks, _TASKS_OF_A_SERVICE)
    nodes = _count(tasks, _TASKS_OF_A_NODE)
    return Swarm(
        "cluster",
        {
            _service(n): SwarmService(
                id=_service(n),
                name=f"name{n}",
                labels=ServiceLabels(_links(n, services)),
                label_errors=(),
                dnsrr=False,
                replicas=_TASKS_OF_A_SERVICE,
                stack="name",
            )
            for n in range(services)
        },
        {
            _task(n): SwarmTask(
                id=_task(n),
                service=_service(n // _TASKS_OF_A_SERVICE),
                slot=n,
                node=_node(n % nodes),
                desired="running",
                state="running",
                attachments=_on_overlay(n),
            )
            for n in range(tasks)
        },
        {_node(n): _observed(n) for n in range(nodes)},
    )


def _observed(number: int) -> SwarmNode:
    known_at = (IPv4Address("10.0.0.1") + number,)
    return SwarmNode(_node(number), f"host{number}", down=False, address=None, known_at=known_at)


def members(swarm: Swarm) -> dict[str, NodePublicKey]:
    """Every node's sealing key."""
    return dict.fromkeys(swarm.nodes, _NODE_KEY)


def stored(tasks: int, *, not_ready: int | None = None) -> Snapshot:
    """What the store holds: everything, and the number of one task that is ready but not known to be."""
    services = _count(tasks, _TASKS_OF_A_SERVICE)
    nodes = _count(tasks, _TASKS_OF_A_NODE)
    records: list[Record] = [Cluster("cluster", SUBNET, ula("cluster"))]
    for n in range(nodes):
        host = IPv4Address("10.0.0.1") + n
        records.append(
            Node(
                id=_node(n),
                hostname=f"host{n}",
                sealing_key=_NODE_KEY,
                report_key=_REPORT_KEY,
                counter=1,
                proof=None,
                unproven=None,
                address=host,
                first_port=_FIRST_PORT,
                last_port=_LAST_PORT,
                backend="kernel",
                version="0.1.0",
            )
        )
    for n in range(services):
        vip = SUBNET.network_address + _FIRST_VIP + n
        service = _service(n)
        links = _links(n, services)
        records.append(Service(service, f"name{n}", vip, links, None, strict=True, dnsrr=False, elsewhere=()))
        records.append(Address(vip, f"service/{service}", "name"))
    for n in range(services):
        records += _of_link_key(n, services, tasks, nodes)
    for n in range(tasks):
        records += _of_task(n, nodes, ready=n != not_ready)
    versioned = {keyspace.key_of(record): Versioned(record, 1) for record in records}
    return Snapshot(1, complete=True, records=MappingProxyType(versioned))


def _of_link_key(number: int, services: int, tasks: int, nodes: int) -> list[Record]:
    """The key of a service's own link: at each node that hosts a task of either side."""
    consumer, (link,) = f"name{number}", _links(number, services)
    key = key_name(consumer, link)
    ends = (number, (number + 1) % services)
    hosts = {
        n % nodes
        for end in ends
        for n in range(end * _TASKS_OF_A_SERVICE, min((end + 1) * _TASKS_OF_A_SERVICE, tasks))
    }
    boxes = [SealedLinkKey(key, _node(n), 0, _NODE_KEY.fingerprint, _SEALED) for n in sorted(hosts)]
    return [LinkKeyEpoch(key, 0, 0, ()), *boxes]


def _of_task(number: int, nodes: int, *, ready: bool) -> tuple[Record, ...]:
    task, service, at = _task(number), _service(number // _TASKS_OF_A_SERVICE), number % nodes
    node, address, port = _node(at), SUBNET.network_address + 1 + number, _FIRST_PORT + number // nodes
    return (
        Endpoint(
            service=service,
            task=task,
            slot=number,
            node=node,
            address=address,
            public_key=_key(1_000_000 + number),
            epoch=0,
            underlay=UdpEndpoint(IPv4Address("10.0.0.1") + at, port),
            ready=ready,
            elsewhere=in_order(_on_overlay(number) + tuple(_recorded(a, node) for a in _on_bridge(number, nodes))),
        ),
        SealedKey(task, node, 0, _NODE_KEY.fingerprint, _SEALED),
        Address(address, f"task/{task}"),
        Port(node, port, task),
        TaskReport(
            task=task,
            service=service,
            node=node,
            state="running",
            wired=True,
            error=None,
            port_taken=None,
            elsewhere=_on_overlay(number) + _on_bridge(number, nodes),
        ),
    )
