"""Node encryption in the kernel while the machine's clock, which all nodes here share, is set back and forward.

Both ends then take the other's handshakes for replays, as where all nodes follow one wrong clock: the worst case. A
session goes by the machine's uptime, and lasts three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.state.clock import WatchedClock
from tests.kernel.guest_tests.clock import HOUR_S, YEAR_S, clock
from tests.kernel.guest_tests.test_node_encryption import peer_of, switch_on
from tests.netns.host_traffic import Beats, Servers
from tests.netns.overlay_nodes import Cluster, OverlayNode, Wire, batch
from tests.netns.test_node_key_rotation import EPOCHS, rotate
from tests.netns.world import World, wait_for
from tests.support.effort import in_long_form

pytestmark = in_long_form
PORT = 5353
OWN = "node"
SESSION_S = 180
"""Seconds after which WireGuard's session ends (REJECT_AFTER_TIME)."""
SILENT_S = 3.0


@pytest.fixture
def pair(world: World) -> Iterator[Cluster]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
        yield cluster


def beating(stack: ExitStack, pair: Cluster) -> list[Beats]:
    """Datagrams both ways over the overlay. Not pings, which wait by the wall clock."""
    one, other = pair.nodes
    for node in pair.nodes:
        stack.enter_context(Servers(node.container, node.inside, udp=(PORT,)))
    ways = ((one, other), (other, one))
    return [stack.enter_context(Beats(source.container, target.inside, PORT)) for source, target in ways]


def await_answers(beats: list[Beats]) -> None:
    """Wait until both ways have answers to what is sent from now on."""
    counted = [len(each.came) for each in beats]
    wait_for(lambda: all(len(each.came) > before + 20 for each, before in zip(beats, counted, strict=True)), 30)


def await_silence(beats: list[Beats], seconds: float) -> float:
    """Wait until nothing has been answered for a while; return how many seconds after the call that began."""
    began = heard = time.monotonic()
    came = sum(len(each.came) for each in beats)
    while time.monotonic() - heard < SILENT_S:
        assert time.monotonic() - began < seconds, "packets are answered on and on"
        time.sleep(0.1)
        if (now := sum(len(each.came) for each in beats)) != came:
            came, heard = now, time.monotonic()
    return heard - began


def begin_session(node: OverlayNode, other: OverlayNode) -> None:
    """Have a node begin a session, whose time the other remembers: a device that is down forgets its sessions."""
    before = peer_of(node, other).last_handshake or 0.0
    name = node.device.names[0]
    batch(node.netns, f"link set {name} down", f"link set {name} up")
    wait_for(lambda: (peer_of(node, other).last_handshake or 0.0) > before, 30)


def await_session(node: OverlayNode, other: OverlayNode, epoch: int) -> None:
    """Wait until the devices of an epoch begin their next session by themselves."""

    def handshake() -> float:
        (key,) = (key for key in other.keys.stated if key.epoch == epoch)
        peers = {k: peer for each in node.device.read().devices.values() for k, peer in each.device.peers.items()}
        return peers[key.public_key].last_handshake or 0.0

    first = handshake()
    wait_for(lambda: handshake() > first, SESSION_S)


def counts(beats: list[Beats], wire: Wire) -> str:
    return f"lost {[each.lost for each in beats]} of {[each.sent for each in beats]}, {wire.packets} plain"


@pytest.mark.parametrize(("before", "after"), [(0, -HOUR_S), (YEAR_S, 0)], ids=["hour back", "year ahead and right"])
def test_keys_rotated_after_rollback_lose_nothing(pair: Cluster, tmp_path: Path, before: int, after: int) -> None:
    """An agent notices within seconds, and the controller has keys rotate."""
    one, other = pair.nodes
    watched = WatchedClock(tmp_path)
    with clock(0) as put, ExitStack() as stack:
        switch_on(pair, ready=1)
        beats = beating(stack, pair)
        await_answers(beats)
        with Wire(pair) as wire:
            watched.look({OWN: 0})
            if before:
                put(before)
                await_session(one, other, 0)
                await_answers(beats)
                watched.look({OWN: 0})
            assert not watched.spent
            put(after)
            watched.look({OWN: 0})
            assert watched.spent == {OWN: 0}
            began = time.monotonic()
            rotate(pair, EPOCHS[0])
            took = time.monotonic() - began
            await_session(one, other, EPOCHS[0])
            await_answers(beats)
        stack.close()
    print(f"clock {before:+}, then {after:+} s: keys rotated in {took:.1f} s; {counts(beats, wire)}")
    assert [each.lost for each in beats] == [0, 0]
    assert wire.packets == 0


def test_keys_rotated_late_bring_traffic_back(pair: Cluster) -> None:
    """Without new keys sessions end and no other begins; with them all passes again, and nothing was plain.

    A device refuses a handshake that is no later than the last one that the other end began, so both have begun one.
    """
    one, other = pair.nodes
    with clock(0) as put, ExitStack() as stack:
        switch_on(pair, ready=1)
        beats = beating(stack, pair)
        with Wire(pair) as wire:
            for node, end in ((one, other), (other, one)):
                begin_session(node, end)
                await_answers(beats)
            put(-HOUR_S)
            silent = await_silence(beats, SESSION_S + 60)
            assert (peer_of(one, other).last_handshake or 0.0) > time.time(), "no session has begun since"
            began = time.monotonic()
            rotate(pair, EPOCHS[0])
            await_answers(beats)
            took = time.monotonic() - began
        stack.close()
    said = f"silent after {silent:.0f} s, answered {took:.1f} s after new keys were asked for"
    print(f"clock an hour back: {said}; {counts(beats, wire)}")
    assert wire.packets == 0
    assert min(each.lost for each in beats) > 0
