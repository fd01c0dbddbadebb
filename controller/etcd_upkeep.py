"""Keeps the stack's etcd within its quota: compaction, defragmentation, and the alarm that stops all writes.

History is of no use here: whoever follows the store reads it as a whole again when what he missed is gone. etcd's
own compaction keeps HISTORY of it; this module does what etcd leaves to an operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from mesh import codec, etcd_space, keyspace
from mesh.errors import LinkwireError
from mesh.etcd import Line
from mesh.etcd_space import Space
from mesh.records import StoreSpace

log = structlog.get_logger(__name__)

HISTORY = "1m"
"""For which etcd keeps every version of a key; it compacts as often (--auto-compaction-retention)."""
QUOTA = 2 * 1024**3
"""Bytes: etcd's own default (server/storage/quota.go), said aloud."""
WORTH = 64 * 1024**2
"""Bytes that a defragmentation has to give back; less is not worth the moment in which etcd answers nobody."""
ASK_EVERY = 15.0
DEFRAGMENT_EVERY = 600.0
"""Seconds between two defragmentations that no alarm asks for."""
SHORT = 0.8
"""Part of the quota from which on the store counts as short of space: what is in use, not the file."""

_KEY = (keyspace.ROOT + keyspace.SPACE).encode()


def is_worth(space: Space, quota: int) -> bool:
    """Whether a defragmentation gives back enough: half of the file, and at least WORTH or a quarter of the quota."""
    free = space.size - space.in_use
    return free * 2 > space.size and free > min(WORTH, quota // 4)


@dataclass(slots=True)
class Upkeep:
    """One etcd's upkeep. Not safe for several threads.

    Attributes:
        quota: bytes that its file may have.
        metrics: where Prometheus is answered, host and port; None for nowhere.
    """

    quota: int
    metrics: tuple[str, int] | None = None
    _asked_at: float = float("-inf")
    _defragmented_at: float = float("-inf")
    _written: StoreSpace | None = None
    _gauges: dict[str, Gauge] = field(default_factory=dict)

    def answer_metrics(self) -> None:
        """Answer Prometheus from now on. A port that is taken is no reason to run no etcd."""
        if self.metrics is None:
            return
        registry = CollectorRegistry()
        texts = {
            "linkwire_etcd_size_bytes": "Size of etcd's file.",
            "linkwire_etcd_in_use_bytes": "Part of etcd's file that holds data.",
            "linkwire_etcd_quota_bytes": "Size at which etcd refuses all writes.",
            "linkwire_etcd_nospace": "1 while etcd refuses all writes for want of space.",
        }
        self._gauges = {name: Gauge(name, text, registry=registry) for name, text in texts.items()}
        host, port = self.metrics
        try:
            start_http_server(port, host, registry)
        except OSError as error:
            log.warning("metrics of etcd not served", address=f"{host}:{port}", error=str(error))

    def mend(self, line: Line) -> None:
        """Make an etcd that refuses all writes for want of space take them again, before anybody needs it.

        Args:
            line: as root.

        Raises:
            LinkwireError: etcd does not answer, or there is nothing to give free.
        """
        with line.use() as link:
            found = etcd_space.space(link)
        if found.alarm:
            self._make_room(line, found)

    def look(self, line: Line, now: float) -> None:
        """Ask for the space and do what is due; what fails is logged, and done at the next look.

        Args:
            line: as root.
            now: seconds of a clock that only grows.
        """
        if now - self._asked_at < ASK_EVERY:
            return
        self._asked_at = now
        try:
            with line.use() as link:
                found = etcd_space.space(link)
            rested = now - self._defragmented_at >= DEFRAGMENT_EVERY
            # It frees nothing where all is in use, and nobody is answered meanwhile: then it is not for each look.
            if found.alarm and (rested or found.in_use < SHORT * self.quota):
                self._defragmented_at = now
                self._make_room(line, found)
            elif not found.alarm and rested and is_worth(found, self.quota):
                self._defragmented_at = now
                self._defragment(line, found)
            with line.use() as link:
                found = etcd_space.space(link)
            self._tell(line, found)
        except LinkwireError as error:
            log.warning("upkeep of etcd failed, retrying", error=str(error))

    def _make_room(self, line: Line, full: Space) -> None:
        """Compact, defragment, disarm; in this order, since an alarm that is disarmed first comes back at once."""
        log.warning("etcd full, making room", size=full.size, in_use=full.in_use, quota=self.quota)
        with line.use() as link:
            etcd_space.compact(link, full.revision)
            etcd_space.defragment(link)
            left = etcd_space.space(link)
            if left.size < self.quota:
                etcd_space.disarm(link)
        if left.size < self.quota:
            log.info("etcd has room again", size=left.size, before=full.size)
        else:
            log.error("etcd stays full: what is in use is more than its quota", in_use=left.in_use, quota=self.quota)

    def _defragment(self, line: Line, before: Space) -> None:
        with line.use() as link:
            etcd_space.defragment(link)
            after = etcd_space.space(link)
        log.info("etcd defragmented", before=before.size, size=after.size)

    def _tell(self, line: Line, found: Space) -> None:
        """Say how it stands: as a metric, and as a record for `ps` and `check`, which is written when it differs."""
        values = (found.size, found.in_use, self.quota, int(found.alarm))
        for gauge, value in zip(self._gauges.values(), values, strict=False):
            gauge.set(value)
        short = found.alarm or found.in_use > SHORT * self.quota
        told = self._written
        # Else each look would make the history longer that it is here to keep short.
        if told is None or told.short != short or abs(told.size - found.size) > self.quota // 20:
            record = StoreSpace(found.size, found.in_use, self.quota, short)
            with line.use() as link:
                link.commit([], [(_KEY, codec.encode(record), 0)], [])
            self._written = record
