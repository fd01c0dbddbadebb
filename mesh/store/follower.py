"""Follower: a thread that keeps a snapshot up to date from batches of changes. No I/O here.

It promises that `Snapshot.complete` is True only while the records are everything that was under the followed
prefixes at `Snapshot.revision`, and that neither a foreign value nor an exception of the caller's `changed` ends it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from immutables import Map, MapMutation

from mesh.crypto.multiset_hash import Entry, MultisetHash
from mesh.crypto.signed_envelope import OVERHEAD
from mesh.errors import InvalidRecordError, LinkwireError
from mesh.integrity.bulk_verification import NOTHING, Vouched
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.changelog import ChangeLog
from mesh.model.records import Record
from mesh.model.snapshot import Lineage, SignedSet, Snapshot, Versioned
from mesh.process.gc_tuning import LARGE, gc_paused
from mesh.store.revision_times import RevisionTimes

log = structlog.get_logger(__name__)

FIRST_WAIT = 0.1  # seconds between two attempts, doubled up to LONGEST_WAIT, with jitter
LONGEST_WAIT = 2.0
STEADY = 10.0  # a stream that lasted this many seconds starts over with FIRST_WAIT
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A change of one key, without the root; `value` is None where it was deleted."""

    key: bytes
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes up to and including `revision`, never half a revision.

    Attributes:
        revision: the last one in it.
        whole: whether the changes are all that exists: a key without one does not exist.
        changes: in the order of their revisions.
    """

    revision: int
    whole: bool
    changes: Sequence[RecordChange]


class Feed(Protocol):
    """Source of batches."""

    def batches(self) -> Generator[Batch]:
        """Yield a whole batch, then every change after it, until the connection ends or breaks (LinkwireError)."""

    def close(self) -> None:
        """End for good, from any thread: a running `batches` ends or raises at once."""


class MaterializedView:
    """Opened and decoded state of some prefixes, changed in place. Not safe for several threads."""

    def __init__(
        self,
        signer: RecordSigner,
        *,
        with_raw: bool = False,
        known: Mapping[str, Versioned[Record]] | None = None,
    ) -> None:
        """Start empty.

        Args:
            signer: opens the values.
            with_raw: whether every record has its signed bytes (`Versioned.raw`).
            known: as in `Store.load`.
        """
        self.revision = 0
        self._signer = signer
        self._known = known or {}
        self._with_raw = with_raw
        self._forget_all()

    def _forget_all(self) -> None:
        self._records: MapMutation[str, Versioned[Record]] = Map[str, Versioned[Record]]().mutate()
        self._invalid: MapMutation[str, str] = Map[str, str]().mutate()
        self._unread: MapMutation[str, int] = Map[str, int]().mutate()
        self._entries: MapMutation[str, Entry] = Map[str, Entry]().mutate()
        self._total = MultisetHash()
        self._kinds: dict[type, MapMutation[str, Versioned[Record]]] = {}
        self._log = ChangeLog[str]()

    def replace(self, batch: Batch) -> None:
        """Replace everything by a whole batch."""
        before = self._invalid
        self._forget_all()
        # A key may have changed while it was listed; only its last change counts.
        last: dict[str, RecordChange] = {}
        for change in batch.changes:
            last[_text(change.key)] = change
        values = {
            key: change.value
            for key, change in last.items()
            if change.value is not None and len(change.value) <= keyspace.limit(key) + OVERHEAD
        }
        vouched = self._signer.vouch(values)
        for key, change in last.items():
            if change.value is not None:
                self._put(key, change.value, change.revision, before, vouched)
        if len(vouched.entries) == len(self._entries):
            self._total = vouched.total
        else:
            self._total = MultisetHash.of(entry for key in last if (entry := self._entries.get(key)) is not None)
        self.revision = batch.revision

    def apply(self, batch: Batch) -> bool:
        """Apply a batch of changes; return whether it had any."""
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
        """Return an immutable snapshot; its maps share with later ones what does not change."""
        kinds = {kind: records.finish() for kind, records in self._kinds.items()}
        records, invalid, unread = self._records.finish(), self._invalid.finish(), self._unread.finish()
        entries = self._entries.finish()
        # A finished map never changes again; the mutations continue from it.
        self._kinds = {kind: of_kind.mutate() for kind, of_kind in kinds.items()}
        self._records, self._invalid, self._unread = records.mutate(), invalid.mutate(), unread.mutate()
        self._entries = entries.mutate()
        return Snapshot(
            revision=self.revision,
            complete=complete,
            records=records,
            invalid=invalid,
            unread=unread,
            contents=SignedSet(entries, self._total),
            trail=Lineage(records, invalid, kinds, self._log.mark()),
        )

    def _put(
        self,
        key: str,
        value: bytes,
        revision: int,
        invalid: MapMutation[str, str],
        vouched: Vouched = NOTHING,
    ) -> None:
        try:
            self._open(key, value, revision, vouched)
        except Exception as error:  # noqa: BLE001 - one value must not prevent reading the others
            reason = _one_line(str(error) if isinstance(error, InvalidRecordError) else type(error).__name__)
            if invalid.get(key) != reason:
                log.warning("value ignored", key=key, error=reason)
            self._invalid[key] = reason
            self._unread[key] = revision

    def _forget(self, key: str) -> None:
        versioned = self._records.pop(key, None)
        if versioned is not None:
            del self._kinds[type(versioned.record)][key]
        self._unread.pop(key, None)
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._total = self._total.remove(entry)

    def _open(self, key: str, value: bytes, revision: int, vouched: Vouched) -> None:
        if len(value) > keyspace.limit(key) + OVERHEAD:
            raise InvalidRecordError(f"{key}: {len(value)} bytes, the limit is {keyspace.limit(key)}")
        versioned = self._known.get(key)
        if versioned is None or (versioned.revision, versioned.raw) != (revision, value):
            opened = self._signer.open(key, value, vouched)
            unchecked = bool(opened.signer) and not opened.checked
            raw = value if unchecked or self._with_raw or key == keyspace.MANIFEST else None
            record = codec.decode(key, opened.body)
            versioned = Versioned(record, revision, opened.generation, opened.signer, raw)
        self._records[key] = versioned
        kind = self._kinds.get(type(versioned.record))
        if kind is None:
            kind = self._kinds[type(versioned.record)] = Map[str, Versioned[Record]]().mutate()
        kind[key] = versioned
        self._invalid.pop(key, None)
        if keyspace.covered(key):
            self._entries[key] = vouched.entries.get(key) or Entry.of(key, versioned.generation, value)


class Follower:
    """Thread that lists, watches, and lists again whenever the watch ends.

    Attributes:
        times: when which revision was seen.
    """

    def __init__(
        self, feed: Feed, signer: RecordSigner, changed: Callable[[], None], *, with_raw: bool = False
    ) -> None:
        """Start at once.

        Args:
            feed: closed by `stop`.
            signer: opens the values.
            changed: called from the thread after every change of `snapshot`. An exception that it raises is logged.
            with_raw: as in `MaterializedView`.
        """
        self._feed = feed
        self._changed = changed
        self._lock = threading.Condition()
        self._picture = MaterializedView(signer, with_raw=with_raw)
        self._complete = False
        self._reported_lost = False
        self._snapshot: Snapshot | None = None
        self.times = RevisionTimes()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-follower", daemon=True)
        self._thread.start()

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot. Made on demand, so that a burst of changes costs one."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = self._picture.snapshot(complete=self._complete)
            return self._snapshot

    def wait(self, revision: int, seconds: float) -> bool:
        """Wait until `snapshot` has reached a revision, at most so many seconds; return whether it has."""
        with self._lock:
            return self._lock.wait_for(lambda: self._picture.revision >= revision, seconds)

    def stop(self) -> None:
        """End the thread and its connection; `snapshot` stays readable but incomplete. May be called again."""
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
                    self._apply_all(batches)
            except LinkwireError as error:
                reason = str(error)
            except Exception:
                # A bug must not end the thread: an agent would act on an old snapshot without a word.
                log.exception("follower failed")
                reason = "internal error"
            self._broken(reason)
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            self._stopping.wait(random.uniform(FIRST_WAIT, wait))  # noqa: S311 - jitter is no secret
            wait = min(2 * wait, LONGEST_WAIT)

    def _apply_all(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            if self._stopping.is_set():
                return
            with self._lock:
                if batch.whole:
                    before = self._picture.revision
                    with gc_paused(lasting=len(batch.changes) >= LARGE):
                        self._picture.replace(batch)
                    self._complete = True
                    notable = True
                else:
                    notable = self._picture.apply(batch)
                self._snapshot = None
                self._lock.notify_all()
            self.times.note(batch.revision)
            if batch.whole:
                self._reported_lost = False
                log.info("store listed", revision=batch.revision, keys=len(batch.changes))
                if batch.revision < before:
                    log.warning("store revision went back", revision=batch.revision, previous=before)
            del batch  # or a whole store would live until something changes
            if notable:
                self._notify()

    def _broken(self, reason: str) -> None:
        with self._lock:
            was_complete, self._complete = self._complete, False
            self._snapshot = None
        if not self._reported_lost and not self._stopping.is_set():
            self._reported_lost = True
            log.warning("store connection lost", error=reason)
        if was_complete:
            self._notify()

    def _notify(self) -> None:
        try:
            self._changed()
        except BaseException:
            log.exception("change callback failed")


def _text(key: bytes) -> str:
    """Decode a key. One that is not UTF-8 becomes its repr, which begins with b' as no key of ours does."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return repr(key)


def _one_line(text: str) -> str:
    """Make a reason short and printable: it quotes names that a stranger may have chosen."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_REASON + 1])
    return shown if len(shown) <= _LONGEST_REASON else shown[:_LONGEST_REASON] + "..."
