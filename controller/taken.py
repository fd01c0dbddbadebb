"""Which addresses and ports nobody may be given: held or resting, by what the store says or by a key alone. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import TypeVar

from mesh.records import Address, Endpoint, Port, Record, Service, TaskReport
from mesh.snapshot import Snapshot

T = TypeVar("T")


class Taken:
    """What is not free, and by how many records each is held: it is free when the last of them is gone."""

    def __init__(self, stored: Snapshot) -> None:
        """Look through everything."""
        self.addresses: Counter[IPv4Address] = Counter()
        """Of the whole mesh; what is in it is taken."""
        self.ports: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """Node id -> its UDP ports."""
        for found in stored.records.values():
            self._count(found.record, 1)
        for key in stored.invalid:
            self._count_unreadable(key, 1)

    def renew(self, before: Snapshot, stored: Snapshot, keys: Iterable[str]) -> None:
        """Take the next snapshot.

        Args:
            before: the last one.
            stored: the next one.
            keys: in which they may differ.
        """
        for key in keys:
            for snapshot, by in ((before, -1), (stored, 1)):
                found = snapshot.records.get(key)
                if found is not None:
                    self._count(found.record, by)
                elif key in snapshot.invalid:
                    self._count_unreadable(key, by)

    def _count(self, record: Record, by: int) -> None:
        """A record is there (1), or no longer (-1)."""
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
        """What a key names is taken, whatever lies under it: an unreadable record holds its address and port."""
        kind, _, rest = key.partition("/")
        try:
            if kind == "addresses":
                _count(self.addresses, IPv4Address(rest), by)
            elif kind == "ports":
                node, _, number = rest.partition("/")
                _count(self.ports[node], int(number), by)
        except ValueError:
            pass  # not even the key is one of ours: it holds nothing


def _count(counted: Counter[T], what: T, by: int) -> None:
    counted[what] += by
    if not counted[what]:
        del counted[what]
