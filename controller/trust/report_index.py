"""Index of nodes' reports and answers, by the node and the task. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.model import keyspace
from mesh.model.records import Recalled, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.process.multimap import MultiMap

CLAIMS = (keyspace.TASKS, keyspace.RECALLED)


class ReportIndex:
    """Keys of all reports, and of what nodes brought back. Not safe for several threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[str, tuple[str, str]] = {}  # key -> node, task
        self._by_node: MultiMap[str, str] = MultiMap()
        self._by_task: MultiMap[str, str] = MultiMap()

    def update(self, stored: Snapshot, keys: Iterable[str]) -> None:
        """Index some keys again, whatever they hold now."""
        for key in keys:
            if key in self._entries:
                node, task = self._entries.pop(key)
                self._by_node.discard(node, key)
                self._by_task.discard(task, key)
            versioned = stored.records.get(key)
            match versioned.record if versioned is not None else None:
                case TaskReport() as report:
                    self._add(key, report.node, report.task)
                case Recalled() as recalled:
                    self._add(key, recalled.node, "")

    def of(self, nodes: Iterable[str], tasks: Iterable[str]) -> set[str]:
        """Return the keys of what some nodes report, and of what any node reports on some tasks."""
        by_node = (self._by_node.get(node, ()) for node in nodes)
        return set[str]().union(*by_node, *(self._by_task.get(task, ()) for task in tasks))

    def _add(self, key: str, node: str, task: str) -> None:
        self._entries[key] = node, task
        self._by_node.add(node, key)
        self._by_task.add(task, key)
