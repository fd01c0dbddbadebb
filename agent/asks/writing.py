"""Writing of short-lived records of this node: signed, and bound to a lease of seconds."""

from __future__ import annotations

import threading
import time

from agent.state.node_identity import Identity
from mesh.model.records import Record
from mesh.model.snapshot import Delete, Put
from mesh.store.client import LeaseLostError, Store

LEASE_S = 20
"""Seconds until etcd drops a record that nobody deletes."""
_SHARED_S = 8.0
"""For how long later records are bound to the same lease."""


class ShortLived:
    """Short-lived records of one node. Safe for several threads."""

    def __init__(self, store: Store, identity: Identity) -> None:
        """Write nothing yet; `identity` signs."""
        self._store = store
        self._identity = identity
        self._lock = threading.Lock()
        self._lease: tuple[int, float] | None = None

    def write(self, record: Record) -> None:
        """Write a record, which ends within LEASE_S. Raises Retryable, Terminal."""
        with self._lock:
            if self._lease is None or time.monotonic() > self._lease[1]:
                self._lease = self._store.grant(LEASE_S), time.monotonic() + _SHARED_S
            lease = self._lease[0]
        try:
            self._store.commit((Put(record, None, lease),), self._identity.generation())
        except LeaseLostError:
            with self._lock:
                self._lease = None
            raise

    def delete(self, *keys: str) -> None:
        """Delete records of ours. Raises Retryable, Terminal."""
        self._store.commit([Delete(key, None) for key in keys])
