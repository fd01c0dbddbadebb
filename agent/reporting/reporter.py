"""Reporter: a thread that writes this node's records into the store: itself, its tasks, its devices.

The loop that configures devices must not wait for the store. It leaves here what the store should hold, and the
reporter writes whenever the store can be reached, until the store holds exactly that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import structlog

from agent.state.node_identity import SEQUENCE_BITS, Identity
from mesh.errors import LinkwireError
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import device_readings, keyspace
from mesh.model.records import Member, Node, Recalled, Record, Status, TaskReport
from mesh.model.snapshot import Delete, Op, Put, Snapshot
from mesh.store.client import Follower, Store
from mesh.store.packing import pack

log = structlog.get_logger(__name__)

LEASE_S = 8
"""Seconds after which etcd drops this node's records once nobody renews their lease."""
KEEP_S = LEASE_S / 3
"""Between two signs of life: renewals of the lease, and vitals. By the vitals, which are signed, the controller tells
whether the node is silent (controller.trust.presence)."""
OWN_S = 10.0
"""Between two looks at whether etcd takes us for our node's own user by now, where it did not."""
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Records of this node that the store should hold.

    Attributes:
        node: its own record.
        reports: by task id; None while the loop does not know them yet.
        recalled: what it brings back of what was signed.
        status: what was read of its devices since that was last written.
    """

    node: Node
    reports: Mapping[str, TaskReport] | None = None
    recalled: Sequence[Recalled] = ()
    status: Status | None = None


@dataclass(slots=True)
class _Lease:
    """The lease under which the node's record is: its id, and when it was last renewed, by the monotonic clock."""

    id: int | None = None
    renewed_at: float = 0.0


@dataclass(slots=True)
class _Vitals:
    """The last status, and when the node last signed it or its own record anew, by the monotonic clock."""

    status: Status | None = None
    signed_at: float = 0.0


@dataclass(slots=True)
class _Views:
    """How many parts the views of this node's devices have in the store, and when they may be written again."""

    parts: int = 0
    due: float = 0.0


class _OwnRecords:
    """This node's records in the store, distinguished from those that others may have put there."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.key_is_stolen = False
        self._signatures = SignatureCache(identity.statement.cluster)

    def hold(self, stored: Snapshot, key: str, record: Record) -> bool:
        """Tell whether the store holds a record as this node has signed it: who can write there could put another."""
        seen = stored.records.get(key)
        if seen is None or seen.record != record or seen.generation < self.identity.since:
            return False
        own = self.identity.key.verify_key
        if self._signatures.problem(key, seen, own) is not None:
            return False
        self._signatures.raise_floor(key, seen, own)
        return True

    def watch_key(self, stored: Snapshot, accepted: Member | None, keys: Collection[str]) -> None:
        """Look for what is signed with this node's key and ahead of it: the controller takes it for the latest."""
        highest = accepted.counter if accepted is not None else 0  # higher than ours where the volume was put back
        for key in keys:
            seen = stored.records.get(key)
            if seen is None or not self.identity.never_made(seen.generation):
                continue
            if seen.generation >> SEQUENCE_BITS > highest or self.identity.counter >= highest:
                own = self.identity.key.verify_key
                self.key_is_stolen |= self._signatures.problem(key, seen, own) is None
        self._signatures.drop_stale(stored.records, keys)


class Reporter:
    """Reporter of one node: makes the store hold its records as they should be."""

    def __init__(self, store: Store, follower: Follower, node: Node, identity: Identity) -> None:
        """Start the thread.

        Args:
            store: where to write, signed with `identity`'s key.
            follower: of what the store holds.
            node: this node's record at first.
            identity: gives each change its generation.
        """
        self._store = store
        self._follower = follower
        self._own = _OwnRecords(identity)
        self._lock = threading.Lock()
        self._wanted = _Wanted(node)
        self._lease = _Lease()
        self._vitals = _Vitals()
        self._views = _Views()
        self._too_large: dict[str, str] = {}  # key -> why it is not in the store
        self._tried_at = 0.0
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    @property
    def key_is_stolen(self) -> bool:
        """Whether somebody else has signed with this node's report key."""
        return self._own.key_is_stolen

    def tasks(self, reports: Mapping[str, TaskReport]) -> None:
        """Write these reports of this node's tasks, by task id, from now on, and remove others."""
        self._want(reports=MappingProxyType(dict(reports)))

    def node(self, node: Node) -> None:
        """Write this record of the node from now on."""
        self._want(node=node)

    def status(self, status: Status) -> None:
        """Write what was last read of this node's devices."""
        self._want(status=status)

    def recalled(self, parts: Sequence[Recalled]) -> None:
        """Write this answer to a recall from now on; none where nothing is asked for."""
        if parts != self._wanted.recalled:
            self._want(recalled=parts)

    def _want(self, **changed: Any) -> None:  # noqa: ANN401 - fields of _Wanted
        with self._lock:
            self._wanted = replace(self._wanted, **changed)
        self._woken.set()

    def wake(self) -> None:
        """Check the store: it changed, and may have lost a record."""
        self._woken.set()

    def stop(self) -> None:
        """Stop without taking anything back: the tunnels go on, and the lease ends by itself."""
        self._stopped = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            self._woken.wait(KEEP_S)
            self._woken.clear()
            try:
                self._prefer_own()
                self._renew_lease()
                self._say()
            except LinkwireError as error:
                log.warning("reports not written, retrying", error=str(error))
                self._begin_again()
            except Exception:
                # Whatever it is: a node that says nothing more counts as silent, and nobody would know why.
                log.exception("writing of reports crashed, retrying")
                self._begin_again()

    def _begin_again(self) -> None:
        """Have all of it written with a new lease, a moment later: nobody knows what was."""
        self._lease.id = None
        threading.Event().wait(RETRY_S)
        self._woken.set()

    def _renew_lease(self) -> None:
        now = time.monotonic()
        if self._lease.id is None:
            self._lease.id = self._store.grant(LEASE_S)
            self._views.due = 0.0  # those of the old lease end with it
            node = self._as_it_is(self._wanted.node)
            self._store.commit((Put(node, None, self._lease.id),), self._own.identity.generation())
            log.info(
                "node registered",
                node=node.id,
                backend=node.backend,
                address=str(node.address),
                own_user=node.own_user,
            )
        elif now - self._lease.renewed_at >= KEEP_S:
            self._store.renew_lease(self._lease.id)
        else:
            return
        self._lease.renewed_at = now

    def _as_it_is(self, node: Node) -> Node:
        """Add which of etcd's users we are: what the controller lets the shared one write depends on it."""
        return replace(node, own_user=self._store.uses_preferred)

    def _prefer_own(self) -> None:
        """Log in as the node's own user, as soon as etcd has it."""
        now = time.monotonic()
        if now >= self._tried_at + OWN_S:
            self._tried_at = now
            self._store.retry_preferred()

    def _say(self) -> None:
        stored = self._follower.snapshot
        too_large: dict[str, str] = {}

        def leave_out(op: Op, reason: str) -> None:
            too_large[op.key] = reason
            if op.key not in self._too_large:
                log.error("record not written", key=op.key, error=reason)

        batches = list(pack(((None, (op,)) for op in self._missing(stored)), leave_out))
        self._too_large = too_large
        for batch in batches:
            self._renew_lease()  # what a large node has to say may take longer than a lease lasts
            ops = [self._signed(op) for _, (op,) in batch]
            revision = self._store.commit(ops)
            if not all(op.key.startswith((keyspace.STATUS, keyspace.VIEWS)) for op in ops):
                self._wait_for(revision or 0)  # of the others an agent sees no change

    def _signed(self, op: Op) -> Op:
        return self._store.sign(op, self._own.identity.generation()) if isinstance(op, Put) else op

    def _put_views(self, status: Status) -> list[Op]:
        """Write what was read of the devices, when it is due: in parts, each with the lease."""
        now = time.monotonic()
        if now < self._views.due:
            return []
        views = device_readings.pack(status.node, status.written, status.devices)
        self._views.due = now + device_readings.pause(views)
        over = range(len(views), self._views.parts)
        self._views.parts = len(views)
        puts = [Put(view, None, self._lease.id) for view in views]
        return [*puts, *(Delete(keyspace.view(status.node, part), None) for part in over)]

    def _wait_for(self, revision: int) -> None:
        """Let the snapshot show what was written, so that it is not written again."""
        pause = threading.Event()
        for _ in range(100):
            if self._stopped or self._follower.snapshot.revision >= revision:
                return
            pause.wait(0.01)

    def _missing(self, stored: Snapshot) -> list[Op]:
        with self._lock:
            wanted, self._wanted = self._wanted, replace(self._wanted, status=None)
        node, status = self._as_it_is(wanted.node), wanted.status
        ops: list[Op] = []
        due = time.monotonic() - self._vitals.signed_at >= KEEP_S
        unread = due and status is None and self._vitals.status is None  # of its devices nothing is known yet
        if unread or (stored.complete and not self._own.hold(stored, keyspace.node(node.id), node)):
            ops.append(Put(node, None, self._lease.id))
        if status is not None:
            self._vitals.status = replace(status, devices=())
            ops += self._put_views(status)
        if self._vitals.status is not None and (due or status is not None):  # a large node reads them seldom
            unwritten = "; ".join(self._too_large.values())[:1000]
            ops.append(Put(replace(self._vitals.status, unwritten=unwritten), None, self._lease.id))
        if due or status is not None:
            self._vitals.signed_at = time.monotonic()
        if not stored.complete:
            return ops
        report, recalled = keyspace.report(node.id, ""), keyspace.recalled(node.id, "")
        present = {key for kind in (Node, TaskReport, Recalled) for key, _ in stored.keys_of(kind)}
        present.update(stored.invalid)
        ops += self._differing(stored, recalled, present, wanted.recalled)
        if wanted.reports is not None:
            ops += self._differing(stored, report, present, wanted.reports.values())
        own = (report, recalled, keyspace.node(node.id))
        accepted = stored.get(keyspace.member(node.id), Member)
        self._own.watch_key(stored, accepted, {key for key in present if key.startswith(own)})
        return ops

    def _differing(
        self, stored: Snapshot, prefix: str, present: Iterable[str], records: Iterable[Record]
    ) -> Iterator[Op]:
        """Yield changes that make the store hold these records, and no others whose keys begin so."""
        wanted = {keyspace.key_of(record): record for record in records}
        stale = {key for key in present if key.startswith(prefix)} - wanted.keys()
        yield from (Delete(key, None) for key in sorted(stale))
        yield from (Put(record, None) for key, record in wanted.items() if not self._own.hold(stored, key, record))
