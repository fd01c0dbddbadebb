"""The query `flows`: new connections and refusals of this node's tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.flows.watcher import Watcher
from agent.interface.task import TaskState
from agent.queries.answers import text
from agent.queries.server import BadQueryError, Document

MOST_S = 86_400.0
_DEFAULT_S = 10.0


def wired(tasks: Mapping[str, TaskState]) -> Iterator[tuple[str, str]]:
    """Yield the ids of the tasks that are wired, each with its namespace's path."""
    for state in list(tasks.values()):
        if state.local.netns is not None and state.interface.applied is not None:
            yield state.local.task, state.local.netns


class Flows:
    """Answers of one agent.

    Args:
        watcher: of its node.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def flows(self, query: Document) -> Iterator[Document]:
        """Tell of new connections and refusals for `seconds`, all or those of `name`, a stack or a service.

        Raises:
            BadQueryError: an argument is wrong.
        """
        wanted, seconds = text(query, "name"), query.get("seconds", _DEFAULT_S)
        if not isinstance(seconds, int | float) or not 0 < seconds <= MOST_S:
            raise BadQueryError(f"seconds has to be a number up to {MOST_S:g}")

        def is_wanted(name: str) -> bool:
            return wanted is None or name == wanted or name.startswith(f"{wanted}_")

        yield from self._watcher.watch(is_wanted, float(seconds))
