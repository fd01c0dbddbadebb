"""Ends of links that die all at once: what comes of their tunnels."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from agent.holder import sockets
from agent.interface import reconcile
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.test_traffic import await_first_packet
from tests.netns.world import Task, World, wait_for
from tests.support import stage

KILLS = int(os.environ.get("LINKWIRE_KILLS") or 6)
"""Rounds; the report's 20 with `make chaos`."""
TUNNEL_S = 8.0
"""A handshake that is lost is tried again after 5 s (WireGuard paper, section 6.1)."""


def wired(task: Task, config: InterfaceConfig, hosts: str) -> tuple[str, ...]:
    changes, _ = reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)
    return changes.reasons


def kill(task: Task) -> None:
    """End the task's device as its program's end does; the kernel's own has no program."""
    pid = sockets.process(task.name)
    if pid is None:
        task.node.backend.delete(task.netns, task.name)
        return
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: task.name not in task.node.backend.found(task.netns))


def test_tunnels_return_when_both_ends_die_together(
    world: World, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Neither end remembers a session, again and again (nebula#1066)."""
    left, right = (world.task(node) for node in world.nodes())
    ends = [
        (task, stage.interface(task.name, task, (stage.peer_of(other),)), stage.hosts_file(tmp_path, task.name))
        for task, other in ((left, right), (right, left))
    ]
    took = []
    for number in range(1 + KILLS):
        for task, _, _ in ends if number else ():
            kill(task)
        for end in ends:
            assert wired(*end)
        took.append(await_first_packet(left, right))
        assert took[-1] < TUNNEL_S
    figure(f"both ends killed {KILLS} times: the tunnel is back {max(took):.2f} s after its devices, at most")
