"""Swarm's lists as they were given last, kept at the cost of what differs in them. Pure.

What says the same stays the same object, so that who has seen it knows it for that; and every picture of the lists
can say what may differ from an earlier one (`Swarm.changed_since`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from immutables import Map

from controller.observed import Named, Swarm, SwarmNode, SwarmService, SwarmTask, Trail
from mesh.changes import Changes

T = TypeVar("T")


class Lists:
    """The last lists, and which services Swarm is still moving. Not safe for several threads."""

    def __init__(self) -> None:
        """Nothing was listed yet."""
        self.services: Mapping[str, SwarmService] = {}
        self.nodes: Mapping[str, SwarmNode] = {}
        self.tasks: Map[str, SwarmTask] = Map()
        self._tasks_of: dict[str, set[str]] = {}
        self._unsettled: set[str] = set()
        self._look_at: set[str] = set()  # services whose place in _unsettled is not known
        self._log = Changes[Named]()

    def swarm(self, cluster: str, roots: tuple[bytes, ...]) -> Swarm:
        """The picture of now; none of the mappings in it ever changes."""
        trail = Trail(self.services, self.tasks, self.nodes, self._log.mark())
        return Swarm(cluster, self.services, self.tasks, self.nodes, roots, trail)

    def named(self) -> frozenset[str]:
        """Every service that is listed, or that a task which is listed is of."""
        return frozenset(self.services.keys() | self._tasks_of.keys())

    def unsettled(self, swarm: Swarm) -> frozenset[str]:
        """What `Swarm.unsettled` says of the picture of now."""
        for service in self._look_at:
            tasks = (self.tasks[name] for name in self._tasks_of.get(service, ()))
            if swarm.moves(service, tasks):
                self._unsettled.add(service)
            else:
                self._unsettled.discard(service)
        self._look_at = set()
        return frozenset(self._unsettled)

    def take_services(self, listed: Mapping[str, SwarmService]) -> None:
        """Every service."""
        differ = _differing(self.services, listed)
        if differ:
            self.services = _with(self.services, listed)
            self._look_at |= differ
            self._note("service", differ)

    def take_nodes(self, listed: Mapping[str, SwarmNode]) -> None:
        """Every node."""
        differ = _differing(self.nodes, listed)
        if differ:
            self.nodes = _with(self.nodes, listed)
            self._look_at |= self.named()  # a node that is down ends what its tasks are waited for
            self._note("node", differ)

    def take_tasks(self, listed: Mapping[str, SwarmTask], of: Collection[str] | None = None) -> set[str]:
        """Every task, or every task of some services.

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
            was, now_is = tasks.pop(name, None), listed.get(name)
            if was is not None:
                self._tasks_of[was.service].discard(name)
                moved.add(was.service)
            if now_is is not None:
                tasks[name] = now_is
                self._tasks_of.setdefault(now_is.service, set()).add(name)
                moved.add(now_is.service)
        if differ:
            self.tasks = tasks.finish()
            self._look_at |= moved
            self._note("task", differ)
        for service in moved:
            if not self._tasks_of.get(service, True):
                del self._tasks_of[service]
        return moved

    def _note(self, kind: str, names: Iterable[str]) -> None:
        size = len(self.tasks) + len(self.services) + len(self.nodes)
        self._log.add(((kind, name) for name in names), size)


def _differing(old: Mapping[str, T], new: Mapping[str, T]) -> set[str]:
    """The names of what is not the same in both."""
    differ = {name for name, it in new.items() if (known := old.get(name)) is not it and known != it}
    differ.update(name for name in old if name not in new)
    return differ


def _with(old: Mapping[str, T], new: Mapping[str, T]) -> Mapping[str, T]:
    """What is new; but what says the same stays the same object."""
    return {name: known if (known := old.get(name)) is not None and known == it else it for name, it in new.items()}
