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
        self._hosts = stage.hosts_file(folder, "hosts")
        self._none = write_wg_file(folder / "none", replace(self._before, peers=()))
        self._all = write_wg_file(folder / "all", self._before)

    def rows(self, key: str, rounds: int) -> list[Row]:
        """Set and read while the device is down, change while it is up."""
        self._backend.create(self._netns, self._name)
        count = self._count
        setting = alternate(rounds, lambda: self._set(self._set_ours), lambda: self._set(self._set_theirs))
        reading = alternate(rounds, lambda: timed(self._read_ours), lambda: timed(self._read_theirs))
        self._wire(self._before)
        changing = alternate(rounds, lambda: self._change(self._change_ours), self._sync)
        telling = alternate(rounds, lambda: self._change(self._tell_ours), self._sync)
        rows = [
            Row(f"peers.set.{key}", f"set {count} peers", "wg setconf", "ms", "lower", *setting),
            Row(
                f"peers.read.{key}", f"read {count} peers again", "wg show dump", "ms", "lower", *reading, aim="<= 2"
            ),
            Row(
                f"peers.change.{key}", f"reconcile 1 changed peer of {count}", "wg syncconf", "ms", "lower", *changing
            ),
            Row(f"peers.tell.{key}", f"set 1 known peer of {count}", "wg syncconf", "ms", "lower", *telling),
        ]
        aims = ("<= 1.2", "<= 2", "<= 0.2", "")
        notes = ("", "", "all of the device is read before, and read back afterwards", "")
        return [
            replace(row, size=count, aim=aim, note=note) for row, aim, note in zip(rows, aims, notes, strict=True)
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
