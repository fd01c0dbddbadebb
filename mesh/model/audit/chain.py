"""Reading of the audit log: its pages in order, and everything that shows that pages are missing or changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mesh.model import keyspace
from mesh.model.audit.page import SLOTS, AuditPage, Stream
from mesh.model.snapshot import Snapshot

STREAMS: tuple[Stream, ...] = ("decisions", "routine")


@dataclass(frozen=True, slots=True)
class Chain:
    """Pages of one stream.

    Attributes:
        stream: its name.
        pages: those that could be read and belong to the ring as it is, by number.
        problems: texts; empty where no page is missing and each one names the one before it.
    """

    stream: Stream
    pages: tuple[AuditPage, ...]
    problems: tuple[str, ...]

    @property
    def last(self) -> AuditPage | None:
        """The newest page; None while there is none."""
        return self.pages[-1] if self.pages else None


def chains(snapshot: Snapshot) -> tuple[Chain, ...]:
    """Read the log from a snapshot of everything under `audit/`, whose signatures were checked."""
    every = tuple(snapshot.all(AuditPage))
    unreadable = [text for key, text in sorted(snapshot.invalid.items()) if key.startswith(keyspace.AUDIT)]
    made = [_chain(stream, [page for page in every if page.stream == stream]) for stream in STREAMS]
    first = made[0]
    return (Chain(first.stream, first.pages, (*unreadable, *first.problems)), *made[1:])


def _chain(stream: Stream, found: Sequence[AuditPage]) -> Chain:
    pages = sorted(found, key=lambda page: page.number)
    newest = pages[-1].number if pages else 0
    oldest = max(1, newest - SLOTS[stream] + 1)
    old = [page.number for page in pages if page.number < oldest]
    kept = [page for page in pages if page.number >= oldest]
    missing = sorted(set(range(oldest, newest + 1)) - {page.number for page in kept})
    problems = [f"audit log, {stream}: {text}" for text in (*_missing(missing), *_put_back(old), *_broken(kept))]
    return Chain(stream, tuple(kept), tuple(problems))


def _missing(numbers: Sequence[int]) -> Iterator[str]:
    if numbers:
        yield f"{len(numbers)} pages are missing: {_ranges(numbers)}"


def _put_back(numbers: Sequence[int]) -> Iterator[str]:
    if numbers:
        yield f"pages were put back that newer ones had replaced: {_ranges(numbers)}"


def _broken(pages: Sequence[AuditPage]) -> Iterator[str]:
    for before, page in pairwise(pages):
        if page.number == before.number + 1 and page.previous != before.digest():
            yield f"page {page.number} does not follow page {before.number}: one of them was replaced by another"


def _ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ranges: `3-5, 9`, at most five of them."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:5]]
    return ", ".join(shown) + (", and others" if len(ranges) > 5 else "")  # noqa: PLR2004 - as many are shown
