"""Ledger of signed writes: each has a generation of its own, and comes with the manifest of what is then there.

The manifest is only ever written on condition that no other process wrote it meanwhile, and never with a generation
that this controller has signed before or that a node is known to have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from controller.index.baseline import LastSeen
from controller.trust.witnesses import Witness, Witnesses
from mesh.crypto.multiset_hash import Entry
from mesh.integrity.verification import Verdict, verify_snapshot
from mesh.model import keyspace
from mesh.model.records import ManifestRecord, Status
from mesh.model.snapshot import Delete, Holds, Op, Put, SignedSet, Snapshot, Write
from mesh.store.client import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The manifest that the store holds.

    Attributes:
        revision: of its last change, 0 for none.
        generation: as verified.
        raw: as it was signed.
    """

    revision: int = 0
    generation: int = 0
    raw: bytes | None = None


class SignedWriter:
    """Newest signed state, as far as this controller can tell. Not safe for several threads.

    Attributes:
        verified: whether the store holds exactly what was signed.
    """

    def __init__(self, store: Store) -> None:
        """Start without a state: `observe` comes first."""
        self._store = store
        self._contents = SignedSet()
        self._seen = LastSeen()
        self._judged: tuple[object, object, int] = (None, None, -1)  # what the verdict rests on
        self._verdict = Verdict(0, "")
        self._manifest = _Manifest()
        self._highest = 0  # the next generation exceeds this one: every generation that is known to be signed
        self._used = 0  # in any commit of ours
        self._witnesses = Witnesses(store)
        self._top = 0  # the highest generation that the store was seen to hold
        self.verified = False

    def observe(self, stored: Snapshot) -> None:
        """Look at the whole store, also while another controller leads."""
        manifest = stored.records.get(keyspace.MANIFEST)
        rests_on = manifest, stored.contents.total, self._highest
        if any(now is not then for now, then in zip(rests_on, self._judged, strict=True)):
            self._verdict = verify_snapshot(stored, self._highest)
            self._highest = max(self._highest, self._verdict.generation)
            self._judged = manifest, stored.contents.total, self._highest
        self.verified = self._verdict.verified
        self._contents = stored.contents
        raw = manifest.raw if manifest is not None else None
        self._manifest = _Manifest(stored.revision_of(keyspace.MANIFEST), self._verdict.generation, raw)
        self._top = max(self._top, self._manifest.generation)
        changed = self._seen.changed(stored)
        statuses = stored.all(Status) if changed is None else (stored.get(key, Status) for key in changed)
        for status in sorted((status for status in statuses if status is not None), key=lambda status: status.node):
            self._hear(status)

    def witness(self, nodes: Iterable[str]) -> Witness:
        """Return which of some nodes has proven that it has seen the highest generation."""
        return self._witnesses.newest(nodes)

    def agreed(self) -> bool:
        """Tell whether no node has proven to have seen more than the store holds, or another state of its generation.

        This is about the snapshot that was observed last. If it is False, `witness` names a node that is up.
        """
        return self._witnesses.agree(self._manifest.generation, self._manifest.raw)

    def unheard(self, nodes: Sequence[str]) -> Sequence[str]:
        """Return all nodes if the store was reverted and none of them has proven to have seen its newest state."""
        heard = self._manifest.generation >= self._top or self.witness(nodes).generation >= self._top
        return () if heard else nodes

    @property
    def stale(self) -> bool:
        """True if the manifest has to be written although no record has to: agents wait for it."""
        return not self.verified or self._manifest.generation < self._highest

    def commit(self, ops: Sequence[Op], *, sign: bool = True) -> int | None:
        """Commit (see `Store.commit`) with the next generation.

        Args:
            ops: none of them on the manifest.
            sign: whether to sign the store as it then is, if that differs from what is signed; without it agents
                stay with their state until a later commit signs.

        Returns:
            The revision; None when a condition did not hold, perhaps the manifest's own.
        """
        generation = max(self._used, self._highest) + 1
        self._used = generation  # also where the outcome of the commit is unknown
        writes = [self._store.sign(op, generation) if isinstance(op, Put) else op for op in ops]
        entries = [Entry.of(op.key, op.generation, op.value) for op in writes if isinstance(op, Write)]
        gone = [op.key for op in ops if isinstance(op, Delete)]
        changes = any(keyspace.covered(key) for key in (*gone, *(entry.key for entry in entries)))
        contents = self._contents.after(entries, gone) if changes else self._contents
        signs = sign and (changes or self.stale)
        manifest = self._store.sign(Put(contents.record(), self._manifest.revision), generation) if signs else None
        revision = self._store.commit([*writes, manifest or Holds(keyspace.MANIFEST, self._manifest.revision)])
        if revision is None:
            return None
        self._contents = contents
        if manifest is not None:
            self._manifest = _Manifest(revision, generation, manifest.value)
            self._highest, self.verified = generation, True
        elif changes:
            self.verified = False
        return revision

    def _hear(self, status: Status) -> None:
        """Sign above what a node has seen, whichever node shows it."""
        witness = self._witnesses.hear(status)
        if witness is None:
            return
        stored = self._manifest
        other = witness.generation == stored.generation and witness.manifest != stored.raw
        if witness.generation > self._highest or other:
            reason = f"the store holds generation {stored.generation}"
            log.warning("node ahead of store", node=witness.node, generation=witness.generation, reason=reason)
            self._highest = witness.generation + 1


def awaited(stored: Snapshot, up: Sequence[str]) -> list[str]:
    """List the nodes that have to report before anything is written into a store without a manifest.

    The store may have been wiped, and the nodes know which generations there were.

    Args:
        stored: the whole store.
        up: ids of the nodes that are up.
    """
    if stored.get(keyspace.MANIFEST, ManifestRecord) is not None:
        return []
    return [node for node in up if stored.get(keyspace.status(node), Status) is None]
