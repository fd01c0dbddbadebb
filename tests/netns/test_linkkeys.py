"""Preshared keys on real devices: without the same link keys at both ends there is no handshake, and a change of them
in place touches no session.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mesh.crypto.preshared_keys import LinkKey, LinkSeed, PresharedKey, link_key, preshared_key
from mesh.topology.wgtypes import DeviceChange, Peer
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World, wait_for
from tests.support.attacks import Attempts
from tests.support.effort import LONG

SEED = LinkSeed.generate()
NO_HANDSHAKE_S = 7.0
"""Long enough for a second try, which comes after 5 s (WireGuard paper, section 6.4, REKEY_TIMEOUT)."""
SHORT_S = 15.0
REKEY_S = 120.0  # REKEY_AFTER_TIME, section 6.1: how old a session is when its beginner makes another

Keys = list[tuple[str, LinkKey]]


def secret(name: str, epoch: int = 0) -> tuple[str, LinkKey]:
    return name, link_key(SEED, "cluster", name, epoch)


def between(one: Task, other: Task, keys: Keys) -> PresharedKey:
    return preshared_key(keys, one.key.public, other.key.public)


def share(one: Task, other: Task, keys: Keys) -> None:
    """Give one end its preshared key, in place."""
    set_key(one, other, between(one, other, keys))


def set_key(one: Task, other: Task, key: PresharedKey | None) -> None:
    peer = replace(other.as_peer(), preshared_key=key)
    one.node.backend.apply(one.netns, one.name, DeviceChange(peers=(peer,)))


def peer_of(one: Task, other: Task) -> Peer:
    return one.node.backend.read(one.netns, one.name).peers[other.key.public]


@pytest.fixture
def ends(world: World) -> tuple[Task, Task]:
    """Two tasks that do not know each other yet."""
    left, right = (world.task(node) for node in world.nodes())
    left.wire()
    right.wire()
    return left, right


def connects(left: Task, right: Task) -> bool:
    """Whether there is a handshake, in which both ends take part at their own pace."""
    deadline = time.monotonic() + NO_HANDSHAKE_S
    while time.monotonic() < deadline:
        if peer_of(left, right).last_handshake and peer_of(right, left).last_handshake:
            return True
        time.sleep(0.1)
    return False


def test_the_key_that_is_set_is_read_back(ends: tuple[Task, Task]) -> None:
    left, right = ends
    share(left, right, [secret("shop")])
    expected = between(left, right, [secret("shop")])
    assert peer_of(left, right).preshared_key == expected
    set_key(left, right, None)
    assert peer_of(left, right).preshared_key == expected, "None leaves it"
    device = left.node.backend.read(left.netns, left.name)
    assert expected.raw.hex() not in repr(device)
    set_key(right, left, None)
    assert peer_of(right, left).preshared_key is None


def test_the_same_link_keys_at_both_ends_connect(ends: tuple[Task, Task]) -> None:
    left, right = ends
    share(left, right, [secret("shop")])
    share(right, left, [secret("shop")])
    assert connects(left, right)


def test_mutual_links_combine_both_keys_in_any_order(ends: tuple[Task, Task]) -> None:
    left, right = ends
    share(left, right, [secret("web:db"), secret("db:web")])
    share(right, left, [secret("db:web"), secret("web:db")])
    assert connects(left, right)


@pytest.mark.parametrize(
    "theirs",
    [[secret("other")], [secret("shop", 1)], [secret("shop"), secret("back")], []],
    ids=["another key", "another epoch", "one more link", "no key"],
)
def test_with_other_link_keys_there_is_no_handshake(ends: tuple[Task, Task], theirs: Keys) -> None:
    left, right = ends
    share(left, right, [secret("shop")])
    set_key(right, left, between(right, left, theirs) if theirs else None)
    assert not connects(left, right)
    share(right, left, [secret("shop")])  # so that it was the key and nothing else
    wait_for(lambda: peer_of(left, right).last_handshake is not None, 60)  # it is tried again every 5 s


def test_a_stolen_private_key_alone_completes_no_handshake(world: World, attempt: Attempts) -> None:
    """The thief has the whole node, its address, the task's private key and port. He lacks the link key only."""
    tried = attempt("on the wire: a task's stolen private key answers in its place")
    victim_node, node = world.nodes()
    victim, other = world.task(victim_node), world.task(node)
    other.wire()
    share(other, victim, [secret("shop")])
    thief = world.task(victim_node)
    thief.key, thief.port, thief.address = victim.key, victim.port, victim.address
    thief.wire()
    set_key(thief, other, None)
    tried.stopped(not connects(thief, other))
    set_key(thief, other, between(victim, other, [secret("shop")]))
    wait_for(lambda: peer_of(thief, other).last_handshake is not None, 60)  # it is tried again every 5 s
    tried.works(peer_of(thief, other).last_handshake, "with the link key too")


def test_key_change_loses_no_packet_even_mid_handshake(
    ends: tuple[Task, Task],
) -> None:
    left, right = ends
    share(left, right, [secret("shop")])
    share(right, left, [secret("shop")])
    await_first_packet(left, right)
    began = peer_of(left, right).last_handshake
    assert began is not None
    with Flood(left, right, per_second=100) as there, Flood(right, left, per_second=100) as back:
        epoch = 0
        while time.time() < began + (REKEY_S - 10 if LONG else SHORT_S):
            time.sleep(1)
            epoch += 1
            share(left, right, [secret("shop", epoch)])
            share(right, left, [secret("shop", epoch)])
        assert peer_of(left, right).last_handshake == began, "what runs, runs on"
        if LONG:
            handshake_between(left, right, began, epoch + 1)
    assert (there.lost, back.lost) == ([], [])
    print(f"{epoch + 1} changes of the preshared key under {there.sent + back.sent:,} packets: 0 lost")


def handshake_between(left: Task, right: Task, began: float, epoch: int) -> None:
    """Let the session's next handshake be due while the two ends have different keys."""
    share(left, right, [secret("shop", epoch)])
    time.sleep(max(0.0, began + REKEY_S + 8 - time.time()))
    assert peer_of(left, right).last_handshake == began, "a handshake between two different keys fails"
    share(right, left, [secret("shop", epoch)])
    wait_for(lambda: (peer_of(left, right).last_handshake or 0) > began + REKEY_S, 12)
    renewed = peer_of(left, right).last_handshake or 0.0
    time.sleep(2)
    print(
        f"a handshake due at {REKEY_S:.0f} s failed with unlike keys until {REKEY_S + 8:.0f} s, and was made "
        f"{renewed - began:.1f} s after the first"
    )
