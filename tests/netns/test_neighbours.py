"""Neighbours of a linked task: who gets in by its other networks, with each defence off and on."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.linux.netns import TaskNetns
from mesh.model.ports import PortRange
from mesh.topology.policy import Exit, Policy
from tests.netns.programs import PATIENCE, REFUSED, SILENCE, Address, Servers, ask, say
from tests.netns.world import MESH, MESH6, World, ip, wait_for
from tests.support.attacks import Attempts

both_families = pytest.mark.parametrize("version", [4, 6])
BRIDGE, END = "shared", "eth0"
SUBNETS = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8::/64")}
DB, WEB, STRANGER, CLIENT = 2, 3, 4, 5
"""Tasks' numbers: the strict one, one that it is linked with, an unlinked one, one that is asked by `db`."""
DEVICE = "lwnone"  # of the mesh: none is needed here


@dataclass
class Network:
    """A node's bridge, and namespaces on it, each with one end."""

    node: TaskNetns
    ends: dict[int, TaskNetns] = field(default_factory=dict)

    def join(self, number: int, netns: TaskNetns) -> None:
        node, name = Path(self.node.path).name, Path(netns.path).name
        ip("-n", node, "link", "add", f"end{number}", "type", "veth", "peer", "name", END, "netns", name)
        ip("-n", node, "link", "set", f"end{number}", "master", BRIDGE, "up")
        for version in (4, 6):
            ip("-n", name, "address", "add", f"{place(number, version)}/{SUBNETS[version].prefixlen}", *_on(version))
        ip("-n", name, "link", "set", END, "up")
        for version in (4, 6):
            ip("-n", name, f"-{version}", "route", "add", "default", "via", str(place(1, version)))
        self.ends[number] = netns

    def __getitem__(self, number: int) -> TaskNetns:
        return self.ends[number]

    def link_local(self, number: int) -> str:
        """Return the IPv6 address that no record has (RFC 4291, appendix A)."""
        mac = bytes.fromhex(self.mac(number).replace(":", ""))
        return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])))

    def mac(self, number: int) -> str:
        """Return the MAC address of its end."""
        shown = self.ends[number].run(lambda: _output("ip", "-o", "link", "show", END))
        return shown.split("link/ether ")[1].split()[0]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def place(number: int, version: int) -> Address:
    return ip_address(int(SUBNETS[version].network_address) + number)


def _on(version: int) -> list[str]:
    return ["dev", END, *(["nodad"] if version == 6 else [])]


@pytest.fixture
def shared(world: World) -> Iterator[tuple[Network, Servers]]:
    node = world.netns()
    name = Path(node.path).name
    ip("-n", name, "link", "add", BRIDGE, "type", "bridge")
    for version in (4, 6):
        gateway = f"{place(1, version)}/{SUBNETS[version].prefixlen}"
        ip("-n", name, "address", "add", gateway, "dev", BRIDGE, *(["nodad"] if version == 6 else []))
    ip("-n", name, "link", "set", BRIDGE, "up")
    network = Network(node)
    with Servers() as servers:
        for number in (DB, WEB, STRANGER, CLIENT):
            network.join(number, world.netns())
            servers.add(str(number), network[number], 80, 90)
            servers.add(str(number), network[number], 53, protocol="udp")
        wait_for(lambda: ask(network[WEB], place(DB, 6), 80) == str(DB))
        yield network, servers


def policy(*isolated: int, exits: tuple[Exit, ...] = (), open_ports: tuple[PortRange, ...] | None = None) -> Policy:
    """Of `db`, which is apart from these."""
    addresses = tuple(place(number, version) for version in (4, 6) for number in sorted(isolated))
    return Policy(MESH, MESH6, isolated=addresses, exits=exits, open_ports=open_ports)


def put(netns: TaskNetns, desired: Policy) -> None:
    nft.apply(netns, render(desired, DEVICE))


def over_link_local(network: Network, source: int, target: int, port: int = 80) -> str:
    """Ask by link-local addresses, as any program may."""
    where = network.link_local(target)
    try:
        with network[source].run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as one:
            one.settimeout(PATIENCE)
            scope = network[source].run(lambda: socket.if_nametoindex(END))
            one.connect((where, port, 0, scope))
            return say(one)
    except TimeoutError:
        return SILENCE
    except OSError:
        return REFUSED


def test_link_local_addresses_pass_nothing_between_apart(shared: tuple[Network, Servers], attempt: Attempts) -> None:
    network, _ = shared
    tried = attempt("strict is passed by link-local addresses")
    wait_for(lambda: over_link_local(network, WEB, DB) == str(DB))
    put(network[DB], policy(WEB))
    nft.remove(network[DB])
    tried.works(over_link_local(network, WEB, DB) == str(DB))
    put(network[DB], policy(WEB))
    tried.stopped(over_link_local(network, WEB, DB) == SILENCE)
    put(network[WEB], policy(DB))
    tried.stopped(over_link_local(network, WEB, DB) == REFUSED)
    for number in (DB, WEB):  # neighbours are found anew
        ip("-n", Path(network[number].path).name, "neighbour", "flush", "dev", END)
    assert ask(network[STRANGER], place(DB, 6), 80) == str(DB)
    assert ask(network[DB], place(STRANGER, 6), 80) == str(STRANGER)


@both_families
def test_the_nodes_own_bridge_leads_nobody_in(
    shared: tuple[Network, Servers], version: int, attempt: Attempts
) -> None:
    """docker0 and docker_gwbridge: an unlinked container is on the same one, and nobody chose that."""
    network, _ = shared
    tried = attempt(f"an unlinked container of the node reaches a linked task, IPv{version}")
    exits = tuple(Exit(SUBNETS[each], place(1, each)) for each in (4, 6))
    put(network[DB], policy(WEB))
    tried.works(ask(network[STRANGER], place(DB, version), 90) == str(DB))
    put(network[DB], policy(WEB, exits=exits))
    tried.stopped(ask(network[STRANGER], place(DB, version), 90) == SILENCE)
    tried.stopped(over_link_local(network, STRANGER, DB) == SILENCE)
    assert ask(network.node, place(DB, version), 90) == str(DB)  # a published port, by the node's own program


@both_families
def test_closed_task_opens_published_ports_only(
    shared: tuple[Network, Servers], version: int, attempt: Attempts
) -> None:
    network, servers = shared
    db = place(DB, version)
    tried = attempt(f"an unlinked service asks a service with strict: all, IPv{version}")
    put(network[DB], policy(WEB))
    tried.works(
        [ask(network[STRANGER], db, 90), ask(network.node, db, 90), ask(network[STRANGER], db, 53, "udp")]
        == [str(DB)] * 3
    )
    put(network[DB], policy(WEB, open_ports=(PortRange("tcp", 80, 80),)))
    for asked in (network[STRANGER], network.node):
        tried.stopped([ask(asked, db, 90), ask(asked, db, 53, "udp")] == [REFUSED] * 2)
        assert ask(asked, db, 80) == str(DB)
    assert ask(network[WEB], db, 80) == SILENCE  # linked: by its link alone
    for port, protocol in ((90, "tcp"), (53, "udp")):  # its own connections go on
        assert ask(network[DB], place(STRANGER, version), port, protocol) == str(STRANGER)
    put(network[DB], policy(open_ports=()))
    tried.stopped(ask(network[STRANGER], db, 80) == REFUSED)
    assert servers.heard
