"""Very many handshakes at once, as after a power loss: seconds until all links are connected, those in use first.

One task with very many consumers on another node, whose network comes back. WireGuard begins a handshake with the
first packet of data or with the keepalive, tries again every 5 s, and gives up after 90 s until the next of either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.crypto.keys import PublicKey
from tests.netns.test_traffic import PORT, udp
from tests.netns.world import Task, World, enough_instances, ip
from tests.support.effort import LONG, in_long_form

COUNT = 200 if LONG else 5
BUSY = max(1, COUNT // 10)
GIVEN_UP_S = 100.0
ALL_S = 60.0


@contextmanager
def cut_off(world: World) -> Iterator[tuple[Task, list[Task], Callable[[], None]]]:
    """A task and its consumers on another node, with devices that were just made, and what reconnects the nodes."""
    left, right = world.nodes()
    name = Path(left.netns.path).name

    def reconnect() -> None:
        ip("-n", name, "link", "set", "under", "up")

    ip("-n", name, "link", "set", "under", "down")
    hub, consumers = world.task(left), [world.task(right) for _ in range(COUNT)]
    hub.wire(*consumers)
    for consumer in consumers:
        consumer.wire(hub)
    yield hub, consumers, reconnect


@contextmanager
def busy(consumers: list[Task], hub: Task) -> Iterator[None]:
    """While entered, each of them sends ten datagrams a second."""
    ends = threading.Event()
    sockets = [udp(consumer.netns) for consumer in consumers]

    def send() -> None:
        while not ends.wait(0.1):
            for one in sockets:
                one.sendto(b"data", (str(hub.address.ip), PORT))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        for one in sockets:
            one.close()


def connected(hub: Task, consumers: list[Task], began: float) -> dict[PublicKey, float]:
    """Seconds until each has had a handshake."""
    seen: dict[PublicKey, float] = {}
    while len(seen) < len(consumers):
        peers = hub.node.backend.read(hub.netns, hub.name).peers.values()
        now = time.monotonic() - began
        for peer in peers:
            if peer.last_handshake is not None:
                seen.setdefault(peer.public_key, now)
        assert now < ALL_S, f"{len(seen)} of {len(consumers)}"
        time.sleep(0.05)
    return seen


def measured(world: World, pause: float) -> tuple[float, float]:
    """Seconds until the last of the busy, and the last of all, has a handshake after so long a cut."""
    with enough_instances(COUNT), cut_off(world) as (hub, consumers, reconnect), busy(consumers[:BUSY], hub):
        time.sleep(pause)
        began = time.monotonic()
        reconnect()
        seen = connected(hub, consumers, began)
    return max(seen[one.key.public] for one in consumers[:BUSY]), max(seen.values())


def test_all_connect_after_a_short_cut(world: World, figure: Callable[[str], None]) -> None:
    in_use, last = measured(world, 2.0)
    figure(f"{COUNT} links after a cut of seconds: those in use after {in_use:.1f} s, all after {last:.1f} s")
    assert last < ALL_S


@in_long_form
def test_links_in_use_come_first_after_long_cut(world: World, figure: Callable[[str], None]) -> None:
    """WireGuard has given up: data begin a handshake at once, a link without waits for its keepalive."""
    in_use, last = measured(world, GIVEN_UP_S)
    figure(
        f"{COUNT} links after a cut of {GIVEN_UP_S:.0f} s: the {BUSY} in use after {in_use:.1f} s, all after"
        f" {last:.1f} s"
    )
    assert in_use <= last < ALL_S


def test_consumers_made_anew_connect_at_once(world: World, figure: Callable[[str], None]) -> None:
    """As by a reboot of their node: devices without sessions, each of which begins a handshake when it is up."""
    with enough_instances(COUNT), cut_off(world) as (hub, consumers, reconnect):
        reconnect()
        connected(hub, consumers, time.monotonic())
        for consumer in consumers:
            consumer.node.backend.delete(consumer.netns, consumer.name)
        began = time.monotonic()
        for consumer in consumers:
            consumer.wire(hub)
        made = time.monotonic() - began
        while not all(map(has_answer, consumers)):
            assert time.monotonic() - began < ALL_S
            time.sleep(0.05)
        took = time.monotonic() - began
    figure(f"{COUNT} devices made anew in {made:.1f} s: the last one connected after {took:.1f} s")


def has_answer(consumer: Task) -> bool:
    peers = consumer.node.backend.read(consumer.netns, consumer.name).peers.values()
    return all(peer.last_handshake is not None for peer in peers)
