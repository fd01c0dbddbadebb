"""Page of metrics for Prometheus, served over HTTP from threads, with what every program says of itself."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog
from prometheus_client import (
    CollectorRegistry,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mesh.errors import Terminal
from mesh.identity.tls import Tls, expiry

log = structlog.get_logger(__name__)

RETRY_S = 5.0
"""Seconds between two looks whether the page is wanted, and two attempts at a port that is taken."""


def new_registry() -> CollectorRegistry:
    """Make an empty registry, whose counters have no `_created` series: they would double the page."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry(auto_describe=False)


def gauge(name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> GaugeMetricFamily:
    """Make a gauge of the project from its values by label values, in their order."""
    family = GaugeMetricFamily(f"linkwire_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def describe_process(registry: CollectorRegistry, tls: Tls | None) -> None:
    """Add the process's own CPU time, memory and open files, and the ends of its certificates.

    Args:
        registry: to add to.
        tls: how the program speaks to etcd; None for in clear.
    """
    ProcessCollector(registry=registry)
    if tls is not None:
        files = {"etcd": tls.cert} | ({"node": tls.preferred.cert} if tls.preferred else {})
        registry.register(Certificates(files))


class Certificates(Collector):
    """Ends of certificates, read from their files at each scrape: they are renewed while the program runs."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Prepare; `files` are PEM files by what a certificate is for."""
        self._files = dict(files)

    def collect(self) -> Iterator[Metric]:
        """Yield the ends of those that can be read."""
        ends: dict[tuple[str, ...], float] = {}
        for name, path in self._files.items():
            try:
                ends[name,] = expiry(path).timestamp()
            except Terminal:
                continue  # a node's folder of certificates may be empty: its agent says so by itself
        text = "End of a client certificate for etcd: Linkwire's (etcd), or the node's Swarm certificate (node)."
        yield gauge("certificate_expiry_timestamp_seconds", text, ends, "certificate")


def serve(
    registry: CollectorRegistry,
    address: tuple[str, int],
    wanted: Callable[[], bool] = lambda: True,
    *,
    shared: bool = False,
) -> None:
    """Answer scrapes over HTTP from threads; where the port cannot be had, say so once and try again now and then.

    Args:
        registry: with all metrics.
        address: host and TCP port.
        wanted: asked every few seconds; while it is False the port is left to another program.
        shared: whether several such programs of one node have this port by turns, so that one may find it taken.
    """
    page = _Page(registry, address, wanted, shared=shared)
    threading.Thread(target=page.run, name="metrics", daemon=True).start()


class _Page:
    """Server of one page; runs in a thread of its own."""

    def __init__(
        self, registry: CollectorRegistry, address: tuple[str, int], wanted: Callable[[], bool], *, shared: bool
    ) -> None:
        self._registry = registry
        self._host, self._port = address
        self._wanted = wanted
        self._shared = shared
        self._close: Callable[[], None] | None = None
        self._warned = False

    def run(self) -> None:
        """Open and close the port, for ever."""
        while True:
            wanted = self._wanted()
            if wanted and self._close is None:
                self._open()
            elif not wanted and self._close is not None:
                self._close()
                self._close, self._warned = None, False
                log.info("metrics left to another controller", address=self._host, port=self._port)
            time.sleep(RETRY_S)

    def _open(self) -> None:
        try:
            server, thread = start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            if not self._warned and self._shared and error.errno == errno.EADDRINUSE:
                log.info("metrics port taken, retrying", address=self._host, port=self._port)
            elif not self._warned:
                log.warning("metrics not served, retrying", address=self._host, port=self._port, error=str(error))
            self._warned = True
            return

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._close = close
        log.info("metrics served", address=self._host, port=self._port)
