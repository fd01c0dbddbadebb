"""An agent's process is killed under traffic and another takes its devices over: what is lost of the traffic.

With the kernel's WireGuard this is also what becomes of links when the agent's container is replaced: its sockets are
on the node's own network, and nothing of a device is a process. With wireguard-go it is so only as long as the
container stays, or where a holder has its processes (test_holder.py).
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from agent.interface import reconcile
from agent.linux.netns import TaskNetns
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World, make_backend
from tests.support import stage

ROUNDS = 3
SECONDS = 300.0  # for a process to have wired its task; the guest's processor is a slow one
# Forked, since a new interpreter takes the guest ten seconds; before there are threads or open things of an agent.
FORK = multiprocessing.get_context("fork")


class Agent:
    """A process that wires a task when it is told to, and then keeps open what an agent keeps open."""

    def __init__(self, task: Task, config: InterfaceConfig, hosts: str) -> None:
        self._here, there = FORK.Pipe()
        self._process = FORK.Process(target=self._run, args=(there, task, config, hosts))
        self._process.start()

    def wire(self) -> tuple[str, ...]:
        """What it had to change."""
        self._here.send(None)
        assert self._here.poll(SECONDS)
        changed: tuple[str, ...] = self._here.recv()
        return changed

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        assert self._process.exitcode == -signal.SIGKILL

    @staticmethod
    def _run(told: Connection, task: Task, config: InterfaceConfig, hosts: str) -> None:
        told.recv()
        backend, netns = make_backend(task.node.netns.path), TaskNetns(task.netns.path)
        changes, _ = reconcile.reconcile(backend, netns, hosts, config, None, complete=True)
        told.send(tuple(changes.reasons))
        signal.pause()


@contextmanager
def agents(task: Task, other: Task, folder: Path, count: int) -> Iterator[list[Agent]]:
    hosts = stage.hosts_file(folder, task.name)
    config = stage.interface(task.name, task, (stage.peer_of(other),))
    made = [Agent(task, config, hosts) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.kill()


def test_agent_takeover_after_kill_loses_no_packet(
    world: World, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    left, right = (world.task(node) for node in world.nodes())
    with agents(right, left, tmp_path, 1) as there, agents(left, right, tmp_path, 1 + ROUNDS) as (first, *others):
        there[0].wire()
        assert first.wire()
        await_first_packet(left, right)
        with Flood(left, right, 50) as going, Flood(right, left, 50) as coming:
            time.sleep(1)
            first.kill()
            for one in others:
                time.sleep(1)  # of traffic with no agent
                assert one.wire() == ()
                one.kill()
    lost, sent = len(going.lost) + len(coming.lost), going.sent + coming.sent
    figure(f"{left.node.backend.name}: taken over {ROUNDS} times by a new process, {lost} of {sent} packets lost")
    assert (going.lost, coming.lost) == ([], [])
    assert min(going.sent, coming.sent) > 50
