"""Upkeep of the stack's etcd within its quota: compaction, defragmentation, and the alarm that stops all writes.

History is of no use here: a follower that missed compacted changes reads the whole store again. etcd's own compaction
keeps HISTORY of it; this module does what etcd leaves to an operator.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from controller.etcd import space as etcd_space
from controller.etcd.node_quota import NodeQuota
from controller.etcd.space import Space
from controller.reporting import etcd_metrics
from controller.reporting.etcd_metrics import EtcdMetrics
from mesh.errors import LinkwireError
from mesh.model import codec, keyspace
from mesh.model.records import StoreSpace
from mesh.store.etcd_channel import ChannelPool

log = structlog.get_logger(__name__)

HISTORY = "1m"
"""Period for which etcd keeps old versions of keys, and of its compaction (--auto-compaction-retention)."""
QUOTA = 2 * 1024**3
"""Bytes: etcd's own default (server/storage/quota.go)."""
WORTH = 64 * 1024**2
"""Bytes that a defragmentation has to give back: etcd answers no request meanwhile."""
ASK_EVERY = 15.0
DEFRAGMENT_EVERY = 600.0
"""Seconds between two defragmentations that no alarm asks for."""
SHORT = 0.8
"""Part of the quota in use above which the store counts as short of space; free space in the file does not count."""
GROWN = 1 / 8
"""Part of the quota by which the file grows between two looks when nodes are listened to."""

_KEY = (keyspace.ROOT + keyspace.SPACE).encode()


def is_worth(space: Space, quota: int) -> bool:
    """Tell whether a defragmentation gives back half of the file, and at least WORTH or a quarter of the quota."""
    free = space.size - space.in_use
    return free * 2 > space.size and free > min(WORTH, quota // 4)


@dataclass(slots=True)
class Upkeep:
    """Upkeep of one etcd. Not safe for several threads.

    Attributes:
        quota: bytes that its file may have.
        metrics: for Prometheus; None for no metrics.
    """

    quota: int
    metrics: EtcdMetrics | None = None
    _nodes: NodeQuota = field(init=False)
    _size: int = 0
    _asked_at: float = float("-inf")
    _defragmented_at: float = float("-inf")
    _written: StoreSpace | None = None

    def __post_init__(self) -> None:
        """Measure nodes against this quota."""
        self._nodes = NodeQuota(self.quota)

    def barred(self, now: float) -> frozenset[str]:
        """Return the nodes that may not be users of etcd; `now` is in seconds of a monotonic clock."""
        return self._nodes.barred(now)

    def mend(self, line: ChannelPool) -> None:
        """Make room in an etcd that refuses all writes for want of space.

        Args:
            line: as root.

        Raises:
            LinkwireError: etcd does not answer, or has nothing to free.
        """
        with line.use() as link:
            space = etcd_space.space(link)
        if space.alarm:
            self._nodes.measure(line, time.monotonic())
            self._nodes.clear(line)
            with line.use() as link:  # history goes up to here: with an earlier revision the records would stay
                space = etcd_space.space(link)
            self._make_room(line, space)

    def look(self, line: ChannelPool, now: float) -> None:
        """Ask for etcd's space and do what is due; a failure is logged, and retried at the next look.

        Args:
            line: as root.
            now: seconds of a monotonic clock.
        """
        try:
            cleared = self._nodes.clear(line)
        except LinkwireError as error:
            log.warning("etcd upkeep failed, retrying", error=str(error))
            return
        if now - self._asked_at < ASK_EVERY and not cleared:
            return
        self._asked_at = now
        try:
            with line.use() as link:
                space = etcd_space.space(link)
            rested = now - self._defragmented_at >= DEFRAGMENT_EVERY
            # Where everything is in use it frees nothing and blocks requests: so not at each look.
            grown, self._size = space.size - self._size > GROWN * self.quota, space.size
            if self._nodes.is_watched(line, space.in_use) and (
                self._nodes.measure(line, now) or (grown and not space.alarm and self._nodes.listen(line, now))
            ):
                return  # and make room when they are no users any more, else they go on
            if space.alarm and (cleared or rested or space.in_use < SHORT * self.quota):
                self._defragmented_at = now
                self._make_room(line, space)
                self._nodes.listen(line, now)
            elif not space.alarm and (cleared or rested) and is_worth(space, self.quota):
                self._defragmented_at = now
                self._defragment(line, space)
            with line.use() as link:
                space = etcd_space.space(link)
            self._publish(line, space, now)
        except LinkwireError as error:
            log.warning("etcd upkeep failed, retrying", error=str(error))

    def look_own(self, line: ChannelPool, now: float) -> None:
        """Do what is due for this member's file alone, where another member leads.

        Args:
            line: to this member, as root.
            now: seconds of a monotonic clock.
        """
        if now - self._asked_at < ASK_EVERY:
            return
        self._asked_at = now
        try:
            with line.use() as link:
                space = etcd_space.space(link)
            rested = now - self._defragmented_at >= DEFRAGMENT_EVERY
            # The leader compacts first; only this member can give back its own file's free space then.
            full = space.alarm and space.in_use < SHORT * self.quota < space.size
            if full or (rested and is_worth(space, self.quota)):
                self._defragmented_at = now
                self._defragment(line, space)
            if self.metrics is not None:
                self.metrics.publish(etcd_metrics.Space(space.size, space.in_use, self.quota, space.alarm, 0))
        except LinkwireError as error:
            log.warning("etcd upkeep failed, retrying", error=str(error))

    def _make_room(self, line: ChannelPool, full: Space) -> None:
        """Compact, defragment, disarm: an alarm that is disarmed first comes back at once."""
        log.warning("etcd full, making room", size=full.size, in_use=full.in_use, quota=self.quota)
        with line.use() as link:
            etcd_space.compact(link, full.revision)
            etcd_space.defragment(link)
            left = etcd_space.space(link)
            if left.size < self.quota:
                etcd_space.disarm(link)
        if left.size < self.quota:
            log.info("etcd has room again", size=left.size, quota=self.quota)
        else:
            log.error("etcd still full", in_use=left.in_use, quota=self.quota)

    def _defragment(self, line: ChannelPool, before: Space) -> None:
        with line.use() as link:
            etcd_space.defragment(link)
            after = etcd_space.space(link)
        log.info("etcd defragmented", size=after.size, freed=before.size - after.size)

    def _publish(self, line: ChannelPool, space: Space, now: float) -> None:
        """Publish the space as metrics, and as a record for `ps` and `check`, which is written when it differs."""
        if self.metrics is not None:
            barred_now = len(self.barred(now))
            published = etcd_metrics.Space(space.size, space.in_use, self.quota, space.alarm, barred_now)
            self.metrics.publish(published)
        short = space.alarm or space.in_use > SHORT * self.quota
        barred = tuple(sorted(self.barred(now)))
        written = self._written
        same = written is not None and (written.short, written.barred) == (short, barred)
        # Or each look would add to the history that this module keeps short.
        if written is None or not same or abs(written.size - space.size) > self.quota // 20:
            record = StoreSpace(space.size, space.in_use, self.quota, short, barred)
            with line.use() as link:
                link.commit([], [(_KEY, codec.encode(record), 0)], [])
            self._written = record
