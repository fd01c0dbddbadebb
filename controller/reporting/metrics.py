"""Metrics of this controller, for Prometheus to scrape.

All are sums over the mesh, so that their number does not grow with it. They are counted when they are scraped, from
what the loop has seen last: a pass of an idle mesh costs nothing more. Nothing here names a key, an address or a
service.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from controller.swarm.model import Swarm, SwarmNode
from mesh.model import keyspace
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import MODES, STEPS
from mesh.model.records import Address, Cluster, Endpoint, Leader, Member, Node, Service
from mesh.model.snapshot import Snapshot
from mesh.process.metrics_page import gauge, new_registry
from mesh.topology.agreed_links import ABSENT, REFUSED

PASS_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""Seconds: an idle pass takes well under the first, a full plan of 10,000 tasks a few."""
NODE_STATES = ("ready", "silent", "unaccepted", "absent", "down", "revoked")
LINK_STATES = ("allowed", "refused", "absent")

Values = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Sight:
    """State of the controller at the end of a pass.

    Attributes:
        stored: the store.
        swarm: the lists of the Swarm.
        leads: whether this controller leads.
        silent: nodes whose agents have gone silent.
        problems: how many are open; known to the leader alone.
        committed: steps that were written since the start.
        outdated: steps that were out of date when they were to be written.
    """

    stored: Snapshot = field(default_factory=Snapshot)
    swarm: Swarm = field(default_factory=lambda: Swarm("", {}, {}, {}))
    leads: bool = False
    silent: frozenset[str] = frozenset()
    problems: int = 0
    committed: int = 0
    outdated: int = 0


class ControllerMetrics(Collector):
    """Numbers as of the last pass. Safe to observe and to scrape from two threads.

    Args:
        version: of the controller.
        name: of this controller, as the leader's record has it.
        clock: in seconds, monotonic.
    """

    def __init__(self, version: str, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = new_registry()
        self._version = version
        self._name = name
        self._clock = clock
        self._sight = Sight()
        self._lock = threading.Lock()
        self._passes: Counter[str] = Counter()
        self._passed_at = clock()
        self._durations = Histogram(
            "linkwire_controller_pass_duration_seconds",
            "Time that one pass of the controller's loop takes: look, decide, write.",
            buckets=PASS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    @property
    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    @property
    def wanted(self) -> bool:
        """Whether this controller's page is the one of its node.

        Two controllers may be on one node, and only the leader has all of the numbers: a standby leaves the port to
        a leader of the same name, since a controller is named after its node.
        """
        sight = self._sight
        leader = sight.stored.get(keyspace.LEADER, Leader)
        return sight.leads or leader is None or leader.holder != self._name

    def observe(self, sight: Sight) -> None:
        """Replace the numbers with what a pass has seen."""
        self._sight = sight

    def count_pass(self, seconds: float, *, failed: bool) -> None:
        """Count a pass of the loop, and how long it took."""
        self._durations.observe(seconds)
        with self._lock:
            self._passes["failed" if failed else "done"] += 1
            if not failed:
                self._passed_at = self._clock()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; prometheus_client calls it once a scrape."""
        sight = self._sight
        with self._lock:
            age, passes = self._clock() - self._passed_at, Counter(self._passes)
        yield gauge("controller_info", "Version of this controller.", {(self._version,): 1}, "version")
        yield gauge(
            "controller_leader", "Whether this controller leads (1) or stands by (0).", {(): int(sight.leads)}
        )
        yield gauge("controller_pass_age_seconds", "Time since the last pass that did not fail.", {(): age})
        text = "Passes of the controller's loop: done, or failed and retried."
        yield _counter("controller_passes", text, {(result,): passes[result] for result in ("done", "failed")})
        text = "Steps of plans that were committed to the store, or were out of date by then and planned again."
        steps: Values = {("committed",): sight.committed, ("outdated",): sight.outdated}
        yield _counter("controller_plan_steps", text, steps)
        problems: Values = {(): sight.problems} if sight.leads else {}
        yield gauge("controller_problems", "Open problems that docker linkwire check names; the leader's.", problems)
        yield from _of_store(sight.stored)
        nodes = Counter(_node(node, sight) for node in sight.swarm.nodes.values())
        text = "Nodes of the Swarm, by what the controller knows of each one's agent."
        yield gauge("controller_nodes", text, {(state,): nodes[state] for state in NODE_STATES}, "state")


def _of_store(stored: Snapshot) -> Iterator[Metric]:
    """Count the store's records."""
    cluster = stored.get(keyspace.CLUSTER, Cluster)
    complete = int(stored.complete and cluster is not None)
    yield gauge("controller_store_complete", "Whether the controller knows all of the store.", {(): complete})
    yield gauge("controller_store_records", "Records in the store.", {(): len(stored.records)})
    text = "Records in the store that cannot be read, or are not their writer's."
    yield gauge("controller_store_invalid_records", text, {(): len(stored.invalid)})
    services = list(stored.all(Service))
    yield gauge("controller_services", "Services that take part in a link.", {(): len(services)})
    links = Counter(_link(link.provider) for service in services for link in service.links)
    text = "Links of all services: allowed, refused by their provider, or to a service that is absent."
    yield gauge("controller_links", text, {(state,): links[state] for state in LINK_STATES}, "state")
    text = "Mode and step of node encryption: 1 for the ones that every node is to take now."
    yield gauge("controller_node_encryption", text, _encryption(stored), "mode", "step")
    text = "Nodes that have a place in node encryption."
    yield gauge("controller_node_encryption_nodes", text, {(): sum(1 for _ in stored.all(Underlay))})
    tasks = Counter("ready" if endpoint.ready else "unready" for endpoint in stored.all(Endpoint))
    text = "Tasks that take part in a link: ready to be used by others, or not."
    yield gauge("controller_tasks", text, {(state,): tasks[state] for state in ("ready", "unready")}, "state")
    addresses: Values = {("held",): 0, ("resting",): 0}
    for address in stored.all(Address):
        addresses["held" if address.holder else "resting",] += 1
    text = "Addresses of the mesh that are held, or rest before they are given again."
    yield gauge("controller_addresses", text, addresses, "state")
    size: Values = {(): max(0, cluster.subnet.num_addresses - 2)} if cluster is not None else {}
    yield gauge("controller_addresses_limit", "Addresses that the mesh's subnet has.", size)


def _encryption(stored: Snapshot) -> Values:
    """Count the step of node encryption that every node is to take now."""
    record = stored.get(keyspace.ENCRYPTION, NodeEncryption)
    now = (record.mode, record.step) if record is not None else ("off", "off")
    states = [("off", "off"), *((mode, step) for mode in MODES for step in STEPS)]
    return {state: int(state == now) for state in states}


def _link(provider: str) -> str:
    if provider.startswith(REFUSED):
        return "refused"
    return "absent" if provider.startswith(ABSENT) else "allowed"


def _node(node: SwarmNode, sight: Sight) -> str:
    """Name the first of the states that a node is in."""
    if node.revoked is not None:
        return "revoked"
    if node.down:
        return "down"
    is_member = sight.stored.get(keyspace.member(node.id), Member) is not None
    if sight.stored.get(keyspace.node(node.id), Node) is None:
        return "silent" if is_member else "absent"  # its record ends with its lease, 8 s after its last word
    if not is_member:
        return "unaccepted"
    return "silent" if node.id in sight.silent else "ready"


def _counter(name: str, text: str, values: Values) -> Metric:
    family = CounterMetricFamily(f"linkwire_{name}", text, labels=("result",))
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
