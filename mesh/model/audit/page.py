"""Page of the audit log: some events of one moment, compressed, with the digest of the page before. Pure.

Pages are numbered from 1. Each stream is a ring of slots: a page overwrites the one that is as many numbers older, so
the log never grows beyond the slots and costs the store one write for a transaction. The controller signs a page as
any record of its own; no agent follows pages, and no manifest covers them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mesh.crypto.framing import framed
from mesh.errors import InvalidRecordError
from mesh.model.compression import decompressed
from mesh.model.records import Record

Stream = Literal["decisions", "routine"]
"""`decisions`: links, services, nodes, controllers, restores. `routine`: what a busy mesh has many of: keys of tasks
and links, problems. One does not push out the other."""

SLOTS = MappingProxyType({"decisions": 2048, "routine": 1024})
"""Pages of each stream that are kept."""
MAX_PACKED = 1400
"""Bytes of a page's events; with its signature and the rest a page takes 2.6 kB at most, and all of them 8 MB."""
MAX_TEXT = 300
"""Characters of one detail of an event."""
_MAX_UNPACKED = 1 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its kind, such as `link created`, and its details by name."""

    kind: str
    details: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kind: str, **details: object) -> Event:
        """Make one; details that say nothing are left out, and long ones cut."""
        told = ((name, _cut(str(value))) for name, value in details.items())
        return cls(kind, tuple((name, text) for name, text in told if text))


@dataclass(frozen=True, slots=True)
class AuditPage(Record, key="audit/{0.stream}/{0.slot:04}"):
    """Some events, as the controller that led recorded them."""

    stream: Stream
    number: int
    """From 1, without gaps."""
    previous: bytes
    """`digest` of the page before; empty in the first."""
    written: float
    """Seconds since 1970 by the controller's clock: for display only, nothing is decided by it."""
    controller: str
    """Name of the controller, for people."""
    packed: bytes
    """The events, as `packed` made them."""

    @property
    def slot(self) -> int:
        """Its place in the ring."""
        return self.number % SLOTS[self.stream]

    def digest(self) -> bytes:
        """Return the SHA-256 by which the next page names this one."""
        parts = (self.stream, self.number, self.previous, repr(self.written), self.controller, self.packed)
        return hashlib.sha256(framed("linkwire audit page 1", *parts)).digest()

    def events(self) -> tuple[Event, ...]:
        """Return its events. Raises InvalidRecordError: they are no such events."""
        try:
            plain = json.loads(decompressed(self.packed, _MAX_UNPACKED))
            return tuple(Event(str(kind), tuple((str(n), str(t)) for n, t in details)) for kind, details in plain)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRecordError(f"audit page {self.number}: its events cannot be read: {error}") from None


def packed(events: Sequence[Event]) -> Iterator[tuple[Sequence[Event], bytes]]:
    """Pack events into as many pages as they need, in order."""
    raw = zlib.compress(json.dumps([[event.kind, event.details] for event in events]).encode())
    if len(raw) <= MAX_PACKED or len(events) <= 1:
        yield events, raw
        return
    half = len(events) // 2
    yield from packed(events[:half])
    yield from packed(events[half:])


def _cut(text: str) -> str:
    """Make a text short and printable: others may have chosen it."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:MAX_TEXT])
    return shown if len(text) <= MAX_TEXT else f"{shown}..."
