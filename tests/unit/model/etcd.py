"""The store of the model: keys, revisions and signed values, as a value that each transaction makes another of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from immutables import Map

from mesh.crypto.multiset_hash import Entry
from mesh.integrity.record_signing import OpenedValue
from mesh.model import codec, keyspace
from mesh.model.records import Leader, Record, Tenure
from mesh.model.snapshot import Delete, Holds, Op, Put, SignedSet, Snapshot, Versioned, Write
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.support.signing import RECORD_SIGNER

_SIGNED: dict[tuple[str, int, Record], tuple[bytes, bytes]] = {}
"""By key, generation and record: its bytes and its signed bytes. Signatures are always the same."""
_RECORDS: dict[tuple[str, bytes], tuple[Record, int]] = {}
"""By key and signed bytes: the record, and its part in the digest of a store."""
_OWN_ID = RECORD_SIGNER.signers["controller"].key.verify_key.id


def _part(key: str, record: Record, generation: int, body: bytes) -> int:
    if isinstance(record, (Leader, Tenure)):
        return 0
    counts = generation if keyspace.writer(key) == "controller" else 0
    return int.from_bytes(blake2b(f"{key}\0{counts}\0".encode() + body, digest_size=16).digest())


def _signed(put: Put, generation: int) -> bytes:
    known = _SIGNED.get((put.key, generation, put.record))
    if known is None:
        body = codec.encode(put.record)
        value = RECORD_SIGNER.sign(put.key, generation, body)
        known = _SIGNED[put.key, generation, put.record] = body, value
        _RECORDS[put.key, value] = put.record, _part(put.key, put.record, generation, body)
    return known[1]


def _opened(write: Write) -> tuple[Record, int]:
    known = _RECORDS.get((write.key, write.value))
    if known is None:
        body = RECORD_SIGNER.open(write.key, write.value).body
        record = codec.decode(write.key, body)
        known = _RECORDS[write.key, write.value] = record, _part(write.key, record, write.generation, body)
    return known


_AGENTS = (keyspace.MANIFEST, keyspace.RECALL, keyspace.KEYS, keyspace.LINK_KEYS)


@dataclass(frozen=True, eq=False)
class Etcd:
    """All keys at one revision.

    Attributes:
        changed: keys that the last transaction wrote or deleted.
        digest: the same for stores that hold the same; revisions do not count.
        visible: the same for stores that mean the same to agents.
    """

    revision: int = 1
    records: Map[str, Versioned[Record]] = field(default_factory=Map[str, Versioned[Record]])
    contents: SignedSet = field(default_factory=SignedSet)
    changed: tuple[str, ...] = ()
    digest: int = 0
    visible: int = 0

    @cached_property
    def snapshot(self) -> Snapshot:
        """All of it, as a follower that has read everything shows it."""
        return Snapshot(self.revision, complete=True, records=self.records, contents=self.contents)

    @property
    def generation(self) -> int:
        """The manifest's; 0 for none."""
        found = self.records.get(keyspace.MANIFEST)
        return found.generation if found is not None else 0

    def revision_of(self, key: str) -> int:
        found = self.records.get(key)
        return found.revision if found is not None else 0

    def commit(self, ops: Sequence[Op], generation: int = 1) -> Etcd | None:
        """Return the store after a transaction; None where a condition does not hold."""
        if any(op.revision is not None and self.revision_of(op.key) != op.revision for op in ops):
            return None
        writes = [
            Write(op.key, generation, _signed(op, generation), None) if isinstance(op, Put) else op
            for op in ops
            if not isinstance(op, (Holds, Delete))
        ]
        gone = [op.key for op in ops if isinstance(op, Delete) and op.key in self.records]
        keys = [*gone, *(op.key for op in writes)]
        assert len(keys) == len(set(keys)), "etcd refuses a key that one transaction writes twice"
        assert len(ops) <= 128, "etcd takes no more"
        records, digest, visible = self.records.mutate(), self.digest, self.visible
        for key in keys:
            if (old := records.pop(key, None)) is not None:
                part = _RECORDS[key, old.raw or b""][1]
                digest, visible = digest - part, visible - (part if _is_agents(key) else 0)
        for write in writes:
            record, part = _opened(write)
            signer = _OWN_ID if keyspace.writer(write.key) == "controller" else b"agent"
            versioned = Versioned(record, self.revision + 1, write.generation, signer, write.value)
            records[write.key] = versioned
            digest, visible = digest + part, visible + (part if _is_agents(write.key) else 0)
        entries = (Entry.of(w.key, w.generation, w.value) for w in writes if keyspace.covered(w.key))
        covered = [key for key in keys if keyspace.covered(key)]
        contents = self.contents.after(entries, [key for key in gone if keyspace.covered(key)]) if covered else None
        return Etcd(self.revision + 1, records.finish(), contents or self.contents, tuple(keys), digest, visible)

    def set_back(self, then: Etcd | None) -> Etcd:
        """Return the store as it was once, or emptied, at a revision that goes on."""
        old = then or Etcd()
        keys = tuple({*self.records, *old.records})
        return Etcd(self.revision + 1, old.records, old.contents, keys, old.digest, old.visible)

    def is_signed(self) -> bool:
        """Tell whether it holds exactly what its manifest says."""
        found = self.records.get(keyspace.MANIFEST)
        return found is not None and found.record == self.contents.record()


def _is_agents(key: str) -> bool:
    return keyspace.covered(key) or key.startswith(_AGENTS)


class Port:
    """The store as production code uses it: in place of `mesh.store.client.Store`.

    Attributes:
        etcd: the store now.
        revisions: every store from the beginning of a pass on.
    """

    def __init__(self) -> None:
        self.etcd = Etcd()
        self.revisions: tuple[Etcd, ...] = ()

    def begin(self, etcd: Etcd) -> None:
        self.etcd, self.revisions = etcd, (etcd,)

    def commit(self, ops: Sequence[Op], generation: int = 1) -> int | None:
        made = self.etcd.commit(ops, generation)
        if made is None:
            return None
        self.etcd, self.revisions = made, (*self.revisions, made)
        return made.revision

    def sign(self, put: Put, generation: int) -> Write:
        return Write(put.key, generation, _signed(put, generation), put.revision, put.lease)

    def open(self, key: str, value: bytes) -> OpenedValue:
        return RECORD_SIGNER.open(key, value)

    def opened(self, values: Iterable[tuple[str, bytes]]) -> Snapshot:
        view = MaterializedView(RECORD_SIGNER, with_raw=True)
        changes = [RecordChange(key.encode(), value, 0) for key, value in values]
        view.replace(Batch(0, whole=True, changes=changes))
        return view.snapshot(complete=True)

    def load(self, prefixes: Sequence[str]) -> Snapshot:
        del prefixes
        return self.etcd.snapshot

    def wait(self, revision: int, seconds: float) -> bool:
        """As a follower that shows each write at once."""
        del seconds
        return self.etcd.revision >= revision

    @property
    def snapshot(self) -> Snapshot:
        return self.etcd.snapshot
