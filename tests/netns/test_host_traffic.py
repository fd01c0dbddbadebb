"""In mode `all` what nodes send one another themselves is encrypted, and nothing that ran stops by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface

import pytest

from agent.linux.interfaces import route_mtu
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.policy_routing import HOST_TABLE
from mesh.model.encryption.status import Mode, Step
from tests.netns.host_traffic import (
    Beats,
    Bridged,
    Connection,
    Servers,
    answers_tcp,
    answers_udp,
    until,
)
from tests.netns.overlay_nodes import UNDERLAY_MTU, WIREGUARD_PORTS, Cluster, OverlayNode, Pinging, Wire
from tests.netns.transfer import Transfer
from tests.netns.world import World, wait_for
from tests.support.effort import HOLD_S, in_long_form, of_long_form

DEVICES = " or ".join(f"udp port {port}" for port in WIREGUARD_PORTS)
PLAIN = f"(tcp or udp or (ip and ip[6:2] & 0x1fff != 0)) and not ({DEVICES})"
"""Whatever crosses the wire outside the nodes' devices, later fragments too."""
STAYS_TCP = (22, 2377, 7946, 2379, 2380)
STAYS_UDP = (7946,)


@pytest.fixture
def pair(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
        yield cluster


def switch_on(cluster: Cluster, mode: Mode = "all") -> None:
    steps: tuple[Step, ...] = ("accept", "send", "enforce")
    for step in steps:
        cluster.switch(mode, step)


def switch_off(cluster: Cluster, mode: Mode = "all") -> None:
    steps: tuple[Step, ...] = ("send", "accept")
    for step in steps:
        cluster.switch(mode, step)
    cluster.switch(None)


def routed(node: OverlayNode) -> str:
    return node.do(f"ip route show table {HOST_TABLE} 2>/dev/null || true")


@pytest.mark.parametrize("version", [4, 6])
def test_hosts_own_services_are_encrypted(world: World, version: int) -> None:
    with Cluster(world, 2, version) as cluster:
        for node in cluster.nodes:
            node.start()
        one, other = cluster.nodes
        to = str(other.address)
        with Servers(other.netns, to, tcp=(8080, *STAYS_TCP), udp=(5353, 51820, *STAYS_UDP)):
            switch_on(cluster)
            with Wire(cluster, PLAIN) as wire:
                assert answers_tcp(one.netns, to, 8080)
                assert answers_udp(one.netns, to, 5353)
                assert answers_udp(one.netns, to, 5353, 52000), "a client's port may be one of a device's"
            stays = {}
            for port in STAYS_TCP:
                with Wire(cluster, f"tcp port {port}") as plain:
                    assert answers_tcp(one.netns, to, port)
                stays[port] = plain.packets
            with Wire(cluster, "udp port 7946 or udp port 51820") as datagrams:
                assert answers_udp(one.netns, to, 7946)
                assert answers_udp(one.netns, to, 51820, 51820), "as devices of links send"
            switch_off(cluster)
            with Wire(cluster, PLAIN) as after:
                assert answers_tcp(one.netns, to, 8080)
    print(f"IPv{version}: plain {wire.packets}, exceptions {stays}, datagrams {datagrams.packets}")
    assert wire.packets == 0
    assert min(stays.values()) > 0
    assert datagrams.packets >= 4
    assert after.packets > 0, "the capture sees what is plain"


@pytest.mark.parametrize("reverse_path", [0, 1])
def test_switching_loses_nothing_of_hosts(pair: Cluster, reverse_path: int) -> None:
    """Also where the nodes' own devices, and not all, filter strictly: no node may have to know how another sends."""
    one, other = pair.nodes
    for node in pair.nodes:
        node.do(f"sysctl -qw net.ipv4.conf.under.rp_filter={reverse_path}")
    there, back = str(other.address), str(one.address)
    with ExitStack() as stack:
        for node in pair.nodes:
            stack.enter_context(Servers(node.netns, str(node.address), tcp=(8080,), udp=(5353,)))
        beats = [stack.enter_context(Beats(source.netns, to, 5353)) for source, to in ((one, there), (other, back))]
        connections = [
            stack.enter_context(Connection(source.netns, to, 8080)) for source, to in ((one, there), (other, back))
        ]
        steps: tuple[tuple[Mode | None, Step], ...] = (
            *(("all", "accept"), ("all", "send"), ("all", "enforce"), ("strict", "enforce"), ("all", "enforce")),
            *(("all", "send"), ("all", "accept"), (None, "accept")),
        )
        for mode, step in steps:
            pair.switch(mode, step)
            for connection in connections:
                connection.exchange()
    lost, sent = [each.lost for each in beats], [each.sent for each in beats]
    print(f"lost {lost} of {sent}")
    assert lost == [0, 0]


@pytest.mark.parametrize("version", [4, 6])
def test_devices_keep_their_mtu(world: World, version: int) -> None:
    """The way to another node, which leads through the device for all else, is the one of WireGuard's own packets."""
    with Cluster(world, 2, version) as cluster:
        for node in cluster.nodes:
            node.start()
        one, other = cluster.nodes
        switch_on(cluster)
        fresh = NodeDevice(one.netns, one.device.backend, one.device.names[0])
        assert fresh.mtu([other.address]) == one.device.read().devices[0].mtu
        assert route_mtu(one.netns, [other.address]) == UNDERLAY_MTU, "what links' devices go by"


@in_long_form
def test_hosts_go_on_for_long(pair: Cluster) -> None:
    """Datagrams and connections both ways; the ways' MTU is looked up every 30 s."""
    ends = [(node.netns, str(other.address)) for node, other in (pair.nodes, pair.nodes[::-1])]
    with ExitStack() as stack:
        for node in pair.nodes:
            stack.enter_context(Servers(node.netns, str(node.address), tcp=(8080,), udp=(5353,)))
        switch_on(pair)
        beats = [stack.enter_context(Beats(source, to, 5353)) for source, to in ends]
        connections = [stack.enter_context(Connection(source, to, 8080)) for source, to in ends]
        wire = stack.enter_context(Wire(pair, PLAIN))
        mtus, began, refused = set[int](), time.monotonic(), 0
        while time.monotonic() - began < HOLD_S:
            for connection in connections:
                connection.exchange()
            mtus |= {node.device.read().devices[0].mtu for node in pair.nodes}
            refused += [answers_tcp(source, to, 8080) for source, to in ends].count(False)
            time.sleep(0.5)
    lost, sent = [each.lost for each in beats], [each.sent for each in beats]
    print(f"{HOLD_S:.0f} s: lost {lost} of {sent}, refused {refused}, MTU {mtus}, {wire.packets} plain")
    assert (lost, refused, wire.packets, len(mtus)) == ([0, 0], 0, 0, 1)


@in_long_form
def test_large_transfer_of_hosts_goes_on(pair: Cluster) -> None:
    one, other = pair.nodes
    with Transfer(one.netns, other.netns, str(other.address)) as transfer:
        switch_on(pair)
        with Wire(pair, PLAIN) as wire:
            rounds = transfer.rounds
            wait_for(lambda: transfer.rounds > rounds + 3)
        switch_off(pair)
        stop = transfer.rounds
        wait_for(lambda: transfer.rounds > stop + 3)
    print(f"{transfer.rounds} rounds of {Transfer.SIZE} bytes, the longest {transfer.longest:.2f} s")
    assert (wire.packets, transfer.problem) == (0, "")


def test_published_ports_and_bridges_go_on(world: World, pair: Cluster) -> None:
    one, other = pair.nodes
    bridged, at, back = Bridged(world, other), str(other.address), str(one.address)
    with (
        Servers(bridged.netns, bridged.inside, tcp=(bridged.port,)),
        Servers(one.netns, back, tcp=(9000,)),
        Connection(one.netns, at, bridged.published) as inwards,
        Connection(bridged.netns, back, 9000) as outwards,
    ):
        steps: tuple[tuple[Mode | None, Step], ...] = (
            *(("all", "accept"), ("all", "send"), ("all", "enforce")),
            *(("all", "send"), ("all", "accept"), (None, "accept")),
        )
        for mode, step in steps:
            pair.switch(mode, step)
            for connection in (inwards, outwards):
                connection.exchange()
            if step == "enforce":
                with Wire(pair, PLAIN) as wire:
                    assert answers_tcp(one.netns, at, bridged.published)
                assert wire.packets == 0, "its answers are forwarded, and go back by the device"
            assert answers_tcp(bridged.netns, back, 9000)


@pytest.mark.parametrize("late", [False, of_long_form(True)])
def test_node_that_lost_its_device_comes_back(pair: Cluster, late: bool) -> None:
    """Its agent begins at once, or when the other side has noticed."""
    one, other = pair.nodes
    there, back = str(other.address), str(one.address)
    with Servers(one.netns, back, tcp=(8080, 2379)), Servers(other.netns, there, tcp=(8080,)):
        switch_on(pair)
        assert answers_tcp(one.netns, there, 8080)
        assert other.keeper is not None
        other.keeper.stop()
        other.device.backend.delete(other.netns, other.device.names[0])
        gone = "while ip rule del pref $at 2>/dev/null; do :; done"
        other.do(f"nft flush ruleset; for at in 4792 4791 4790 4789; do {gone}; done")
        assert str(other.address) in routed(one), "the other side does not know it yet"
        assert answers_tcp(other.netns, back, 2379), "its agent reaches etcd"
        if late:
            took = until(lambda: answers_tcp(other.netns, back, 8080) and answers_tcp(one.netns, there, 8080), 30)
            print(f"plain {took:.1f} s after the device was gone")
            with Wire(pair, PLAIN) as plain:
                assert answers_tcp(one.netns, there, 8080)
            assert plain.packets > 0
        other.start()
        pair.switch("all", "enforce")
        wait_for(lambda: str(one.address) in routed(other) and str(other.address) in routed(one))
        with Wire(pair, PLAIN) as wire, Pinging(one, other) as overlay:
            assert answers_tcp(one.netns, there, 8080)
            assert answers_tcp(other.netns, back, 8080)
    assert (wire.packets, overlay.result.lost) == (0, 0)


def test_links_packets_are_not_encrypted_twice(pair: Cluster, world: World) -> None:
    """Each packet of a link crosses the wire as it is, on nodes in mode `all` too."""
    ends = [world.node_in(each.netns, IPv4Interface(f"{each.address}/24")) for each in pair.nodes]
    one, other = (world.task(end) for end in ends)
    one.port, other.port = 51830, 51831
    switch_on(pair)
    # Not what the devices say by themselves: a handshake of theirs is smaller than one of a link's inside.
    with Wire(pair, f"({DEVICES}) and greater 220") as twice, Wire(pair, "udp portrange 51820-53819") as links:
        one.wire(other)
        other.wire(one)
        one.command("ping", "-c", "10", "-i", "0.02", "-W", "2", "-s", "1000", str(other.address.ip))
    assert twice.packets == 0
    assert links.packets >= 20
