"""Peers judged broken or not by real WireGuard devices, whose packets a firewall drops."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.linux.netns import TaskNetns
from agent.reporting.status_poller import STATUS_S
from agent.wireguard.peer_health import INITIATION_BYTES, Health, Reading, follow, state
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns.programs import echo
from tests.netns.services import address
from tests.netns.world import Task, World, wait_for
from tests.support.patience import slowness

WITHIN_S = 15.0
LATE_S = 3.0  # a busy machine


class Watched:
    """Peers of tasks that have one each, read as the agent reads them."""

    def __init__(self, *tasks: Task) -> None:
        self._tasks = tasks
        self._health: dict[str, Health] = {}
        self.states: dict[str, str] = {}

    def read(self) -> None:
        for task in self._tasks:
            (peer,) = task.node.backend.read(task.netns, task.name).peers.values()
            now, handshake = time.monotonic(), peer.last_handshake
            reading = Reading(now, peer.rx_bytes, peer.tx_bytes, handshake or 0.0)
            health = self._health[task.name] = follow(self._health.get(task.name), reading)
            age = time.time() - handshake if handshake else None
            self.states[task.name] = state(age, health.broken_for)

    def until(self, task: Task, wanted: str, seconds: float) -> float:
        """Read until a task's peer is in a state; how many seconds it took."""
        began = time.monotonic()
        self.read()
        while self.states[task.name] != wanted:
            assert time.monotonic() - began < seconds, f"{self.states[task.name]} still, and not {wanted}"
            time.sleep(STATUS_S)
            self.read()
        return time.monotonic() - began


@contextmanager
def wall(netns: TaskNetns, hook: str) -> Iterator[None]:
    """Drop all UDP packets that come to a node, or leave it."""
    table = f"table inet wall {{\nchain every {{\ntype filter hook {hook} priority 0\nmeta l4proto udp drop\n}}\n}}\n"

    def nft(*arguments: str, text: str = "") -> None:
        netns.run(lambda: subprocess.run(["nft", *arguments], input=text, text=True, check=True))

    nft("-f", "-", text=table)
    try:
        yield
    finally:
        nft("delete", "table", "inet", "wall")


@contextmanager
def talking(task: Task, other: Task) -> Iterator[None]:
    command = ["ping", "-q", "-n", "-i", "0.3", str(address(other))]
    program = task.netns.run(lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL))
    try:
        yield
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("hook", ["input", "output"])
def test_blocked_traffic_is_broken_and_rest_is_idle(world: World, hook: str) -> None:
    left, right = world.nodes()
    busy, other, resting, rested = (world.task(node) for node in (left, right, left, right))
    busy.wire(other)
    other.wire(busy)
    for task, peer in ((resting, rested), (rested, resting)):
        task.wire()
        quiet = replace(peer.as_peer(), keepalive=0)
        task.node.backend.apply(task.netns, task.name, DeviceChange(None, None, (quiet,)))
    wait_for(lambda: echo(busy.netns, address(other)))
    watched = Watched(busy, resting)
    with talking(busy, other):
        for _ in range(3):
            watched.read()
            assert watched.states == {busy.name: "connected", resting.name: "idle"}
            time.sleep(STATUS_S)
        with wall(right.netns, hook):
            took = watched.until(busy, "broken", WITHIN_S + LATE_S)
            assert watched.states[resting.name] == "idle"
        watched.until(busy, "connected", WITHIN_S)
    assert took < (WITHIN_S + LATE_S) * slowness()


def test_initiations_of_the_other_end_are_no_answer(world: World) -> None:
    """Nothing gets out to a peer that has lost its session and tries to make another one, which comes in."""
    left, right = world.nodes()
    busy, other = world.task(left), world.task(right)
    busy.wire(other)
    other.wire(busy)
    wait_for(lambda: echo(busy.netns, address(other)))
    watched, received = Watched(busy), list[int]()
    with talking(busy, other), wall(right.netns, "input"):
        (public_key,) = other.node.backend.read(other.netns, other.name).peers
        for change in (PeerChange(public_key, remove=True), busy.as_peer()):
            other.node.backend.apply(other.netns, other.name, DeviceChange(None, None, (change,)))
        watched.until(busy, "broken", WITHIN_S + LATE_S)
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            (peer,) = busy.node.backend.read(busy.netns, busy.name).peers.values()
            received.append(peer.rx_bytes)
            watched.read()
            assert watched.states[busy.name] == "broken"
            time.sleep(STATUS_S)
        came = received[-1] - received[0]
        assert came > 0
        assert came % INITIATION_BYTES == 0
    watched.until(busy, "connected", WITHIN_S)
