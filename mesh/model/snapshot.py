"""A reading of the store at one revision, its signed set, and operations on the store. Pure.

Rule 2 of the design: nothing is removed on partial knowledge. `Snapshot.complete` is how everybody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, cast

from immutables import Map

from mesh.crypto.multiset_hash import Entry, MultisetHash
from mesh.model import keyspace
from mesh.model.changelog import Cursor
from mesh.model.records import ManifestRecord, Record

T = TypeVar("T", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[R_co]):
    """A record as read, with the store's revision of its last change.

    Attributes:
        generation: the one signed with it; 0 for an unsigned record, or one that was not read from a store.
        signer: id of the key that signed it, as `envelope.VerifyKey.id`.
        raw: the value as stored, for a record whose signature is not checked yet (an agent's) and for the manifest,
            which agents keep; for others only where a reader asked to keep all, else None.
    """

    record: R_co
    revision: int
    generation: int = 0
    signer: bytes = b""
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class SignedSet:
    """The signed set: the covered records in a store that have valid signatures.

    The controller writes them (`keyspace.covered`) in one transaction with the manifest, the signed digest over all;
    `mesh.integrity.verification` compares the two.

    Attributes:
        entries: by key.
        total: their product.
    """

    entries: Map[str, Entry] = field(default_factory=Map[str, Entry])
    total: MultisetHash = field(default_factory=MultisetHash, compare=False)

    def after(self, puts: Iterable[Entry], gone: Iterable[str]) -> SignedSet:
        """Return the set after some writes and deletions, at their cost; keys that are not covered are ignored."""
        entries, total = self.entries.mutate(), self.total
        for entry in puts:
            if keyspace.covered(entry.key):
                total = _without(total, entries.get(entry.key)).add(entry)
                entries[entry.key] = entry
        for key in gone:
            total = _without(total, entries.pop(key, None))
        return SignedSet(entries.finish(), total)

    def record(self) -> ManifestRecord:
        """Return the manifest of this set."""
        return ManifestRecord(self.total.count, self.total.digest())


def _without(total: MultisetHash, entry: Entry | None) -> MultisetHash:
    return total.remove(entry) if entry is not None else total


@dataclass(frozen=True, slots=True)
class Lineage:
    """An index of a snapshot, by the picture that it was taken from.

    Attributes:
        records: the snapshot's.
        invalid: the snapshot's.
        kinds: the records by their type.
        mark: position in the picture's log of changed keys.
    """

    records: Mapping[str, Versioned[Record]]
    invalid: Mapping[str, str]
    kinds: Mapping[type, Map[str, Versioned[Record]]]
    mark: Cursor[str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The records under the followed prefixes, as of `revision`.

    A picture gives them as `immutables.Map`: a copy costs nothing, and a change of some keys (`mutate`) no more than
    these keys. Its `keys()` are no set, it equals no dict, and its order means nothing.

    Attributes:
        revision: the store's, at which this was the whole.
        complete: whether it was listed whole and followed without a gap since. While False it may be used to
            add, never to remove.
        records: key (relative to the root) -> record with the revision of its last change.
        invalid: key -> why the value there is not a record of ours. The key counts as unknown, not as absent.
        unread: key -> the store's revision of its last change, for those.
            contents: the records that are signed as a set. `verdict.verify_snapshot` compares them with the manifest.
        trail: an index of these very records, by the picture that this was taken from.
    """

    revision: int = 0
    complete: bool = False
    records: Mapping[str, Versioned[Record]] = field(default_factory=Map[str, Versioned[Record]])
    invalid: Mapping[str, str] = field(default_factory=Map[str, str])
    unread: Mapping[str, int] = field(default_factory=Map[str, int])
    contents: SignedSet = field(default_factory=SignedSet)
    trail: Lineage | None = field(default=None, compare=False, repr=False)

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return the record under a key, or None if there is none of that kind."""
        found = self.records.get(key)
        return found.record if found is not None and isinstance(found.record, kind) else None

    def all(self, kind: type[T]) -> Iterator[T]:
        """Yield every record of a kind."""
        trail = self._trail()
        records = self.records if trail is None else trail.kinds.get(kind, {})
        for versioned in records.values():
            if isinstance(versioned.record, kind):
                yield versioned.record

    def keys_of(self, kind: type[T]) -> Iterator[tuple[str, Versioned[T]]]:
        """Yield every record of a kind with its key, as read."""
        trail = self._trail()
        records = self.records if trail is None else trail.kinds.get(kind, {})
        for key, found in records.items():
            if isinstance(found.record, kind):
                yield key, cast("Versioned[T]", found)

    def changed_since(self, before: Snapshot) -> frozenset[str] | None:
        """Return the keys that may differ from an earlier snapshot, in records, invalid and unread; None: any key."""
        now, then = self._trail(), before._trail()
        named = now.mark.since(then.mark) if now is not None and then is not None else None
        return frozenset(named) if named is not None else None

    def without(self, left_out: Mapping[str, str | None], mark: Cursor[str]) -> Snapshot:
        """Return a snapshot without some of the records, at their cost.

        Args:
            left_out: key -> the reason in `invalid`; None for a key that becomes absent.
            mark: as in `Lineage`, in a log of every key in which such snapshots may differ.
        """
        records, invalid, trail = Map(self.records).mutate(), Map(self.invalid).mutate(), self._trail()
        kinds = {kind: found.mutate() for kind, found in trail.kinds.items()} if trail is not None else {}
        for key, reason in left_out.items():
            gone = records.pop(key)
            if trail is not None:
                del kinds[type(gone.record)][key]
            if reason is not None:
                invalid[key] = reason
        left, known = records.finish(), invalid.finish()
        made = {kind: found.finish() for kind, found in kinds.items()}
        trail = Lineage(left, known, made, mark) if trail is not None else None
        return replace(self, records=left, invalid=known, trail=trail)

    def _trail(self) -> Lineage | None:
        """Return the index; None for a snapshot that was made from another one with other records."""
        trail = self.trail
        own = trail is not None and trail.records is self.records and trail.invalid is self.invalid
        return trail if own else None

    def revision_of(self, key: str) -> int:
        """Return the revision of a key's last change, readable or not; 0 for a key that is not there."""
        found = self.records.get(key)
        return found.revision if found is not None else self.unread.get(key, 0)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a record under its own key.

    Attributes:
        revision: condition on the key's last change: 0 for "must not exist" (compare-and-create), None for no
            condition.
        lease: a lease id to bind the key to; None for a key that stays.
    """

    record: Record
    revision: int | None
    lease: int | None = None

    @property
    def key(self) -> str:
        """The key, relative to the root."""
        return keyspace.key_of(self.record)


@dataclass(frozen=True, slots=True)
class Write:
    """Write a signed value.

    Attributes:
        key: relative to the root.
        generation: the one that it is signed with.
        value: the bytes to write.
        revision: as in Put.
        lease: as in Put.
    """

    key: str
    generation: int
    value: bytes
    revision: int | None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key; `revision` as in Put, None also when the key may be gone already."""

    key: str
    revision: int | None


@dataclass(frozen=True, slots=True)
class Holds:
    """Require, and change nothing: the key's last change is `revision` (0: it does not exist)."""

    key: str
    revision: int


Op = Put | Write | Delete | Holds


def unreadable(invalid: Mapping[str, str]) -> Iterator[str]:
    """Name the records that cannot be read; those that agents write in one line a node, which may make any number."""
    of_nodes: dict[str, list[str]] = {}
    for key in sorted(invalid):
        if keyspace.writer(key) == "agent":
            of_nodes.setdefault(key.partition("/")[2].partition("/")[0], []).append(key)
        else:
            yield f"store: {invalid[key]}"
    for node, keys in of_nodes.items():
        more = f" (and {len(keys) - 1} more records of node {node})" if len(keys) > 1 else ""
        yield f"store: {invalid[keys[0]]}{more}"
