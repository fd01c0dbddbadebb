"""A snapshot kept up to date by a thread of its own. It knows etcd only as batches of changes, no I/O here.

It promises that `Snapshot.complete` is True only while the records are everything that lay under the followed
prefixes at `Snapshot.revision`, and that neither a value that is not ours nor the caller's own `changed` ends it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from immutables import Map, MapMutation

from mesh import codec, keyspace
from mesh.changes import Changes
from mesh.errors import InvalidRecord, LinkwireError
from mesh.garbage import LARGE, held_off
from mesh.manifest import Entry, Manifest
from mesh.records import Record, Versioned
from mesh.seal import Seal
from mesh.snapshot import Contents, Snapshot, Trail
from mesh.vouching import NOTHING, Vouched

log = structlog.get_logger(__name__)

FIRST_WAIT = 0.1  # seconds between two attempts, doubled up to LONGEST_WAIT, each with jitter
LONGEST_WAIT = 2.0
STEADY = 10.0  # a stream that lasted this many seconds starts over with FIRST_WAIT
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Change:
    """A key as it lies in etcd, without the root; `value` None: it was deleted."""

    key: bytes
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes up to and with `revision`, never half a revision.

    Attributes:
        revision: the last revision that is in it as a whole.
        whole: the changes are all there is: what is not named does not exist.
        changes: in the order of their revisions.
    """

    revision: int
    whole: bool
    changes: Sequence[Change]


class Feed(Protocol):
    """Where batches come from."""

    def batches(self) -> Generator[Batch]:
        """A whole one first, then every change after it, until the connection ends or breaks (LinkwireError)."""

    def close(self) -> None:
        """End for good: a running `batches` ends or raises at once. From any thread."""


class Picture:
    """The opened and decoded state of some prefixes, changed in place. Not safe for several threads."""

    def __init__(self, seal: Seal, *, keep: bool = False) -> None:
        """Empty; with `keep` every record keeps its value too, as it lay in the store."""
        self.revision = 0
        self._seal = seal
        self._keep = keep
        self._forget_all()

    def _forget_all(self) -> None:
        self._records: MapMutation[str, Versioned[Record]] = Map[str, Versioned[Record]]().mutate()
        self._invalid: MapMutation[str, str] = Map[str, str]().mutate()
        self._unread: MapMutation[str, int] = Map[str, int]().mutate()
        self._entries: MapMutation[str, Entry] = Map[str, Entry]().mutate()
        self._total = Manifest()
        self._kinds: dict[type, MapMutation[str, Versioned[Record]]] = {}
        self._log = Changes[str]()

    def replace(self, batch: Batch) -> None:
        """Forget everything and take a whole batch in its place."""
        before = self._invalid
        self._forget_all()
        # A key may have changed while it was listed. Only what it came to belongs to the whole.
        last: dict[str, Change] = {}
        for change in batch.changes:
            last[_text(change.key)] = change
        values = {key: change.value for key, change in last.items() if change.value is not None}
        vouched = self._seal.vouch(values)
        for key, change in last.items():
            if change.value is not None:
                self._put(key, change.value, change.revision, before, vouched)
        if len(vouched.entries) == len(self._entries):
            self._total = vouched.total
        else:
            self._total = Manifest.of(entry for key in last if (entry := self._entries.get(key)) is not None)
        self.revision = batch.revision

    def apply(self, batch: Batch) -> bool:
        """Take in what changed; returns whether that was anything but the revision."""
        keys = [_text(change.key) for change in batch.changes]
        self._log.add(keys, len(self._records))
        for key, change in zip(keys, batch.changes, strict=True):
            self._forget(key)
            if change.value is None:
                self._invalid.pop(key, None)
                continue
            self._put(key, change.value, change.revision, self._invalid)
            entry = self._entries.get(key)
            if entry is not None:
                self._total = self._total.add(entry)
        self.revision = batch.revision
        return bool(batch.changes)

    def snapshot(self, *, complete: bool) -> Snapshot:
        """What there is now, and stays so whatever changes next: maps share what is the same in both."""
        kinds = {kind: found.finish() for kind, found in self._kinds.items()}
        records, invalid, unread = self._records.finish(), self._invalid.finish(), self._unread.finish()
        entries = self._entries.finish()
        # What was finished never changes again; these go on from it.
        self._kinds = {kind: found.mutate() for kind, found in kinds.items()}
        self._records, self._invalid, self._unread = records.mutate(), invalid.mutate(), unread.mutate()
        self._entries = entries.mutate()
        return Snapshot(
            revision=self.revision,
            complete=complete,
            records=records,
            invalid=invalid,
            unread=unread,
            contents=Contents(entries, self._total),
            trail=Trail(records, invalid, kinds, self._log.mark()),
        )

    def _put(
        self,
        key: str,
        value: bytes,
        revision: int,
        known_invalid: MapMutation[str, str],
        vouched: Vouched = NOTHING,
    ) -> None:
        try:
            self._open(key, value, revision, vouched)
        except Exception as error:  # noqa: BLE001 - one value must never keep us from all others
            reason = _one_line(str(error) if isinstance(error, InvalidRecord) else type(error).__name__)
            if known_invalid.get(key) != reason:
                log.warning("left out a value that is not a record of ours", key=key, reason=reason)
            self._invalid[key] = reason
            self._unread[key] = revision

    def _forget(self, key: str) -> None:
        known = self._records.pop(key, None)
        if known is not None:
            del self._kinds[type(known.record)][key]
        self._unread.pop(key, None)
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._total = self._total.remove(entry)

    def _open(self, key: str, value: bytes, revision: int, vouched: Vouched) -> None:
        opened = self._seal.open(key, value, vouched)
        unchecked = bool(opened.signer) and not opened.checked
        raw = value if unchecked or self._keep or key == keyspace.MANIFEST else None
        record = codec.decode(key, opened.body)
        self._records[key] = made = Versioned(record, revision, opened.generation, opened.signer, raw)
        kind = self._kinds.get(type(record))
        if kind is None:
            kind = self._kinds[type(record)] = Map[str, Versioned[Record]]().mutate()
        kind[key] = made
        self._invalid.pop(key, None)
        if keyspace.covered(key):
            self._entries[key] = vouched.entries.get(key) or Entry.of(key, opened.generation, value)


class Follower:
    """A thread that lists, watches, and begins again with the list whenever the watch ends for whatever reason."""

    def __init__(self, feed: Feed, seal: Seal, changed: Callable[[], None], *, keep: bool = False) -> None:
        """Start at once.

        Args:
            feed: closed when this is stopped.
            seal: opens the values.
            changed: called from the thread after every change of `snapshot`. What it raises is logged.
            keep: as in `Picture`.
        """
        self._feed = feed
        self._changed = changed
        self._lock = threading.Condition()
        self._picture = Picture(seal, keep=keep)
        self._complete = False
        self._said_lost = False
        self._snapshot: Snapshot | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-follower", daemon=True)
        self._thread.start()

    @property
    def snapshot(self) -> Snapshot:
        """What is known now. Made when asked for, so that a burst of changes costs one copy."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = self._picture.snapshot(complete=self._complete)
            return self._snapshot

    def wait(self, revision: int, seconds: float) -> bool:
        """Wait until `snapshot` shows a revision, at most so many seconds; returns whether it does."""
        with self._lock:
            return self._lock.wait_for(lambda: self._picture.revision >= revision, seconds)

    def stop(self) -> None:
        """End the thread and its connection; `snapshot` stays readable, and incomplete. May be called again."""
        self._stopping.set()
        self._feed.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = "the stream ended"
            try:
                with contextlib.closing(self._feed.batches()) as batches:
                    self._follow(batches)
            except LinkwireError as error:
                reason = str(error)
            except Exception:
                # Whatever it is, an agent that follows nothing and does not say so is worse.
                log.exception("following the store failed in a way that nobody thought of")
                reason = "an error of our own"
            self._broken(reason)
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            self._stopping.wait(random.uniform(FIRST_WAIT, wait))  # noqa: S311 - jitter is no secret
            wait = min(2 * wait, LONGEST_WAIT)

    def _follow(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            if self._stopping.is_set():
                return
            with self._lock:
                if batch.whole:
                    before = self._picture.revision
                    with held_off(lasting=len(batch.changes) >= LARGE):
                        self._picture.replace(batch)
                    self._complete = True
                    notable = True
                else:
                    notable = self._picture.apply(batch)
                self._snapshot = None
                self._lock.notify_all()
            if batch.whole:
                self._said_lost = False
                log.info("following the store", revision=batch.revision, keys=len(batch.changes))
                if batch.revision < before:
                    log.warning("the store went back in time", revision=batch.revision, before=before)
            del batch  # all of a store, perhaps, for as long as nothing changes
            if notable:
                self._tell()

    def _broken(self, reason: str) -> None:
        with self._lock:
            was_complete, self._complete = self._complete, False
            self._snapshot = None
        if not self._said_lost and not self._stopping.is_set():
            self._said_lost = True
            log.warning("lost the store", reason=reason)
        if was_complete:
            self._tell()

    def _tell(self) -> None:
        try:
            self._changed()
        except BaseException:
            log.exception("what was to be told of a change failed")


def _text(key: bytes) -> str:
    """Read a key. One that is no text is shown so that it can be no other's: no key of ours begins with b'."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return repr(key)


def _one_line(text: str) -> str:
    """Keep a reason short and printable: it quotes names that a stranger may have chosen."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_REASON + 1])
    return shown if len(shown) <= _LONGEST_REASON else shown[:_LONGEST_REASON] + "..."
