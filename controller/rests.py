"""Freed addresses that were resting when the store was emptied or set back: they rest again, for as long. Pure.

Nodes bring back who holds which address, and know nothing of those that nobody holds. A controller that saw them
rest does, whether it led or stood by. One that was started since does not: see docs/decisions/0016.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from controller.steps import Release
from mesh import keyspace
from mesh.records import Address
from mesh.snapshot import Snapshot

BATCH = 50
"""Addresses in one step, which is one transaction."""


class Rests:
    """Remembers the last picture of the store, for the moment in which it is lost. Not safe for several threads."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._last = Snapshot()
        self._lost: set[IPv4Address] = set()

    def take(self, stored: Snapshot) -> None:
        """Look at all of the store; also while somebody else leads."""
        if _generation(stored) < _generation(self._last):
            self._lost.update(address.address for address in self._last.all(Address) if address.holder is None)
        self._last = stored

    def again(self, stored: Snapshot) -> list[Release]:
        """What lets the lost ones rest again, but for those of which the store says something."""
        self._lost = {address for address in self._lost if not stored.revision_of(keyspace.address(address))}
        lost = sorted(self._lost)
        return [
            Release((), tuple((address, 0) for address in part), "the store was emptied: what had rested rests again")
            for part in (lost[start : start + BATCH] for start in range(0, len(lost), BATCH))
        ]


def _generation(stored: Snapshot) -> int:
    found = stored.records.get(keyspace.MANIFEST)
    return found.generation if found is not None else 0
