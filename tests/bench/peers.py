"""Many peers on one device: set, read and changed, against `wg`. The device has no keepalive to send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers import start_gate
from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from mesh.model.net import UdpEndpoint
from mesh.topology.wgtypes import DeviceChange, InterfaceConfig, PeerChange
from tests.bench.measure import Effort, Row, alternate, timed
from tests.netns.world import Task, device_name
from tests.support import stage
from tests.support.by_hand import write_wg_file

_CHANGE = "a wired task: without a reading, which follows within a second or so"
_CONFIRM = "after however many changes there were in a second"


def measure(effort: Effort) -> list[Row]:
    """Set all, read all, change one; of some peers, and of five times as many."""
    with stage.world() as (world, folder):
        node, _ = world.nodes()
        rows = []
        for key, count, rounds in (
            ("some", effort.most, effort.rounds),
            ("most", 5 * effort.most, max(2, effort.rounds // 3)),
        ):
            (folder / key).mkdir()
            bench = _Bench(world.task(node), folder / key, count)
            try:
                rows += bench.rows(key, rounds)
            finally:
                bench.close()
        return rows


class _Bench:
    """One device whose peers come and go, and one of them has one of two endpoints."""

    def __init__(self, task: Task, folder: Path, count: int) -> None:
        self._count = count
        self._netns = task.netns
        self._backend = task.node.backend
        self._hand = stage.by_hand(task)
        self._before = stage.interface(device_name(), task, stage.strangers(count, keepalive=0))
        first, *rest = self._before.peers
        self._moved = replace(first, endpoint=UdpEndpoint(first.endpoint.host, first.endpoint.port - 1))
        self._after = replace(self._before, peers=(self._moved, *rest))
        self._name = self._before.name
        self._gate = folder / "gate"
        hosts = stage.hosts_file(folder, "hosts")
        local = LocalTask("c", "t", "s", "n", "running", self._netns.path, hosts, None, (), gated=False)
        self._state = TaskState(local)
        self._none = write_wg_file(folder / "none", replace(self._before, peers=()))
        self._all = write_wg_file(folder / "all", self._before)

    def rows(self, key: str, rounds: int) -> list[Row]:
        """Set and read while the device is down, change while it is up."""
        self._backend.create(self._netns, self._name)
        count = self._count
        setting = alternate(rounds, lambda: self._set(self._set_ours), lambda: self._set(self._set_theirs))
        reading = alternate(rounds, lambda: timed(self._read_ours), lambda: timed(self._read_theirs))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(start_gate, "FOLDER", self._gate)
            self._wire(self._before)
            confirming = alternate(rounds, self._confirm, self._sync)
            changing = alternate(rounds, self._change, self._sync)
        telling = alternate(rounds, self._tell, self._sync)
        took = (setting, reading, changing, confirming, telling)
        whats = (
            (f"peers.set.{key}", f"set {count} peers", "wg setconf", "<= 1.2", ""),
            (f"peers.read.{key}", f"read {count} peers again", "wg show dump", "<= 2", ""),
            (f"peers.change.{key}", f"a record changes: 1 peer of {count}", "wg syncconf", "<= 0.2", _CHANGE),
            (f"peers.confirm.{key}", f"read {count} peers that were changed", "wg syncconf", "", _CONFIRM),
            (f"peers.tell.{key}", f"set 1 known peer of {count}", "wg syncconf", "", ""),
        )
        return [
            Row(name, what, reference, "ms", "lower", *turns, size=count, aim=aim, note=note)
            for (name, what, reference, aim, note), turns in zip(whats, took, strict=True)
        ]

    def close(self) -> None:
        """Delete the device."""
        with stage.uninterrupted():
            self._backend.delete(self._netns, self._name)

    def _set(self, work: Callable[[], None]) -> float:
        """Milliseconds; the device is emptied first."""
        self._hand.wg("setconf", self._name, str(self._none))
        assert self._hand.peers(self._name) == 0
        took = timed(work)
        assert self._hand.peers(self._name) == self._count
        return took

    def _set_ours(self) -> None:
        config = self._before
        peers = tuple(
            PeerChange(p.public_key, p.endpoint, p.allowed_ips, keepalive=p.keepalive) for p in config.peers
        )
        self._backend.apply(self._netns, self._name, DeviceChange(config.private_key, config.listen_port, peers))

    def _set_theirs(self) -> None:
        self._hand.wg("setconf", self._name, str(self._all))

    def _read_ours(self) -> None:
        assert len(self._backend.read(self._netns, self._name).peers) == self._count

    def _read_theirs(self) -> None:
        assert self._hand.wg("show", self._name, "dump").count("\n") == self._count + 1

    def _wire(self, config: InterfaceConfig) -> None:
        self._state.wire(self._backend, config, complete=True)
        assert self._state.error is None

    def _change(self) -> float:
        """Milliseconds for the endpoint's way there, as the agent goes it. It believes to have been there before."""
        self._wire(self._before)
        took = timed(lambda: self._wire(self._after))
        assert self._state.schedule.confirm_at is not None, "it was read"
        self._check(self._after)
        return took

    def _confirm(self) -> float:
        """Milliseconds for the reading that follows a second later, which finds all as it is meant."""
        self._wire(self._before)
        self._wire(self._after)
        self._state.schedule.confirm_at, self._state.schedule.dirty = None, True
        took = timed(lambda: self._wire(self._after))
        self._check(self._after)
        return took

    def _sync(self) -> float:
        """Milliseconds for its way back."""
        took = timed(lambda: self._hand.wg("syncconf", self._name, str(self._all)))
        self._check(self._before)
        return took

    def _tell(self) -> float:
        change = PeerChange(self._moved.public_key, self._moved.endpoint, update_only=True)
        took = timed(lambda: self._backend.apply(self._netns, self._name, DeviceChange(peers=(change,))))
        self._check(self._after)
        return took

    def _check(self, config: InterfaceConfig) -> None:
        lines = self._hand.wg("show", self._name, "endpoints").splitlines()
        assert set(lines) == {f"{peer.public_key}\t{peer.endpoint}" for peer in config.peers}
