"""A connection that a task begins before its device is there passes the device at TCP's next try."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.firewall.node_table import NodeTable
from agent.interface import reconcile
from agent.linux import conntrack
from mesh.topology.ipam import twin
from tests.netns.programs import PATIENCE, REFUSED, Address, ask
from tests.netns.world import MESH, MESH6, Task, World, ip, wait_for
from tests.support import stage

both_families = pytest.mark.parametrize("version", [4, 6])
# Docker answers DNS in a task by rules of this kind, so the kernel tracks what the task sends.
DOCKERS = (
    "add table ip d; add chain ip d o { type nat hook output priority -100; }; "
    "add chain ip d p { type nat hook postrouting priority 100; }; "
    "add rule ip d o ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:4000; "
    "add table ip6 d; add chain ip6 d o { type nat hook output priority -100; }; "
    "add rule ip6 d o ip6 daddr 2001:db8::11 udp dport 53 dnat to 2001:db8::12"
)
PORT = 80
SOON_S = 0.3
"""After its first packet, for a task to be wired."""


@dataclass
class Start:
    """A consumer that has a way out by its node and no device yet, and a wired provider."""

    consumer: Task
    provider: Task
    folder: Path
    listeners: dict[int, socket.socket] = field(default_factory=dict)

    def wire(self, task: Task, other: Task) -> None:
        config = stage.interface(task.name, task, (stage.peer_of(other),))
        hosts = stage.hosts_file(self.folder, task.name)
        reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)

    def vip(self, version: int) -> Address:
        config = stage.interface(self.consumer.name, self.consumer, (stage.peer_of(self.provider),))
        vip = config.policy.balance[0].vip
        return vip if version == 4 else twin(MESH6, vip)

    def connect(self, where: Address) -> tuple[float, str]:
        """Seconds until somebody has accepted, and the address that he saw."""
        family = socket.AF_INET if where.version == 4 else socket.AF_INET6
        began = time.monotonic()
        with self.consumer.netns.run(lambda: socket.socket(family, socket.SOCK_STREAM)) as one:
            one.settimeout(1.0 + 2 * PATIENCE)
            one.connect((str(where), PORT))
            accepted, sender = self.listeners[where.version].accept()
            accepted.close()
        return time.monotonic() - began, sender[0]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    left, right = world.nodes()
    made = Start(world.task(left), world.task(right), tmp_path)
    task, node = (Path(one.path).name for one in (made.consumer.netns, left.netns))
    ip("link", "add", "bridge", "netns", task, "type", "veth", "peer", "name", "bridge", "netns", node)
    for name, last in ((node, 1), (task, 2)):
        ip("-n", name, "address", "add", f"203.0.113.{last}/30", "dev", "bridge")
        ip("-n", name, "address", "add", f"2001:db8:1::{last}/64", "dev", "bridge", "nodad")
        ip("-n", name, "link", "set", "bridge", "up")
    ip("-n", task, "route", "add", "default", "via", "203.0.113.1")
    ip("-n", task, "-6", "route", "add", "default", "via", "2001:db8:1::1")
    ip("-n", node, "route", "add", "default", "via", "192.0.2.2")
    ip("-n", node, "-6", "address", "add", "2001:db8:2::1/64", "dev", "under", "nodad")
    ip("-n", node, "-6", "route", "add", "default", "via", "2001:db8:2::2")
    forwarding = ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
    left.netns.run(lambda: subprocess.run(forwarding, check=True))
    made.wire(made.provider, made.consumer)
    table = NodeTable(left.netns)
    table.start(lambda: None)
    table.refuse((MESH, MESH6))
    wait_for(table.holds)
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        made.listeners[version] = made.provider.netns.run(lambda family=family: _listening(family))  # type: ignore[misc]
    try:
        yield made
    finally:
        table.stop()
        for one in made.listeners.values():
            one.close()


def _listening(family: socket.AddressFamily) -> socket.socket:
    return socket.create_server(("", PORT), family=family)


@both_families
@pytest.mark.parametrize("rules", ["", DOCKERS], ids=["untracked", "tracked"])
def test_early_connection_passes_at_its_second_packet(start: Start, version: int, rules: str) -> None:
    consumer = start.consumer
    if rules:
        consumer.command("nft", rules)
    wiring = threading.Timer(SOON_S, start.wire, (consumer, start.provider))
    wiring.start()
    took, sender = start.connect(start.vip(version))
    wiring.join()
    assert took > 0.9, "it was early"
    assert took < 1.0 + PATIENCE
    own = consumer.address.ip if version == 4 else consumer.address6
    assert sender == str(own), "whatever address it began with"
    quick, _ = start.connect(start.vip(version))
    assert quick < 0.9


@both_families
def test_node_without_a_default_route_waits_too(start: Start, version: int) -> None:
    """It would say at once that it knows no way."""
    node = start.consumer.node.netns
    for family in ("-4", "-6"):
        node.run(lambda family=family: subprocess.run(["ip", family, "route", "del", "default"], check=True))  # type: ignore[misc]
    wiring = threading.Timer(SOON_S, start.wire, (start.consumer, start.provider))
    wiring.start()
    took, _ = start.connect(start.vip(version))
    wiring.join()
    assert 1.0 + PATIENCE > took > 0.9


@both_families
def test_connection_without_device_is_refused_after_all(start: Start, version: int) -> None:
    for _ in range(2):
        assert ask(start.consumer.netns, start.vip(version), PORT, is_early=True) == REFUSED
        assert ask(start.consumer.netns, start.vip(version), PORT, "udp") == REFUSED


def test_answered_connections_are_not_forgotten(start: Start) -> None:
    consumer = start.consumer
    start.wire(consumer, start.provider)
    where = start.vip(4)
    with consumer.netns.run(lambda: socket.create_connection((str(where), PORT), PATIENCE)) as one:
        accepted, _ = start.listeners[4].accept()
        with accepted:
            assert conntrack.forget(consumer.netns, lambda _: True, unanswered=True) == 0
            one.send(b"on")
            assert accepted.recv(2) == b"on"
    assert isinstance(where, IPv4Address)
    assert conntrack.forget(consumer.netns, lambda _: True) >= 1
