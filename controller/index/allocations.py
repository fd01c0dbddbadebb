"""Allocated addresses and ports: those that are held or rest, by a record or by its key alone. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import TypeVar

from mesh.model.records import Address, Endpoint, Port, Record, Service, TaskReport
from mesh.model.snapshot import Snapshot

T = TypeVar("T")


class Allocations:
    """Addresses and ports with the number of records that hold each; it is free when the last one is gone."""

    def __init__(self, stored: Snapshot) -> None:
        """Count those of the whole store."""
        self.addresses: Counter[IPv4Address] = Counter()
        """Every allocated address of the mesh."""
        self.ports: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """Node id -> its allocated UDP ports."""
        for versioned in stored.records.values():
            self._count(versioned.record, 1)
        for key in stored.invalid:
            self._count_unreadable(key, 1)

    def renew(self, before: Snapshot, stored: Snapshot, keys: Iterable[str]) -> None:
        """Move on to the next snapshot.

        Args:
            before: the last one.
            stored: the next one.
            keys: every key in which they may differ.
        """
        for key in keys:
            for snapshot, by in ((before, -1), (stored, 1)):
                versioned = snapshot.records.get(key)
                if versioned is not None:
                    self._count(versioned.record, by)
                elif key in snapshot.invalid:
                    self._count_unreadable(key, by)

    def _count(self, record: Record, by: int) -> None:
        """Count a record that has come (1) or gone (-1)."""
        if isinstance(record, Address):
            _count(self.addresses, record.address, by)
        elif isinstance(record, Port):
            _count(self.ports[record.node], record.port, by)
        elif isinstance(record, Endpoint):
            _count(self.addresses, record.address, by)
            _count(self.ports[record.node], record.underlay.port, by)
        elif isinstance(record, Service):
            _count(self.addresses, record.vip, by)
        elif isinstance(record, TaskReport) and record.port_taken is not None:
            _count(self.ports[record.node], record.port_taken, by)

    def _count_unreadable(self, key: str, by: int) -> None:
        """Count an unreadable record: it holds the address or port that its key names."""
        kind, _, rest = key.partition("/")
        try:
            if kind == "addresses":
                _count(self.addresses, IPv4Address(rest), by)
            elif kind == "ports":
                node, _, number = rest.partition("/")
                _count(self.ports[node], int(number), by)
        except ValueError:
            pass  # the key is none of ours: it holds nothing


def _count(counted: Counter[T], what: T, by: int) -> None:
    counted[what] += by
    if not counted[what]:
        del counted[what]
