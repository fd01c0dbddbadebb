"""What a task without a device sends to the mesh is refused by its node, whatever other rules there are."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.firewall import nf_tables_netlink, nft, node_table
from agent.firewall.node_ruleset import render
from agent.firewall.node_table import NodeTable
from agent.linux.netns import TaskNetns
from mesh.errors import Retryable
from mesh.model.labels.ports import Protocol
from tests.netns.programs import REFUSED, SILENCE, Address, Servers, ask
from tests.netns.world import MESH, MESH6, World, ip, wait_for
from tests.support.patience import slowness

both_families = pytest.mark.parametrize("version", [4, 6])
VIP: dict[int, Address] = {4: MESH[5], 6: MESH6[5]}
ELSEWHERE: dict[int, Address] = {4: IPv4Address("203.0.113.2"), 6: IPv6Address("2001:db8:0::2")}
ASKED: tuple[tuple[int, Protocol], ...] = ((80, "tcp"), (53, "udp"))
FIREWALLS = {
    "none": "true",
    "iptables-nft, all is dropped": "iptables-nft -P FORWARD DROP",
    "iptables-legacy, all is dropped": "iptables-legacy -P FORWARD DROP",
    "iptables-nft, all passes": "iptables-nft -N DOCKER-USER; iptables-nft -I FORWARD -j ACCEPT",
    "iptables-legacy, all passes": "iptables-legacy -N ufw-before; iptables-legacy -I FORWARD -j ACCEPT",
    "firewalld's, all is dropped": "nft 'add table inet firewalld; "
    "add chain inet firewalld f { type filter hook forward priority 10; policy drop; }'",
}


@dataclass
class Way:
    """A task behind its node, and somebody on the way out who would answer for the mesh's addresses."""

    task: TaskNetns
    node: TaskNetns
    thief: TaskNetns
    table: NodeTable
    changed: threading.Event
    servers: Servers

    def do(self, command: str) -> None:
        done = self.node.run(
            lambda: subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, done.stderr


def short(netns: TaskNetns) -> str:
    return Path(netns.path).name


def joined(inner: TaskNetns, outer: TaskNetns, device: str, number: int) -> None:
    ip("link", "add", device, "netns", short(inner), "type", "veth", "peer", "name", device, "netns", short(outer))
    for netns, last in ((inner, 2), (outer, 1)):
        ip("-n", short(netns), "address", "add", f"203.0.113.{4 * number + last}/30", "dev", device)
        ip("-n", short(netns), "address", "add", f"2001:db8:{number}::{last}/64", "dev", device, "nodad")
        ip("-n", short(netns), "link", "set", device, "up")


@pytest.fixture
def way(world: World) -> Iterator[Way]:
    task, node, thief = world.netns(), world.netns(), world.netns()
    joined(task, node, "bridge", 1)
    joined(thief, node, "out", 0)
    for inner, number in ((task, 1), (thief, 0)):
        ip("-n", short(inner), "route", "add", "default", "via", f"203.0.113.{4 * number + 1}")
        ip("-n", short(inner), "-6", "route", "add", "default", "via", f"2001:db8:{number}::1")
    ip("-n", short(node), "route", "add", "default", "via", "203.0.113.2")
    ip("-n", short(node), "-6", "route", "add", "default", "via", "2001:db8:0::2")
    for address in VIP.values():
        ip("-n", short(thief), "address", "add", str(address), "dev", "lo")
    changed = threading.Event()
    with Servers() as servers:
        made = Way(task, node, thief, NodeTable(node), changed, servers)
        made.table.start(changed.set)
        made.do("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        servers.add("thief", thief, 80)
        servers.add("thief", thief, 53, protocol="udp")
        for netns in (task, node):
            for where in (*ELSEWHERE.values(), *VIP.values()):
                wait_for(lambda netns=netns, where=where: ask(netns, where, 80) == "thief")  # type: ignore[misc]
        try:
            yield made
        finally:
            made.table.stop()


def refuse(way: Way) -> None:
    way.table.refuse((MESH, MESH6))
    wait_for(way.table.holds)


@both_families
def test_traffic_leaving_without_table_is_refused_with_it(way: Way, version: int) -> None:
    for netns in (way.task, way.node):
        assert ask(netns, VIP[version], 80) == "thief", "that is the danger"
        ask(netns, VIP[version], 53, "udp")
    heard = len(way.servers.heard)
    assert heard >= 2
    refuse(way)
    for netns in (way.task, way.node):
        assert ask(netns, VIP[version], 53, "udp") == REFUSED
    assert len(way.servers.heard) == heard
    for netns in (way.task, way.node):
        for port, protocol in ASKED:
            assert ask(netns, VIP[version], port, protocol, is_early=netns is way.task) == REFUSED
            assert ask(netns, ELSEWHERE[version], port, protocol) == "thief", "all else passes"
    assert ask(way.thief, IPv4Address("203.0.113.6"), 80) == REFUSED, "by the task itself: nobody listens"


@both_families
@pytest.mark.parametrize("firewall", sorted(FIREWALLS))
def test_it_refuses_before_any_other_firewall_decides(way: Way, firewall: str, version: int) -> None:
    command = FIREWALLS[firewall]
    way.do(command if version == 4 else command.replace("iptables-", "ip6tables-"))
    elsewhere = ELSEWHERE[version]
    before = ask(way.task, elsewhere, 80)
    assert before == (SILENCE if "dropped" in firewall else "thief")
    refuse(way)
    assert ask(way.task, VIP[version], 80, is_early=True) == REFUSED
    assert ask(way.task, elsewhere, 80) == before


@pytest.mark.parametrize(
    "harm", ["nft flush ruleset", "nft delete table inet linkwire", "nft flush chain inet linkwire forward"]
)
def test_removed_table_is_put_back(way: Way, harm: str) -> None:
    refuse(way)
    for _ in range(3):
        way.do(harm)
        began = time.monotonic()
        assert not way.table.holds(), "no name is written meanwhile"
        wait_for(way.table.holds, 2.0)
        assert time.monotonic() - began < 1.5 * slowness()
        assert ask(way.task, VIP[4], 80, is_early=True) == REFUSED


def test_table_survives_changes_of_other_tables(way: Way) -> None:
    refuse(way)
    for number in range(20):
        way.do(f"nft add table inet other{number}")
        assert way.table.holds()
    way.do("iptables-nft -A FORWARD -j ACCEPT; iptables-nft -F")
    assert way.table.holds()


def test_node_reaching_mesh_itself_is_left_alone(way: Way) -> None:
    refuse(way)
    way.do("ip route add 10.99.7.0/24 via 203.0.113.2")
    way.do("nft add table inet something")  # it looks
    wait_for(lambda: nft.read(way.node) is None, 3.0)
    assert not way.table.holds()
    assert ask(way.node, VIP[4], 80) == "thief", "as before"
    way.do("ip route del 10.99.7.0/24; nft add table inet another")
    wait_for(way.table.holds, 3.0)


@pytest.mark.parametrize(
    "route",
    [
        "10.99.7.1/32 via 203.0.113.2 table 52",
        "10.98.0.0/15 via 203.0.113.2",
        "fd99::/64 via 2001:db8:0::2",
        "local 10.99.1.1/32 dev lo",
    ],
)
def test_routes_of_any_table_count_but_not_defaults(way: Way, route: str) -> None:
    way.do(f"ip route add {route}")
    way.do("ip route add 0.0.0.0/1 via 203.0.113.2; ip -6 route add fd00::/8 via 2001:db8:0::2")
    way.table.refuse((MESH, MESH6))
    time.sleep(0.5)
    assert not way.table.holds()
    way.do(f"ip route del {route}")
    way.do("nft add table inet something")
    wait_for(way.table.holds, 3.0)


def test_table_outlives_its_keeper_until_removed(way: Way) -> None:
    refuse(way)
    way.table.stop()
    table = nft.read(way.node)
    assert table is not None
    assert table.rules == render(MESH, MESH6)
    assert ask(way.task, VIP[4], 80, is_early=True) == REFUSED
    assert node_table.remove(way.node.path)
    assert not node_table.remove(way.node.path)
    assert ask(way.task, VIP[4], 80) == "thief"


def test_table_is_followed_after_failed_beginnings(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel was short of something when it was asked to tell of changes, and when the table was put."""
    failing = ["subscribed", "generation"]
    for name in tuple(failing):
        plain = getattr(nf_tables_netlink, name)

        def once(netns: TaskNetns, name: str = name, plain: Callable[[TaskNetns], object] = plain) -> object:
            if name in failing:
                failing.remove(name)
                raise Retryable("No buffer space available")
            return plain(netns)

        monkeypatch.setattr(nf_tables_netlink, name, once)
    monkeypatch.setattr(node_table, "LOOK_S", 3600.0)
    way.table.stop()
    way.table = NodeTable(way.node)
    way.table.start(way.changed.set)
    way.table.refuse((MESH, MESH6))
    wait_for(lambda: nf_tables_netlink.exists(way.node, "linkwire"), 5.0)
    assert failing == []
    way.do("nft flush ruleset")  # and nobody asks whether it holds
    wait_for(lambda: nf_tables_netlink.exists(way.node, "linkwire"), 5.0)
