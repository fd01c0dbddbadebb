"""One controller leads: a leased record that only one can create, and that every write names.

A controller that lost its lease without knowing it (a pause, a partition) cannot write: each of its transactions
carries the revision of the leader record that it created (a fencing token).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from mesh import keyspace
from mesh.errors import LinkwireError
from mesh.records import Leader
from mesh.snapshot import Holds, Put
from mesh.store import Store

log = structlog.get_logger(__name__)

TTL_S = 6
"""Seconds after which a silent leader is replaced; also how often a waiting one looks, divided by three."""


class Election:
    """Strives for the lead in a thread of its own."""

    def __init__(self, store: Store, name: str, changed: Callable[[], None]) -> None:
        """Start striving.

        Args:
            store: where the lead is kept.
            name: of this controller, for people.
            changed: called from the thread when the lead is won or lost.
        """
        self._store = store
        self._name = name
        self._changed = changed
        self._lease: int | None = None
        self._revision: int | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)
        self._thread.start()

    @property
    def token(self) -> Holds | None:
        """What each transaction of the leader must name; None while this is not the leader."""
        revision = self._revision
        return Holds(keyspace.LEADER, revision) if revision is not None else None

    def verify(self) -> None:
        """A transaction failed, maybe on the token: see whether the lead is still ours. Raises Retryable."""
        revision = self._revision
        if revision is not None and self._store.load((keyspace.LEADER,)).revision_of(keyspace.LEADER) != revision:
            self._set(None)

    def stop(self) -> None:
        """Give the lead up, so that another takes it at once."""
        self._stopped.set()
        self._thread.join()
        lease, self._lease, self._revision = self._lease, None, None
        if lease is not None:
            try:
                self._store.revoke(lease)
            except LinkwireError as error:
                log.warning("the lead could not be given up and will run out", error=str(error))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._strive()
            except LinkwireError as error:
                self._lease = None
                self._set(None)
                log.warning("no lead", error=str(error))
            self._stopped.wait(TTL_S / 3)

    def _strive(self) -> None:
        if self._lease is not None:
            self._store.renew_lease(self._lease)
        if self._revision is not None:
            return
        if self._lease is None:
            self._lease = self._store.grant(TTL_S)
        self._set(self._store.commit((Put(Leader(self._name), 0, self._lease),)))

    def _set(self, revision: int | None) -> None:
        if revision != self._revision:
            self._revision = revision
            log.info("leading" if revision is not None else "not leading", controller=self._name)
            self._changed()
