"""Ends of links that die, all at once or for good: what comes of their tunnels, and of the memory of who waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.interface import reconcile
from agent.wireguard import uapi
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.test_traffic import await_first_packet
from tests.netns.world import Task, World, wait_for
from tests.support import stage

KILLS = int(os.environ.get("LINKWIRE_KILLS") or 6)
"""Rounds; the report's 20 with `make chaos`."""
SILENT_S = float(os.environ.get("LINKWIRE_SILENT_PEERS_S") or 11)
"""Seconds for which peers do not answer; ten minutes with `make chaos`."""
SILENT_PEERS = 100
TUNNEL_S = 8.0
"""A handshake that is lost is tried again after 5 s (WireGuard paper, section 6.1)."""
GROWTH_MIB = 4.0


def wired(task: Task, config: InterfaceConfig, hosts: str) -> tuple[str, ...]:
    changes, _ = reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)
    return changes.reasons


def kill(task: Task) -> None:
    """End the task's device as its program's end does; the kernel's own has no program."""
    pid = uapi.process(task.name)
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


def rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def test_silent_peers_cost_no_memory(world: World, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """Handshakes are tried every 5 s with a hundred peers that never answer (tailscale#20183)."""
    task = world.task(world.nodes()[0])
    peers = stage.strangers(SILENT_PEERS, keepalive=1)
    assert wired(task, stage.interface(task.name, task, peers), stage.hosts_file(tmp_path, "hosts"))
    pid = uapi.process(task.name)
    if pid is None:
        pytest.skip("the kernel's WireGuard is no process")
    time.sleep(SILENT_S / 3)  # the first attempts make their buffers
    before, sent = rss_mib(pid), tried(task)
    time.sleep(SILENT_S * 2 / 3)
    after, attempts = rss_mib(pid), (tried(task) - sent) / SILENT_PEERS
    figure(
        f"wireguard-go, {SILENT_PEERS} silent peers for {SILENT_S:.0f} s: {attempts:.1f} handshakes with each, "
        f"{before:.1f} MiB, then {after:.1f}"
    )
    assert attempts >= 1
    assert after - before < GROWTH_MIB


def tried(task: Task) -> int:
    """Return how many handshake initiations were sent, of 148 bytes each (WireGuard paper, section 5.4.2)."""
    peers = task.node.backend.read(task.netns, task.name).peers.values()
    return sum(peer.tx_bytes for peer in peers) // 148
