"""The underlay's MTU is lowered while a large transfer runs over a link.

Black holes of large packets, and an MTU taken from another device, are in cilium#47176 and
terraform-hcloud-kubernetes#450.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.interface import path_mtu, reconcile
from agent.interface.path_mtu import OVERHEAD, PathMtu
from agent.linux.netns import TaskNetns
from tests.netns.transfer import Transfer
from tests.netns.world import Task, World, ip, wait_for
from tests.support import stage
from tests.support.patience import slowness

LOW = 1380
STALL_S = 3.0
"""Longest time for a round of half a megabyte each way, with the change in it."""
EACH_S = 0.5


def set_mtu(task: Task, mtu: int, device: str = "under") -> None:
    ip("-n", Path(task.node.netns.path).name, "link", "set", device, "mtu", str(mtu))


def test_transfer_goes_on_when_underlay_mtu_falls(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """At once by fragments outside; then by the MTU of the link's route, as the agent derives it."""
    monkeypatch.setattr(path_mtu, "ROUTES_S", EACH_S)
    left, right = (world.task(node) for node in world.nodes())
    known = PathMtu(TaskNetns(left.node.netns.path))
    for task in (left, right):  # another device of the node, with another MTU, counts for nothing
        ip("-n", Path(task.node.netns.path).name, "link", "add", "other", "type", "bridge")
        set_mtu(task, 1200, "other")

    def wire() -> int:
        mtu = left.node.backend.largest(known.least((right.node.address.ip,)))
        for task, other in ((left, right), (right, left)):
            config = stage.interface(task.name, task, (stage.peer_of(other),), mtu=mtu)
            hosts = tmp_path / task.name
            path = str(hosts) if hosts.exists() else stage.hosts_file(tmp_path, task.name)
            reconcile.reconcile(task.node.backend, task.netns, path, config, None, complete=True)
        return mtu

    assert wire() == left.node.backend.largest(1500 - OVERHEAD[4])
    with Transfer(left.netns, right.netns, str(stage.vip())) as transfer:
        wait_for(lambda: transfer.rounds >= 2)
        began, rounds = time.monotonic(), transfer.rounds
        for task in (left, right):
            set_mtu(task, LOW)
        wait_for(lambda: transfer.rounds >= rounds + 3 or bool(transfer.problem), 20)
        outside = transfer.longest
        wait_for(lambda: wire() == left.node.backend.largest(LOW - OVERHEAD[4]))
        took, rounds = time.monotonic() - began, transfer.rounds
        wait_for(lambda: transfer.rounds >= rounds + 3 or bool(transfer.problem), 20)
    figure(
        f"underlay MTU {LOW}: longest round {outside:.2f} s, "
        f"and {transfer.longest:.2f} s once all is done ({took:.1f} s)"
    )
    assert transfer.problem == ""
    assert transfer.longest < STALL_S * slowness()
