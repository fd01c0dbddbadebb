"""Many peers on one device: set, read and changed by our codec, against `wg`. The device has no keepalive to send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent import reconcile
from mesh.wgtypes import DeviceChange, InterfaceConfig, PeerChange, UdpEndpoint
from tests.bench import stage
from tests.bench.by_hand import write_wg_file
from tests.bench.measure import Effort, Row, alternate, timed
from tests.netns.world import Task, device_name


def measure(effort: Effort) -> list[Row]:
    """Set all, read all, change one."""
    with stage.world() as (world, folder):
        node, _ = world.nodes()
        bench = _Bench(world.task(node), folder, effort.most)
        try:
            return bench.rows(effort.rounds)
        finally:
            bench.close()


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
        self._hosts = stage.hosts_file(folder, "hosts")
        self._none = write_wg_file(folder / "none", replace(self._before, peers=()))
        self._all = write_wg_file(folder / "all", self._before)

    def rows(self, rounds: int) -> list[Row]:
        """Set and read while the device is down, change while it is up."""
        self._backend.create(self._netns, self._name)
        count = self._count
        setting = alternate(rounds, lambda: self._set(self._set_ours), lambda: self._set(self._set_theirs))
        reading = alternate(rounds, lambda: timed(self._read_ours), lambda: timed(self._read_theirs))
        self._wire(self._before)
        changing = alternate(rounds, lambda: self._change(self._change_ours), self._sync)
        telling = alternate(rounds, lambda: self._change(self._tell_ours), self._sync)
        return [
            Row("peers.set", f"set {count} peers", "wg setconf", "ms", "lower", *setting),
            Row("peers.read", f"read and decode {count} peers", "wg show dump", "ms", "lower", *reading),
            Row("peers.change", f"reconcile 1 changed peer of {count}", "wg syncconf", "ms", "lower", *changing),
            Row("peers.tell", f"set 1 known peer of {count}", "wg syncconf", "ms", "lower", *telling),
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
        reconcile.reconcile(self._backend, self._netns, self._hosts, config, None, complete=True)

    def _change(self, work: Callable[[], None]) -> float:
        """Milliseconds for the endpoint's way there."""
        took = timed(work)
        self._check(self._after)
        return took

    def _sync(self) -> float:
        """Milliseconds for its way back."""
        took = timed(lambda: self._hand.wg("syncconf", self._name, str(self._all)))
        self._check(self._before)
        return took

    def _change_ours(self) -> None:
        reconcile.reconcile(self._backend, self._netns, self._hosts, self._after, self._before, complete=True)

    def _tell_ours(self) -> None:
        change = PeerChange(self._moved.public_key, self._moved.endpoint, update_only=True)
        self._backend.apply(self._netns, self._name, DeviceChange(peers=(change,)))

    def _check(self, config: InterfaceConfig) -> None:
        lines = self._hand.wg("show", self._name, "endpoints").splitlines()
        assert set(lines) == {f"{peer.public_key}\t{peer.endpoint}" for peer in config.peers}
