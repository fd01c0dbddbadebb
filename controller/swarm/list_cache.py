"""Cache of Swarm's lists, updated at the cost of what differs in them. Pure.

An entry that is equal stays the same object, so that readers can compare by identity; and each picture of the lists
names what may differ from an earlier one (`Swarm.changed_since`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from immutables import Map

from controller.swarm.model import Lineage, Named, Swarm, SwarmNode, SwarmService, SwarmTask
from mesh.model.changelog import ChangeLog
from mesh.model.encryption.status import DATA_PATH_PORT
from mesh.process.multimap import MultiMap

T = TypeVar("T")


class ListCache:
    """The last lists, and the services whose tasks Swarm is still moving. Not safe for several threads."""

    def __init__(self) -> None:
        """Start with empty lists."""
        self.services: Mapping[str, SwarmService] = {}
        self.nodes: Mapping[str, SwarmNode] = {}
        self.tasks: Map[str, SwarmTask] = Map()
        self.nodes_up: tuple[str, ...] = ()
        """Ids of the nodes that Swarm calls up."""
        self.linkless: frozenset[str] = frozenset()
        """Ids of the services that have no label of ours, and that no other's links name."""
        self._tasks_of: MultiMap[str, str] = MultiMap()
        self._unsettled: set[str] = set()
        self._look_at: set[str] = set()  # services to be checked again for _unsettled
        self._log = ChangeLog[Named]()

    def swarm(self, cluster: str, roots: tuple[bytes, ...], data_path_port: int = DATA_PATH_PORT) -> Swarm:
        """Return the picture of now; none of the mappings in it ever changes."""
        trail = Lineage(self.services, self.tasks, self.nodes, self._log.mark())
        return Swarm(cluster, self.services, self.tasks, self.nodes, roots, data_path_port, trail)

    def named(self) -> frozenset[str]:
        """Return the ids of every listed service, and of the services of every listed task."""
        return frozenset(self.services.keys() | self._tasks_of.keys())

    def unsettled(self, swarm: Swarm) -> frozenset[str]:
        """Return the ids of the services whose tasks Swarm is still moving (`Swarm.moves`)."""
        for service in self._look_at:
            tasks = (self.tasks[name] for name in self._tasks_of.get(service, ()))
            if swarm.moves(service, tasks):
                self._unsettled.add(service)
            else:
                self._unsettled.discard(service)
        self._look_at = set()
        return frozenset(self._unsettled)

    def update_services(self, listed: Mapping[str, SwarmService]) -> None:
        """Replace the list of services."""
        differ = _differing(self.services, listed)
        if differ:
            self.services = _with(self.services, listed)
            self._look_at |= differ
            named = {link.provider for service in self.services.values() for link in service.labels.links}
            self.linkless = frozenset(
                service.id for service in self.services.values() if service.is_plain and service.name not in named
            )
            self._note("service", differ)

    def update_nodes(self, listed: Mapping[str, SwarmNode]) -> None:
        """Replace the list of nodes."""
        differ = _differing(self.nodes, listed)
        if differ:
            self.nodes = _with(self.nodes, listed)
            up = (node.id for node in listed.values() if not node.down and node.revoked is None)
            self.nodes_up = tuple(sorted(up))
            self._look_at |= self.named()  # no task of a node that is down is waited for
            self._note("node", differ)

    def update_tasks(self, listed: Mapping[str, SwarmTask], of: Collection[str] | None = None) -> set[str]:
        """Replace the list of tasks, or of the tasks of some services.

        Returns:
            The services of which a task has changed, come or gone.
        """
        if of is None:
            differ = _differing(self.tasks, listed)
        else:
            before = {name: self.tasks[name] for service in of for name in self._tasks_of.get(service, ())}
            differ = _differing(before, listed)
        moved: set[str] = set()
        tasks = self.tasks.mutate()
        for name in differ:
            old, new = tasks.pop(name, None), listed.get(name)
            if old is not None:
                self._tasks_of.discard(old.service, name)
                moved.add(old.service)
            if new is not None:
                tasks[name] = new
                self._tasks_of.add(new.service, name)
                moved.add(new.service)
        if differ:
            self.tasks = tasks.finish()
            self._look_at |= moved
            self._note("task", differ)
        return moved

    def _note(self, kind: str, names: Iterable[str]) -> None:
        size = len(self.tasks) + len(self.services) + len(self.nodes)
        self._log.add(((kind, name) for name in names), size)


def _differing(old: Mapping[str, T], new: Mapping[str, T]) -> set[str]:
    """Return the names of the entries that differ."""
    differ = {name for name, it in new.items() if (entry := old.get(name)) is not it and entry != it}
    differ.update(name for name in old if name not in new)
    return differ


def _with(old: Mapping[str, T], new: Mapping[str, T]) -> Mapping[str, T]:
    """Return the new entries; one that is equal stays the same object."""
    return {name: entry if (entry := old.get(name)) is not None and entry == it else it for name, it in new.items()}
