"""Metrics of the stack's etcd for Prometheus: what upkeep knows of its space, and all that etcd says of itself.

etcd gives its own on a loopback port of each start, without any key: this page hands them on, so that one address
has both, and stays the same when etcd is started again.
"""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mesh.process.metrics_page import gauge, new_registry

ANSWERS_S = 2.0
"""Seconds for etcd to answer: a scrape has ten by default."""
MOST_BYTES = 8 * 1024**2
"""Bytes of etcd's own page that are read; it has some 100 kB."""


@dataclass(frozen=True, slots=True)
class Space:
    """Space of the store, in bytes, and who may not write for now.

    Attributes:
        size: of etcd's file.
        in_use: part of it that holds data.
        quota: size at which etcd refuses all writes.
        alarm: whether it refuses them.
        barred: nodes that filled it.
    """

    size: int
    in_use: int
    quota: int
    alarm: bool
    barred: int


class EtcdMetrics(Collector):
    """Numbers of one etcd. Safe to update and to scrape from two threads."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._lock = threading.Lock()
        self._space: Space | None = None
        self._own = ""
        self.registry.register(self)

    def follow(self, port: int) -> list[str]:
        """Ask etcd there from now on; return its arguments that have it answer."""
        url = f"http://127.0.0.1:{port}"
        with self._lock:
            self._own = f"{url}/metrics"
        return [f"--listen-metrics-urls={url}"]

    def publish(self, space: Space) -> None:
        """Replace what is known of the space."""
        with self._lock:
            self._space = space

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, etcd's own last; prometheus_client calls it once a scrape."""
        with self._lock:
            space, url = self._space, self._own
        own = _read(url)
        yield gauge("etcd_up", "Whether etcd answers linkwire-etcd with its own metrics.", {(): int(bool(own))})
        if space is not None:
            yield gauge("etcd_size_bytes", "Size of etcd's file.", {(): space.size})
            yield gauge("etcd_in_use_bytes", "Part of etcd's file that holds data.", {(): space.in_use})
            yield gauge("etcd_quota_bytes", "Size at which etcd refuses all writes.", {(): space.quota})
            text = "Whether etcd refuses all writes for want of space."
            yield gauge("etcd_nospace", text, {(): int(space.alarm)})
            text = "Nodes that filled etcd and may not write for now."
            yield gauge("etcd_barred_nodes", text, {(): space.barred})
        yield from own


def _read(url: str) -> list[Metric]:
    """Read a page of metrics; empty where there is none."""
    if not url:
        return []
    try:
        with urllib.request.urlopen(url, timeout=ANSWERS_S) as answer:  # noqa: S310 - our own loopback URL
            return list(text_string_to_metric_families(answer.read(MOST_BYTES).decode()))
    except (OSError, ValueError):
        return []
