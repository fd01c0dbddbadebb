"""A task gets another key of its own under traffic, after the other end of its link knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.interface import reconcile
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import PresharedKey
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.world import Task, World, wait_for
from tests.support import stage
from tests.support.patience import slowness

QUEUED = 128
"""Packets that wait for a handshake (MAX_STAGED_PACKETS in the kernel, QueueStagedSize in wireguard-go)."""
RATE = 50.0
"""A second: the queue is full before a handshake that was lost is tried again, which is after 5 s."""


def wired(task: Task, other: Task, shared: PresharedKey, hosts: str) -> tuple[str, ...]:
    config = stage.interface(task.name, task, (replace(stage.peer_of(other), preshared_key=shared),))
    changes, _ = reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)
    return changes.reasons


def test_packets_wait_for_a_new_key_only(world: World, tmp_path: Path) -> None:
    """The other end begins a handshake too early, with a key that the task does not have yet."""
    provider, consumer = (world.task(node) for node in world.nodes())
    files = {task.name: stage.hosts_file(tmp_path, task.name) for task in (provider, consumer)}
    wired(provider, consumer, stage.SHARED, files[provider.name])
    wired(consumer, provider, stage.SHARED, files[consumer.name])
    await_first_packet(consumer, provider)
    with Flood(consumer, provider, RATE) as flood:
        wait_for(lambda: len(flood.arrived) > 5, seconds=10 * slowness())
        provider.key, shared = PrivateKey.generate(), PresharedKey.generate()
        assert wired(consumer, provider, shared, files[consumer.name]) == ("1 peers removed", "1 peers set")
        early = flood.sent
        wait_for(lambda: flood.sent > early + 10, seconds=10 * slowness())
        reasons = wired(provider, consumer, shared, files[provider.name])
        assert reasons == ("another private key", "1 preshared keys changed")
        changed = flood.sent
        wait_for(lambda: max(flood.arrived) > changed, seconds=30)
    assert changed - early < QUEUED, "this machine is too slow to tell"
    assert flood.lost == []
