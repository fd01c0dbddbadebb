"""Leader election: a record that names the leader and that every write names, and a sign of life beside it.

No lease decides: anybody who can reach etcd can keep any lease alive. The leader writes its tenure every BEAT_S. A
standby that sees, by its own monotonic clock, neither that nor the leader's record change for SILENCE_S takes the
lead, on condition that both still are what it saw. Only the controllers' user of etcd can write them.

A controller that lost the lead without knowing it (a pause, a partition) cannot write: each of its transactions
carries the revision of the leader record that it created (a fencing token).

One that reaches etcd and not its Swarm would lead for ever and do nothing. It gives the lead up, and wins none.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mesh.errors import LinkwireError, Retryable
from mesh.model import keyspace
from mesh.model.records import Leader, Tenure
from mesh.model.snapshot import Delete, Holds, Put
from mesh.store.client import Follower, Store

log = structlog.get_logger(__name__)

SILENCE_S = 6.0
"""Seconds after which a silent leader is replaced."""
BEAT_S = 2.0
"""Seconds between two signs of life of the leader."""
LOOK_S = 1.0
"""Seconds between two looks of a standby."""
CATCH_UP_S = 2.0
"""Seconds for the snapshot to show the leader's own writes."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """Revisions of the leader's record and tenure, and when they were first seen, by the monotonic clock."""

    revisions: tuple[int, int]
    since: float


class Election:
    """Campaign for the lead, in a thread of its own."""

    def __init__(self, store: Store, name: str, changed: Callable[[], None], *, fit: bool = True) -> None:
        """Start to campaign.

        Args:
            store: holds the leader's record.
            name: of this controller, for people.
            changed: called from the thread when the lead is won or lost.
            fit: as in `set_fit`.
        """
        self._store = store
        self._name = name
        self._changed = changed
        self._instance = secrets.token_hex(8)
        self._count = 0
        self._sight: _Sight | None = None
        self._revision: int | None = None
        self._lock = threading.Lock()
        self._fit = fit
        self._stopped = threading.Event()
        self._woken = threading.Event()
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

    def set_fit(self, fit: bool) -> None:
        """Note whether this controller can do a leader's work; one that cannot gives the lead up, and wins none."""
        if fit != self._fit:
            self._fit = fit
            self._woken.set()

    def stop(self) -> None:
        """Give up the lead, so that another controller wins it at once."""
        self._stopped.set()
        self._woken.set()
        self._thread.join()
        revision, self._revision = self._revision, None
        if revision is not None:
            try:
                self._store.commit((Delete(keyspace.LEADER, revision),))
            except LinkwireError as error:
                log.warning("lead not given up, ending by silence", error=str(error))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._campaign()
            except LinkwireError as error:
                self._sight = None  # an etcd that does not answer shows no silence
                self._set(None)
                log.warning("election failed, retrying", error=str(error))
            except Exception:
                # Whatever it is: without this thread the controller would never lead again, nor say so.
                self._sight = None
                self._set(None)
                log.exception("election crashed, retrying")
            self._woken.wait(LOOK_S if self._revision is None else BEAT_S)
            self._woken.clear()

    def _campaign(self) -> None:
        if not self._fit:
            self._yield()
            return
        revision = self._revision
        if revision is not None:
            self._count += 1
            if self._store.commit((Holds(keyspace.LEADER, revision), Put(self._tenure(), None))) is not None:
                return
            self._sight = None
            self._lose(revision)
        stored = self._store.load((keyspace.LEADER, keyspace.TENURE))
        revisions = stored.revision_of(keyspace.LEADER), stored.revision_of(keyspace.TENURE)
        leader = stored.get(keyspace.LEADER, Leader)
        # Ours after an answer that was lost: nobody else writes there as this instance.
        vacant = not revisions[0] or (leader is not None and leader.instance == self._instance)
        if vacant or self._is_silent(revisions, time.monotonic()):
            self._sight = None
            lead = Put(Leader(self._name, self._instance), revisions[0])
            self._set(self._store.commit((lead, Put(self._tenure(), revisions[1]))))

    def _yield(self) -> None:
        """Give up the lead, if this is the leader; where etcd does not answer, another one leads by our silence."""
        revision, self._sight = self._revision, None
        if revision is not None:
            log.warning("lead given up, Swarm does not answer", controller=self._name)
            self._lose(revision)
            self._store.commit((Delete(keyspace.LEADER, revision),))

    def _is_silent(self, revisions: tuple[int, int], now: float) -> bool:
        """Tell whether the leader has shown no sign of life for SILENCE_S while this controller looked."""
        if self._sight is None or self._sight.revisions != revisions:
            self._sight = _Sight(revisions, now)
        return now - self._sight.since >= SILENCE_S

    def _tenure(self) -> Tenure:
        return Tenure(self._instance, self._count)

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
