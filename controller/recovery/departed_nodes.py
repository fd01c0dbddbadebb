"""Records of nodes that Swarm no longer has, and which nobody renews. No I/O.

An agent's own records end with its lease. But whoever may write them can do so without a lease, or keep one alive.
Then each reader names them as unreadable for ever, and the node's reports stay too. They are deleted when they have
stood still for a while: not earlier, or an agent that goes on and this controller would write against each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.steps import PlanStep
from controller.swarm.model import Swarm
from mesh.model import keyspace
from mesh.model.records import Cluster, Node, Status
from mesh.model.snapshot import Delete, Snapshot

STILL_S = 60.0
"""Seconds without a change: agents write their vitals every few."""
_OWN = (keyspace.NODES, keyspace.STATUS)
"""Of the other kinds, the plan takes away the reports, and controllers do not read the rest."""


class DepartedNodes:
    """Nodes outside the Swarm with records, and since when those stand still. Not safe for several threads."""

    def __init__(self) -> None:
        """Start without nodes."""
        self._still: dict[str, tuple[tuple[int, ...], float]] = {}

    def steps(self, stored: Snapshot, swarm: Swarm, now: float) -> Iterator[PlanStep]:
        """Yield the deletion of what has stood still.

        Args:
            stored: the whole store. Where it is not complete, or another Swarm's, nothing is deleted.
            swarm: complete lists.
            now: seconds of the monotonic clock.
        """
        before, self._still = self._still, {}
        cluster = stored.get(keyspace.CLUSTER, Cluster)
        if not stored.complete or cluster is None or cluster.id != swarm.cluster:
            return
        for node in sorted(_named(stored) - swarm.nodes.keys()):
            keys = [prefix + node for prefix in _OWN]
            revisions = tuple(map(stored.revision_of, keys))
            last = before.get(node)
            since = last[1] if last is not None and last[0] == revisions else now
            self._still[node] = revisions, since
            if now - since >= STILL_S:
                ops = (Delete(key, revision) for key, revision in zip(keys, revisions, strict=True) if revision)
                yield PlanStep(tuple(ops), f"node {node}: not in this Swarm, and no agent renews its records")

    def due_in(self, now: float) -> float | None:
        """Return the seconds until the next one may have stood still; None where there is none."""
        return min((max(0.0, since + STILL_S - now) for _, since in self._still.values()), default=None)


def _named(stored: Snapshot) -> set[str]:
    """Return the nodes that have a record of their own, readable or not."""
    keys = {key for kind in (Node, Status) for key, _ in stored.keys_of(kind)}
    keys.update(key for key in stored.invalid if key.startswith(_OWN))
    return {key.partition("/")[2] for key in keys}
