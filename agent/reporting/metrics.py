"""Metrics of this agent, for Prometheus to scrape.

By service and not by task, so that there are no more series than links: counters are summed over the node's tasks,
and what a task that ended has counted stays in them. Only so many links have series of their own, whatever the
node's tasks link to; the others are summed up. Nothing here names a key or an address.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from agent.wireguard.peer_health import state
from mesh.crypto.keys import PublicKey
from mesh.model.records import DeviceStatus, PeerStatus, Status, TaskReport
from mesh.process.metrics_page import gauge, new_registry
from mesh.topology.agreed_links import REFUSED, shown
from mesh.topology.link_graph import LinkGraph

KEEP_UPDATES = 200
"""For how many updates, 3 s each, what was read of a task or peer is remembered that cannot be read any more."""

MOST_LINKS = 500
"""Pairs of services with series of their own: at most 6 each, about 3,000 in all."""
OTHERS = "(others)"
"""Label, in place of both services, of all further ones: no service's name has parentheses."""

INFO = ("version", "backend")
PAIR = ("service", "peer_service")
"""Labels: the service of this node's tasks, and that at the other end."""

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

    def drop(self, pairs: Container[Labels]) -> None:
        """Drop the sums of some pairs of services: their series end, and begin at 0 if they come again."""
        self.values = Counter({labels: value for labels, value in self.values.items() if labels[:2] not in pairs})


class Metrics(Collector):
    """Numbers as of the last update. Safe to update and to scrape from two threads.

    Args:
        version: of the agent.
        backend: which WireGuard it uses.
    """

    def __init__(self, version: str, backend: str) -> None:
        self.registry = new_registry()
        self._info = (version, backend)
        self._lock = threading.Lock()
        self._updates = 0
        self._complete = False
        self._held = False
        self._tasks: Counter[str] = Counter()
        self._peers: Counter[str] = Counter()
        self._ages: dict[Labels, float] = {}
        self._not_allowed: Counter[Labels] = Counter()
        self._pairs: dict[Labels, int] = {}  # with the update that has seen each last
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
            broken = {(each.task, key): each.seconds for each in status.broken for key in each.peers}
            for device in status.devices:
                silent = ((p, broken.get((device.task, p.public_key))) for p in device.peers)
                self._peers.update(
                    state(p.handshake_age, None if seconds and _is_starting(graph, p) else seconds)
                    for p, seconds in silent
                )
                self._add(graph, device)
            self._forget(self._updates - KEEP_UPDATES)

    def _forget(self, before: int) -> None:
        """Forget what was last read before that update; where pairs are many, also the sums of those that ended."""
        ended = {pair for pair, at in self._pairs.items() if at < before and len(self._pairs) > MOST_LINKS // 2}
        for totals in (self._refused, self._received, self._sent):
            totals.forget(before)
            if ended:
                totals.drop(ended)
        for pair in ended:
            del self._pairs[pair]

    def _pair(self, own: str | None, theirs: str | None) -> Labels | None:
        """Return the labels of two services; None as long as one is not known."""
        if own is None or theirs is None:
            return None
        if (own, theirs) not in self._pairs and len(self._pairs) >= MOST_LINKS:
            return OTHERS, OTHERS
        self._pairs[own, theirs] = self._updates
        return own, theirs

    def _add(self, graph: LinkGraph, device: DeviceStatus) -> None:
        endpoint = graph.by_task.get(device.task)
        own = _name(graph, endpoint.service) if endpoint else None
        for peer in device.peers:
            theirs = _name(graph, _service(graph, peer.public_key))
            labels = self._pair(own, theirs)
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
            pair = self._pair(own, theirs)
            counted = None if pair is None else (*pair, refused.direction)
            which = (device.task, refused.service, refused.direction)
            self._refused.add(which, counted, refused.packets, self._updates)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; prometheus_client calls it once a scrape."""
        with self._lock:
            yield gauge("agent_info", "Version of this agent, and the WireGuard it uses.", {self._info: 1}, *INFO)
            complete = "Whether all of the store is known and verified (1), or an earlier state is used (0)."
            yield gauge("store_complete", complete, {(): int(self._complete)})
            unverified = "Whether what the store holds is not acted on, because it is not what was signed."
            yield gauge("store_unverified", unverified, {(): int(self._held)})
            tasks = _by_state(self._tasks, "wired", "unwired", "error")
            yield gauge(
                "tasks", "This node's tasks that take part in a link, by state of their wiring.", tasks, "state"
            )
            peers = _by_state(self._peers, "connected", "idle", "broken")
            text = "Peers of this node's tasks: with a session, without one since nobody sends, or giving no answer."
            yield gauge("peers", text, peers, "state")
            age = "Age of the oldest last handshake between two services' tasks."
            yield gauge("peer_last_handshake_seconds", age, self._ages, *PAIR)
            refused = "Packets of this node's tasks that no link allows."
            yield _counter("refused_packets", refused, self._refused, *PAIR, "direction")
            unwanted = "Links of this node's services (out), or to them (in), that the provider does not allow."
            yield gauge("refused_links", unwanted, self._not_allowed, "service", "direction")
            received = "Bytes that this node's tasks received over a link."
            yield _counter("link_receive_bytes", received, self._received, *PAIR)
            sent = "Bytes that this node's tasks sent over a link."
            yield _counter("link_transmit_bytes", sent, self._sent, *PAIR)


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


def _is_starting(graph: LinkGraph, peer: PeerStatus) -> bool:
    """Tell whether nothing is to be heard of a peer yet: others send as soon as there is a record of it.

    The nodes' word on which tasks are wired is not followed here; the controller makes those ready that are.
    """
    endpoint = graph.by_task.get(graph.keys.get(peer.public_key, ""))
    return peer.handshake_age is None and endpoint is not None and not endpoint.ready


def _state(report: TaskReport) -> str:
    if report.error is not None:
        return "error"
    return "wired" if report.wired else "unwired"


def _by_state(counted: Counter[str], *states: str) -> dict[Labels, float]:
    """Select these states, with a 0 where there is none."""
    return {(state,): counted[state] for state in states}


def _counter(name: str, text: str, totals: _Totals, *labels: str) -> Metric:
    family = CounterMetricFamily(f"linkwire_{name}", text, labels=labels)
    for key, value in sorted(totals.values.items()):
        family.add_metric(key, value)
    return family
