"""Writes what this node has to say into the store: itself, its tasks, its devices. A thread of its own.

The loop that configures devices must not wait for the store; it leaves here what should be said, and this says it
whenever the store can be reached, until the store holds exactly that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from mesh import keyspace
from mesh.errors import LinkwireError
from mesh.records import Node, Record, Status, TaskReport
from mesh.snapshot import Delete, Op, Put, Snapshot
from mesh.store import Follower, Store

log = structlog.get_logger(__name__)

LEASE_S = 10
"""Seconds of silence after which this node counts as gone."""
KEEP_S = LEASE_S / 3
RETRY_S = 1.0
MAX_OPS = 100


class Reporter:
    """Keeps the node's records in the store as they were last told."""

    def __init__(self, store: Store, follower: Follower, node: Node) -> None:
        """Start the thread. `node` is what this node says of itself, for as long as the process lives."""
        self._store = store
        self._follower = follower
        self._node = node
        self._lock = threading.Lock()
        self._reports: Mapping[str, TaskReport] = MappingProxyType({})
        self._known = False
        self._status: Status | None = None
        self._lease: int | None = None
        self._kept_at = 0.0
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def tasks(self, reports: Mapping[str, TaskReport]) -> None:
        """From now on these, by task id, are all the reports of this node's tasks; others are taken back."""
        with self._lock:
            self._reports = MappingProxyType(dict(reports))
            self._known = True
        self._woken.set()

    def status(self, status: Status) -> None:
        """What was last read of this node's devices."""
        with self._lock:
            self._status = status
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
            self._store.commit((Put(self._node, None, self._lease),))
            log.info(
                "node registered", node=self._node.id, backend=self._node.backend, address=str(self._node.address)
            )
        elif now - self._kept_at >= KEEP_S:
            self._store.keep(self._lease)
        else:
            return
        self._kept_at = now

    def _say(self) -> None:
        stored = self._follower.snapshot
        ops = list(self._missing(stored))
        while ops:
            part, ops = ops[:MAX_OPS], ops[MAX_OPS:]
            revision = self._store.commit(tuple(part))
            self._wait_for(revision or 0)

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
        ops: list[Op] = []
        if stored.complete and stored.get(keyspace.node(self._node.id), Node) != self._node:
            ops.append(Put(self._node, None, self._lease))
        if status is not None:
            ops.append(Put(status, None, self._lease))
        wanted: dict[str, Record] = {keyspace.key_of(report): report for report in reports.values()}
        prefix = keyspace.report(self._node.id, "")
        if not known or not stored.complete:
            return ops
        mine = {key for key in (*stored.records, *stored.invalid) if key.startswith(prefix)}
        ops.extend(Delete(key, None) for key in sorted(mine - wanted.keys()))
        for key, report in wanted.items():
            held = stored.records.get(key)
            if held is None or held.record != report:
                ops.append(Put(report, None))
        return ops
