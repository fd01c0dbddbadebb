"""Upkeep of the leader between its passes: garbage, and records of nodes that Swarm does not have.

Controllers follow no views, asks and answers. They end with their agent's lease. But whoever may write them can do so
without a lease, and then nothing would ever delete them once the node is gone, or where there was none. Their keys
alone are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import structlog

from controller.swarm.model import Swarm
from mesh.model import keyspace
from mesh.model.snapshot import Delete, Holds
from mesh.process.gc_tuning import IdleCollector
from mesh.store.client import MAX_OPS, Store

log = structlog.get_logger(__name__)

LOOK_S = 60.0
"""Seconds between two looks, for which a record has to stand still: its agent may go on, Swarm's list be older."""
_PARTS = {keyspace.VIEWS: 2, keyspace.ASKS: 1, keyspace.TOLD: 2, keyspace.FLOW_ASKS: 2, keyspace.WATCHED: 4}
"""Of a key behind its prefix: the node, then what there are several of."""


class Upkeep:
    """Does what is due of it. Not safe for several threads."""

    def __init__(self, store: Store) -> None:
        """Start with nothing looked at; `store` is where records without an owner are looked for."""
        self._ownerless = OwnerlessRecords(store)
        self._garbage = IdleCollector()

    def look(self, swarm: Swarm, token: Holds, *, idle: bool) -> None:
        """Look whether something is due.

        Args:
            swarm: complete lists.
            token: of the lead.
            idle: whether the pass has found nothing to do, and no other one waits.

        Raises:
            LinkwireError: etcd does not answer.
        """
        now = time.monotonic()
        self._ownerless.look(swarm, token, now)
        if idle:
            self._garbage.collect(now)


class OwnerlessRecords:
    """Records without an owner at the last look. Not safe for several threads.

    Args:
        store: to look into.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked_at = float("-inf")
        self._before: Mapping[str, int] = {}

    def look(self, swarm: Swarm, token: Holds, now: float) -> None:
        """Delete what has had no owner since the last look, and was not written since.

        Args:
            swarm: complete lists.
            token: of the lead.
            now: seconds of the monotonic clock.

        Raises:
            LinkwireError: etcd does not answer.
        """
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        before = self._before
        self._before = {
            key: revision
            for prefix in _PARTS
            for key, revision in self._store.revisions(prefix).items()
            if not is_owned(key, swarm)
        }
        over = [Delete(key, revision) for key, revision in self._before.items() if before.get(key) == revision]
        for batch in _batches(over):
            if self._store.commit((token, *batch)) is not None:
                log.info("records without owner deleted", count=len(batch), key=batch[0].key)


def is_owned(key: str, swarm: Swarm) -> bool:
    """Tell whether the key is one of a node of the Swarm."""
    kind, _, rest = key.partition("/")
    parts = rest.split("/")
    return parts[0] in swarm.nodes and len(parts) == _PARTS[f"{kind}/"]


def _batches(deletes: list[Delete]) -> Iterator[list[Delete]]:
    size = MAX_OPS - 1
    return (deletes[start : start + size] for start in range(0, len(deletes), size))
