"""Which nodes a controller that has just started waits for: they may have seen more than the store shows. Pure.

A store that was put back from a backup looks like any other, and the controller that finds it has no memory yet. Who
signs on from there may come above what was signed since, and the agents would take the old state for a new one. So a
process that has never written hears each node once before its first write. One that stood by has heard them long
before it leads; and after a while it goes on without those that say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh import keyspace
from mesh.snapshot import Snapshot


class Hearing:
    """Which nodes have said something since this process has been looking. Not safe for several threads."""

    def __init__(self) -> None:
        """Nothing has been looked at yet."""
        self._first: dict[str, int] = {}
        self._heard: set[str] = set()
        self._began: float | None = None

    def take(self, stored: Snapshot, up: Iterable[str], now: float) -> None:
        """Look at the store, also while somebody else leads.

        Args:
            stored: all of it.
            up: ids of the nodes that Swarm calls up.
            now: seconds of a clock that only grows.
        """
        if self._began is None:
            self._began = now
        for node in up:
            revision = stored.revision_of(keyspace.status(node))
            if self._first.setdefault(node, revision) != revision:
                self._heard.add(node)

    def silent(self, stored: Snapshot, up: Iterable[str], since: float) -> list[str]:
        """The nodes to wait for.

        Args:
            stored: all of the store. Where nobody has signed it, what lies there is all new.
            up: as in `take`.
            since: who has been looking for longer than that waits for nobody, by the same clock.
        """
        if self._began is None or self._began < since or not stored.revision_of(keyspace.MANIFEST):
            return []
        return [node for node in up if node not in self._heard]
