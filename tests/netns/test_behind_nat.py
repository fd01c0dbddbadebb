"""Nodes behind a router that translates: one such node takes part, of two no pair reaches each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from mesh.model.encryption.status import Step
from mesh.model.net import UdpEndpoint
from tests.netns.overlay_nodes import Cluster, OverlayNode, Pinging, Wire
from tests.netns.world import World, wait_for
from tests.support.effort import of_long_form

ROUTER = "192.0.2.254"
STEPS: tuple[Step, ...] = ("accept", "send", "enforce")


@pytest.fixture
def cluster(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2, routed=True) as made:
        for node in made.nodes:
            node.start()
        yield made


def put_behind(cluster: Cluster, *nodes: OverlayNode, forgotten_s: int = 30) -> None:
    """Translate the nodes' address and port, let nobody in whom they have not sent to, and forget idle ones."""
    lines = ["add table ip n", "add chain ip n post { type nat hook postrouting priority 100; }"]
    lines.append("add chain ip n in { type filter hook forward priority 0; }")
    for node in nodes:
        lines.append(f"add rule ip n post ip saddr {node.address} masquerade random")
        lines.append(f"add rule ip n in ip daddr {node.address} ct state new drop")
    kinds = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
    forget = " ".join(f"net.netfilter.{kind}={forgotten_s}" for kind in kinds)
    # The counters are there with the first rule that asks for tracking.
    cluster.do(f"nft '{'; '.join(lines)}'; sysctl -qw {forget}")


def endpoint_of(other: OverlayNode, seen_by: OverlayNode) -> UdpEndpoint | None:
    device = seen_by.device.read().devices[0].device
    return device.peers[other.keys.stated[0].public_key].endpoint


def test_one_node_behind_nat_takes_part(cluster: Cluster) -> None:
    open_one, hidden = cluster.nodes
    put_behind(cluster, hidden)
    with Pinging(open_one, hidden) as plain:
        pass
    assert plain.result.received == 0, "without node encryption nothing comes to it"
    for step in STEPS:
        cluster.switch("strict", step)
    with Wire(cluster) as wire, Pinging(open_one, hidden) as there, Pinging(hidden, open_one) as back:
        pass
    assert (there.result.lost, back.result.lost, wire.packets) == (0, 0, 0)
    seen = endpoint_of(hidden, open_one)
    assert seen is not None
    assert seen.host == ip_address(ROUTER)
    with Pinging(hidden, open_one) as back, Pinging(open_one, hidden) as there:
        open_one.restart()  # to whose agent the record is all that it knows
        cluster.switch("strict", "enforce")
    assert (there.result.lost, back.result.lost) == (0, 0)


def test_node_whose_translation_changes_is_followed(cluster: Cluster) -> None:
    open_one, hidden = cluster.nodes
    put_behind(cluster, hidden, forgotten_s=1)
    for step in STEPS:
        cluster.switch("strict", step)
    before = endpoint_of(hidden, open_one)
    time.sleep(3.0)
    with Pinging(hidden, open_one) as back:
        pass
    after = endpoint_of(hidden, open_one)
    print(f"seen at {before}, and {after} when the router had forgotten it")
    assert back.result.lost == 0
    assert before is not None
    assert after is not None
    assert (before.host == after.host, before.port == after.port) == (True, False)


@pytest.mark.parametrize("seconds", [of_long_form(70.0)])
def test_translation_stays_while_nothing_is_sent(cluster: Cluster, seconds: float) -> None:
    """A router forgets after 30 s, and keepalive comes every 25."""
    open_one, hidden = cluster.nodes
    put_behind(cluster, hidden)
    for step in STEPS:
        cluster.switch("strict", step)
    before = endpoint_of(hidden, open_one)
    time.sleep(seconds)
    with Pinging(open_one, hidden) as there:
        pass
    assert there.result.lost == 0
    assert endpoint_of(hidden, open_one) == before


def test_two_nodes_behind_nat_never_become_ready(cluster: Cluster) -> None:
    one, other = cluster.nodes
    put_behind(cluster, one, other)
    cluster.switch("strict", "accept", ready=0)
    time.sleep(6.0)  # handshakes are tried every 5 s
    for node in cluster.nodes:
        assert node.keeper is not None
        status = node.keeper.status
        assert status is not None
        assert (status.peers, status.ready) == (1, 0)
    cluster.switch("strict", "send", ready=0)
    wait_for(lambda: all(not node.device.read().routes for node in cluster.nodes))
