"""One device with its address, its routes and its rules, against pyroute2 and nft as a program would use them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from ipaddress import IPv6Interface
from pathlib import Path

from pyroute2 import IPRoute

from agent.firewall import nft
from agent.interface import reconcile
from agent.linux.netns import TaskNetns
from mesh.topology.wgtypes import InterfaceConfig
from tests.bench.measure import Effort, Row, alternate, timed
from tests.netns.world import Task, device_name
from tests.support import stage
from tests.support.by_hand import write_nft_file


def measure(effort: Effort) -> list[Row]:
    """A device, made, moved, addressed, up, with rules."""
    with stage.world() as (world, folder):
        node, _ = world.nodes()
        bench = _Bench(world.task(node), folder)
        turns = alternate(effort.rounds, bench.ours, bench.theirs)
        reference = "pyroute2, then nft"
        note = "ours also has its key, one peer and its names, and all of it is read back"
        what = "a device made in the task, addressed, up, routed, with rules"
        return [Row("device.made", what, reference, "ms", "lower", *turns, aim="<= 0.5", note=note)]


class _Bench:
    def __init__(self, task: Task, folder: Path) -> None:
        self._task = task
        self._folder = folder
        self._backend = task.node.backend
        self._hand = stage.by_hand(task)
        self._peers = stage.strangers(1)
        self._numbers = itertools.count()

    def ours(self) -> float:
        config = stage.interface(device_name(), self._task, self._peers)
        hosts = stage.hosts_file(self._folder, f"hosts{next(self._numbers)}")

        def work() -> None:
            with TaskNetns(self._task.netns.path) as netns:
                reconcile.reconcile(self._backend, netns, hosts, config, None, complete=True)

        return self._made(config.name, work)

    def theirs(self) -> float:
        config = stage.interface(device_name(), self._task, self._peers)
        rules = write_nft_file(self._folder / f"nft{next(self._numbers)}", config)
        return self._made(config.name, lambda: self._by_pyroute2(config, rules))

    def _by_pyroute2(self, config: InterfaceConfig, rules: Path) -> None:
        # In a thread that is in the namespace: with `netns=`, pyroute2 forks, and ends what it forked by a signal.
        if self._backend.name == "userspace":
            self._hand.start(config.name)
            self._hand.wg("show", config.name, "listen-port")  # it returns before it has opened its device
        self._task.node.netns.run(lambda: self._place(config.name))
        self._task.netns.run(lambda: _configure(config))
        self._hand.nft("-f", str(rules))

    def _place(self, name: str) -> None:
        target = self._task.netns.fileno()
        with IPRoute() as home:
            if self._backend.name == "userspace":
                home.link("set", index=_index(home, name), net_ns_fd=target)
            else:
                home.link("add", ifname=name, kind="wireguard", net_ns_fd=target)

    def _made(self, name: str, work: Callable[[], None]) -> float:
        try:
            took = timed(work)
            assert name in self._backend.found(self._task.netns)
            return took
        finally:
            with stage.uninterrupted():
                self._backend.delete(self._task.netns, name)
                nft.remove(self._task.netns)
                self._hand.forget_rules()


def _configure(config: InterfaceConfig) -> None:
    with IPRoute() as inside:
        index = _index(inside, config.name)
        for address in config.addresses:
            flags = {"flags": 2} if isinstance(address, IPv6Interface) else {}
            inside.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
        inside.link("set", index=index, mtu=config.mtu, state="up")
        for route in config.routes:
            inside.route("add", dst=str(route.network), oif=index)


def _index(inside: IPRoute, name: str) -> int:
    return int(inside.link_lookup(ifname=name)[0])
