"""Whether the records that are signed as a set are those that were signed. Pure.

etcd's watch gives whole revisions, so a reader finds the set equal to the manifest at every revision, or somebody has
forged, replaced, withheld or deleted something. A whole old state is equal to its own manifest; that one's generation
is lower than what the reader has seen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh import keyspace
from mesh.records import ManifestRecord
from mesh.snapshot import Snapshot

_NAMED = 5  # keys that a problem names


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a snapshot's covered records are those that were signed.

    Attributes:
        generation: the manifest's, 0 where there is none to be read.
        problem: why they are not, in words; empty when they are.
    """

    generation: int
    problem: str

    @property
    def verified(self) -> bool:
        """Whether they may be acted on."""
        return not self.problem


def judge(snapshot: Snapshot, least: int = 0, seen: bytes = b"", before: Snapshot | None = None) -> Verdict:
    """Compare what a snapshot holds with the manifest in it.

    Args:
        snapshot: with the manifest and everything that is covered.
        least: the highest generation that was seen before; a lower one is an old state.
        seen: the manifest that was seen with it, as it was signed; of one generation there is one. A controller that
            was shown an old state may sign another, and goes on above both when it hears of this one.
        before: the last one that was verified, to name what differs from it.
    """
    manifest = snapshot.get(keyspace.MANIFEST, ManifestRecord)
    if manifest is None:
        reason = snapshot.invalid.get(keyspace.MANIFEST)
        return Verdict(0, reason or "manifest: there is none: no controller has signed what is there (yet)")
    generation = snapshot.records[keyspace.MANIFEST].generation
    if generation < least:
        return Verdict(generation, f"manifest: generation {generation}, and {least} has been seen: an old state")
    if seen and generation == least and snapshot.records[keyspace.MANIFEST].raw != seen:
        return Verdict(generation, f"manifest: generation {generation} is another than the one that has been seen")
    contents = snapshot.contents
    if manifest.count == contents.total.count and manifest == contents.record():
        return Verdict(generation, "")
    wrong = list(_differences(snapshot, before))
    named = "; ".join(wrong[:_NAMED]) + (f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")
    counts = f"{contents.total.count} records where {manifest.count} were signed"
    return Verdict(generation, f"not what was signed as generation {generation}: {counts}: {named or 'one differs'}")


def _differences(snapshot: Snapshot, before: Snapshot | None) -> Iterator[str]:
    """What stands out: unreadable records, and those that are gone or older than what was seen before."""
    yield from (reason for key, reason in sorted(snapshot.invalid.items()) if keyspace.covered(key))
    if before is None:
        return
    now = snapshot.contents.entries
    for key, entry in sorted(before.contents.entries.items()):
        if key not in now:
            if key not in snapshot.invalid:
                yield f"{key}: gone"
        elif now[key].generation < entry.generation:
            yield f"{key}: generation {now[key].generation}, and {entry.generation} has been seen"
    yield from (f"{key}: new" for key in sorted(now) if key not in before.contents.entries)
