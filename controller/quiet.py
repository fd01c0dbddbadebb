"""Whether a decision need not be made again: nothing that it rests on has changed since nothing was to do. Pure.

Most of what wakes a controller is nothing to it: statuses, renewed lists that say the same. A decision is a pure
function of what Swarm says, what the store holds and the time, so the same of them give the same. Whoever is asked
says so only for sure: after WHOLE_S, a gap in what is known, or a clock that was set back, it is decided anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.observed import Swarm
from mesh import keyspace
from mesh.snapshot import Snapshot

WHOLE_S = 20
"""After so many seconds everything is looked at again. By time alone change only due link keys, of which the plan
says when, and certificates, whose ends have a tolerance of minutes."""

_NOTHING_TO_IT = (keyspace.STATUS, keyspace.LEADER)
"""Statuses are heard apart from decisions, and who leads is read in no decision."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """What the decision rested on, and when it has something to do by time alone."""

    swarm: Swarm
    stored: Snapshot
    now: float
    due: int | None


class Quiet:
    """Remembers the last decision that found nothing to do. Not safe for several threads."""

    def __init__(self) -> None:
        """Nothing was decided yet."""
        self._last: _Decided | None = None

    @property
    def due(self) -> int | None:
        """As of the plan that found nothing to do."""
        return self._last.due if self._last is not None else None

    def note(self, swarm: Swarm, stored: Snapshot, now: float, due: int | None) -> None:
        """It was found that nothing is to be done, nothing stands to be mended, and the store is as it was signed.

        Args:
            swarm: complete lists.
            stored: all of the store, complete.
            now: seconds since the epoch.
            due: when there will be something to do by time alone.
        """
        self._last = _Decided(swarm, stored, now, due)

    def forget(self) -> None:
        """Something was done, or may have to be."""
        self._last = None

    def holds(self, swarm: Swarm, stored: Snapshot, now: float) -> bool:
        """Whether nothing is to be done now either."""
        last = self._last
        if last is None or not 0 <= now - last.now < WHOLE_S or (last.due is not None and now >= last.due):
            return False
        same = swarm.services is last.swarm.services and swarm.tasks is last.swarm.tasks
        if not same or swarm.nodes is not last.swarm.nodes or swarm.cluster != last.swarm.cluster:
            return False
        changed = stored.changed_since(last.stored)
        if changed is None or swarm.roots != last.swarm.roots or stored.invalid != last.stored.invalid:
            return False
        return stored.complete and all(key.startswith(_NOTHING_TO_IT) for key in changed)
