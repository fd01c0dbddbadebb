"""The list of a node's containers, as a program says it: all else of an agent is real."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.containers.docker_client import Heard, LocalTask


class FakeContainers:
    """Stands where `agent.containers.docker_client.Containers` stands."""

    def __init__(self, tasks: Iterable[LocalTask]) -> None:
        self._tasks = {task.container: task for task in tasks}
        self._changed: Callable[[str], None] = lambda _container: None

    def all(self) -> dict[str, LocalTask]:
        """As Containers."""
        return dict(self._tasks)

    def some(self, containers: Iterable[str]) -> dict[str, LocalTask]:
        """As Containers."""
        return {name: self._tasks[name] for name in containers if name in self._tasks}

    def exits(self) -> tuple[()]:
        """As Containers: nothing leaves such a node."""
        return ()

    def follow(self, heard: Heard) -> None:
        """As Containers."""
        self._changed = heard.changed

    def put(self, task: LocalTask) -> None:
        """A container is there, or in another state."""
        self._tasks[task.container] = task
        self._changed(task.container)
