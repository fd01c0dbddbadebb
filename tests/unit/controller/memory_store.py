"""A store in memory that keeps the promises of `mesh.store.client.Store.commit`, for tests of what is asked of it.

It is for the plans alone: how etcd itself behaves is tested against etcd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from mesh.model import codec
from mesh.model.records import Address, Record
from mesh.model.snapshot import Delete, Holds, Op, Put, Snapshot, Versioned
from mesh.store.client import MAX_OPS

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies under one key."""

    record: Record
    revision: int
    lease: int | None


class MemoryStore:
    """Keys and revisions. `watch` sees the entries before and after every change that was made."""

    def __init__(self, watch: Callable[[dict[str, Entry], MemoryStore], None] | None = None) -> None:
        self.entries: dict[str, Entry] = {}
        self.damaged: set[str] = set()
        """Keys whose value cannot be read; the entry is what it was before, which nobody is told."""
        self.ever_damaged = False
        self._revision = 0
        self.rested: set[str] = set()
        """Keys of addresses whose rest ends in the change that is made."""
        self._watch = watch

    def copy(self) -> MemoryStore:
        """Another store that holds the same."""
        other = MemoryStore(self._watch)
        other.entries, other.damaged = dict(self.entries), set(self.damaged)
        other.ever_damaged, other._revision = self.ever_damaged, self._revision
        return other

    def resting(self) -> list[str]:
        """Keys of the addresses that rest."""
        entries = self.entries.items()
        return [key for key, e in entries if isinstance(e.record, Address) and e.record.holder is None]

    def end_rest(self, key: str) -> None:
        """Do what a controller does when an address has rested."""
        self.rested.add(key)
        self._change({}, [key])
        self.rested.clear()

    def commit(self, ops: Sequence[Op]) -> int | None:
        """All of it, or nothing and None."""
        written = [op.key for op in ops if not isinstance(op, Holds)]
        assert len(ops) <= MAX_OPS
        assert len(written) == len(set(written)), "etcd refuses a key that one transaction writes twice"
        if any(op.revision is not None and self.revision_of(op.key) != op.revision for op in ops):
            return None
        puts = {op.key: (op.record, op.lease) for op in ops if isinstance(op, Put)}
        for key, (record, _) in puts.items():
            assert codec.decode(key, codec.encode(record)) == record
        self._change(puts, [op.key for op in ops if isinstance(op, Delete)])
        return self._revision

    def write(self, *records: Record) -> None:
        """What an agent does: unconditional."""
        self.commit([Put(record, None) for record in records])

    def damage(self, key: str) -> None:
        """Make a value unreadable."""
        self.ever_damaged = True
        self._revision += 1
        self.damaged.add(key)
        entry = self.entries[key]
        self.entries[key] = Entry(entry.record, self._revision, entry.lease)

    def heal(self) -> None:
        """Make every value readable again."""
        self._revision += 1
        for key in self.damaged:
            entry = self.entries[key]
            self.entries[key] = Entry(entry.record, self._revision, entry.lease)
        self.damaged.clear()

    def revision_of(self, key: str) -> int:
        """Of a key's last change; 0 where there is none."""
        return self.entries[key].revision if key in self.entries else 0

    def snapshot(self, shuffle: Random | None = None, *, complete: bool = True) -> Snapshot:
        """All of it as a follower would show it, its mappings in any order."""
        keys = list(self.entries)
        if shuffle is not None:
            shuffle.shuffle(keys)
        records = {
            key: Versioned(self.entries[key].record, self.entries[key].revision)
            for key in keys
            if key not in self.damaged
        }
        invalid = {key: f"{key}: not JSON" for key in keys if key in self.damaged}
        return Snapshot(self._revision, complete, records, invalid)

    def all(self, kind: type[T]) -> list[T]:
        """Every record of a kind, the unreadable ones too."""
        return [entry.record for entry in self.entries.values() if isinstance(entry.record, kind)]

    def _change(self, puts: dict[str, tuple[Record, int | None]], deletes: Sequence[str]) -> None:
        before = dict(self.entries)
        self._revision += 1
        for key in deletes:
            self.entries.pop(key, None)
            self.damaged.discard(key)
        for key, (record, lease) in puts.items():
            self.entries[key] = Entry(record, self._revision, lease)
            self.damaged.discard(key)
        if self._watch is not None:
            self._watch(before, self)
