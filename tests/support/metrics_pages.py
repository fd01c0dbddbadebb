"""Pages of metrics as the programs make them, with a value for every metric that there is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.reporting.encryption_metrics import EncryptionMetrics
from agent.reporting.metrics import Metrics
from controller.reporting.etcd_metrics import EtcdMetrics, Space
from controller.reporting.metrics import ControllerMetrics, Sight
from controller.swarm.model import Swarm, SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.identity.ca import CertificateAuthority
from mesh.identity.tls import Tls
from mesh.model import keyspace
from mesh.model.encryption.status import EncryptionStatus, PeerFigures
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.net import UdpEndpoint
from mesh.model.records import (
    Address,
    Cluster,
    DeviceStatus,
    Endpoint,
    Leader,
    Member,
    Node,
    PeerStatus,
    Record,
    Refused,
    Service,
    Status,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.process.metrics_page import describe_process
from mesh.topology.ipam import ula
from mesh.topology.link_graph import index

UNDERLAY = IPv4Address("192.0.2.1")
SUBNET = IPv4Network("10.1.0.0/24")
"""Of 254 addresses."""


def snapshot(*records: Record, complete: bool = True) -> Snapshot:
    """A store with these records."""
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    return Snapshot(1, complete, found)


def service(name: str, number: int, *providers: str) -> Service:
    links = tuple(LinkLabel(provider, (provider,)) for provider in providers)
    vip = SUBNET[number]
    return Service(f"#{name}", name, vip, links, None, strict=True, dnsrr=False, elsewhere=())


def endpoint(name: str, number: int, *, ready: bool = True) -> Endpoint:
    key, address = PublicKey(number.to_bytes(32, "little")), SUBNET[number]
    underlay = UdpEndpoint(UNDERLAY, 50000 + number)
    return Endpoint(f"#{name}", f"t{number}", 1, "n1", address, key, 0, underlay, ready=ready, elsewhere=())


def member(name: str) -> Member:
    return Member(name, NodeKey(b"n" * 32).public, SigningKey(bytes(32)).verify_key, 1)


def node(name: str) -> Node:
    known = member(name)
    keys = known.sealing_key, known.report_key
    return Node(name, f"host-{name}", *keys, 1, None, None, UNDERLAY, 1, 9, "kernel", "0.1.0")


RECORDS: tuple[Record, ...] = (
    Cluster("c", SUBNET, ula("c")),
    Leader("manager-1", "ab12"),
    service("web", 200, "db", "!stranger", "?missing"),
    service("db", 201),
    endpoint("web", 1),
    endpoint("db", 2, ready=False),
    Address(SUBNET[1], "task/t1"),
    Address(SUBNET[2], "task/t2"),
    Address(SUBNET[3], None),
    *(node(name) for name in ("n1", "n2", "unaccepted")),
    *(member(name) for name in ("n1", "n2")),
)


def swarm() -> Swarm:
    """Nodes in every state that the controller tells apart."""
    up = {
        name: SwarmNode(name, f"host-{name}", down=False, address=None) for name in ("n1", "n2", "unaccepted", "new")
    }
    down = SwarmNode("down", "host-down", down=True, address=None)
    revoked = replace(up["n1"], id="gone", revoked="2026-01-01")
    return Swarm("c", {}, {}, {**up, "down": down, "gone": revoked})


def agent_registry() -> CollectorRegistry:
    measured = Metrics("0.1.0", "kernel")
    peers = PeerStatus(PublicKey((2).to_bytes(32, "little")), 1.0, 10, 20, "192.0.2.1:51820")
    device = DeviceStatus("t1", PublicKey((1).to_bytes(32, "little")), (peers,), (Refused("out", "#db", 7),))
    report = TaskReport("t1", "#web", "n1", "running", wired=True, error=None, port_taken=None, elsewhere=())
    measured.update(index(snapshot(*RECORDS)), Status("n1", 1.0, (device,)), {"t1": report})
    state = EncryptionStatus(7, "send", 2, 1, 0)
    others = (PeerFigures("n2", 1.0, 10, 20),)
    measured.registry.register(EncryptionMetrics(lambda: state, lambda: others))
    return measured.registry


def controller_registry() -> CollectorRegistry:
    measured = ControllerMetrics("0.1.0", "manager-1")
    measured.observe(Sight(snapshot(*RECORDS), swarm(), True, frozenset({"n2"}), 2, 30, 1))
    measured.count_pass(0.01, failed=False)
    return measured.registry


def etcd_registry() -> CollectorRegistry:
    """Without etcd's own metrics, which are etcd's to name."""
    measured = EtcdMetrics()
    measured.publish(Space(100, 50, 1000, alarm=False, barred=0))
    return measured.registry


def pages(folder: Path) -> dict[str, str]:
    """The page of each program, by its name; a certificate is made in the folder."""
    authority = CertificateAuthority("test")
    own = folder / "own"
    own.write_bytes(authority.client("agent"))
    tls = Tls(own, own, own)
    agent, controller = agent_registry(), controller_registry()
    describe_process(agent, replace(tls, preferred=tls))
    describe_process(controller, tls)
    registries = {"agent": agent, "controller": controller, "etcd": etcd_registry()}
    return {name: generate_latest(registry).decode() for name, registry in registries.items()}


@dataclass(frozen=True, slots=True)
class Described:
    """A metric as a page describes it."""

    name: str
    kind: str
    help: str
    labels: frozenset[str]


def described(page: str) -> Iterator[Described]:
    """Every metric of a page: its labels are those of its samples, but a histogram's own."""
    for family in text_string_to_metric_families(page):
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield Described(name, family.type, family.documentation, labels)


def promtool(*words: str, given: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; it has the page or file that is given at its standard input."""
    return subprocess.run(["promtool", *words], input=given, capture_output=True, text=True, check=False, cwd=folder)
