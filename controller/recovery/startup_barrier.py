"""Nodes that have reported since this process started: a new leader waits for the others. Pure.

A store that was restored from a backup looks like any other, and a controller that has just started has no memory. If
it signed on from there, its generation could exceed what was signed since, and agents would take the old state for a
new one. So a process that has never written waits for a report of each node before its first write. A standby has
seen them long before it leads; and after HEAR_S the controller goes on without those that stay silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controller.index.baseline import LastSeen
from mesh.model import keyspace
from mesh.model.snapshot import Snapshot

HEAR_S = 10.0
"""Seconds to wait for nodes: an agent reports every 3 s, and notices within as long that etcd has lost its lease."""


class StartupBarrier:
    """Nodes that have reported since this process has been looking. Not safe for several threads."""

    def __init__(self) -> None:
        """Start with no node."""
        self._first: dict[str, int] = {}
        self._heard: set[str] = set()
        self._began: float | None = None
        self._seen = LastSeen()
        self._up: frozenset[str] = frozenset()

    def observe(self, stored: Snapshot, up: Sequence[str], now: float) -> None:
        """Look at the store, also while another controller leads.

        Args:
            stored: the whole store.
            up: ids of the nodes that Swarm calls up.
            now: seconds of a monotonic clock.
        """
        if self._began is None:
            self._began = now
        changed = self._seen.changed(stored)
        if changed is None or len(up) != len(self._up) or not self._up.issuperset(up):
            self._up, looked_at = frozenset(up), up
        else:
            reporters = (key.removeprefix(keyspace.STATUS) for key in changed if key.startswith(keyspace.STATUS))
            looked_at = [node for node in reporters if node in self._up]
        for node in looked_at:
            revision = stored.revision_of(keyspace.status(node))
            if self._first.setdefault(node, revision) != revision:
                self._heard.add(node)

    def silent(self, stored: Snapshot, up: Iterable[str], since: float) -> list[str]:
        """List the nodes to wait for.

        Args:
            stored: the whole store. Without a manifest nobody has signed it, and every report in it is new.
            up: as in `observe`.
            since: a process that has been looking since before this time waits for nobody; by the same clock.
        """
        if self._began is None or self._began < since or not stored.revision_of(keyspace.MANIFEST):
            return []
        return [node for node in up if node not in self._heard]
