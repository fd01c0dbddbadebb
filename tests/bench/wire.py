"""What it takes to wire one task, and to find that a wired one is as it should be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from agent.firewall import nft
from agent.interface import reconcile
from agent.linux.netns import TaskNetns
from mesh.topology.wgtypes import PeerConfig
from tests.bench.measure import Effort, Row, alternate, timed
from tests.netns.world import Task, device_name
from tests.support import stage
from tests.support.by_hand import write_nft_file, write_wg_file


def measure(effort: Effort) -> list[Row]:
    """Wiring and a look, with one peer and with many."""
    with stage.world() as (world, folder):
        node, _ = world.nodes()
        task = world.task(node)
        rows = []
        for key, count in (("one", 1), ("many", effort.many)):
            peers = stage.strangers(count)
            bench = _Bench(task, folder / key, peers)
            what = f"with {count} peer{'s' * (count > 1)}"
            wiring = alternate(effort.rounds, bench.wire_ours, bench.wire_theirs)
            rows.append(Row(f"wire.{key}", f"wire a task {what}", "wg, ip and nft", "ms", "lower", *wiring))
            looking = bench.looks(effort.rounds)
            reference = "wg, ip and nft show"
            rows.append(Row(f"look.{key}", f"find nothing to do, {what}", reference, "ms", "lower", *looking))
        return rows


class _Bench:
    """One task, wired and unwired again and again, each time with a device of another name."""

    def __init__(self, task: Task, folder: Path, peers: tuple[PeerConfig, ...]) -> None:
        self._task = task
        self._backend = task.node.backend
        self._folder = folder
        self._peers = peers
        self._hand = stage.by_hand(task)
        self._numbers = itertools.count()
        folder.mkdir()

    def wire_ours(self) -> float:
        """Milliseconds, from opening the namespace to having read everything back."""
        config = stage.interface(device_name(), self._task, self._peers)
        hosts = stage.hosts_file(self._folder, f"hosts{next(self._numbers)}")

        def work() -> None:
            with TaskNetns(self._task.netns.path) as netns:
                reconcile.reconcile(self._backend, netns, hosts, config, None, complete=True)

        return self._wire(config.name, work)

    def wire_theirs(self) -> float:
        """Milliseconds. Its configuration is written before the clock starts, its names not at all."""
        config = stage.interface(device_name(), self._task, self._peers)
        wg_file = write_wg_file(self._folder / f"wg{next(self._numbers)}", config)
        nft_file = write_nft_file(self._folder / f"nft{next(self._numbers)}", config)
        return self._wire(config.name, lambda: self._hand.wire(config, wg_file, nft_file))

    def looks(self, rounds: int) -> tuple[list[float], list[float]]:
        """Milliseconds for reconciling a task that is as it should be, and for reading it with programs."""
        config = stage.interface(device_name(), self._task, self._peers)
        hosts = stage.hosts_file(self._folder, f"hosts{next(self._numbers)}")

        def again() -> None:
            netns = self._task.netns
            changes, _ = reconcile.reconcile(self._backend, netns, hosts, config, config, complete=True)
            assert not changes, changes.reasons

        try:
            reconcile.reconcile(self._backend, self._task.netns, hosts, config, None, complete=True)
            self._hand.nft("-f", str(write_nft_file(self._folder / f"nft{next(self._numbers)}", config)))
            return alternate(rounds, lambda: timed(again), lambda: timed(lambda: self._hand.look(config.name)))
        finally:
            self._delete(config.name)

    def _wire(self, name: str, work: Callable[[], None]) -> float:
        try:
            took = timed(work)
            assert self._hand.peers(name) == len(self._peers)
            return took
        finally:
            self._delete(name)

    def _delete(self, name: str) -> None:
        with stage.uninterrupted():
            self._backend.delete(self._task.netns, name)
            nft.remove(self._task.netns)
            self._hand.forget_rules()
