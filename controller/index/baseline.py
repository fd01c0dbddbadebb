"""Baseline of an incremental pass: the inputs of the last one, and what may differ from them now. Pure.

Three parts skip what has not changed: the decision (controller.decider), the judgement of nodes
(controller.trust.node_judgement) and the plan (controller.planning.planner). Each keeps a baseline of its own, since
each sees other inputs. Every WHOLE_S seconds, after a gap in the changes or after the clock was set back, everything
is looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.swarm.model import Swarm, SwarmChange
from mesh.model import keyspace
from mesh.model.snapshot import Snapshot

WHOLE_S = 60
"""Seconds after which everything is looked at again. Time alone changes only link keys, whose next change the plan
names, and certificates, whose expiry has a tolerance of an hour."""

_IGNORED = (keyspace.STATUS, keyspace.LEADER)
"""No decision reads these: statuses are handled before it, and the leader's record in none."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Names of everything that may differ between two passes. It may name too much, never too little.

    Attributes:
        swarm: ids in Swarm's lists.
        keys: keys of the store, in records, invalid and unread.
    """

    swarm: SwarmChange
    keys: frozenset[str]


class Baseline:
    """Inputs of the last pass, and the time of the last pass over everything. Not safe for several threads."""

    def __init__(self) -> None:
        """Start without a last pass."""
        self._last: tuple[Swarm, Snapshot] | None = None
        self._whole_at = 0.0

    def move(self, swarm: Swarm, stored: Snapshot, now: float, *, whole: bool = True) -> None:
        """Make these inputs the last ones.

        Args:
            swarm: complete lists.
            stored: the whole store, complete.
            now: seconds since the epoch.
            whole: whether the pass looked at everything.
        """
        self._last = swarm, stored
        self._whole_at = now if whole else self._whole_at

    def clear(self) -> None:
        """Have the next pass look at everything."""
        self._last = None

    def delta(self, swarm: Swarm, stored: Snapshot, now: float) -> Delta | None:
        """Compare inputs with the last ones; None means that everything has to be looked at."""
        if self._last is None or not 0 <= now - self._whole_at < WHOLE_S:
            return None
        changed, keys = swarm.changed_since(self._last[0]), stored.changed_since(self._last[1])
        return Delta(changed, keys) if changed is not None and keys is not None else None

    def decides_alike(self, swarm: Swarm, stored: Snapshot, now: float) -> bool:
        """Tell whether a decision on these inputs is sure to be the last one again."""
        delta = self.delta(swarm, stored, now)
        if delta is None or self._last is None or delta.swarm != SwarmChange() or not stored.complete:
            return False
        before, after = self._last[1].invalid, stored.invalid
        return all(key.startswith(_IGNORED) and before.get(key) == after.get(key) for key in delta.keys)


class LastSeen:
    """The snapshot that was looked at last."""

    def __init__(self) -> None:
        """Start with an empty snapshot."""
        self.snapshot = Snapshot()

    def changed(self, stored: Snapshot) -> frozenset[str] | None:
        """Move on to the next snapshot; return the keys that may differ, None for any."""
        before, self.snapshot = self.snapshot, stored
        return stored.changed_since(before)
