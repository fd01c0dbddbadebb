"""Services of wired tasks for a test: who links to whom, and the rules that this means for each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.firewall import nft
from agent.firewall.ruleset import render
from mesh.model.labels.ports import PortRange
from mesh.model.records import Refused
from mesh.topology.ipam import twin
from mesh.topology.policy import Allow, Balance, Exit, Policy
from tests.netns.world import MESH, MESH6, Task, World

FIRST_VIP = 1 << 15
"""Where the VIPs begin in the mesh's subnet."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Link:
    consumer: str
    provider: str
    ports: tuple[PortRange, ...] | None = None

    @classmethod
    def of(cls, consumer: str, provider: str, *ports: str) -> Link:
        return cls(consumer, provider, tuple(map(PortRange.parse, ports)))


@dataclass
class Services:
    """Tasks by the service they belong to. All are WireGuard peers of each other: only the rules keep them apart."""

    tasks: Mapping[str, tuple[Task, ...]]
    links: tuple[Link, ...] = ()
    unready: set[str] = field(default_factory=set)
    """Devices of tasks that are not ready."""

    @classmethod
    def make(cls, world: World, **counts: int) -> Services:
        nodes = world.nodes()
        tasks = {name: tuple(world.task(nodes[n % 2]) for n in range(count)) for name, count in counts.items()}
        made = cls(tasks)
        every = made.every()
        for task in every:
            task.wire(*(other for other in every if other is not task))
        return made

    def every(self) -> tuple[Task, ...]:
        return tuple(task for tasks in self.tasks.values() for task in tasks)

    def vip(self, service: str, version: int = 4) -> Address:
        return placed(MESH[FIRST_VIP + list(self.tasks).index(service)], version)

    def policy(self, service: str, task: Task, apart: Iterable[Address] = (), exits: Iterable[Exit] = ()) -> Policy:
        def allow(other: str, ports: tuple[PortRange, ...] | None) -> Allow:
            peers = (one.address.ip for one in self.tasks[other] if one is not task)
            return Allow(other, tuple(sorted(peers)), ports)

        providers = sorted((link.provider, link.ports) for link in self.links if link.consumer == service)
        consumers = sorted((link.consumer, link.ports) for link in self.links if link.provider == service)
        balance = (
            Balance(
                MESH[FIRST_VIP + list(self.tasks).index(provider)],
                tuple(sorted(one.address.ip for one in self.tasks[provider] if one.name not in self.unready)),
                provider,
            )
            for provider, _ in providers
        )
        return Policy(
            subnet=MESH,
            subnet6=MESH6,
            balance=tuple(sorted(balance, key=lambda one: one.vip)),
            outbound=tuple(allow(*one) for one in providers),
            inbound=tuple(allow(*one) for one in consumers),
            isolated=tuple(sorted(apart, key=lambda one: (one.version, one))),
            exits=tuple(exits),
        )

    def link(self, *links: Link) -> None:
        """Make these the links, at every task."""
        self.links = links
        self.apply()

    def apply(self, *services: str) -> None:
        """Put in place what the links mean, at the tasks of these services or of all."""
        for service in services or self.tasks:
            for task in self.tasks[service]:
                nft.apply(task.netns, render(self.policy(service, task), task.name))

    def clear(self) -> None:
        """No links and no rules."""
        self.links = ()
        for task in self.every():
            nft.remove(task.netns)


def placed(address: IPv4Address, version: int) -> Address:
    return address if version == 4 else twin(MESH6, address)


def address(task: Task, version: int = 4) -> Address:
    return placed(task.address.ip, version)


def refused(task: Task) -> dict[tuple[str, str], int]:
    """What the task's rules have refused, by direction and service."""
    table = nft.read(task.netns)
    assert table is not None
    found: tuple[Refused, ...] = table.refused
    return {(one.direction, one.service): one.packets for one in found}
