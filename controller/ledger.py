"""The controller's writes, signed: each with a generation of its own, and with the manifest over what is then there.

It promises that the manifest is only ever written on condition that nobody else wrote it meanwhile, and never with a
generation that this controller has signed before, or that a node is known to have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from mesh import keyspace
from mesh.errors import InvalidRecord
from mesh.manifest import Entry
from mesh.records import ManifestRecord, Status
from mesh.snapshot import Contents, Delete, Holds, Op, Put, Snapshot, Write
from mesh.store import Store
from mesh.verdict import Verdict, verify_snapshot

log = structlog.get_logger(__name__)

_SPARE = 8  # manifests that are known to be signed, more than nodes show


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
        self._taken = Snapshot()
        self._judged: tuple[object, object, int] = (None, None, -1)  # what the verdict rests on
        self._verdict = Verdict(0, "")
        self._revision = 0  # of the manifest
        self._stored = 0  # its generation
        self._raw: bytes | None = None  # itself, as it was signed
        self._highest = 0  # what the next has to be above, for all that is known to have been signed
        self._used = 0  # in any commit of ours
        self._claims: dict[str, bytes] = {}
        self._seen: dict[str, Witness] = {}
        self._opened: dict[bytes, int] = {}  # manifest -> its generation; whoever claims it
        self._top = 0  # what the store was seen to hold
        self.verified = False

    def take(self, stored: Snapshot) -> None:
        """Go on from what the store holds now."""
        found = stored.records.get(keyspace.MANIFEST)
        rests_on = found, stored.contents.total, self._highest
        if any(now is not then for now, then in zip(rests_on, self._judged, strict=True)):
            self._verdict = verify_snapshot(stored, self._highest)
            self._highest = max(self._highest, self._verdict.generation)
            self._judged = found, stored.contents.total, self._highest
        self.verified = self._verdict.verified
        self._contents = stored.contents
        self._revision = stored.revision_of(keyspace.MANIFEST)
        self._stored = self._verdict.generation
        self._raw = found.raw if found is not None else None
        self._top = max(self._top, self._stored)
        changed = stored.changed_since(self._taken)
        self._taken = stored
        said = stored.all(Status) if changed is None else (stored.get(key, Status) for key in changed)
        for status in sorted((one for one in said if one is not None), key=lambda one: one.node):
            self._hear(status)

    def witness(self, nodes: Iterable[str]) -> Witness:
        """Which of some nodes has proven that it has seen the highest generation."""
        seen = [self._seen[node] for node in nodes if node in self._seen]
        return max(seen, key=lambda witness: (witness.generation, witness.node), default=Witness())

    def agreed(self) -> bool:
        """Whether no node at all has proven to know more than the store holds, or something else of that generation.

        Holds for what was taken last. Where it does not, `witness` says who of those that are up.
        """
        return not any(
            generation > self._stored or (generation == self._stored and manifest != self._raw)
            for manifest, generation in self._opened.items()
        )

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
        writes = [self._store.sign(op, generation) if isinstance(op, Put) else op for op in ops]
        entries = [Entry.of(op.key, op.generation, op.value) for op in writes if isinstance(op, Write)]
        gone = [op.key for op in ops if isinstance(op, Delete)]
        changes = any(keyspace.covered(key) for key in (*gone, *(entry.key for entry in entries)))
        contents = self._contents.after(entries, gone) if changes else self._contents
        signs = sign and (changes or self.stale)
        manifest = self._store.sign(Put(contents.record(), self._revision), generation) if signs else None
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
            generation = self._generation(status.manifest)
        except InvalidRecord as error:
            log.warning("what a node says it has seen is not believed", node=status.node, error=str(error))
            return
        self._seen[status.node] = Witness(status.node, generation, status.manifest)
        twice = generation == self._stored and status.manifest != self._raw
        if generation > self._highest or twice:
            log.warning(
                "a node has seen another state than the store holds, and not an older one",
                node=status.node,
                generation=generation,
                stored=self._stored,
            )
            self._highest = generation + 1

    def _generation(self, manifest: bytes) -> int:
        """Of a manifest whose signature holds (InvalidRecord); checked once, whoever shows it."""
        known = self._opened.get(manifest)
        if known is None:
            known = self._store.open(keyspace.MANIFEST, manifest).generation
            if len(self._opened) > len(self._seen) + _SPARE:
                shown = {witness.manifest for witness in self._seen.values()}
                self._opened = {one: number for one, number in self._opened.items() if one in shown}
            self._opened[manifest] = known
        return known


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
