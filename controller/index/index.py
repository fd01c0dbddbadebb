"""Indexes over Swarm's lists and the store, as a plan needs them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from controller.index.allocations import Allocations
from controller.index.baseline import Delta
from controller.index.link_index import LinkIndex, links_of
from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from mesh.model import keyspace
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.records import (
    Address,
    Attachment,
    Endpoint,
    LinkKeyEpoch,
    Node,
    Port,
    Record,
    SealedKey,
    SealedLinkKey,
    Service,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.model.vault.records import EpochHistory
from mesh.process.multimap import MultiMap

V = TypeVar("V")


class TaskIndex:
    """Swarm's tasks that hold a place (`Swarm.live`), and all tasks by their nodes."""

    def __init__(self) -> None:
        """Start empty."""
        self.live: dict[str, SwarmTask] = {}
        self.of_service: MultiMap[str, str] = MultiMap()
        """Service -> its live tasks."""
        self.on_node: MultiMap[str, str] = MultiMap()
        """Node -> all tasks that Swarm has on it."""

    def renew(self, name: str, swarm: Swarm) -> None:
        """Find out whether a task is live."""
        task, before = swarm.tasks.get(name), self.live.pop(name, None)
        if before is not None:
            self.of_service.discard(before.service, name)
        if task is not None and swarm.live(task):
            self.live[name] = task
            self.of_service.add(task.service, name)


class LinkKeyIndex:
    """Records of link keys, by the key's name."""

    def __init__(self) -> None:
        """Start empty."""
        self.boxes: dict[str, dict[str, SealedLinkKey]] = {}
        """Link key -> node -> its record."""
        self.epochs: dict[str, LinkKeyEpoch] = {}
        self.histories: dict[str, EpochHistory] = {}


class Index:
    """The indexes. Not safe for several threads.

    Attributes:
        swarm: the lists that they are of.
        stored: the snapshot that they are of.
        services: id -> its record.
        endpoints: task -> its record.
        nodes: id -> its record.
        link_keys: the records of link keys.
        tasks: Swarm's tasks.
        placed: service -> the tasks of its endpoints.
        concerning: id -> key -> an address, port, sealed key or report that names the id.
        networks: (network, IP version) of which Swarm gives addresses -> how many.
        present: ids of the nodes of the Swarm.
        revoked: id of a revoked node -> the name of its revocation.
        taken: addresses and ports that are held or rest.
        links: links and link keys, as they follow from services alone.
    """

    def __init__(self, swarm: Swarm, stored: Snapshot) -> None:
        """Index everything."""
        self.swarm = swarm
        self.stored = stored
        self.services: dict[str, Service] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.nodes: dict[str, Node] = {}
        self.link_keys = LinkKeyIndex()
        self.tasks = TaskIndex()
        self.placed: MultiMap[str, str] = MultiMap()
        self.concerning: dict[str, dict[str, Record]] = {}
        self.networks: Counter[tuple[str, int]] = Counter()
        self.present = set(swarm.nodes)
        self.revoked = {name: text for name, node in swarm.nodes.items() if (text := node.revocation) is not None}
        self.taken = Allocations(stored)
        for key, versioned in stored.records.items():
            self._enter(key, versioned.record)
        for task in swarm.tasks.values():
            self._task(task, 1)
            self.tasks.renew(task.id, swarm)
        for service in swarm.services.values():
            self._count(service.attachments, 1)
        self.links = self._links()

    @property
    def encryption(self) -> NodeEncryption | None:
        """Encryption between nodes; None where it is off."""
        return self.stored.get(keyspace.ENCRYPTION, NodeEncryption)

    def underlays(self) -> dict[str, Underlay]:
        """Return the nodes' places in node encryption, by node."""
        return {place.node: place for place in self.stored.all(Underlay)}

    @property
    def ambiguous(self) -> bool:
        """True if a task has endpoints of two services: then these indexes cannot be renewed."""
        return self.placed.count != len(self.endpoints)

    def renew(self, swarm: Swarm, stored: Snapshot, delta: Delta, tasks: Iterable[str]) -> None:
        """Move on to the next lists and the next snapshot, except for `links`.

        Args:
            swarm: complete lists.
            stored: everything under the root, complete.
            delta: everything that may differ.
            tasks: ids of tasks that may begin or cease to be live; others among them do no harm.
        """
        old, self.swarm = self.swarm, swarm
        before, self.stored = self.stored, stored
        self._renew_records(before, delta.keys)
        for name in delta.swarm.tasks:
            for lists, by in ((old, -1), (swarm, 1)):
                if (task := lists.tasks.get(name)) is not None:
                    self._task(task, by)
        for name in delta.swarm.nodes:
            self._node(name, swarm.nodes.get(name))
        for name in tasks:
            self.tasks.renew(name, swarm)
        for name in delta.swarm.services:
            for lists, by in ((old, -1), (swarm, 1)):
                if (service := lists.services.get(name)) is not None:
                    self._count(service.attachments, by)

    def relink(self) -> None:
        """Compute the links again."""
        self.links = self._links()

    def _links(self) -> LinkIndex:
        ending = {service for service in self.tasks.of_service if service not in self.swarm.services}
        return links_of(self.swarm.services, self.services, ending, self.stored.invalid)

    # --- records

    def _renew_records(self, before: Snapshot, keys: Iterable[str]) -> None:
        changed = [
            (key, was, now)
            for key in keys
            if (was := _record(before.records.get(key))) is not (now := _record(self.stored.records.get(key)))
        ]
        for key, was, _ in changed:  # all old records first: a key or address may have moved between records
            if was is not None:
                self._leave(key, was)
        for key, _, now in changed:
            if now is not None:
                self._enter(key, now)
        self.taken.renew(before, self.stored, keys)

    def _enter(self, key: str, record: Record) -> None:
        match record:
            case Endpoint():
                other = self.endpoints.get(record.task)
                if other is None or record.service < other.service:
                    self.endpoints[record.task] = record
                self.placed.add(record.service, record.task)
            case Service():
                self.services[record.id] = record
            case Node():
                self.nodes[record.id] = record
            case SealedLinkKey():
                self.link_keys.boxes.setdefault(record.key, {})[record.node] = record
            case LinkKeyEpoch():
                self.link_keys.epochs[record.key] = record
            case EpochHistory():
                self.link_keys.histories[record.key] = record
            case _:
                for name in _names(record):
                    self.concerning.setdefault(name, {})[key] = record

    def _leave(self, key: str, record: Record) -> None:
        match record:
            case Endpoint():
                self.endpoints.pop(record.task, None)
                self.placed.discard(record.service, record.task)
            case Service():
                del self.services[record.id]
            case Node():
                del self.nodes[record.id]
            case SealedLinkKey():
                _pop(self.link_keys.boxes, record.key, record.node)
            case LinkKeyEpoch():
                del self.link_keys.epochs[record.key]
            case EpochHistory():
                del self.link_keys.histories[record.key]
            case _:
                for name in _names(record):
                    _pop(self.concerning, name, key)

    # --- Swarm's lists

    def _node(self, name: str, node: SwarmNode | None) -> None:
        self.present.discard(name)
        self.revoked.pop(name, None)
        if node is not None:
            self.present.add(name)
            if node.revocation is not None:
                self.revoked[name] = node.revocation

    def _task(self, task: SwarmTask, by: int) -> None:
        self._count(task.attachments, by)
        if task.node and by > 0:
            self.tasks.on_node.add(task.node, task.id)
        elif task.node:
            self.tasks.on_node.discard(task.node, task.id)

    def _count(self, attachments: Iterable[Attachment], by: int) -> None:
        for attachment in attachments:
            network = attachment.network, attachment.address.version
            self.networks[network] += by
            if not self.networks[network]:
                del self.networks[network]


def holder_id(holder: str) -> str:
    """Return the id of the task or service that holds an address."""
    return holder.partition("/")[2]


def _names(record: Record) -> tuple[str, ...]:
    """Return the ids of the tasks, services and nodes that a record belongs to."""
    match record:
        case Address():
            return (holder_id(record.holder),) if record.holder is not None else ()
        case Port() | SealedKey():
            return (record.task,)
        case TaskReport():
            return record.task, record.node
        case _:
            return ()


def _record(versioned: Versioned[Record] | None) -> Record | None:
    return versioned.record if versioned is not None else None


def _pop(groups: dict[str, dict[str, V]], group: str, key: str) -> None:
    members = groups.get(group)
    if members is not None:
        members.pop(key, None)
        if not members:
            del groups[group]
