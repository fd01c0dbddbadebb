"""Link status for `docker linkwire ps`: every link with its pairs of tasks, as the nodes measured them. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from agent.state.verified_state import generation
from agent.status import link_totals
from agent.status.link_pairs import Broken, LinkPairs, Listed, Measured, Plan, Refusals
from agent.status.link_totals import IllPair
from mesh.diagnosis.steps import ago, is_lasting
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.labels.absent_services import absent_text
from mesh.model.labels.link_labels import key_name
from mesh.model.pair_columns import with_pairs
from mesh.model.records import LinkKeyEpoch, Node, Status, StoreSpace, TaskReport
from mesh.model.snapshot import Snapshot, unreadable
from mesh.topology.agreed_links import REFUSED, refusal_text, shown
from mesh.topology.ipam import twin
from mesh.topology.link_graph import LinkGraph, index

VERSION = 1
MIB = 1024**2

SILENT_AFTER_S = 8.0
"""Seconds without a sign of life after which the controller calls an agent silent (controller.trust.presence)."""

WRONG_CLOCK_S = 120.0
"""Seconds between two nodes' clocks that are a problem: a node's words may have waited for etcd for some of them."""

PairsForm = Literal["objects", "columns", "totals", "states"]


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
    form: PairsForm = "objects",
    pairs: LinkPairs | None = None,
) -> dict[str, Any]:
    """Describe all links as one JSON document.

    Args:
        snapshot: everything under the root, or, where the reader has the controller's records, what nodes say.
        now: seconds since the epoch, for the age of what the nodes wrote.
        stack: only links with a side in this stack, and problems that name it.
        reader: who describes them.
        graph: the index of the snapshot, where there is one.
        form: of links' pairs: each an object, in columns (mesh.model.pair_columns), what they come to and the worst
            of them, or how many are in which state.
        pairs: those of an earlier snapshot, of which is kept what has not changed.
    """
    reader = reader or Reader()
    graph = graph or index(snapshot)
    controllers = snapshot if reader.verified is None else reader.verified
    hostnames = {**reader.hostnames, **{node.id: node.hostname for node in snapshot.all(Node)}}
    pairs = pairs or LinkPairs()
    malformed = pairs.update(snapshot, graph, stack, hostnames, reader.age)
    if malformed:
        snapshot = replace(snapshot, invalid={**snapshot.invalid, **malformed}, trail=None)
    refused, measured = pairs.refused, dict(pairs.measured("columns" if form == "objects" else form))
    links = [_link(graph, controllers, refused, listed) for listed in pairs.plan.links]
    if form in ("states", "totals"):
        for link, states in zip(links, _counted(len(links), measured.values()), strict=True):
            link["states"] = dict(sorted(states.items()))
    named = re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(stack or '')}_")  # `shop_db`, but not `workshop_db`

    def names(node: str) -> str:
        """Return a node's name; its id only where nobody ever said it."""
        return hostnames.get(node, node)

    problems = [*_distrusted(snapshot, reader, names), *_wrong_clocks(snapshot, now, reader, names)]
    unanswered = list(_unanswered(pair for each in measured.values() for pair in each.broken))
    problems += unanswered
    graphs = (*unreadable(snapshot.invalid), *graph.problems, *_odd_links(controllers, graph, reader))
    problems += [
        text for text in (*graphs, *_problems(snapshot, graph, reader, names)) if stack is None or named.search(text)
    ]
    apart: Counter[str] = Counter()
    for (own, _, direction), packets in sorted(refused.items()):
        name = graph.services[own].name if own in graph.services else own
        if direction == "apart" and (stack is None or name.startswith(f"{stack}_")):
            apart[name] += packets
    stacks = sorted({service.name.partition("_")[0] for service in graph.services.values() if "_" in service.name})
    document = {"version": VERSION, "links": links, "apart": dict(apart), "problems": problems}
    errors = {_error_text(report, graph, names) for report in _errors(snapshot, reader) if not report.wired}
    document |= {"unanswered": unanswered, "unwired": [p for p in problems if p in errors], "stacks": stacks}
    if form == "states":
        return document
    silent = _silent(graph, controllers, reader)
    as_of = {node: _as_of(pairs.written(node), now) for node in measured}
    if form == "totals":
        _add_totals(links, pairs.plan, measured, silent, as_of)
        return document
    for link, listed in zip(links, pairs.plan.links, strict=True):
        link.update(_ended(listed))
    told = [{**each.columns, "silent_for": silent.get(node), "as_of": as_of[node]} for node, each in measured.items()]
    document |= _ends(pairs.plan, tuple(measured)) | {"measured": told}
    return with_pairs(_opened(document)) if form == "objects" else document


def _counted(links: int, measured: Iterable[Measured]) -> list[Counter[str]]:
    """Return how many pairs of each link are in each state, by the link's place in the plan."""
    counted: list[Counter[str]] = [Counter() for _ in range(links)]
    for each in measured:
        for number, states in each.states.items():
            counted[number].update(states)
    return counted


def _add_totals(
    links: Iterable[dict[str, Any]],
    plan: Plan,
    measured: Mapping[str, Measured],
    silent: Mapping[str, float | None],
    as_of: Mapping[str, float | None],
) -> None:
    """Add to each link what its pairs come to (`totals`), and the worst of them where any is not well (`worst`)."""
    totals = link_totals.joined(len(plan.links), [each.totals for each in measured.values()])
    for link, one, pairs in zip(links, totals, link_totals.named(totals), strict=True):
        link["totals"] = one.described()
        link["worst"] = [_ill(plan, pair, silent, as_of) for pair in pairs]


def _ill(
    plan: Plan, pair: IllPair, silent: Mapping[str, float | None], as_of: Mapping[str, float | None]
) -> dict[str, Any]:
    """Describe a pair as `with_pairs` does."""
    mine, theirs, peer = plan.ends[pair.consumer], plan.ends[pair.provider], pair.peer
    return {
        "consumer_task": mine.name,
        "consumer_node": mine.host,
        "provider_task": theirs.name,
        "provider_node": theirs.host,
        "state": pair.state,
        "for": silent.get(mine.node) if pair.state == "unknown" else pair.lasting,
        "handshake_age": peer.handshake_age if peer is not None else None,
        "rx": peer.rx_bytes if peer is not None else 0,
        "tx": peer.tx_bytes if peer is not None else 0,
        "error": pair.error,
        "as_of": as_of[mine.node],
    }


def _opened(document: dict[str, Any]) -> dict[str, Any]:
    """Read the columns again, which were written as JSON."""
    opened: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document["measured"]))
    return {**document, "measured": opened}


def _as_of(written: float | None, now: float) -> float | None:
    return None if written is None else round(max(0.0, now - written), 1)


def _silent(graph: LinkGraph, controllers: Snapshot, reader: Reader) -> dict[str, float | None]:
    """Return the nodes whose agents are silent, and for how many seconds they are, where that is known."""
    found: dict[str, float | None] = {}
    for endpoint in graph.by_task.values():
        if endpoint.suspect:
            since = reader.age(controllers.revision_of(keyspace.key_of(endpoint)))
            found[endpoint.node] = None if since is None else round(since + SILENT_AFTER_S, 1)
    return found


def _ends(plan: Plan, nodes: Sequence[str]) -> dict[str, Any]:
    """Describe tasks as one JSON object of columns (mesh.model.pair_columns)."""
    places = {node: place for place, node in enumerate(nodes)}
    return {
        "ends": {
            "task": [end.name for end in plan.ends],
            "node": [end.host for end in plan.ends],
            "at": [places.get(end.node) for end in plan.ends],
        }
    }


def _epoch(snapshot: Snapshot, key: str) -> int | None:
    """Return the epoch of a link key that counts; None as long as no node needs one."""
    record = snapshot.get(keyspace.epoch(key), LinkKeyEpoch)
    return record.epoch if record else None


def signers(snapshot: Snapshot) -> list[str]:
    """List the ids of the keys that signed the controller's records; a key that is not there may be taken away."""
    written = (value for key, value in snapshot.records.items() if keyspace.writer(key) == "controller")
    return sorted({value.signer.hex() for value in written})


def _link(graph: LinkGraph, controllers: Snapshot, refused: Refusals, listed: Listed) -> dict[str, Any]:
    """Describe a link as a whole."""
    if not listed.described:
        listed.described.update(_described(graph, listed))
    own = listed.consumer.id
    ids = graph.by_name.get(listed.link.provider, ())
    others = [service for service in ids if service != own]  # of a service linked to itself there is one end
    packets = {
        "consumer": {way: sum(refused[own, service, way] for service in ids) for way in ("in", "out")},
        "provider": {way: sum(refused[service, own, way] for service in others) for way in ("in", "out")},
    }
    told = {"refused": _bounded(packets), "epoch": _epoch(controllers, listed.described["key"])}
    return {**listed.described, **_tasks(graph, listed), **told}


def _bounded(packets: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return sums of counters that a reader takes, whatever nodes say."""
    return {end: {way: min(count, 2**62) for way, count in ways.items()} for end, ways in packets.items()}


def _tasks(graph: LinkGraph, listed: Listed) -> dict[str, int]:
    """Count the consumer's tasks, and the provider's that take new connections."""
    providers = graph.by_name.get(listed.link.provider, ())
    ready = sum(end.ready for service in providers for end in graph.endpoints.get(service, ()))
    return {"consumers": len(graph.endpoints.get(listed.consumer.id, ())), "ready": ready}


def _described(graph: LinkGraph, listed: Listed) -> dict[str, Any]:
    """Describe of a link what the controller's records say."""
    consumer, link = listed.consumer, listed.link
    ids = graph.by_name.get(link.provider, ())
    provider = graph.services[ids[0]] if ids else None
    vip = graph.vips.get(provider.id) if provider else None
    dnsrr = provider is not None and provider.dnsrr  # its names have no IPv6
    ports = graph.ports(consumer, provider) if provider else link.ports
    open_ports = "all" if ports is None else ", ".join(map(str, ports))
    return {
        "consumer": consumer.name,
        "provider": shown(link.provider),
        "aliases": list(link.aliases),
        "vip": str(vip) if vip else None,
        "vip6": str(twin(graph.cluster.subnet6, vip)) if vip and graph.cluster and not dnsrr else None,
        "ports": open_ports or ("none" if provider else None),
        "key": key_name(consumer.name, replace(link, provider=shown(link.provider))),
        "allowed": not link.provider.startswith(REFUSED),
    }


def _ended(listed: Listed) -> dict[str, Any]:
    """Return the places of a link's ends."""
    return {
        "consumer_ends": [end.number for end in listed.consumers],
        "provider_ends": [end.number for end in listed.providers],
    }


def _unanswered(pairs: Iterable[Broken]) -> Iterator[str]:
    """Name the pairs of nodes between which packets of links get no answer, of broken pairs of tasks."""
    broken: defaultdict[tuple[str, str], list[Broken]] = defaultdict(list)
    for pair in pairs:
        broken[pair[0].host, pair[1].host].append(pair)
    for (here, there), between in sorted(broken.items()):
        (mine, theirs, _), seconds = between[0], max(lasts for _, _, lasts in between)
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


def has_lasting_error(snapshot: Snapshot, reader: Reader, report: TaskReport) -> bool:
    """Tell whether a task has its error for longer than it takes to start: before, it is none to alarm anybody."""
    return is_lasting(reader.age(snapshot.revision_of(keyspace.key_of(report))))


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


def _odd_links(controllers: Snapshot, graph: LinkGraph, reader: Reader) -> Iterator[str]:
    """Name links that lead nowhere; a provider may be deployed a moment after its consumer."""
    for service in sorted(graph.services.values(), key=lambda s: s.name):
        age = reader.age(controllers.revision_of(keyspace.service(service.id)))
        for link in service.links:
            if link.provider.startswith(REFUSED):
                yield refusal_text(service.name, shown(link.provider))
            elif link.provider not in graph.by_name and is_lasting(age):
                yield absent_text(service.name, shown(link.provider))


def _problems(snapshot: Snapshot, graph: LinkGraph, reader: Reader, hostname: Callable[[str], str]) -> Iterator[str]:
    suspects = [e for e in graph.by_task.values() if e.suspect and e.service in graph.services]
    for node in sorted({endpoint.node for endpoint in suspects}):
        services = sorted({graph.services[e.service].name for e in suspects if e.node == node})
        where = hostname(node)
        yield f"node {where}: its agent is silent; its tasks of {', '.join(services)} are used where they answer"
    for report in _errors(snapshot, reader):
        yield _error_text(report, graph, hostname)


def _errors(snapshot: Snapshot, reader: Reader) -> Iterator[TaskReport]:
    for report in sorted(snapshot.all(TaskReport), key=lambda r: (r.task, r.node)):
        if report.error and report.state != "gone" and has_lasting_error(snapshot, reader, report):
            yield report


def _error_text(report: TaskReport, graph: LinkGraph, hostname: Callable[[str], str]) -> str:
    owner = graph.services.get(report.service)
    name = f"{owner.name} task {report.task}" if owner else f"task {report.task}"
    return f"{name} on {hostname(report.node)}: {report.error}"
