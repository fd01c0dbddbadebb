"""Nodes' keys rotate by a second device, and nothing is lost, in whichever phase an agent ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from agent.node_encryption import policy_routing
from mesh.model.encryption.status import Mode
from tests.netns.overlay_nodes import WIREGUARD_PORTS, Cluster, OverlayNode, Pinging, Wire
from tests.netns.test_node_encryption import LARGE, problem_of, switch_off, switch_on
from tests.netns.transfer import Transfer
from tests.netns.world import World, occupied, wait_for

EPOCHS = range(1001, 1006)


@pytest.fixture
def pair(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
        yield cluster


def rotate(cluster: Cluster, epoch: int, between: Callable[[], None] = lambda: None) -> None:
    before = cluster.epoch
    cluster.offer_next(epoch)
    between()
    cluster.await_epochs(before, epoch)
    between()
    cluster.drop_first()
    between()
    cluster.await_epochs(epoch)


def files(node: OverlayNode) -> list[str]:
    return sorted(path.name for path in node.folder.with_suffix(".state").iterdir())


@pytest.mark.parametrize("mode", ["prefer", "strict"])
def test_keys_rotate_again_and_again_losing_nothing(pair: Cluster, mode: Mode) -> None:
    one, other = pair.nodes
    switch_on(pair, mode)
    seen = {one.place.public_key}
    with Pinging(one, other) as there, Pinging(other, one, LARGE) as back, Wire(pair) as wire:
        for epoch in EPOCHS:
            rotate(pair, epoch)
            seen.add(one.place.public_key)
            observed = one.device.read()
            (device,) = observed.devices.values()
            assert device.device.public_key == one.place.public_key
            assert set(device.device.peers) == {other.place.public_key}
            assert len(files(one)) == 1, "the old key is gone"
    print(f"{mode}: {len(EPOCHS)} rotations, there {there.result}, back {back.result}, plain {wire.packets}")
    assert len(seen) == len(EPOCHS) + 1
    assert (there.result.lost, back.result.lost, wire.packets) == (0, 0, 0)
    assert min(there.result.received, back.result.received) > 300


def test_agents_started_anew_in_each_phase_lose_nothing(pair: Cluster) -> None:
    one, other = pair.nodes

    def restart_all() -> None:
        for node in pair.nodes:
            node.restart()
            pair.tell_all()

    switch_on(pair)
    with Pinging(one, other) as there, Pinging(other, one, LARGE) as back, Wire(pair) as wire:
        for epoch in EPOCHS[:3]:
            rotate(pair, epoch, restart_all)
    print(f"agents started anew: there {there.result}, back {back.result}, plain {wire.packets}")
    assert (there.result.lost, back.result.lost, wire.packets) == (0, 0, 0)


def test_full_transfers_go_on_while_keys_rotate(pair: Cluster) -> None:
    one, other = pair.nodes
    switch_on(pair)
    with Transfer(one.container, other.container, other.inside) as transfer:
        wait_for(lambda: transfer.rounds > 3)
        for epoch in EPOCHS[:2]:
            rotate(pair, epoch)
        rounds = transfer.rounds
        wait_for(lambda: transfer.rounds > rounds + 3)
    print(f"rounds of {Transfer.SIZE} bytes: {transfer.rounds}, longest {transfer.longest:.2f} s")
    assert transfer.problem == ""


def test_closed_second_port_holds_the_rotation(pair: Cluster) -> None:
    """A firewall that knows one port only: nothing moves, nothing is lost, and it is said who waits for whom."""
    one, other = pair.nodes
    switch_on(pair)
    chain = "{ type filter hook input priority 0; }"
    one.do(f"nft 'add table inet shut; add chain inet shut in {chain}'")
    one.do(f"nft add rule inet shut in udp dport {WIREGUARD_PORTS[1]} drop")
    with Pinging(one, other) as there, Wire(pair) as wire:
        pair.offer_next(EPOCHS[0])
        wait_for(lambda: all(node.keeper and node.keeper.keys for node in pair.nodes))
        with Pinging(other, one):
            pass
        keepers = [node.keeper for node in pair.nodes if node.keeper is not None]
        told = [keeper.keys for keeper in keepers]
        assert [keys.waiting for keys in told if keys is not None] == [("node2",), ("node1",)]
        one.do("nft delete table inet shut")
        pair.await_epochs(0, EPOCHS[0])
        pair.drop_first()
        pair.await_epochs(EPOCHS[0])
    assert (there.result.lost, wire.packets) == (0, 0)


def test_modes_change_amid_a_rotation(pair: Cluster) -> None:
    one, other = pair.nodes
    switch_on(pair)
    with Pinging(one, other) as there, Pinging(other, one, LARGE) as back:
        pair.offer_next(EPOCHS[0])
        pair.switch("prefer", "send")
        pair.switch("strict", "enforce")
        pair.await_epochs(0, EPOCHS[0])
        switch_off(pair)
        assert all(node.device.read().is_off for node in pair.nodes)
        switch_on(pair)
        pair.await_epochs(0, EPOCHS[0])
        pair.drop_first()
        pair.await_epochs(EPOCHS[0])
        switch_off(pair)
    print(f"modes amid a rotation: there {there.result}, back {back.result}")
    assert (there.result.lost, back.result.lost) == (0, 0)


def test_taken_second_port_holds_the_rotation_alone(pair: Cluster) -> None:
    """The first device is looked after meanwhile, and the node takes other steps of node encryption."""
    one, other = pair.nodes
    switch_on(pair)
    with Pinging(one, other) as there, Wire(pair) as wire:
        with occupied(one.netns, WIREGUARD_PORTS[1]):
            pair.offer_next(EPOCHS[0])
            wait_for(lambda: str(WIREGUARD_PORTS[1]) in problem_of(one), 15)
            assert "in use" in problem_of(one)
            pair.switch("strict", "send")
            one.do(f"ip route flush table {policy_routing.TABLE}")
            wait_for(lambda: bool(one.device.read().routes))
            pair.switch("strict", "enforce")
            assert set(one.device.read().routes.values()) == {0}
        pair.await_epochs(0, EPOCHS[0])
        pair.drop_first()
        pair.await_epochs(EPOCHS[0])
    assert problem_of(one) == ""
    print(f"second port taken: {there.result}, plain {wire.packets}")
    assert there.result.lost == 0


def test_plain_packets_are_refused_while_keys_rotate(world: World) -> None:
    with Cluster(world, 3) as cluster:
        one, other, stranger = cluster.nodes
        cluster.rotating = [one, other]
        for node in cluster.rotating:
            node.start()
        switch_on(cluster, ready=1)
        table = one.device.read().table
        cluster.offer_next(EPOCHS[0])
        cluster.await_epochs(0, EPOCHS[0])
        assert set(one.device.read().devices) == {0, 1}
        assert one.device.read().table == table, "the rules name both devices before there are two"
        before = one.device.refused()
        with Pinging(one, other) as there, Pinging(stranger, one) as inwards:
            pass
        assert inwards.result.received == 0
        assert one.device.refused() >= before + inwards.result.sent > 10
        assert there.result.lost == 0


def test_three_nodes_rotate_with_one_that_was_away(world: World) -> None:
    """It has no part in the rotation, and comes back with the key that it had."""
    with Cluster(world, 3) as cluster, ExitStack() as stack:
        for node in cluster.nodes:
            node.start()
        one, other, away = cluster.nodes
        switch_on(cluster)
        assert away.keeper is not None
        away.keeper.stop()
        away.keeper = None
        away.netns.run(lambda: subprocess.run(["ip", "link", "set", "under", "down"], check=True))
        pings = [stack.enter_context(Pinging(one, other)), stack.enter_context(Pinging(other, one))]
        cluster.rotating = [one, other]
        cluster.offer_next(EPOCHS[0])
        cluster.await_epochs(0, EPOCHS[0])
        cluster.drop_first()
        cluster.await_epochs(EPOCHS[0])
        away.netns.run(lambda: subprocess.run(["ip", "link", "set", "under", "up"], check=True))
        away.start()
        cluster.rotating = [away]
        cluster.offer_next(EPOCHS[0])
        cluster.await_epochs(EPOCHS[0], only=[one, other])
        cluster.drop_first()
        cluster.await_epochs(EPOCHS[0])
        with Pinging(away, one) as again, Pinging(other, away) as hither:
            pass
        stack.close()
    assert [ping.result.lost for ping in (*pings, again, hither)] == [0, 0, 0, 0]
