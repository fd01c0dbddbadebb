"""The records that are signed as a set: which ones a store holds. Pure.

The controller writes them (`keyspace.covered`) in one transaction with the manifest, the signed digest over all of
them; `mesh.verdict` says whether they are those that were signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from immutables import Map

from mesh import keyspace
from mesh.manifest import Entry, Manifest
from mesh.records import ManifestRecord


@dataclass(frozen=True, slots=True)
class Contents:
    """The covered records that a store holds and whose own signatures hold.

    Attributes:
        entries: by key.
        total: all of them as one product.
    """

    entries: Map[str, Entry] = field(default_factory=Map[str, Entry])
    total: Manifest = field(default_factory=Manifest, compare=False)

    def after(self, puts: Iterable[Entry], gone: Iterable[str]) -> Contents:
        """With some records written and some taken away, at their cost; keys that are not covered are passed over."""
        entries, total = self.entries.mutate(), self.total
        for entry in puts:
            if keyspace.covered(entry.key):
                total = _without(total, entries.get(entry.key)).add(entry)
                entries[entry.key] = entry
        for key in gone:
            total = _without(total, entries.pop(key, None))
        return Contents(entries.finish(), total)

    def record(self) -> ManifestRecord:
        """What the manifest has to say of them."""
        return ManifestRecord(self.total.count, self.total.digest())


def _without(total: Manifest, entry: Entry | None) -> Manifest:
    return total.remove(entry) if entry is not None else total
