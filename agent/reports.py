"""Writes what this node has to say into the store: itself, its tasks, its devices. A thread of its own.

The loop that configures devices must not wait for the store; it leaves here what should be said, and this says it
whenever the store can be reached, until the store holds exactly that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import structlog

from agent.identity import SEQUENCE_BITS, Identity
from mesh import keyspace, node_view
from mesh.errors import LinkwireError
from mesh.packing import pack
from mesh.records import Member, Node, Recalled, Record, Status, TaskReport
from mesh.signatures import Signatures
from mesh.snapshot import Delete, Op, Put, Snapshot
from mesh.store import Follower, Store

log = structlog.get_logger(__name__)

LEASE_S = 8
"""Seconds of silence after which this node counts as gone."""
KEEP_S = LEASE_S / 3
OWN_S = 10.0
"""Between two looks at whether etcd takes us for our node's own user by now, where it did not."""
RETRY_S = 1.0


class Reporter:
    """Keeps the node's records in the store as they were last told."""

    def __init__(self, store: Store, follower: Follower, node: Node, identity: Identity) -> None:
        """Start the thread.

        Args:
            store: where to say it, signed with `identity`'s key.
            follower: of what the store holds.
            node: what this node says of itself at first.
            identity: gives each change its generation.
        """
        self._identity = identity
        self._signatures = Signatures(identity.statement.cluster)
        self._store = store
        self._follower = follower
        self._node = node
        self._lock = threading.Lock()
        self._reports: Mapping[str, TaskReport] = MappingProxyType({})
        self._known = False
        self._recalled: Sequence[Recalled] = ()
        self._status: Status | None = None
        self._lease: int | None = None
        self._views_due = 0.0
        self._view_parts = 0
        self._too_large: dict[str, str] = {}  # key -> why it is not in the store
        self._kept_at = self._tried_at = 0.0
        self._woken = threading.Event()
        self._stopped = False
        self.key_is_stolen = False
        """Whether somebody else has signed with this node's report key."""
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def tasks(self, reports: Mapping[str, TaskReport]) -> None:
        """From now on these, by task id, are all the reports of this node's tasks; others are taken back."""
        with self._lock:
            self._reports = MappingProxyType(dict(reports))
            self._known = True
        self._woken.set()

    def node(self, node: Node) -> None:
        """From now on this is what the node says of itself."""
        with self._lock:
            self._node = node
        self._woken.set()

    def status(self, status: Status) -> None:
        """What was last read of this node's devices."""
        with self._lock:
            self._status = status
        self._woken.set()

    def recalled(self, parts: Sequence[Recalled]) -> None:
        """From now on this is what the node brings back of what was signed; nothing, where nothing is asked for."""
        with self._lock:
            if parts == self._recalled:
                return
            self._recalled = parts
        self._woken.set()

    def wake(self) -> None:
        """The store changed: it may have lost what was said."""
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
                self._keep_lease()
                self._say()
            except LinkwireError as error:
                log.warning("the store cannot be told", error=str(error))
                self._lease = None
                threading.Event().wait(RETRY_S)
                self._woken.set()

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if self._lease is None:
            self._lease = self._store.grant(LEASE_S)
            self._views_due = 0.0  # those of the old lease end with it
            node = self._as_it_is(self._node)
            self._commit((Put(node, None, self._lease),))
            told = {"node": node.id, "backend": node.backend, "address": str(node.address)}
            log.info("node registered", **told, own_user=node.own_user)
        elif now - self._kept_at >= KEEP_S:
            self._store.renew_lease(self._lease)
        else:
            return
        self._kept_at = now

    def _as_it_is(self, node: Node) -> Node:
        """With which of etcd's users we are now: what the controller lets the shared one write depends on it."""
        return replace(node, own_user=self._store.uses_preferred)

    def _prefer_own(self) -> None:
        """Be the node's own user, as soon as etcd has it."""
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
            self._keep_lease()  # what a large node has to say may take longer than a lease lasts
            ops = [self._signed(op) for _, (op,) in batch]
            revision = self._store.commit(ops)
            if not all(op.key.startswith((keyspace.STATUS, keyspace.VIEWS)) for op in ops):
                self._wait_for(revision or 0)  # of the others an agent sees no change

    def _signed(self, op: Op) -> Op:
        return self._store.sign(op, self._identity.generation()) if isinstance(op, Put) else op

    def _views(self, status: Status) -> list[Op]:
        """What the node has read of its devices, when it may be said again: in parts, each with the lease."""
        now = time.monotonic()
        if now < self._views_due:
            return []
        views = node_view.pack(status.node, status.written, status.devices)
        self._views_due = now + node_view.pause(views)
        over = range(len(views), self._view_parts)
        self._view_parts = len(views)
        puts = [Put(view, None, self._lease) for view in views]
        return [*puts, *(Delete(keyspace.view(status.node, part), None) for part in over)]

    def _commit(self, ops: Sequence[Op]) -> int | None:
        return self._store.commit(ops, self._identity.generation())

    def _holds(self, stored: Snapshot, key: str, record: Record) -> bool:
        """Whether the store holds a record as this node has signed it: who can write there could put another."""
        held = stored.records.get(key)
        if held is None or held.record != record or held.generation < self._identity.since:
            return False
        own = self._identity.key.verify_key
        if self._signatures.problem(key, held, own) is not None:
            return False
        self._signatures.raise_floor(key, held, own)
        return True

    def _wait_for(self, revision: int) -> None:
        """Let the snapshot show what was written, so that it is not written again."""
        pause = threading.Event()
        for _ in range(100):
            if self._stopped or self._follower.snapshot.revision >= revision:
                return
            pause.wait(0.01)

    def _missing(self, stored: Snapshot) -> list[Op]:
        with self._lock:
            reports, known, status, self._status = self._reports, self._known, self._status, None
            node = self._as_it_is(self._node)
            recalled = self._recalled
        ops: list[Op] = []
        if stored.complete and not self._holds(stored, keyspace.node(node.id), node):
            ops.append(Put(node, None, self._lease))
        if status is not None:
            unwritten = "; ".join(self._too_large.values())[:1000]
            ops.append(Put(replace(status, devices=(), unwritten=unwritten), None, self._lease))
            ops += self._views(status)
        if not stored.complete:
            return ops
        mine = {key for kind in (Node, TaskReport, Recalled) for key, _ in stored.keys_of(kind)}
        mine.update(stored.invalid)
        wanted: list[tuple[str, Sequence[Record]]] = [(keyspace.recalled(node.id, ""), recalled)]
        if known:
            wanted.append((keyspace.report(node.id, ""), tuple(reports.values())))
        for prefix, records in wanted:
            held = {key for key in mine if key.startswith(prefix)}
            ops += self._differing(stored, held, {keyspace.key_of(record): record for record in records})
        own = (keyspace.report(node.id, ""), keyspace.recalled(node.id, ""), keyspace.node(node.id))
        ours = {key for key in mine if key.startswith(own)}
        self._watch_key(stored, ours)
        self._signatures.drop_stale(stored.records, ours)
        return ops

    def _watch_key(self, stored: Snapshot, ours: Iterable[str]) -> None:
        """Look for what is signed with this node's key and ahead of it: the controller takes it for the latest."""
        accepted = stored.get(keyspace.member(self._node.id), Member)
        known = accepted.counter if accepted is not None else 0  # higher than ours where the volume was put back
        for key in ours:
            held = stored.records.get(key)
            if held is None or not self._identity.never_made(held.generation):
                continue
            if held.generation >> SEQUENCE_BITS > known or self._identity.counter >= known:
                own = self._identity.key.verify_key
                self.key_is_stolen |= self._signatures.problem(key, held, own) is None

    def _differing(self, stored: Snapshot, held: Collection[str], wanted: Mapping[str, Record]) -> Iterator[Op]:
        """What makes the store hold these records, and no others of `held`."""
        yield from (Delete(key, None) for key in sorted(set(held) - wanted.keys()))
        yield from (Put(record, None) for key, record in wanted.items() if not self._holds(stored, key, record))
