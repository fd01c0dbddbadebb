"""Link status for `docker linkwire ps`: every link with its pairs of tasks, as the nodes measured them. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.state.verified_state import generation
from agent.wireguard.peer_health import state
from mesh.diagnosis.steps import ago
from mesh.integrity.verification import verify_snapshot
from mesh.model import device_readings, keyspace
from mesh.model.device_readings import NodeReading, PeerReading
from mesh.model.labels import LinkLabel, key_name
from mesh.model.records import Endpoint, LinkKeyEpoch, Node, Service, Status, StoreSpace, TaskReport
from mesh.model.snapshot import Snapshot, unreadable
from mesh.topology.agreement import REFUSED, refusal_text, shown
from mesh.topology.ipam import twin
from mesh.topology.link_graph import LinkGraph, index

VERSION = 1
MIB = 1024**2

SILENT_AFTER_S = 8.0
"""Seconds without a sign of life after which the controller calls an agent silent (controller.trust.presence)."""

WRONG_CLOCK_S = 120.0
"""Seconds between two nodes' clocks that are a problem: a node's words may have waited for etcd for some of them."""

STARTING_S = 10.0
"""Seconds for which an error of a task that starts may pass: its namespace is not there yet, or its address."""

Refusals = Counter[tuple[str, str, str]]
"""(own service's id, the other's, direction) -> packets."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Knowledge of the node that describes the links, besides the store.

    Attributes:
        seen: the manifest of the highest generation that it has acted on, empty for none.
        hostnames: of nodes by id, also of those whose record is gone because their agent is silent.
        age: returns how many seconds ago the store was at a revision; None where that is not known.
        exact_age: likewise; None where it is not certain.
        verified: the controller's records that it acts on; None where the snapshot has them.
        held: reason, in words, for not acting on the store's present state; empty while it does.
    """

    seen: bytes = b""
    hostnames: Mapping[str, str] = field(default_factory=dict)
    age: Callable[[int], float | None] = lambda _revision: None
    exact_age: Callable[[int], float | None] = lambda _revision: None
    verified: Snapshot | None = None
    held: str = ""


def inspect(
    snapshot: Snapshot,
    now: float,
    stack: str | None = None,
    reader: Reader | None = None,
    graph: LinkGraph | None = None,
    *,
    counted: bool = False,
) -> dict[str, Any]:
    """Describe all links as one JSON document.

    Args:
        snapshot: everything under the root, or, where the reader has the controller's records, what nodes say.
        now: seconds since the epoch, for the age of what the nodes wrote.
        stack: only links with a side in this stack, and problems that name it.
        reader: who describes them.
        graph: the index of the snapshot, where there is one.
        counted: whether links have, in place of `pairs`, how many are in each state: `states`.
    """
    reader = reader or Reader()
    graph = graph or index(snapshot)
    controllers = snapshot if reader.verified is None else reader.verified
    readings, malformed = device_readings.readings(snapshot)
    if malformed:
        snapshot = replace(snapshot, invalid={**snapshot.invalid, **malformed}, trail=None)
    pairs_of = _Pairs(snapshot, graph, now, reader, readings)
    refused = _refused(readings, graph)
    links, broken = list[dict[str, Any]](), list[_Pair]()
    for consumer in sorted(graph.services.values(), key=lambda service: service.name):
        for link in consumer.links:
            provider = shown(link.provider)
            if stack is not None and not any(n.startswith(f"{stack}_") for n in (consumer.name, provider)):
                continue
            pairs = list(pairs_of(consumer, link.provider))
            broken += (pair for pair in pairs if pair[2] == "broken")
            states = Counter(pair[2] for pair in pairs)
            told = {"states": dict(sorted(states.items()))} if counted else {"pairs": list(map(_described, pairs))}
            key_of = key_name(consumer.name, replace(link, provider=provider))
            key = {
                "key": key_of,
                "epoch": _epoch(controllers, key_of),
                "allowed": not link.provider.startswith(REFUSED),
            }
            links.append({**_link(graph, refused, consumer, link), **key, **_tasks(graph, consumer, link), **told})
    named = re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(stack or '')}_")  # `shop_db`, but not `workshop_db`
    names = pairs_of.hostname
    problems = [*_distrusted(snapshot, reader, names), *_wrong_clocks(snapshot, now, reader, names)]
    unanswered = list(_unanswered(broken))
    problems += unanswered
    problems += [text for text in _problems(snapshot, graph, reader, names) if stack is None or named.search(text)]
    apart: Counter[str] = Counter()
    for (own, _, direction), packets in sorted(refused.items()):
        name = graph.services[own].name if own in graph.services else own
        if direction == "apart" and (stack is None or name.startswith(f"{stack}_")):
            apart[name] += packets
    stacks = sorted({service.name.partition("_")[0] for service in graph.services.values() if "_" in service.name})
    document = {"version": VERSION, "links": links, "apart": dict(apart), "problems": problems}
    errors = {_error_text(report, graph, names) for report in _errors(snapshot, reader) if not report.wired}
    return {**document, "unanswered": unanswered, "unwired": [p for p in problems if p in errors], "stacks": stacks}


def _epoch(snapshot: Snapshot, key: str) -> int | None:
    """Return the epoch of a link key that counts; None as long as no node needs one."""
    record = snapshot.get(keyspace.epoch(key), LinkKeyEpoch)
    return record.epoch if record else None


def signers(snapshot: Snapshot) -> list[str]:
    """List the ids of the keys that signed the controller's records; a key that is not there may be taken away."""
    written = (value for key, value in snapshot.records.items() if keyspace.writer(key) == "controller")
    return sorted({value.signer.hex() for value in written})


def _refused(readings: Mapping[str, NodeReading], graph: LinkGraph) -> Refusals:
    """Sum what the tasks' rules have refused, by service."""
    packets: Refusals = Counter()
    for node, reading in readings.items():
        for device in reading.devices:
            own = graph.by_task.get(device.task)
            if own is not None and own.node == node:
                for refused in device.refused:
                    packets[own.service, refused.service, refused.direction] += refused.packets
    return packets


def _link(graph: LinkGraph, refused: Refusals, consumer: Service, link: LinkLabel) -> dict[str, Any]:
    """Describe a link as a whole."""
    ids = graph.by_name.get(link.provider, ())
    provider = graph.services[ids[0]] if ids else None
    vip = graph.vips.get(provider.id) if provider else None
    dnsrr = provider is not None and provider.dnsrr  # its names have no IPv6
    ports = graph.ports(consumer, provider) if provider else link.ports
    open_ports = "all" if ports is None else ", ".join(map(str, ports))
    others = [service for service in ids if service != consumer.id]  # of a service linked to itself there is one end
    return {
        "consumer": consumer.name,
        "provider": shown(link.provider),
        "aliases": list(link.aliases),
        "vip": str(vip) if vip else None,
        "vip6": str(twin(graph.cluster.subnet6, vip)) if vip and graph.cluster and not dnsrr else None,
        "ports": open_ports or ("none" if provider else None),
        "refused": {
            "consumer": {way: sum(refused[consumer.id, service, way] for service in ids) for way in ("in", "out")},
            "provider": {way: sum(refused[service, consumer.id, way] for service in others) for way in ("in", "out")},
        },
    }


def _tasks(graph: LinkGraph, consumer: Service, link: LinkLabel) -> dict[str, int]:
    """Count the consumer's tasks, and the provider's that take new connections."""
    providers = graph.by_name.get(link.provider, ())
    ready = sum(end.ready for service in providers for end in graph.endpoints.get(service, ()))
    return {"consumers": len(graph.endpoints.get(consumer.id, ())), "ready": ready}


@dataclass(slots=True)
class _End:
    """A task as an end of pairs, with all that does not differ between its pairs."""

    task: str
    name: str
    node: str
    """The name of its node."""
    key: str
    report: TaskReport | None
    is_unwired: bool
    peers: Mapping[str, PeerReading] | None
    """By public key; None where its device was not read."""
    is_unknown: bool
    silent_for: float | None
    broken: Mapping[str, float]
    """Seconds by public key."""
    as_of: float | None


_Pair = tuple[_End, _End, str, float | None, PeerReading | None]
"""Consumer's and provider's end, state, seconds for which it is so, the provider as read at the consumer's device."""


class _Pairs:
    """Pairs of tasks of the links of one snapshot, with the readings of both ends found once."""

    def __init__(
        self,
        snapshot: Snapshot,
        graph: LinkGraph,
        now: float,
        reader: Reader,
        readings: Mapping[str, NodeReading],
    ) -> None:
        self._snapshot = snapshot
        self._graph = graph
        self._now = now
        self._reader = reader
        self._written = {node: reading.written for node, reading in readings.items()}
        self._devices = {
            (node, device.task): device for node, reading in readings.items() for device in reading.devices
        }
        self._broken: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._ends: dict[str, _End] = {}
        for status in snapshot.all(Status):
            for broken in status.broken:
                owner = graph.by_task.get(broken.task)
                if owner is not None and owner.node == status.node:
                    self._broken[broken.task].update((str(key), broken.seconds) for key in broken.peers)
        records = snapshot if reader.verified is None else reader.verified
        suspects = (endpoint for endpoint in graph.by_task.values() if endpoint.suspect)
        self._silent = {each.node: reader.age(records.revision_of(keyspace.key_of(each))) for each in suspects}

    def __call__(self, consumer: Service, provider: str) -> Iterator[_Pair]:
        services = (self._graph.services[service_id] for service_id in self._graph.by_name.get(provider, ()))
        providers = [end for service in services for end in self._of(service)]
        for mine in self._of(consumer):
            for theirs in providers:
                if theirs is not mine:
                    yield (mine, theirs, *_measured(mine, theirs))

    def hostname(self, node: str) -> str:
        """Return a node's name; its id only where nobody ever said it."""
        record = self._snapshot.get(keyspace.node(node), Node)
        return record.hostname if record else self._reader.hostnames.get(node, node)

    def _of(self, service: Service) -> list[_End]:
        return [self._end(service, endpoint) for endpoint in self._graph.endpoints.get(service.id, ())]

    def _end(self, service: Service, endpoint: Endpoint) -> _End:
        found = self._ends.get(endpoint.task)
        if found is None:
            found = self._ends[endpoint.task] = self._made(service, endpoint)
        return found

    def _made(self, service: Service, endpoint: Endpoint) -> _End:
        node, task = endpoint.node, endpoint.task
        hostname, device, written = self.hostname(node), self._devices.get((node, task)), self._written.get(node)
        report = self._snapshot.get(keyspace.report(node, task), TaskReport)
        since = self._silent.get(node)
        return _End(
            task=task,
            # As Docker names it, but for a global service with its node's name where Docker has the id.
            name=f"{service.name}.{endpoint.slot or hostname}.{task}",
            node=hostname,
            key=str(endpoint.public_key),
            report=report,
            is_unwired=report is not None and not report.wired,
            peers={peer.public_key: peer for peer in device.peers} if device is not None else None,
            is_unknown=device is None or node in self._silent,
            silent_for=None if since is None else round(since + SILENT_AFTER_S, 1),
            broken=self._broken.get(task, {}),
            as_of=None if written is None else round(max(0.0, self._now - written), 1),
        )


def _measured(mine: _End, theirs: _End) -> tuple[str, float | None, PeerReading | None]:
    """Describe a connection, as it was read at the consumer's device; a break may be seen at either end."""
    peer = mine.peers.get(theirs.key) if mine.peers else None
    if mine.is_unwired or theirs.is_unwired:
        return "unwired", None, peer
    if mine.is_unknown:
        return "unknown", mine.silent_for, peer
    if peer is None:
        return "unwired", None, None
    broken: float | None = None
    if mine.broken or theirs.broken:
        seen = (mine.broken.get(theirs.key), theirs.broken.get(mine.key))
        broken = max((seconds for seconds in seen if seconds is not None), default=None)
    return state(peer.handshake_age, broken), broken, peer


def _described(pair: _Pair) -> dict[str, Any]:
    """Describe a pair as a JSON object."""
    mine, theirs, told, lasts, peer = pair
    return {
        "consumer_task": mine.name,
        "consumer_node": mine.node,
        "provider_task": theirs.name,
        "provider_node": theirs.node,
        "state": told,
        "for": lasts,
        "handshake_age": peer.handshake_age if peer else None,
        "rx": peer.rx_bytes if peer else 0,
        "tx": peer.tx_bytes if peer else 0,
        "error": _error(mine, theirs),
        "as_of": mine.as_of,
    }


def _error(mine: _End, theirs: _End) -> str | None:
    """Return an error of either task, of one that is not wired first."""
    reports = [each for each in (mine.report, theirs.report) if each is not None and each.error]
    return min(reports, key=lambda each: each.wired).error if reports else None


def _unanswered(pairs: Iterable[_Pair]) -> Iterator[str]:
    """Name the pairs of nodes between which packets of links get no answer, of broken pairs of tasks."""
    broken: defaultdict[tuple[str, str], list[_Pair]] = defaultdict(list)
    for pair in pairs:
        broken[pair[0].node, pair[1].node].append(pair)
    for (here, there), between in sorted(broken.items()):
        (mine, theirs, *_), seconds = between[0], max(lasts or 0.0 for _, _, _, lasts, _ in between)
        others = f" (and {len(between) - 1} more)" if between[1:] else ""
        yield (
            f"{mine.name} on node {here} gets no answer from {theirs.name} on node {there} "
            f"for {seconds:.0f} s{others}: see that firewalls let UDP 51820-53819 pass between these nodes, both "
            "ways, and that both are up"
        )


def _distrusted(snapshot: Snapshot, reader: Reader, hostname: Callable[[str], str]) -> Iterator[str]:
    """Name problems of the store and nodes that do not act on it, whatever the stack."""
    problem = reader.held
    if reader.verified is None:
        problem = verify_snapshot(snapshot, generation(reader.seen), reader.seen).problem
    if problem:
        yield f"store: {problem}"
    space = snapshot.get(keyspace.SPACE, StoreSpace)
    if space is not None and space.short:
        yield (
            f"store: etcd is short of space, {space.in_use // MIB} MiB of {space.quota // MIB} MiB are in use. When "
            "it is full nothing new is wired: find out who writes so much, or give it more: docker service update "
            f"--env-add LINKWIRE_ETCD_QUOTA={2 * space.quota} linkwire_etcd"
        )
    for node in space.barred if space is not None else ():
        yield (
            f"node {hostname(node)} filled etcd and may not write to it for an hour: nothing new is wired "
            "there. Find out what its agent's Swarm certificate is used for, or remove the node"
        )
    for status in sorted(snapshot.all(Status), key=lambda s: s.node):
        if status.unwritten:
            yield f"node {hostname(status.node)} cannot write all that it has to say: {status.unwritten}"
        if status.held:
            yield f"node {hostname(status.node)} keeps what it last verified: {status.held}"


def is_lasting(snapshot: Snapshot, reader: Reader, report: TaskReport) -> bool:
    """Tell whether a task has its error for longer than it takes to start: before, it is none to alarm anybody."""
    age = reader.age(snapshot.revision_of(keyspace.key_of(report)))
    return age is None or age >= STARTING_S


def _wrong_clocks(snapshot: Snapshot, now: float, reader: Reader, hostname: Callable[[str], str]) -> Iterator[str]:
    """Name the nodes whose clocks differ from this one's, by when the store had what they wrote."""
    for status in sorted(snapshot.all(Status), key=lambda s: s.node):
        age = reader.exact_age(snapshot.revision_of(keyspace.status(status.node)))
        off = status.written + age - now if age is not None else 0.0
        if abs(off) > WRONG_CLOCK_S:
            name, way = hostname(status.node), "ahead of" if off > 0 else "behind"
            yield (
                f"node {name}: its clock is {ago(abs(off))} {way} that of the node that was asked; certificates and "
                f"new handshakes depend on it: on {name}, timedatectl set-ntp true"
            )


def _problems(snapshot: Snapshot, graph: LinkGraph, reader: Reader, hostname: Callable[[str], str]) -> Iterator[str]:
    yield from unreadable(snapshot.invalid)
    yield from graph.problems
    for service in sorted(graph.services.values(), key=lambda s: s.name):
        for link in service.links:
            if link.provider.startswith(REFUSED):
                yield refusal_text(service.name, shown(link.provider))
            elif link.provider not in graph.by_name:
                yield f"service {service.name}: links to {shown(link.provider)}, which does not exist (yet)"
    suspects = [e for e in graph.by_task.values() if e.suspect and e.service in graph.services]
    for node in sorted({endpoint.node for endpoint in suspects}):
        services = sorted({graph.services[e.service].name for e in suspects if e.node == node})
        where = hostname(node)
        yield f"node {where}: its agent is silent; its tasks of {', '.join(services)} are used where they answer"
    for report in _errors(snapshot, reader):
        yield _error_text(report, graph, hostname)


def _errors(snapshot: Snapshot, reader: Reader) -> Iterator[TaskReport]:
    for report in sorted(snapshot.all(TaskReport), key=lambda r: (r.task, r.node)):
        if report.error and report.state != "gone" and is_lasting(snapshot, reader, report):
            yield report


def _error_text(report: TaskReport, graph: LinkGraph, hostname: Callable[[str], str]) -> str:
    owner = graph.services.get(report.service)
    name = f"{owner.name} task {report.task}" if owner else f"task {report.task}"
    return f"{name} on {hostname(report.node)}: {report.error}"
