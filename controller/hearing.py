"""Which nodes a controller that has just started waits for: they may have seen more than the store shows. Pure.

A store that was put back from a backup looks like any other, and the controller that finds it has no memory yet. Who
signs on from there may come above what was signed since, and the agents would take the old state for a new one. So a
process that has never written hears each node once before its first write. One that stood by has heard them long
before it leads; and after a while it goes on without those that say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh import keyspace
from mesh.snapshot import Snapshot


class Hearing:
    """Which nodes have said something since this process has been looking. Not safe for several threads."""

    def __init__(self) -> None:
        """Nothing has been looked at yet."""
        self._first: dict[str, int] = {}
        self._heard: set[str] = set()
        self._began: float | None = None
        self._taken = Snapshot()
        self._up: frozenset[str] = frozenset()

    def take(self, stored: Snapshot, up: Sequence[str], now: float) -> None:
        """Look at the store, also while somebody else leads.

        Args:
            stored: all of it.
            up: ids of the nodes that Swarm calls up.
            now: seconds of a clock that only grows.
        """
        if self._began is None:
            self._began = now
        changed = stored.changed_since(self._taken)
        self._taken = stored
        if changed is None or len(up) != len(self._up) or not self._up.issuperset(up):
            self._up, looked_at = frozenset(up), up
        else:
            said = (key.removeprefix(keyspace.STATUS) for key in changed if key.startswith(keyspace.STATUS))
            looked_at = [node for node in said if node in self._up]
        for node in looked_at:
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
