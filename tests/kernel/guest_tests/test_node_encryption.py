"""Node encryption where it is meant to be: in the kernel, and beside Docker's overlays that ESP encrypts."""

from __future__ import annotations

import time

import pytest

from agent.node_encryption import policy_routing
from mesh.topology.wgtypes import Peer
from tests.netns.overlay_nodes import VNI, VXLAN_PORT, Cluster, OverlayNode, Pinging, Wire, short
from tests.netns.transfer import Transfer
from tests.netns.world import World, wait_for
from tests.support import docker_ipsec
from tests.support.effort import of_long_form

REKEY_S = 100
"""Seconds within which a device begins no session of itself, while one lasts (WireGuard: 120)."""
LARGE = 1200
"""Bytes of a ping that fits into the overlay's packets, encrypted too."""


def switch_on(cluster: Cluster, *, ready: int) -> None:
    for step in ("accept", "send", "enforce"):
        cluster.switch("strict", step, ready=ready)


def peer_of(node: OverlayNode, other: OverlayNode) -> Peer:
    return node.device.read().devices[0].device.peers[other.keys.stated[0].public_key]


@pytest.mark.parametrize("version", [4, of_long_form(6)])
def test_new_agent_adopts_kernel_device_losing_nothing(world: World, version: int) -> None:
    with Cluster(world, 2, version) as cluster:
        one, other = cluster.nodes
        for node in cluster.nodes:
            node.start()
        switch_on(cluster, ready=1)
        assert "wireguard" in one.do(f"ip -details link show {one.device.names[0]}")
        index, before = policy_routing.index(one.netns, one.device.names[0]), peer_of(one, other)
        with (
            Wire(cluster) as wire,
            Pinging(one, other) as there,
            Pinging(other, one, LARGE) as back,
            Transfer(one.container, other.container, other.inside) as transfer,
        ):
            wait_for(lambda: transfer.rounds > 0)
            one.restart()
            cluster.switch("strict", "enforce", ready=1)
            rounds = transfer.rounds
            wait_for(lambda: transfer.rounds > rounds + 1, 30)
        after = peer_of(one, other)
        assert policy_routing.index(one.netns, one.device.names[0]) == index
    print(f"there {there.result}, back {back.result}, {transfer.rounds} rounds, longest {transfer.longest:.2f} s")
    assert (there.result.lost, back.result.lost, wire.packets, transfer.problem) == (0, 0, 0, "")
    assert min(there.result.received, back.result.received) > 50
    assert None not in (before.last_handshake, after.last_handshake)
    age = (after.last_handshake or 0) - (before.last_handshake or 0)
    assert age == 0 or age > REKEY_S, "the session goes on"
    assert after.rx_bytes > before.rx_bytes


@pytest.mark.parametrize("version", [4, of_long_form(6)])
def test_strict_lets_only_esp_of_docker_pass(world: World, version: int) -> None:
    """The third node has no part in node encryption, and ESP is all that it may send and be sent."""
    with Cluster(world, 3, version) as cluster:
        one, other, stranger = cluster.nodes
        for node in (one, other):
            node.start()
        switch_on(cluster, ready=1)
        with Pinging(stranger, one) as plain:
            time.sleep(1)
        assert one.device.refused() >= plain.result.sent > 10
        assert plain.result.received == 0

        ends = [docker_ipsec.End(short(node.netns), node.address) for node in cluster.nodes]
        docker_ipsec.encrypt(ends, VNI, VXLAN_PORT)
        refused = one.device.refused()
        with (
            Wire(cluster) as in_plain,
            Wire(cluster, "esp") as by_esp,
            Pinging(one, other) as there,
            Pinging(other, one, LARGE) as back,
            Pinging(one, stranger) as outwards,
            Pinging(stranger, one, LARGE) as inwards,
        ):
            time.sleep(1)
        results = [each.result for each in (there, back, outwards, inwards)]
        print(f"IPv{version}: {by_esp.packets} ESP packets, {in_plain.packets} plain, {results}")
        assert [result.lost for result in results] == [0] * 4
        assert by_esp.packets >= 2 * sum(result.received for result in results) > 40
        assert in_plain.packets == 0
        assert one.device.refused() == refused

        for node in (one, stranger):  # what marks packets for ESP is gone, and with it Docker's own refusal
            node.do("nft delete table inet encrypted")
        sent = f"src host {one.address} and udp port {VXLAN_PORT}"
        with Wire(cluster, sent) as wire, Pinging(one, stranger) as outwards, Pinging(stranger, one) as inwards:
            time.sleep(1)
        assert (outwards.result.received, inwards.result.received, wire.packets) == (0, 0, 0)
        assert one.device.refused() >= refused + outwards.result.sent + inwards.result.sent > refused + 20
