"""Pairs of tasks of links, as they were read at the consumers' devices, node by node. Pure.

A node with much to say writes its view seldom, so most of what is described is as it was at the last question. Each
node's pairs are described by themselves, and kept until something that they rest on is another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.status.link_totals import WELL, IllPair, Totals
from agent.status.unanswered import Age, unanswered
from agent.wireguard.peer_health import REJECT_AFTER_S, state
from mesh.model import device_readings, keyspace
from mesh.model.device_readings import NodeReading, PeerReading
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.records import Endpoint, Service, Status, TaskReport, View
from mesh.model.snapshot import Snapshot
from mesh.topology.agreed_links import shown
from mesh.topology.link_graph import LinkGraph

_Task = tuple[str, str]
"""A task's node, and its id."""

_NO_PEER = PeerReading("", None, 0, 0)

Refusals = Counter[tuple[str, str, str]]
"""(own service's id, the other's, direction) -> packets."""
Broken = tuple["End", "End", float]
"""Consumer's and provider's end of a broken pair, and the seconds for which it is so."""


@dataclass(eq=False, slots=True)
class End:
    """A task as an end of pairs, with all that does not differ between its pairs."""

    number: int
    """Its place in `Plan.ends`."""
    task: str
    name: str
    node: str
    """The id of its node."""
    host: str
    """The name of its node."""
    key: str
    report: TaskReport | None
    is_unwired: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A link with its ends."""

    consumer: Service
    link: LinkLabel
    consumers: Sequence[End]
    providers: Sequence[End]
    described: dict[str, Any] = field(default_factory=dict)
    """For whoever describes it: all that the plan's graph says of it."""


@dataclass(slots=True)
class Measured:
    """One node's pairs: those of which it has the consumer.

    Attributes:
        states: how many are in each state, by the link's place in the plan.
        broken: the pairs to which packets are sent that nobody answers.
        columns: the pairs as JSON (mesh.model.pair_columns).
        totals: what they come to, by the link's place in the plan.
    """

    states: dict[int, Counter[str]]
    broken: list[Broken]
    columns: dict[str, Any]
    totals: dict[int, Totals]


@dataclass(slots=True)
class Plan:
    """All pairs that there are, whatever was measured of them.

    Attributes:
        graph: the index that it was made from.
        facts: what else it was made from.
        links: with their ends.
        ends: of all links.
        by_node: each node's consumers, with the place of their link in `links`, in the order of their pairs.
        has_unwired: whether a task of them is not wired, or nobody has said that it is.
        has_errors: whether a task of them has an error.
    """

    graph: LinkGraph | None = None
    facts: object = None
    links: list[Listed] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    by_node: dict[str, list[tuple[int, End]]] = field(default_factory=dict)
    has_unwired: bool = False
    has_errors: bool = False


@dataclass(slots=True)
class _OfNode:
    """A node's reading, and what was made of it: good for as long as its version is the same."""

    version: object
    written: float
    reading: NodeReading | None
    """None once its pairs are described: it is large, and they say all of it."""
    refused: Refusals
    malformed: Mapping[str, str]
    measured: dict[str, tuple[object, Measured]] = field(default_factory=dict)


@dataclass(slots=True)
class _Columns:
    """Columns of one node's pairs, as they grow."""

    states: list[str] = field(default_factory=list)
    peers: list[PeerReading | None] = field(default_factory=list)
    lasting: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    by_link: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    totals: defaultdict[int, Totals] = field(default_factory=lambda: defaultdict(Totals))

    def as_json(self) -> dict[str, Any]:
        peers = [peer or _NO_PEER for peer in self.peers]
        return {
            "state": _written(self.states),
            "handshake_age": _written([peer.handshake_age for peer in peers]),
            "rx": _written([peer.rx_bytes for peer in peers]),
            "tx": _written([peer.tx_bytes for peer in peers]),
            "for": self.lasting,
            "error": self.errors,
        }

    def ill(self, start: int, mine: End, theirs: Iterable[End]) -> Iterator[IllPair]:
        """Yield the pairs of one consumer, from a place on, that are not well."""
        for place, end in enumerate(theirs, start):
            if self.states[place] not in WELL:
                told = self.lasting.get(str(place)), self.errors.get(str(place))
                yield IllPair(self.states[place], mine.number, end.number, self.peers[place], *told)


class LinkPairs:
    """Pairs of all links, from one snapshot after the other.

    `update` looks at a snapshot; what stands in the other methods is about that one.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.plan = Plan()
        self._nodes: dict[str, _OfNode] = {}
        self._snapshot = Snapshot()
        self._views: Mapping[str, list[View]] = {}
        self._broken: Mapping[str, Mapping[str, float]] = {}
        self._silent: frozenset[str] = frozenset()

    def update(
        self,
        snapshot: Snapshot,
        graph: LinkGraph,
        stack: str | None,
        hostnames: Mapping[str, str],
        age: Age = lambda _revision: None,
    ) -> Mapping[str, str]:
        """Look at a snapshot from now on; returns what of it cannot be unpacked, by its key.

        Args:
            snapshot: with the nodes' records.
            graph: the index of the controller's.
            stack: only links with a side in it.
            hostnames: of nodes, by id, as far as they are known.
            age: returns how many seconds ago the store was at a revision; None where that is not known.
        """
        self._snapshot = snapshot
        self._silent = frozenset(endpoint.node for endpoint in graph.by_task.values() if endpoint.suspect)
        reports = {(report.node, report.task): report for report in snapshot.all(TaskReport)}
        if self.plan.graph is not graph or self.plan.facts != (stack, hostnames, reports):
            self.plan = _planned(graph, stack, hostnames, reports)
            self._nodes = {}
        self._views = _views(snapshot)
        self._broken = unanswered(snapshot, graph, age)
        statuses = {status.node: status for status in snapshot.all(Status)}
        self._nodes = {node: self._of_node(node, status) for node, status in statuses.items()}
        return {key: text for each in self._nodes.values() for key, text in each.malformed.items()}

    @property
    def refused(self) -> Refusals:
        """Packets that the tasks' rules have refused, by service."""
        packets: Refusals = Counter()
        for each in self._nodes.values():
            packets.update(each.refused)
        return packets

    def written(self, node: str) -> float | None:
        """Return when a node read its devices, by its clock; None where that is not known."""
        found = self._nodes.get(node)
        return found.written if found is not None else None

    def measured(self, form: str) -> Iterator[tuple[str, Measured]]:
        """Yield what was measured of each node's pairs, in the order of the plan's `by_node`.

        Args:
            form: `columns`, `totals`, or `states`: all else but the states and what is broken stays empty.
        """
        concerned = self._concerned()
        for node in self.plan.by_node:
            kept = self._nodes.get(node)
            version = (node in self._silent, concerned.get(node))
            if kept is None:
                yield node, self._measure(node, None, form)
                continue
            last = kept.measured.get(form)
            if last is None or last[0] != version:
                if kept.reading is None:
                    kept.reading = self._reading(node)[0]
                last = kept.measured[form] = version, self._measure(node, kept.reading, form)
            yield node, last[1]
        for each in self._nodes.values():
            each.reading = None

    def _of_node(self, node: str, status: Status) -> _OfNode:
        views = self._views.get(node, ())
        records, key = self._snapshot.records, keyspace.key_of
        # The generation is signed, and grows with each change; of the own node no record is what was read last.
        version: object = tuple((view.part, records[key(view)].generation) for view in views) or (status,)
        kept = self._nodes.get(node)
        if kept is not None and kept.version == version:
            return kept
        reading, malformed = device_readings.of_node(status, views)
        return _OfNode(version, reading.written, reading, self._refused_by(reading, node), malformed)

    def _refused_by(self, reading: NodeReading, node: str) -> Refusals:
        """Sum what the rules of a node's tasks have refused, by service."""
        packets: Refusals = Counter()
        by_task = self.plan.graph.by_task if self.plan.graph is not None else {}
        for device in reading.devices:
            own = by_task.get(device.task)
            if own is not None and own.node == node:
                for refused in device.refused:
                    packets[own.service, refused.service, refused.direction] += refused.packets
        return packets

    def _reading(self, node: str) -> tuple[NodeReading, Mapping[str, str]]:
        status = self._snapshot.get(keyspace.status(node), Status)
        if status is None:
            raise AssertionError(f"{node} has one, or would not be kept")
        return device_readings.of_node(status, self._views.get(node, ()))

    def _concerned(self) -> Mapping[str, tuple[tuple[str, str, float], ...]]:
        """Return what is broken of each node's pairs, as either end tells it."""
        found: defaultdict[str, list[tuple[str, str, float]]] = defaultdict(list)
        by_task = {end.task: end.node for end in self.plan.ends}
        by_key = {end.key: end.node for end in self.plan.ends}
        for task, peers in self._broken.items():
            for key, seconds in peers.items():
                for node in {by_task.get(task), by_key.get(key)} - {None}:
                    found[str(node)].append((task, key, seconds))
        return {node: tuple(sorted(told)) for node, told in found.items()}

    def _measure(self, node: str, reading: NodeReading | None, form: str) -> Measured:
        devices = {device.task: device.peers for device in reading.devices} if reading is not None else {}
        by_task: dict[str, dict[str, PeerReading]] = {}
        made = _Columns()
        for number, mine in self.plan.by_node[node]:
            start = len(made.states)
            if mine.task not in by_task:
                by_task[mine.task] = {peer.public_key: peer for peer in devices.get(mine.task, ())}
            theirs = [end for end in self.plan.links[number].providers if end is not mine]
            seen = list(map(by_task[mine.task].get, [end.key for end in theirs]))
            is_known = mine.task in devices and node not in self._silent
            if is_known and self._is_plain:
                made.states += map(_plain, seen)
            else:
                self._tell(made, mine, zip(theirs, seen, strict=True), is_known=is_known)
            made.by_link[number].update(made.states[start:])
            made.peers += seen
            if self.plan.has_errors:
                told = ((start + place, error_of(mine, end)) for place, end in enumerate(theirs))
                made.errors.update((str(place), error) for place, error in told if error is not None)
            if form == "totals":
                made.totals[number].count(seen)
                if not WELL.issuperset(made.states[start:]):
                    made.totals[number].name(made.ill(start, mine, theirs))
        columns = made.as_json() if form == "columns" else {}
        return Measured(dict(made.by_link), made.broken, columns, dict(made.totals))

    @property
    def _is_plain(self) -> bool:
        """Whether no end says of itself or of another that anything is wrong."""
        return not (self._broken or self.plan.has_unwired)

    def _tell(
        self, made: _Columns, mine: End, pairs: Iterable[tuple[End, PeerReading | None]], *, is_known: bool
    ) -> None:
        for theirs, peer in pairs:
            told, seconds = self._told(mine, theirs, peer, is_known=is_known)
            if seconds is not None:
                made.lasting[str(len(made.states))] = seconds
                made.broken.append((mine, theirs, seconds))
            made.states.append(told)

    def _told(self, mine: End, theirs: End, peer: PeerReading | None, *, is_known: bool) -> tuple[str, float | None]:
        """Name a pair's state, and the seconds for which it is broken, which either end may have seen."""
        if mine.is_unwired or theirs.is_unwired:
            return "unwired", None
        if not is_known:
            return "unknown", None
        if peer is None or (peer.handshake_age is None and (mine.report is None or theirs.report is None)):
            return "unwired", None  # such as while the image is pulled: peers are there as soon as the record is
        seen = (self._broken.get(mine.task, {}).get(theirs.key), self._broken.get(theirs.task, {}).get(mine.key))
        broken = max((seconds for seconds in seen if seconds is not None), default=None)
        return state(peer.handshake_age, broken), broken


def _planned(
    graph: LinkGraph, stack: str | None, hostnames: Mapping[str, str], reports: Mapping[_Task, TaskReport]
) -> Plan:
    plan = Plan(graph, (stack, dict(hostnames), reports))
    ends: dict[str, list[End]] = {}

    def ends_of(service: Service) -> list[End]:
        if service.id not in ends:
            made = [_end(service, each, hostnames, reports) for each in graph.endpoints.get(service.id, ())]
            for end in made:
                end.number = len(plan.ends)
                plan.ends.append(end)
            ends[service.id] = made
        return ends[service.id]

    for consumer in sorted(graph.services.values(), key=lambda service: service.name):
        for link in consumer.links:
            names = (consumer.name, shown(link.provider))
            if stack is not None and not any(name.startswith(f"{stack}_") for name in names):
                continue
            services = (graph.services[service_id] for service_id in graph.by_name.get(link.provider, ()))
            providers = [end for service in services for end in ends_of(service)]
            listed = Listed(consumer, link, ends_of(consumer), providers)
            for end in listed.consumers:
                plan.by_node.setdefault(end.node, []).append((len(plan.links), end))
            plan.links.append(listed)
    plan.has_unwired = any(end.is_unwired or end.report is None for end in plan.ends)
    plan.has_errors = any(end.report is not None and end.report.error for end in plan.ends)
    return plan


def _end(
    service: Service, endpoint: Endpoint, hostnames: Mapping[str, str], reports: Mapping[_Task, TaskReport]
) -> End:
    node, task = endpoint.node, endpoint.task
    host, report = hostnames.get(node, node), reports.get((node, task))
    # As Docker names it, but for a global service with its node's name where Docker has the id.
    name = f"{service.name}.{endpoint.slot or host}.{task}"
    is_unwired = report is not None and not report.wired
    return End(-1, task, name, node, host, str(endpoint.public_key), report, is_unwired)


def _views(snapshot: Snapshot) -> dict[str, list[View]]:
    found: defaultdict[str, list[View]] = defaultdict(list)
    for view in snapshot.all(View):
        found[view.node].append(view)
    return {node: sorted(views, key=lambda view: view.part) for node, views in found.items()}


def _written(column: list[Any]) -> msgspec.Raw:
    """Write a column as JSON, once for all questions."""
    return msgspec.Raw(msgspec.json.encode(column))


def _plain(peer: PeerReading | None) -> str:
    """Name the state of a pair where no end tells of anything wrong: as `state` does, without a call more."""
    if peer is None:
        return "unwired"
    age = peer.handshake_age
    return "connected" if age is not None and age < REJECT_AFTER_S else "idle"


def error_of(mine: End, theirs: End) -> str | None:
    """Return an error of either task, of one that is not wired first."""
    reports = [each for each in (mine.report, theirs.report) if each is not None and each.error]
    return min(reports, key=lambda each: each.wired).error if reports else None
