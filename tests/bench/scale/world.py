"""The Swarms that are simulated: which services there are, what they link to, and where their tasks run.

A cluster of any size is made of the same pieces: stacks of five services with ten tasks each, every service linked to
all five. So one more task concerns as many peers in a small cluster as in a large one, and there are nodes that it
does not concern. 10,000 tasks are 1,000 services with 5,000 links on 300 nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from controller.swarm.model import SwarmNode, SwarmService, SwarmTask
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.records import Attachment

CLUSTER = "cluster"
TASKS_OF_A_SERVICE = 10
SERVICES_OF_A_STACK = 5
ROLLED, CONSUMER = "rolled", "consumer"
_OVERLAY = IPv4Address("10.0.0.2")


@dataclass(frozen=True, slots=True)
class World:
    """What Swarm's managers know at first.

    Attributes:
        nodes: ids.
        services: by id.
        tasks: by id, all of them running.
    """

    nodes: Sequence[str]
    services: Mapping[str, SwarmService]
    tasks: Mapping[str, SwarmTask]

    def on(self, node: str) -> list[SwarmTask]:
        """The tasks of a node."""
        return [task for task in self.tasks.values() if task.node == node]


def node(number: int) -> str:
    """A node's id."""
    return f"node{number:021d}"


def hostname(node_id: str) -> str:
    """Its name for people."""
    return f"host{int(node_id[4:])}"


def underlay(node_id: str) -> IPv4Address:
    """Its address."""
    return IPv4Address("10.128.0.1") + int(node_id[4:])


def task(service: str, slot: int, node_id: str, number: int = 0) -> SwarmTask:
    """A task that runs, the n-th in its slot. Each service has an overlay of its own."""
    attachment = Attachment(f"overlay-{service}", _OVERLAY + 256 * number + slot)
    name = hashlib.sha256(f"{service}.{slot}.{number}".encode()).hexdigest()[:25]  # as unlike as Swarm's own
    return SwarmTask(name, service, slot, node_id, "running", "running", (attachment,))


def stacks(tasks: int, of_service: int = TASKS_OF_A_SERVICE) -> World:
    """Stacks, each on as few nodes as take them: 33 tasks or so to a node, and so many to a service."""
    nodes = [node(n) for n in range(max(3, tasks * 3 // 100))]
    services = [_stacked(n, of_service) for n in range(tasks // of_service)]
    return _world(
        nodes,
        services,
        [task(services[n // of_service].id, n % of_service, nodes[n * len(nodes) // tasks]) for n in range(tasks)],
    )


def rolling(nodes: int, tasks: int) -> World:
    """A service with a task on each of some nodes, and one that links to it with a task on each of the others."""
    names = [node(n) for n in range(nodes)]
    consumer = _service(CONSUMER, "consumer", (LinkLabel("rolled", ("rolled",)),), nodes - tasks)
    return _world(
        names,
        [_service(ROLLED, "rolled", (), tasks), consumer],
        [task(ROLLED, n, names[n]) for n in range(tasks)]
        + [task(CONSUMER, n, names[n]) for n in range(tasks, nodes)],
    )


def _world(nodes: Sequence[str], services: Sequence[SwarmService], tasks: Sequence[SwarmTask]) -> World:
    return World(nodes, {one.id: one for one in services}, {one.id: one for one in tasks})


def _stacked(number: int, tasks: int) -> SwarmService:
    first = number - number % SERVICES_OF_A_STACK
    names = [f"name{n}" for n in range(first, first + SERVICES_OF_A_STACK)]
    links = tuple(LinkLabel(name, (f"alias{n}",)) for n, name in enumerate(names))
    return _service(f"service{number:018d}", f"name{number}", links, tasks)


def _service(service: str, name: str, links: tuple[LinkLabel, ...], replicas: int) -> SwarmService:
    return SwarmService(service, name, ServiceLabels(links), (), dnsrr=False, replicas=replicas, stack="name")


class SyntheticSwarm:
    """Stand-in for `SwarmManager`: its lists are those of a Swarm that a program moves."""

    def __init__(self, world: World, approved: Mapping[str, str]) -> None:
        """Begin with a world. `approved`: node -> fingerprint of its keys, as an operator would label it."""
        self._services = dict(world.services)
        self._tasks = dict(world.tasks)
        self._of: dict[str, dict[str, SwarmTask]] = {}
        for one in world.tasks.values():
            self._of.setdefault(one.service, {})[one.id] = one
        self._nodes = {
            one: SwarmNode(one, hostname(one), down=False, address=underlay(one), approved=approved.get(one))
            for one in world.nodes
        }

    def cluster(self) -> tuple[str, tuple[bytes, ...], int]:
        """As SwarmManager."""
        return CLUSTER, (), 4789

    def services(self) -> dict[str, SwarmService]:
        """As SwarmManager."""
        return dict(self._services)

    def tasks(self, services: frozenset[str] | None = None) -> dict[str, SwarmTask]:
        """As SwarmManager."""
        if services is None:
            return dict(self._tasks)  # copied in one step: another thread moves it
        found: dict[str, SwarmTask] = {}
        for service in services:  # dockerd looks them up, and its work is not the controller's
            found |= self._of.get(service, {}).copy()
        return found

    def nodes(self) -> dict[str, SwarmNode]:
        """As SwarmManager."""
        return dict(self._nodes)

    def put(self, changed: SwarmTask, *, scale: int = 0) -> None:
        """A task is made or has moved; with `scale` its service has so many replicas more."""
        self._tasks[changed.id] = changed
        self._of.setdefault(changed.service, {})[changed.id] = changed
        if scale:
            service = self._services[changed.service]
            self._services[service.id] = replace(service, replicas=(service.replicas or 0) + scale)

    def take(self, name: str) -> None:
        """A task is over and forgotten."""
        gone = self._tasks.pop(name, None)
        if gone is not None:
            self._of[gone.service].pop(name, None)

    def fail(self, name: str) -> None:
        """A node is down."""
        self._nodes[name] = replace(self._nodes[name], down=True)
