"""Quarantine of released addresses, renewed after the store was wiped or reverted. Pure.

Nodes bring back who holds which address, and know nothing of addresses that nobody holds. A controller that saw them
rest does, leader or standby. One that started later does not: see docs/decisions/0016.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from controller.steps import Release
from mesh.model import keyspace
from mesh.model.records import Address
from mesh.model.snapshot import Snapshot

BATCH = 50
"""Addresses in one step, which is one transaction."""


class AddressQuarantine:
    """Resting addresses of the last snapshot, and those that were lost. Not safe for several threads."""

    def __init__(self) -> None:
        """Start with an empty snapshot."""
        self._last = Snapshot()
        self._lost: dict[IPv4Address, str] = {}  # by address, the stack that had it

    def observe(self, stored: Snapshot) -> None:
        """Look at the whole store, also while another controller leads."""
        if _generation(stored) < _generation(self._last):
            resting = (address for address in self._last.all(Address) if address.holder is None)
            self._lost.update((address.address, address.stack) for address in resting)
        self._last = stored

    def again(self, stored: Snapshot) -> list[Release]:
        """Make the lost addresses rest again, except those that have a record now."""
        self._lost = {
            address: stack
            for address, stack in self._lost.items()
            if not stored.revision_of(keyspace.address(address))
        }
        why = "the store was wiped: released addresses rest again"
        steps: list[Release] = []
        for stack in sorted({*self._lost.values()}):
            lost = sorted(address for address, of in self._lost.items() if of == stack)
            parts = (lost[start : start + BATCH] for start in range(0, len(lost), BATCH))
            steps += [Release((), tuple((address, 0) for address in part), why, stack) for part in parts]
        return steps


def _generation(stored: Snapshot) -> int:
    manifest = stored.records.get(keyspace.MANIFEST)
    return manifest.generation if manifest is not None else 0
