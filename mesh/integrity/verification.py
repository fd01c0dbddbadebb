"""Snapshot verification: whether the covered records are the set that the manifest was signed over. Pure.

etcd's watch gives whole revisions, so a reader finds the set equal to the manifest at every revision, or somebody has
forged, replaced, withheld or deleted a record. A whole old state is equal to its own manifest; the generation of that
manifest is lower than one that the reader has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.model import keyspace
from mesh.model.records import ManifestRecord
from mesh.model.snapshot import Snapshot

_NAMED = 5  # keys that a problem names


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a snapshot's verification.

    Attributes:
        generation: the manifest's; 0 where no manifest can be read.
        problem: why the covered records are not the signed ones; empty when they are.
    """

    generation: int
    problem: str

    @property
    def verified(self) -> bool:
        """Whether the records may be acted on."""
        return not self.problem


def verify_snapshot(snapshot: Snapshot, least: int = 0, seen: bytes = b"", before: Snapshot | None = None) -> Verdict:
    """Compare a snapshot's covered records with the manifest in it.

    Args:
        snapshot: with the manifest and everything that is covered.
        least: the highest generation seen before; a lower one is an old state.
        seen: the signed manifest of that generation; there is one manifest of one generation. A controller that was
            shown an old state may sign another, and goes on above both when it hears of this one.
        before: the last verified snapshot, to name what differs from it.
    """
    manifest = snapshot.get(keyspace.MANIFEST, ManifestRecord)
    if manifest is None:
        reason = snapshot.invalid.get(keyspace.MANIFEST)
        return Verdict(0, reason or "manifest: missing: no controller has signed these records (yet)")
    generation = snapshot.records[keyspace.MANIFEST].generation
    if generation < least:
        return Verdict(generation, f"manifest: generation {generation} after {least} was seen: an old state")
    if seen and generation == least and snapshot.records[keyspace.MANIFEST].raw != seen:
        return Verdict(generation, f"manifest: differs from the one seen with the same generation {generation}")
    contents = snapshot.contents
    if manifest.count == contents.total.count and manifest == contents.record():
        return Verdict(generation, "")
    wrong = list(_differences(snapshot, before))
    named = "; ".join(wrong[:_NAMED]) + (f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")
    counts = f"{contents.total.count} records where {manifest.count} were signed"
    return Verdict(generation, f"not what was signed as generation {generation}: {counts}: {named or 'one differs'}")


def _differences(snapshot: Snapshot, before: Snapshot | None) -> Iterator[str]:
    """Name unreadable records, and those that are new, gone or older than in the last verified snapshot."""
    yield from (reason for key, reason in sorted(snapshot.invalid.items()) if keyspace.covered(key))
    if before is None:
        return
    now = snapshot.contents.entries
    for key, entry in sorted(before.contents.entries.items()):
        if key not in now:
            if key not in snapshot.invalid:
                yield f"{key}: gone"
        elif now[key].generation < entry.generation:
            yield f"{key}: generation {now[key].generation} after {entry.generation} was seen"
    yield from (f"{key}: new" for key in sorted(now) if key not in before.contents.entries)
