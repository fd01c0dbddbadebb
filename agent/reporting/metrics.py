"""Metrics of this agent, for Prometheus to scrape.

By service and not by task, so that there are no more series than links: counters are summed over the node's tasks,
and what a task that ended has counted stays in them. Nothing here names a key or an address.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.interface.diff import REJECT_AFTER_S
from mesh.crypto.keys import PublicKey
from mesh.model.records import DeviceStatus, PeerStatus, Status, TaskReport
from mesh.topology.agreement import REFUSED, shown
from mesh.topology.link_graph import LinkGraph

log = structlog.get_logger(__name__)

RETRY_S = 30.0
KEEP_UPDATES = 200
"""For how many updates, 3 s each, what was read of a task or peer is remembered that cannot be read any more."""

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Read:
    """A counter of the kernel's as it was last read."""

    labels: Labels
    value: int
    at: int
    """Number of the update."""


class _Totals:
    """Sums of counters that come, go, and begin anew."""

    def __init__(self) -> None:
        self.values: Counter[Labels] = Counter()
        self._last: dict[tuple[object, ...], _Read] = {}

    def add(self, counter: tuple[object, ...], labels: Labels | None, value: int, at: int) -> None:
        """Add what a counter has counted since it was last read.

        Args:
            counter: which one it is.
            labels: what it counts for; as long as that is not known (None), it is left for later.
            value: as read; less than before means that it began anew.
            at: number of the update.
        """
        last = self._last.get(counter)
        if last is None:
            if labels is None:
                return
            last = self._last[counter] = _Read(labels, 0, at)
        self.values[last.labels] += value - last.value if value >= last.value else value
        last.value, last.at = value, at

    def forget(self, before: int) -> None:
        """Forget what was last read before that update; the sums stay."""
        self._last = {counter: read for counter, read in self._last.items() if read.at >= before}


class Metrics(Collector):
    """Numbers as of the last update. Safe to update and to scrape from two threads.

    Args:
        version: of the agent.
        backend: which WireGuard it uses.
    """

    def __init__(self, version: str, backend: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._info = (version, backend)
        self._lock = threading.Lock()
        self._updates = 0
        self._complete = False
        self._held = False
        self._tasks: Counter[str] = Counter()
        self._peers: Counter[str] = Counter()
        self._ages: dict[Labels, float] = {}
        self._not_allowed: Counter[Labels] = Counter()
        self._refused, self._received, self._sent = _Totals(), _Totals(), _Totals()
        self.registry.register(self)

    @property
    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def update(self, graph: LinkGraph, status: Status, reports: Mapping[str, TaskReport]) -> None:
        """Replace the numbers with what was just measured.

        Args:
            graph: which task is whose.
            status: the node's devices as just read.
            reports: this node's tasks that take part in the mesh.
        """
        with self._lock:
            self._updates += 1
            self._complete = graph.complete and graph.cluster is not None
            self._held = bool(status.held)
            self._tasks = Counter(_state(report) for report in reports.values() if report.state != "gone")
            self._peers = Counter()
            self._ages = {}
            self._not_allowed = _not_allowed(graph, status)
            for device in status.devices:
                self._add(graph, device)
            for totals in (self._refused, self._received, self._sent):
                totals.forget(self._updates - KEEP_UPDATES)

    def _add(self, graph: LinkGraph, device: DeviceStatus) -> None:
        endpoint = graph.by_task.get(device.task)
        own = _name(graph, endpoint.service) if endpoint else None
        for peer in device.peers:
            self._peers[_handshake(peer)] += 1
            theirs = _name(graph, _service(graph, peer.public_key))
            labels = None if own is None or theirs is None else (own, theirs)
            self._received.add((device.task, peer.public_key), labels, peer.rx_bytes, self._updates)
            self._sent.add((device.task, peer.public_key), labels, peer.tx_bytes, self._updates)
            if labels is None:
                continue
            if peer.handshake_age is not None:
                self._ages[labels] = max(peer.handshake_age, self._ages.get(labels, 0.0))
            for direction in ("in", "out"):  # from 0, so that the first that is refused is seen as a change
                self._refused.values[*labels, direction] += 0
        for refused in device.refused:
            theirs = _name(graph, refused.service) if refused.service else ""
            counted = None if own is None or theirs is None else (own, theirs, refused.direction)
            which = (device.task, refused.service, refused.direction)
            self._refused.add(which, counted, refused.packets, self._updates)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; prometheus_client calls it once a scrape."""
        with self._lock:
            yield _gauge("agent_info", "This agent.", {self._info: 1}, "version", "backend")
            yield _gauge("store_complete", "Whether all of the store is known.", {(): int(self._complete)})
            unverified = "Whether what the store holds is not acted on, because it is not what was signed."
            yield _gauge("store_unverified", unverified, {(): int(self._held)})
            tasks = _by_state(self._tasks, "wired", "unwired", "error")
            yield _gauge("tasks", "This node's tasks that take part in the mesh.", tasks, "state")
            peers = _by_state(self._peers, "connected", "stale", "no-handshake")
            yield _gauge("peers", "Peers of this node's tasks, by their last handshake.", peers, "state")
            pair = ("service", "peer_service")
            age = "Age of the oldest last handshake between two services' tasks."
            yield _gauge("peer_last_handshake_seconds", age, self._ages, *pair)
            refused = "Packets of this node's tasks that no link allows."
            yield _counter("refused_packets", refused, self._refused, *pair, "direction")
            unwanted = "Links of this node's services (out), or to them (in), that the provider does not allow."
            yield _gauge("refused_links", unwanted, self._not_allowed, "service", "direction")
            received, sent = "Bytes that this node's tasks received over a link.", "Bytes that they sent."
            yield _counter("link_receive_bytes", received, self._received, *pair)
            yield _counter("link_transmit_bytes", sent, self._sent, *pair)


def serve(metrics: Metrics, address: tuple[str, int]) -> None:
    """Answer scrapes over HTTP from threads; where the port cannot be had, say so once and try again now and then."""
    threading.Thread(target=_serve, args=(metrics, *address), name="metrics", daemon=True).start()


def _serve(metrics: Metrics, host: str, port: int) -> None:
    warned = False
    while True:
        try:
            start_http_server(port, host, metrics.registry)
        except OSError as error:
            if not warned:
                log.warning("metrics not served, retrying", address=host, port=port, error=str(error))
            warned = True
            time.sleep(RETRY_S)
        else:
            log.info("metrics served", address=host, port=port)
            return


def _not_allowed(graph: LinkGraph, status: Status) -> Counter[Labels]:
    """Count the links that are refused, by service and direction, of the services that have a device here."""
    endpoints = (graph.by_task.get(device.task) for device in status.devices)
    names = {name for e in endpoints if e is not None and (name := _name(graph, e.service)) is not None}
    counted: Counter[Labels] = Counter()
    for consumer, provider in graph.links:
        if provider.startswith(REFUSED):
            counted[graph.services[consumer].name, "out"] += 1
            counted[shown(provider), "in"] += 1
    return Counter({(name, way): counted[name, way] for name in names for way in ("in", "out")})


def _name(graph: LinkGraph, service: str | None) -> str | None:
    record = graph.services.get(service) if service else None
    return record.name if record else None


def _service(graph: LinkGraph, key: PublicKey) -> str | None:
    """Return the service that a public key belongs to, among those that may be wired."""
    endpoint = graph.by_task.get(graph.keys.get(key, ""))
    return endpoint.service if endpoint is not None and endpoint.public_key == key else None


def _state(report: TaskReport) -> str:
    if report.error is not None:
        return "error"
    return "wired" if report.wired else "unwired"


def _handshake(peer: PeerStatus) -> str:
    if peer.handshake_age is None:
        return "no-handshake"
    return "connected" if peer.handshake_age < REJECT_AFTER_S else "stale"


def _by_state(counted: Counter[str], *states: str) -> dict[Labels, float]:
    """Select these states, with a 0 where there is none."""
    return {(state,): counted[state] for state in states}


def _gauge(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"linkwire_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, totals: _Totals, *labels: str) -> Metric:
    family = CounterMetricFamily(f"linkwire_{name}", text, labels=labels)
    for key, value in sorted(totals.values.items()):
        family.add_metric(key, value)
    return family
