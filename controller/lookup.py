"""What there is, by what a plan asks for: indexes over Swarm's lists and the store, which can follow them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from controller.links import Links, links_of
from controller.observed import Changed, Swarm, SwarmTask
from controller.taken import Taken
from mesh.records import (
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
    Versioned,
)
from mesh.snapshot import Snapshot

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta:
    """What may differ from what was looked at last; more than does is allowed, less is not.

    Attributes:
        swarm: in Swarm's lists.
        keys: of the store: in records, invalid and unread.
    """

    swarm: Changed
    keys: frozenset[str]


class Lookup:
    """The indexes. Not safe for several threads.

    Attributes:
        swarm: the lists that they are of.
        stored: the snapshot that they are of.
        services: id -> its record.
        endpoints: task -> its record.
        nodes: id -> its record.
        boxes: link key -> node -> its record.
        epochs: link key -> its record.
        live: task -> as Swarm has it, of those that hold a place (`Swarm.live`).
        live_of: service -> its live tasks.
        placed: service -> the tasks of its endpoints.
        on_node: node -> all tasks that Swarm has on it.
        concerning: id -> key -> an address, port, sealed key or report that names the id.
        networks: (network, IP version) of which Swarm gives addresses -> how many.
        taken: addresses and ports that are held or rest.
        links: what follows from services alone.
        ambiguous: whether a task has had two endpoints: then these indexes cannot follow.
    """

    def __init__(self, swarm: Swarm, stored: Snapshot) -> None:
        """Look at everything once."""
        self.swarm = swarm
        self.stored = stored
        self.services: dict[str, Service] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.nodes: dict[str, Node] = {}
        self.boxes: dict[str, dict[str, SealedLinkKey]] = {}
        self.epochs: dict[str, LinkKeyEpoch] = {}
        self.live: dict[str, SwarmTask] = {}
        self.live_of: dict[str, set[str]] = {}
        self.placed: dict[str, set[str]] = {}
        self.on_node: dict[str, set[str]] = {}
        self.concerning: dict[str, dict[str, Record]] = {}
        self.networks: Counter[tuple[str, int]] = Counter()
        self.ambiguous = False
        self.taken = Taken(stored)
        for key, found in stored.records.items():
            self._enter(key, found.record)
        for task in swarm.tasks.values():
            self._task(task, 1)
            self._relive(task.id)
        for service in swarm.services.values():
            self._count(service.elsewhere, 1)
        self.links = self._links()

    def renew(self, swarm: Swarm, stored: Snapshot, delta: Delta, tasks: Iterable[str]) -> None:
        """Take the next lists and the next snapshot, but for `links`.

        Args:
            swarm: complete lists.
            stored: everything under the root, complete.
            delta: what may differ.
            tasks: ids that `live` may be different for; others among them do no harm.
        """
        was, self.swarm = self.swarm, swarm
        before, self.stored = self.stored, stored
        self._renew_records(before, delta.keys)
        for name in delta.swarm.tasks:
            self._renew_task(was, name)
        for name in tasks:
            self._relive(name)
        for name in delta.swarm.services:
            for services, by in ((was.services, -1), (swarm.services, 1)):
                if (service := services.get(name)) is not None:
                    self._count(service.elsewhere, by)

    def relink(self) -> None:
        """Take the links anew."""
        self.links = self._links()

    def _links(self) -> Links:
        ending = {service for service in self.live_of if service not in self.swarm.services}
        return links_of(self.swarm.services, self.services, ending, self.stored.invalid)

    # --- records

    def _renew_records(self, before: Snapshot, keys: Iterable[str]) -> None:
        changed = [
            (key, was, now)
            for key in keys
            if (was := _record(before.records.get(key))) is not (now := _record(self.stored.records.get(key)))
        ]
        for key, was, _ in changed:  # all of them first, so that what one has let go is free for the next
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
                self.ambiguous |= other is not None
                if other is None or record.service < other.service:
                    self.endpoints[record.task] = record
                self.placed.setdefault(record.service, set()).add(record.task)
            case Service():
                self.services[record.id] = record
            case Node():
                self.nodes[record.id] = record
            case SealedLinkKey():
                self.boxes.setdefault(record.key, {})[record.node] = record
            case LinkKeyEpoch():
                self.epochs[record.key] = record
            case _:
                for name in _names(record):
                    self.concerning.setdefault(name, {})[key] = record

    def _leave(self, key: str, record: Record) -> None:
        match record:
            case Endpoint():
                self.endpoints.pop(record.task, None)
                _discard(self.placed, record.service, record.task)
            case Service():
                del self.services[record.id]
            case Node():
                del self.nodes[record.id]
            case SealedLinkKey():
                _pop(self.boxes, record.key, record.node)
            case LinkKeyEpoch():
                del self.epochs[record.key]
            case _:
                for name in _names(record):
                    _pop(self.concerning, name, key)

    # --- Swarm's tasks

    def _renew_task(self, was: Swarm, name: str) -> None:
        """Take what Swarm says of a task now."""
        old, new = was.tasks.get(name), self.swarm.tasks.get(name)
        if old is not None:
            self._task(old, -1)
        if new is not None:
            self._task(new, 1)

    def _task(self, task: SwarmTask, by: int) -> None:
        self._count(task.elsewhere, by)
        if task.node and by > 0:
            self.on_node.setdefault(task.node, set()).add(task.id)
        elif task.node:
            _discard(self.on_node, task.node, task.id)

    def _relive(self, name: str) -> None:
        task, was = self.swarm.tasks.get(name), self.live.pop(name, None)
        if was is not None:
            _discard(self.live_of, was.service, name)
        if task is not None and self.swarm.live(task):
            self.live[name] = task
            self.live_of.setdefault(task.service, set()).add(name)

    def _count(self, attachments: Iterable[Attachment], by: int) -> None:
        for found in attachments:
            network = found.network, found.address.version
            self.networks[network] += by
            if not self.networks[network]:
                del self.networks[network]


def holder_id(holder: str) -> str:
    """The id of the task or service that an address is held by."""
    return holder.partition("/")[2]


def _names(record: Record) -> tuple[str, ...]:
    """The ids that a record names that ends with what has them."""
    match record:
        case Address():
            return (holder_id(record.holder),) if record.holder is not None else ()
        case Port() | SealedKey():
            return (record.task,)
        case TaskReport():
            return record.task, record.node
        case _:
            return ()


def _record(found: Versioned[Record] | None) -> Record | None:
    return found.record if found is not None else None


def _discard(groups: dict[K, set[V]], group: K, value: V) -> None:
    its = groups.get(group)
    if its is not None:
        its.discard(value)
        if not its:
            del groups[group]


def _pop(groups: dict[str, dict[str, V]], group: str, key: str) -> None:
    its = groups.get(group)
    if its is not None:
        its.pop(key, None)
        if not its:
            del groups[group]
