"""Swarm's routing mesh over node encryption: a published port of any node leads to tasks on all, by IPVS.

other node or stranger -> node [DNAT] -- docker_gwbridge -- sandbox [mark, IPVS, SNAT] -- overlay -- task on any node

As libnetwork sets it up (its service_linux.go), by the kernel's IPVS, which not every kernel that runs labs has.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pyroute2 import IPVS, IPVSDest, IPVSService

from agent.linux.netns import TaskNetns
from mesh.model.encryption.status import Mode, Step
from tests.netns.host_traffic import Connection, Servers, answers_tcp
from tests.netns.overlay_nodes import MTU, VXLAN_PORT, Cluster, OverlayNode, Wire, batch, short
from tests.netns.world import World, ip
from tests.support.effort import in_long_form

pytestmark = in_long_form
PORT, MARK = 8080, 256
GATEWAY, SANDBOX = "172.18.0.1", "172.18.0.2"
ASKED = 8
"""Connections, of which IPVS gives each task the same number."""


class RoutingMesh:
    """Each node's end of the ingress network, and the published port there."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.sandboxes = [self._end(world, node) for node in cluster.nodes]
        for node in cluster.nodes:
            for other in cluster.nodes:
                if other is not node:
                    _tell(node, other)
        tasks = [node.inside for node in cluster.nodes]
        for sandbox in self.sandboxes:
            sandbox.run(lambda: _balance(tasks))
            _do(sandbox, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1")

    def _end(self, world: World, node: OverlayNode) -> TaskNetns:
        sandbox = world.netns()
        own = short(sandbox)
        batch(
            node.netns,
            "link add docker_gwbridge type bridge",
            f"address add {GATEWAY}/16 dev docker_gwbridge",
            f"link add vethi type veth peer name eth1 netns {own}",
            "link set vethi master docker_gwbridge up",
            "link set docker_gwbridge up",
        )
        size = f"mtu {MTU}"
        batch(
            node.overlay,
            f"link add veths {size} type veth peer name eth0 netns {own} {size} address {_mac(node)}",
            f"link set veths master br0 {size} up",
        )
        batch(
            sandbox,
            f"address add {_address(node)}/24 dev eth0",
            f"address add {SANDBOX}/16 dev eth1",
            "link set eth0 up",
            "link set eth1 up",
            f"route add default via {GATEWAY}",
        )
        published = (
            "add table ip d; add chain ip d pre { type nat hook prerouting priority -100; }",
            f"add rule ip d pre fib daddr type local tcp dport {PORT} dnat to {SANDBOX}:{PORT}",
            "add chain ip d post { type nat hook postrouting priority 100; }",
            'add rule ip d post ip saddr 172.18.0.0/16 oifname != "docker_gwbridge" masquerade',
        )
        node.do(f"sysctl -qw net.ipv4.ip_forward=1; nft '{'; '.join(published)}'")
        inside = (
            "add table ip m; add chain ip m pre { type filter hook prerouting priority -150; }",
            f"add rule ip m pre tcp dport {PORT} meta mark set {MARK}",
            "add chain ip m post { type nat hook postrouting priority 100; }",
            f"add rule ip m post ip daddr 10.0.9.0/24 snat to {_address(node)}",
        )
        _do(sandbox, f"nft '{'; '.join(inside)}'")
        return sandbox


def _address(node: OverlayNode) -> str:
    return f"10.0.9.{50 + node.number}"


def _mac(node: OverlayNode) -> str:
    return f"02:42:0a:00:09:{50 + node.number:02x}"


def _do(netns: TaskNetns, command: str) -> None:
    ip("netns", "exec", short(netns), "sh", "-ec", command)


def _tell(node: OverlayNode, other: OverlayNode) -> None:
    """What libnetwork writes on a node of another one's end of the ingress network."""
    name = short(node.overlay)
    ip(
        "-n",
        name,
        "neighbour",
        "replace",
        _address(other),
        "lladdr",
        _mac(other),
        "nud",
        "permanent",
        "dev",
        "vxlan1",
    )
    fdb = f"bridge -n {name} fdb replace {_mac(other)} dev vxlan1 dst {other.address} self permanent"
    node.do(fdb)


def _balance(tasks: list[str]) -> None:
    """Have IPVS share connections with a mark among tasks, in the calling thread's namespace."""
    service = IPVSService(af=socket.AF_INET, fwmark=MARK, sched_name="rr", netmask="255.255.255.255")
    with IPVS() as ipvs:
        ipvs.service("add", service=service)
        for task in tasks:
            ipvs.dest("add", service=service, dest=IPVSDest(addr=task, port=PORT, fwd_method=0))


@pytest.fixture
def meshed(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster, ExitStack() as stack:
        RoutingMesh(world, cluster)
        for node in cluster.nodes:
            stack.enter_context(Servers(node.container, node.inside, tcp=(PORT,)))
            node.start()
        yield cluster


def stranger(world: World, cluster: Cluster) -> TaskNetns:
    """Who comes from outside of the Swarm."""
    netns = world.netns()
    batch(netns, f"link add under type veth peer name outside netns {short(cluster.hub)}")
    batch(netns, f"address add {cluster.foreign}/24 dev under", "link set under up")
    batch(cluster.hub, "link set outside master bridge up")
    return netns


STEPS: tuple[tuple[Mode | None, Step], ...] = (
    *((("strict", "accept")), ("strict", "send"), ("strict", "enforce"), ("all", "enforce")),
    *(("all", "send"), ("all", "accept"), (None, "accept")),
)


def test_published_port_leads_everywhere_in_each_step(world: World, meshed: Cluster) -> None:
    one, other = meshed.nodes
    at, outside = str(one.address), stranger(world, meshed)
    plain_overlay = f"udp port {VXLAN_PORT}"
    with Wire(meshed, plain_overlay) as before:
        assert all(answers_tcp(outside, at, PORT) for _ in range(ASKED))
    assert before.packets > 0, "tasks on the other node get half of the connections"
    seen: dict[str, tuple[int, int]] = {}
    with Connection(outside, at, PORT) as inwards, Connection(other.netns, at, PORT) as between:
        # A connection that began in plain text is answered so.
        own = between.socket.getsockname()[1]
        plain_hosts = f"tcp port {PORT} and not host {meshed.foreign} and not port {own}"
        for mode, step in STEPS:
            meshed.switch(mode, step)
            for connection in (inwards, between):
                connection.exchange()
            if step != "accept":
                with Wire(meshed, plain_overlay) as overlay, Wire(meshed, plain_hosts) as hosts:
                    assert all(
                        answers_tcp(source, at, PORT) for source in (outside, other.netns) for _ in range(ASKED)
                    )
                seen[f"{mode} {step}"] = (overlay.packets, hosts.packets)
    print(f"plain overlay packets and plain packets of nodes to the published port: {seen}; before {before.packets}")
    assert [packets for packets, _ in seen.values()] == [0] * len(seen)
    assert seen["all enforce"] == (0, 0)
    assert seen["strict enforce"][1] > 0, "the capture sees what is plain"
