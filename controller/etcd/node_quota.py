"""Quota of each node in etcd: a node that fills it under its own keys is barred, and its records make room.

etcd lets a user write as much as it likes under its own keys, until it refuses all writes of everybody. Honest nodes
stay far below these limits, so nothing is measured by node until much is in use.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import structlog

from mesh.model import keyspace
from mesh.store.etcd_channel import Channel, ChannelPool

log = structlog.get_logger(__name__)

NODE_PART = 1 / 16
"""Part of etcd's quota that the records of one node may fill."""
NODE_KEYS = 20_000
"""Keys of one node: 200 tasks with their parts of the largest view, and an answer to a recall, are some 2,000."""
WATCHED_PART = 1 / 4
"""Part of etcd's quota in use from which nodes are measured."""
RATE = 1024**2
"""Bytes a second that a node may write while etcd is that full: honest ones write some 5 KiB (device_readings)."""
SAMPLE_S = 3.0
BAR_S = 3600.0
"""Seconds for which a node is no user of etcd; then it may write again, and is measured again."""
_PAGE = 32
"""Keys of one read: values may have 1.5 MiB each."""
_ROOT = keyspace.ROOT.encode()
_PREFIXES = tuple(
    sorted(_ROOT + keyspace.prefix(kind).encode() for kind in keyspace.KINDS.values() if kind.WRITER == "agent")
)


@dataclass(slots=True)
class Holding:
    """Size and number of the records of one node."""

    size: int = 0
    keys: int = 0


class NodeQuota:
    """Nodes that were found to fill etcd. Not safe for several threads."""

    def __init__(self, quota: int) -> None:
        """Start without barred nodes; `quota` is etcd's, in bytes."""
        self._quota = quota
        self._until: dict[str, float] = {}
        self._to_clear: set[str] = set()

    def barred(self, now: float) -> frozenset[str]:
        """Return the nodes that may not be users of etcd; `now` is in seconds of a monotonic clock."""
        return frozenset(node for node, until in self._until.items() if now < until)

    def is_watched(self, line: ChannelPool, in_use: int) -> bool:
        """Tell whether so much is in use that nodes are to be measured."""
        with line.use() as link:
            keys = sum(link.count(first, _after(first)) for first in _PREFIXES)
        return in_use > WATCHED_PART * self._quota or keys > NODE_KEYS

    def measure(self, line: ChannelPool, now: float) -> bool:
        """Bar the nodes that hold more than their part; return whether there are any."""
        with line.use() as link:
            holdings = self._holdings(link)
        found = [node for node, holding in holdings.items() if self._exceeds(holding)]
        for node in found:
            log.warning("node barred from etcd", node=node, size=holdings[node].size, keys=holdings[node].keys)
        self._bar(found, now)
        return bool(found)

    def listen(self, line: ChannelPool, now: float) -> bool:
        """Bar the nodes that write more than RATE; return whether there are any."""
        with line.use() as link:
            written = _written(link, SAMPLE_S)
        found = [node for node, size in written.items() if size > RATE * SAMPLE_S]
        for node in found:
            log.warning("node barred from etcd", node=node, size=written[node], seconds=SAMPLE_S)
        self._bar(found, now)
        return bool(found)

    def clear(self, line: ChannelPool) -> bool:
        """Delete the records of nodes that were barred, once they are no users any more; return whether any were."""
        nodes, self._to_clear = self._to_clear, set()
        with line.use() as link:
            for node in nodes:
                for first in _PREFIXES:
                    own = first + node.encode()
                    link.delete_range(own, own + b"\0")
                    link.delete_range(own + b"/", own + b"0")
        return bool(nodes)

    def _bar(self, nodes: Iterable[str], now: float) -> None:
        for node in nodes:
            self._until[node] = now + BAR_S
            self._to_clear.add(node)

    def _exceeds(self, holding: Holding) -> bool:
        return holding.size > NODE_PART * self._quota or holding.keys > NODE_KEYS

    def _holdings(self, link: Channel) -> dict[str, Holding]:
        """Add up the records of each node, and no further where it has too many."""
        holdings: defaultdict[str, Holding] = defaultdict(Holding)
        for first in _PREFIXES:
            key, end = first, _after(first)
            while True:
                page = link.page(key, end, 0, _PAGE)
                for entry in page.kvs:
                    node = _node(entry.key)
                    holdings[node].size += len(entry.key) + len(entry.value)
                    holdings[node].keys += 1
                if not page.more:
                    break
                key = page.kvs[-1].key + b"\0"
                if self._exceeds(holdings[last := _node(page.kvs[-1].key)]):
                    key = max(key, first + last.encode() + b"0")
        return holdings


def _written(link: Channel, seconds: float) -> dict[str, int]:
    """Listen to all writes of nodes for so long; return their bytes."""
    end, written = time.monotonic() + seconds, defaultdict[str, int](int)
    with closing(link.watch(_PREFIXES[0], _after(_PREFIXES[-1]))) as responses:
        for response in responses:
            for node, size in _sizes(response.events):
                written[node] += size
            if time.monotonic() > end:
                return written
    return written


def _sizes(events: Iterable[object]) -> Iterator[tuple[str, int]]:
    for event in events:
        kv = event.kv  # type: ignore[attr-defined] # etcd3 is not typed
        if kv.key.startswith(_PREFIXES):
            yield _node(kv.key), len(kv.key) + len(kv.value)


def _after(prefix: bytes) -> bytes:
    return prefix[:-1] + b"0"  # it ends with a slash


def _node(key: bytes) -> str:
    """Return the node of a key of an agent; its users are nodes, whose ids are text."""
    return key.removeprefix(_ROOT).split(b"/")[1].decode(errors="replace")
