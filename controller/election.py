"""Leader election: a leased record that only one controller can create, and that every write names.

A controller that lost its lease without knowing it (a pause, a partition) cannot write: each of its transactions
carries the revision of the leader record that it created (a fencing token).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mesh.errors import LinkwireError, Retryable
from mesh.model import keyspace
from mesh.model.records import Leader
from mesh.model.snapshot import Holds, Put
from mesh.store.client import Follower, Store

log = structlog.get_logger(__name__)

TTL_S = 6
"""Seconds after which a silent leader is replaced. A standby tries three times as often."""
CATCH_UP_S = 2.0
"""Seconds for the snapshot to show the leader's own writes."""


class Election:
    """Campaign for the lead, in a thread of its own."""

    def __init__(self, store: Store, name: str, changed: Callable[[], None]) -> None:
        """Start to campaign.

        Args:
            store: holds the leader's record.
            name: of this controller, for people.
            changed: called from the thread when the lead is won or lost.
        """
        self._store = store
        self._name = name
        self._changed = changed
        self._lease: int | None = None
        self._revision: int | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)
        self._thread.start()

    @property
    def token(self) -> Holds | None:
        """The condition of each transaction of the leader; None while another controller leads."""
        revision = self._revision
        return Holds(keyspace.LEADER, revision) if revision is not None else None

    def verify(self) -> None:
        """Check after a failed transaction whether the lead is still ours. Raises Retryable."""
        revision = self._revision
        if revision is not None and self._store.load((keyspace.LEADER,)).revision_of(keyspace.LEADER) != revision:
            self._lose(revision)

    def stop(self) -> None:
        """Give up the lead, so that another controller wins it at once."""
        self._stopped.set()
        self._thread.join()
        lease, self._lease, self._revision = self._lease, None, None
        if lease is not None:
            try:
                self._store.revoke(lease)
            except LinkwireError as error:
                log.warning("lease not revoked, expiring by itself", error=str(error))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._campaign()
            except LinkwireError as error:
                self._lease = None
                self._set(None)
                log.warning("election failed, retrying", error=str(error))
            self._stopped.wait(TTL_S / 3)

    def _campaign(self) -> None:
        if self._lease is not None:
            self._store.renew_lease(self._lease)
        if self._revision is not None:
            return
        if self._lease is None:
            self._lease = self._store.grant(TTL_S)
        self._set(self._store.commit((Put(Leader(self._name), 0, self._lease),)))

    def _set(self, revision: int | None) -> None:
        with self._lock:
            before, self._revision = self._revision, revision
        if revision != before:
            self._report(won=revision is not None)

    def _lose(self, revision: int) -> None:
        """Drop this lead, unless the thread has won another one since: nobody could win that one again."""
        with self._lock:
            if self._revision != revision:
                return
            self._revision = None
        self._report(won=False)

    def _report(self, *, won: bool) -> None:
        if won:
            log.info("leadership won", controller=self._name)
        else:
            log.info("leadership lost", controller=self._name)
        self._changed()


@dataclass(frozen=True, slots=True)
class Lead:
    """Lead of this controller during one pass.

    Attributes:
        token: the condition of each transaction.
        follower: of the store.
        election: in which the lead was won.
        wake: has the controller look again.
    """

    token: Holds
    follower: Follower
    election: Election
    wake: Callable[[], None]

    def follow_up(self, revision: int | None) -> None:
        """Wait until the snapshot shows a write, so that the next plan does not make it again.

        Args:
            revision: of the write, 0 for none; None for one that failed: then the lead is verified, and the
                controller looks again.

        Raises:
            Retryable: the snapshot does not show it in time, or etcd does not answer.
        """
        if revision is None:
            self.election.verify()
            self.wake()
        elif revision and not self.follower.wait(revision, CATCH_UP_S):
            raise Retryable(f"revision {revision} not shown by the store's watch within {CATCH_UP_S:g} s")
