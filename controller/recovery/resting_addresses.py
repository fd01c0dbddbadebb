"""Rest of released addresses, measured by each controller's own monotonic clock. No I/O.

A lease would not do: anybody who can reach etcd can keep it alive, and so exhaust the mesh's addresses. A standby
measures too. A controller that starts does not know how long an address has rested, and lets it rest once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from controller.index.baseline import LastSeen
from controller.steps import PlanStep
from mesh.model.records import Address
from mesh.model.snapshot import Delete, Snapshot

BATCH = 50
"""Addresses that are freed in one step, which is one transaction."""


@dataclass(frozen=True, slots=True)
class _Rest:
    revision: int
    since: float


class RestingAddresses:
    """Addresses without a holder, and since when each was seen to have none. Not safe for several threads."""

    def __init__(self, rest_s: float) -> None:
        """Start with an empty store; an address is free `rest_s` seconds after its release was seen."""
        self._rest_s = rest_s
        self._seen = LastSeen()
        self._rests: dict[str, _Rest] = {}  # by key, the one that has rested longest first

    def observe(self, stored: Snapshot, now: float) -> None:
        """Look at the whole store; `now` is in seconds of the monotonic clock."""
        changed = self._seen.changed(stored)
        if changed is None:
            changed = frozenset(key for key, _ in stored.keys_of(Address)).union(self._rests)
        for key in changed:
            record, revision = stored.get(key, Address), stored.revision_of(key)
            if record is None or record.holder is not None:
                self._rests.pop(key, None)
            elif key not in self._rests or self._rests[key].revision != revision:
                self._rests.pop(key, None)
                self._rests[key] = _Rest(revision, now)

    def over(self, now: float) -> list[PlanStep]:
        """Free the addresses that have rested to their end."""
        rested = list(takewhile(lambda each: now - each[1].since >= self._rest_s, self._rests.items()))
        return [
            PlanStep(tuple(_freed(rested[start : start + BATCH])), "released addresses have rested and are free")
            for start in range(0, len(rested), BATCH)
        ]

    def due_in(self, now: float) -> float:
        """Return the seconds until the next address is free."""
        first = next(iter(self._rests.values()), None)
        return float("inf") if first is None else max(0.0, first.since + self._rest_s - now)


def _freed(rests: list[tuple[str, _Rest]]) -> Iterator[Delete]:
    return (Delete(key, rest.revision) for key, rest in rests)
