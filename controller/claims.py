"""What nodes say of tasks, by who says it and of what: what of it a change in the store or in Swarm reaches. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mesh import keyspace
from mesh.records import Recalled, TaskReport
from mesh.snapshot import Snapshot

CLAIMS = (keyspace.TASKS, keyspace.RECALLED)


class Claims:
    """The keys of all reports, and of what was brought back. Not safe for several threads."""

    def __init__(self) -> None:
        """None yet."""
        self._known: dict[str, tuple[str, str]] = {}  # key -> node, task
        self._by_node: dict[str, set[str]] = {}
        self._by_task: dict[str, set[str]] = {}

    def take(self, stored: Snapshot, keys: Iterable[str]) -> None:
        """Look at some keys, whatever they hold now."""
        for key in keys:
            if key in self._known:
                node, task = self._known.pop(key)
                _drop(self._by_node, node, key)
                _drop(self._by_task, task, key)
            found = stored.records.get(key)
            match found.record if found is not None else None:
                case TaskReport() as report:
                    self._add(key, report.node, report.task)
                case Recalled() as recalled:
                    self._add(key, recalled.node, "")

    def of(self, nodes: Iterable[str], tasks: Iterable[str]) -> set[str]:
        """The keys of what some nodes say, and of what anybody says of some tasks."""
        found: set[str] = set()
        for node in nodes:
            found |= self._by_node.get(node, set())
        for task in tasks:
            found |= self._by_task.get(task, set())
        return found

    def _add(self, key: str, node: str, task: str) -> None:
        self._known[key] = node, task
        self._by_node.setdefault(node, set()).add(key)
        self._by_task.setdefault(task, set()).add(key)


def _drop(held: dict[str, set[str]], name: str, key: str) -> None:
    held[name].discard(key)
    if not held[name]:
        del held[name]
