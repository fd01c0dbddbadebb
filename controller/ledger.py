"""The controller's writes, signed: each with a generation of its own, and with the manifest over what is then there.

It promises that the manifest is only ever written on condition that nobody else wrote it meanwhile, and never with a
generation that this controller has signed before, or that a node is known to have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from mesh import keyspace
from mesh.contents import Contents, judge
from mesh.errors import InvalidRecord
from mesh.manifest import Entry
from mesh.records import ManifestRecord, Status
from mesh.snapshot import Delete, Holds, Op, Put, Snapshot, Write
from mesh.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Witness:
    """A node that has proven which state it has seen; without a name nobody has."""

    node: str = ""
    generation: int = 0
    manifest: bytes = b""
    """As it was signed."""


class Ledger:
    """What was signed last, as far as this controller knows. Not safe for several threads.

    Attributes:
        verified: whether the store holds exactly what was signed, as far as is known.
    """

    def __init__(self, store: Store) -> None:
        """Know nothing yet: `take` comes first."""
        self._store = store
        self._contents = Contents()
        self._revision = 0  # of the manifest
        self._stored = 0  # its generation
        self._raw: bytes | None = None  # itself, as it was signed
        self._highest = 0  # what the next has to be above, for all that is known to have been signed
        self._used = 0  # in any commit of ours
        self._claims: dict[str, bytes] = {}
        self._seen: dict[str, Witness] = {}
        self._top = 0  # what the store was seen to hold
        self.verified = False

    def take(self, stored: Snapshot) -> None:
        """Go on from what the store holds now."""
        verdict = judge(stored, self._highest)
        self.verified = verdict.verified
        self._contents = stored.contents
        self._revision = stored.revision_of(keyspace.MANIFEST)
        self._stored = verdict.generation
        found = stored.records.get(keyspace.MANIFEST)
        self._raw = found.raw if found is not None else None
        self._highest = max(self._highest, verdict.generation)
        self._top = max(self._top, verdict.generation)
        for status in stored.all(Status):
            self._hear(status)

    def witness(self, nodes: Iterable[str]) -> Witness:
        """Which of some nodes has proven that it has seen the highest generation."""
        seen = [self._seen[node] for node in nodes if node in self._seen]
        return max(seen, key=lambda witness: (witness.generation, witness.node), default=Witness())

    def unheard(self, nodes: Sequence[str]) -> Sequence[str]:
        """All of them, if the store holds an older state than it did, and none of them has proven to know it."""
        heard = self._stored >= self._top or self.witness(nodes).generation >= self._top
        return () if heard else nodes

    @property
    def stale(self) -> bool:
        """Whether the manifest has to be written though no record has to: agents hold on until it is."""
        return not self.verified or self._stored < self._highest

    def commit(self, ops: Sequence[Op], *, sign: bool = True) -> int | None:
        """Commit (see `Store.commit`) with the next generation.

        Args:
            ops: none of them on the manifest.
            sign: whether the manifest is to say what the store then holds, if that changes or was not so; without
                it agents go on with what they have until it does.

        Returns:
            The revision; None when a condition did not hold, which may be the manifest's own.
        """
        generation = max(self._used, self._highest) + 1
        self._used = generation  # also when it is not known whether the commit was done
        writes = [self._store.seal(op, generation) if isinstance(op, Put) else op for op in ops]
        entries = [Entry.of(op.key, op.generation, op.value) for op in writes if isinstance(op, Write)]
        gone = [op.key for op in ops if isinstance(op, Delete)]
        changes = any(keyspace.covered(key) for key in (*gone, *(entry.key for entry in entries)))
        contents = self._contents.after(entries, gone) if changes else self._contents
        signs = sign and (changes or self.stale)
        manifest = self._store.seal(Put(contents.record(), self._revision), generation) if signs else None
        revision = self._store.commit([*writes, manifest or Holds(keyspace.MANIFEST, self._revision)])
        if revision is None:
            return None
        self._contents = contents
        if manifest is not None:
            self._revision, self._stored, self._highest, self.verified = revision, generation, generation, True
            self._raw = manifest.value
        elif changes:
            self.verified = False
        return revision

    def _hear(self, status: Status) -> None:
        """Take over the generation of a manifest that a node has seen: its signature proves it, whoever shows it."""
        if not status.manifest or self._claims.get(status.node) == status.manifest:
            return
        self._claims[status.node] = status.manifest
        try:
            opened = self._store.unseal(keyspace.MANIFEST, status.manifest)
        except InvalidRecord as error:
            log.warning("what a node says it has seen is not believed", node=status.node, error=str(error))
            return
        self._seen[status.node] = Witness(status.node, opened.generation, status.manifest)
        twice = opened.generation == self._stored and status.manifest != self._raw
        if opened.generation > self._highest or twice:
            log.warning(
                "a node has seen another state than the store holds, and not an older one",
                node=status.node,
                generation=opened.generation,
                stored=self._stored,
            )
            self._highest = opened.generation + 1


def awaited(stored: Snapshot, up: Sequence[str]) -> list[str]:
    """The nodes that have to be heard before anything is written into a store that nobody has signed (yet).

    It may have been emptied, and they know which generations there were.

    Args:
        stored: all of the store.
        up: ids of the nodes that are up.
    """
    if stored.get(keyspace.MANIFEST, ManifestRecord) is not None:
        return []
    return [node for node in up if stored.get(keyspace.status(node), Status) is None]
