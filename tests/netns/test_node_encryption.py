"""Overlay packets between nodes go through one WireGuard device a node, and none is lost by switching."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from agent.firewall import nft
from agent.fitness import node_encryption as fitness
from agent.linux.netns import TaskNetns
from agent.node_encryption import device as node_device
from agent.node_encryption import keeper, policy_routing, ruleset
from agent.node_encryption.keeper import CONFIRM_S, Keeper, Wanted
from agent.node_encryption.tunnel import desired, joined
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import LinkKey, PresharedKey
from mesh.errors import Retryable
from mesh.model.encryption.records import NodeEncryption
from mesh.model.encryption.status import Mode, Step
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns.overlay_nodes import VXLAN_PORT, Cluster, OverlayNode, Pinging, Wire
from tests.netns.transfer import Transfer
from tests.netns.world import World, wait_for

LARGE = 1200
"""Bytes of a ping that fits into the overlay's packets, encrypted too."""


@pytest.fixture
def pair(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
        yield cluster


@pytest.fixture
def trio(world: World) -> Iterator[Cluster]:
    """The third node has no agent."""
    with Cluster(world, 3) as cluster:
        for node in cluster.nodes[:2]:
            node.start()
        yield cluster


def switch_on(cluster: Cluster, mode: Mode = "strict", *, ready: int | None = None) -> None:
    steps: tuple[Step, ...] = ("accept", "send", "enforce") if mode == "strict" else ("accept", "send")
    for step in steps:
        cluster.switch(mode, step, ready=ready)


def switch_off(cluster: Cluster, mode: Mode = "strict") -> None:
    steps: tuple[Step, ...] = ("send", "accept") if mode == "strict" else ("accept",)
    for step in steps:
        cluster.switch(mode, step)
    cluster.switch(None)


def problem_of(node: OverlayNode) -> str:
    assert node.keeper is not None
    return node.keeper.status.problem if node.keeper.status is not None else ""


def refused_by(node: OverlayNode) -> int:
    assert node.keeper is not None
    return node.keeper.status.refused if node.keeper.status is not None else 0


@pytest.mark.parametrize("mode", ["prefer", "strict"])
def test_switching_on_and_off_loses_nothing(pair: Cluster, mode: Mode) -> None:
    one, other = pair.nodes
    with Pinging(one, other) as there, Pinging(other, one, LARGE) as back:
        with Wire(pair) as before:
            pair.switch(mode, "accept")
        switch_on(pair, mode)
        with Wire(pair) as encrypted, Pinging(one, other, LARGE):
            pass
        kept = one.kept[-1]
        switch_off(pair, mode)
        with Wire(pair) as after:
            pass
    assert (kept, one.kept[-1]) == (VXLAN_PORT if mode == "strict" else 0, 0)
    print(f"{mode}: plain packets before {before.packets}, while on {encrypted.packets}, after {after.packets}")
    print(f"{mode}: there {there.result}, back {back.result}")
    assert min(before.packets, after.packets) > 0, "the capture sees what is plain"
    assert encrypted.packets == 0
    assert (there.result.lost, back.result.lost) == (0, 0)
    assert min(there.result.received, back.result.received) > 100


def test_overlay_on_an_ipv6_underlay_is_encrypted(world: World) -> None:
    with Cluster(world, 2, version=6) as cluster:
        one, other = cluster.nodes
        for node in cluster.nodes:
            node.do("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
            node.start()
        with Pinging(one, other) as there, Pinging(other, one, LARGE) as back:
            switch_on(cluster)
            with Wire(cluster) as encrypted, Pinging(one, other):
                pass
            switch_off(cluster)
            with Wire(cluster) as after:
                pass
    assert (there.result.lost, back.result.lost, encrypted.packets) == (0, 0, 0)
    assert after.packets > 0


def test_new_epoch_of_the_link_key_loses_nothing(pair: Cluster) -> None:
    one, other = pair.nodes
    switch_on(pair)
    with Pinging(one, other) as there, Wire(pair) as wire:
        before = one.device.read().devices[0].device
        pair.link_key = LinkKey.generate()
        pair.switch("strict", "enforce")
        after = one.device.read().devices[0].device
    assert (there.result.lost, wire.packets) == (0, 0)
    secrets = [device.peers[other.place.public_key].preshared_key for device in (before, after)]
    assert None not in secrets
    assert secrets[0] != secrets[1]


def test_large_transfers_go_on_while_switching(pair: Cluster) -> None:
    one, other = pair.nodes
    with Transfer(one.container, other.container, other.inside) as transfer:
        wait_for(lambda: transfer.rounds > 3)
        modes: tuple[Mode, ...] = ("prefer", "strict")
        for mode in modes:
            switch_on(pair, mode)
            rounds = transfer.rounds
            wait_for(lambda rounds=rounds: transfer.rounds > rounds + 3)  # type: ignore[misc]
            switch_off(pair, mode)
        rounds = transfer.rounds
        wait_for(lambda: transfer.rounds > rounds + 3)
    print(f"rounds of {Transfer.SIZE} bytes: {transfer.rounds}, longest {transfer.longest:.2f} s")
    assert transfer.problem == ""


def test_plain_packets_are_refused_and_counted(trio: Cluster) -> None:
    one, _, stranger = trio.nodes
    switch_on(trio, "prefer", ready=1)
    with Pinging(one, stranger) as before, Pinging(stranger, one):
        pass
    assert before.result.lost == 0, "in prefer all goes plain to a node that is not ready"
    trio.switch("strict", "enforce", ready=1)
    with Wire(trio, f"src host {one.address} and udp port 4789") as wire:
        with Pinging(stranger, one) as inwards:
            pass
        wait_for(lambda: refused_by(one) >= inwards.result.sent > 10)
        seen = refused_by(one)
        with Pinging(one, stranger) as outwards:
            pass
        assert (inwards.result.received, outwards.result.received) == (0, 0)
        assert wire.packets == 0
        wait_for(lambda: refused_by(one) >= seen)
    assert wire.packets == 0


def test_silent_peer_is_sent_plain_in_prefer(trio: Cluster) -> None:
    one, other, _ = trio.nodes
    switch_on(trio, "prefer", ready=1)
    assert other.keeper is not None
    other.keeper.stop()
    other.device.backend.delete(other.netns, other.device.names[0])  # as wireguard-go ends with its container
    with Pinging(other, one):
        assert one.keeper is not None
        wait_for(
            lambda: one.keeper is not None and one.keeper.status is not None and one.keeper.status.ready == 0, 30
        )
    with Pinging(one, other) as plain:
        pass
    assert plain.result.lost == 0
    other.start()
    trio.switch("prefer", "send", ready=1)
    with Wire(trio) as wire, Pinging(one, other) as again:
        pass
    assert (again.result.lost, wire.packets) == (0, 0)


def test_new_agent_adopts_what_is_there(pair: Cluster) -> None:
    one, other = pair.nodes
    switch_on(pair)
    refused = nft.read(one.netns, ruleset.NAME)
    index = policy_routing.index(one.netns, one.device.names[0])
    with Wire(pair) as wire, Pinging(one, other) as there, Pinging(other, one) as back:
        one.restart()
        pair.switch("strict", "enforce", ready=1)
    assert (there.result.lost, back.result.lost, wire.packets) == (0, 0, 0)
    assert policy_routing.index(one.netns, one.device.names[0]) == index
    assert nft.read(one.netns, ruleset.NAME) == refused


@pytest.mark.parametrize(
    "harm",
    [
        "nft flush ruleset",
        f"nft delete table inet {ruleset.NAME}",
        "ip rule del pref 4789",
        "ip route flush table 19543",
        "ip link set DEVICE down",
        "ip address flush dev DEVICE",
    ],
)
def test_what_others_take_away_comes_back(pair: Cluster, harm: str) -> None:
    one, other = pair.nodes
    switch_on(pair)
    whole = one.device.read()
    one.do(harm.replace("DEVICE", one.device.names[0]))
    wait_for(
        lambda: (
            (now := one.device.read()).table == whole.table
            and (now.rules, now.routes) == (whole.rules, whole.routes)
            and (now.devices[0].up, now.devices[0].has_address) == (True, True)
        )
    )
    with Wire(pair) as wire, Pinging(one, other) as there:
        pass
    assert (there.result.lost, wire.packets) == (0, 0)


def test_changes_are_followed_after_failed_beginnings(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel was short of something when the agent asked to be told of rules and routes."""
    one, plain, refusals = pair.nodes[0], policy_routing.subscribed, ["No buffer space available"]

    def once(netns: TaskNetns) -> socket.socket:
        if refusals:
            raise Retryable(refusals.pop())
        return plain(netns)

    monkeypatch.setattr(policy_routing, "subscribed", once)
    one.restart()
    switch_on(pair)
    whole = one.device.read()
    monkeypatch.setattr(keeper, "LOOK_S", 3600.0)
    time.sleep(2.5)  # no look comes to its aid any more
    assert refusals == []
    one.do("ip rule del pref 4789")
    wait_for(lambda: one.device.read().rules == whole.rules, 5.0)


def test_agent_takes_away_what_is_over(pair: Cluster) -> None:
    one = pair.nodes[0]
    switch_on(pair)
    one.restart()
    time.sleep(1.0)
    assert not one.device.read().is_off, "without records nothing is removed"
    pair.switch(None)
    assert one.device.read().is_off


def test_removal_leaves_nothing_on_the_node(pair: Cluster) -> None:
    one, other = pair.nodes
    switch_on(pair)
    for node in pair.nodes:
        assert node.keeper is not None
        node.keeper.stop()
        assert node_device.remove(node.netns, node.device.backend, node.device.names[0])
        assert not node_device.remove(node.netns, node.device.backend, node.device.names[0])
        for leftover in (
            "ip rule | grep -c 19543",
            "ip route show table all | grep -c 19543",
            "ip -br link | grep -c lw",
        ):
            assert node.do(f"{leftover} || true").strip() == "0"
        assert node.do("nft list tables").strip() == ""
    with Pinging(one, other) as plain:
        pass
    assert plain.result.lost == 0


def test_strict_reverse_path_filter_stops_the_switch(pair: Cluster) -> None:
    one, other = pair.nodes
    one.do("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    pair.give("strict", "accept")
    wait_for(lambda: "rp_filter is 1" in problem_of(one))
    assert one.keeper is not None
    assert one.keeper.status is not None
    assert one.keeper.status.generation == 0
    assert one.device.read().is_off
    one.do("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=1")
    switch_on(pair)
    with Pinging(one, other) as there:
        pass
    assert (there.result.lost, problem_of(one)) == (0, "")


def test_node_without_nft_is_named_before_the_switch(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the gate's, which is the node's own: the agent's."""
    one = pair.nodes[0]
    question = {"ports": (51820, 53819), "nodes": [str(one.address)], "encryption": {"data_path_port": VXLAN_PORT}}
    assert fitness.gather(one.netns, question)["tables"] == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "cannot run nft: No such file" in fitness.gather(one.netns, question)["tables"]


def test_address_of_nobody_is_named(pair: Cluster) -> None:
    one, other = pair.nodes
    one.vxlan_to(other, pair.foreign)
    switch_on(pair, "prefer")
    wait_for(
        lambda: f"overlays send to addresses that no node has in node encryption: {pair.foreign}" in problem_of(one)
    )
    assert problem_of(other) == ""


def test_joining_node_is_added_without_a_reading(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read back within a second, with whatever somebody else did meanwhile."""
    with Cluster(world, 3) as cluster:
        one, other, third = cluster.nodes
        keeper = Keeper(one.device, one.folder)
        record = NodeEncryption("strict", "enforce", VXLAN_PORT, 1)
        before = desired(record, [one.place, other.place], one.name, one.keys.held, preshared_key)
        after = joined(before, third.place, third.place.keys, preshared_key)
        keeper.want(Wanted(before, complete=True))
        keeper._look_safely(whole=True)
        read = one.device.read
        with monkeypatch.context() as patched:
            patched.setattr(one.device, "read", lambda: pytest.fail("read"))
            keeper.want(Wanted(after, complete=True))
            keeper._look_safely()
        assert keeper.status is not None
        assert keeper.status.peers == 1, "as it was read back"
        routes = {route.node for route in read().routes}
        assert read().devices[0].device.peers.keys() == {other.place.public_key, third.place.public_key}
        assert routes == {other.address, third.address}
        gone = DeviceChange(peers=(PeerChange(other.place.public_key, remove=True),))
        one.device.backend.apply(one.netns, one.device.names[0], gone)
        assert keeper._pause() <= CONFIRM_S
        time.sleep(CONFIRM_S)
        keeper._look_safely()
        assert keeper.status.peers == 2
        assert read().devices[0].device.peers.keys() == {other.place.public_key, third.place.public_key}


def preshared_key(_own: PublicKey, _other: PublicKey) -> PresharedKey:
    return PresharedKey(bytes(32 * [3]))
