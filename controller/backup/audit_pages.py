"""Pages of the audit log in a backup, joined to those in the store. Pure.

Where the store's log goes on from the backup's, the pages that it lost are put back. Where it began anew after a
wipe, its pages are numbered after the backup's and chained to them: the log then shows both, with `audit log begun`
between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mesh.model import keyspace
from mesh.model.audit.chain import STREAMS
from mesh.model.audit.page import SLOTS, AuditPage, Event, Stream, packed
from mesh.model.snapshot import Delete, Op, Put, Snapshot, Write

Pages = Mapping[int, AuditPage]
"""Pages of one stream by number."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The joined log.

    Attributes:
        ops: that make it of the store's.
        restored: pages that come back.
        problems: texts: streams whose pages do not fit the store's, and stay away.
    """

    ops: tuple[Op, ...]
    restored: int
    problems: tuple[str, ...]


def joined(backup: Snapshot, stored: Snapshot, note: Event, now: float, controller: str) -> Joined:
    """Join the logs, and record the restore at the end.

    Args:
        backup: with the signed bytes of its records.
        stored: the store, with its pages.
        note: the event of this restore.
        now: seconds since 1970.
        controller: name of the one who restores, for people.
    """
    ops: list[Op] = []
    problems: list[str] = []
    restored = 0
    for stream in STREAMS:
        ours, theirs = _pages(stored, stream), _pages(backup, stream)
        whole, problem = _one(ours, theirs)
        if problem:
            problems.append(f"audit log, {stream}: {problem}")
        pages = {number: page for number, page in whole.items() if number > max(whole) - SLOTS[stream]}
        restored += sum(theirs.get(number) == page and ours.get(number) != page for number, page in pages.items())
        if stream == "decisions":
            ((_, raw),) = packed([note])
            last = pages[max(pages)] if pages else None
            number, digest = (last.number + 1, last.digest()) if last is not None else (1, b"")
            pages[number] = AuditPage(stream, number, digest, now, controller, raw)
            pages.pop(number - SLOTS[stream], None)
        ops += _written(pages, stored, backup, stream)
    return Joined(tuple(ops), restored, tuple(problems))


def _pages(snapshot: Snapshot, stream: Stream) -> dict[int, AuditPage]:
    return {page.number: page for page in snapshot.all(AuditPage) if page.stream == stream}


def _one(ours: Pages, theirs: Pages) -> tuple[dict[int, AuditPage], str]:
    """Return one log of two, and why the backup's pages are not in it."""
    if not theirs or not ours:
        return {**ours, **theirs}, ""
    first, last = min(ours), max(theirs)
    if any(ours[number] == theirs[number] for number in ours.keys() & theirs.keys()):
        return {**theirs, **ours}, ""
    if first == 1:
        return {**theirs, **_after(theirs[last], ours)}, ""
    if first > last + 1 or (first == last + 1 and ours[first].previous == theirs[last].digest()):
        return {**theirs, **ours}, ""
    return {**ours}, "the pages in etcd have the numbers of the backup's and are others: the backup's stay away"


def _after(last: AuditPage, pages: Pages) -> dict[int, AuditPage]:
    """Number and chain pages anew, after another one."""
    made = {}
    for _, page in sorted(pages.items()):
        last = replace(page, number=last.number + 1, previous=last.digest())
        made[last.number] = last
    return made


def _written(pages: Pages, stored: Snapshot, backup: Snapshot, stream: Stream) -> Iterator[Op]:
    """Yield what makes the store's log these pages: signed by whom they were signed, or anew."""
    keys = set()
    for page in pages.values():
        key = keyspace.key_of(page)
        keys.add(key)
        found, given, revision = stored.get(key, AuditPage), backup.records.get(key), stored.revision_of(key)
        if found == page:
            continue
        if given is not None and given.record == page and given.raw is not None:
            yield Write(key, given.generation, given.raw, revision)
        else:
            yield Put(page, revision)
    for key, versioned in stored.keys_of(AuditPage):
        if versioned.record.stream == stream and key not in keys:
            yield Delete(key, versioned.revision)
