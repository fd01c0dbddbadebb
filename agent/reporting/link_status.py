"""Link status for `docker linkwire ps`: every link with its pairs of tasks, as the nodes measured them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agent.interface.diff import REJECT_AFTER_S
from agent.state.verified_state import generation
from mesh.crypto.keys import PublicKey
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.labels import LinkLabel, key_name
from mesh.model.records import Endpoint, LinkKeyEpoch, Node, PeerStatus, Service, Status, StoreSpace, TaskReport
from mesh.model.snapshot import Snapshot, unreadable
from mesh.topology.agreement import REFUSED, refusal_text, shown
from mesh.topology.ipam import twin
from mesh.topology.link_graph import LinkGraph, index

VERSION = 1
MIB = 1024**2

Refusals = Counter[tuple[str, str, str]]
"""(own service's id, the other's, direction) -> packets."""


def inspect(snapshot: Snapshot, now: float, stack: str | None = None, seen: bytes = b"") -> dict[str, Any]:
    """Describe all links as one JSON document.

    Args:
        snapshot: everything under the root.
        now: seconds since the epoch, for the age of what the nodes wrote.
        stack: only links with a side in this stack, and problems that name it.
        seen: the manifest of the highest generation that this node has acted on, empty for none.
    """
    graph = index(snapshot)
    refused = _refused(snapshot, graph)
    links = []
    for consumer in sorted(graph.services.values(), key=lambda service: service.name):
        for link in consumer.links:
            provider = shown(link.provider)
            if stack is not None and not any(n.startswith(f"{stack}_") for n in (consumer.name, provider)):
                continue
            pairs = list(_pairs(snapshot, graph, consumer, link.provider, now))
            key_of = key_name(consumer.name, replace(link, provider=provider))
            key = {"key": key_of, "epoch": _epoch(snapshot, key_of), "allowed": not link.provider.startswith(REFUSED)}
            links.append({**_link(graph, refused, consumer, link), **key, "pairs": pairs})
    named = re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(stack or '')}_")  # `shop_db`, but not `workshop_db`
    problems = list(_distrusted(snapshot, seen))
    problems += [text for text in _problems(snapshot, graph) if stack is None or named.search(text)]
    apart: Counter[str] = Counter()
    for (own, _, direction), packets in sorted(refused.items()):
        name = graph.services[own].name if own in graph.services else own
        if direction == "apart" and (stack is None or name.startswith(f"{stack}_")):
            apart[name] += packets
    return {"version": VERSION, "links": links, "apart": dict(apart), "problems": problems}


def _epoch(snapshot: Snapshot, key: str) -> int | None:
    """Return the epoch of a link key that counts; None as long as no node needs one."""
    record = snapshot.get(keyspace.epoch(key), LinkKeyEpoch)
    return record.epoch if record else None


def signers(snapshot: Snapshot) -> list[str]:
    """List the ids of the keys that signed the controller's records; a key that is not there may be taken away."""
    written = (value for key, value in snapshot.records.items() if keyspace.writer(key) == "controller")
    return sorted({value.signer.hex() for value in written})


def _refused(snapshot: Snapshot, graph: LinkGraph) -> Refusals:
    """Sum what the tasks' rules have refused, by service."""
    packets: Refusals = Counter()
    for status in snapshot.all(Status):
        for device in status.devices:
            own = graph.by_task.get(device.task)
            if own is not None and own.node == status.node:
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


def _pairs(
    snapshot: Snapshot, graph: LinkGraph, consumer: Service, provider: str, now: float
) -> Iterator[dict[str, Any]]:
    providers = [graph.services[service_id] for service_id in graph.by_name.get(provider, ())]
    for mine in graph.endpoints.get(consumer.id, ()):
        report = snapshot.get(keyspace.report(mine.node, mine.task), TaskReport)
        status = snapshot.get(keyspace.status(mine.node), Status)
        device = next((d for d in status.devices if d.task == mine.task), None) if status else None
        measured = {peer.public_key: peer for peer in device.peers} if device else None
        for service in providers:
            for theirs in graph.endpoints.get(service.id, ()):
                if theirs.task != mine.task:
                    yield {
                        "consumer_task": _task_name(consumer, mine),
                        "consumer_node": _hostname(snapshot, mine.node),
                        "provider_task": _task_name(service, theirs),
                        "provider_node": _hostname(snapshot, theirs.node),
                        **_measured(report, measured, theirs),
                        "error": report.error if report else None,
                        "as_of": round(max(0.0, now - status.written), 1) if status else None,
                    }


def _measured(
    report: TaskReport | None, peers: dict[PublicKey, PeerStatus] | None, theirs: Endpoint
) -> dict[str, Any]:
    """Describe the connection to one peer; `peers` is None where no device was read."""
    peer = peers.get(theirs.public_key) if peers else None
    age = peer.handshake_age if peer else None
    if report is not None and not report.wired:
        state = "unwired"
    elif peers is None:
        state = "unknown"
    elif peer is None or age is None:
        state = "no-handshake"
    else:
        state = "connected" if age < REJECT_AFTER_S else "stale"
    return {
        "state": state,
        "handshake_age": age,
        "rx": peer.rx_bytes if peer else 0,
        "tx": peer.tx_bytes if peer else 0,
    }


def _task_name(service: Service, endpoint: Endpoint) -> str:
    """Name a task as Docker does: the slot, or for a global service the node id, between service and task."""
    return f"{service.name}.{endpoint.slot or endpoint.node}.{endpoint.task}"


def _hostname(snapshot: Snapshot, node: str) -> str:
    record = snapshot.get(keyspace.node(node), Node)
    return record.hostname if record else node


def _distrusted(snapshot: Snapshot, seen: bytes) -> Iterator[str]:
    """Name problems of the store and nodes that do not act on it, whatever the stack."""
    verdict = verify_snapshot(snapshot, generation(seen), seen)
    if not verdict.verified:
        yield f"store: {verdict.problem}"
    space = snapshot.get(keyspace.SPACE, StoreSpace)
    if space is not None and space.short:
        yield (
            f"store: etcd is short of space, {space.in_use // MIB} MiB of {space.quota // MIB} MiB are in use. When "
            "it is full nothing new is wired: find out who writes so much, or give it more: docker service update "
            f"--env-add LINKWIRE_ETCD_QUOTA={2 * space.quota} linkwire_etcd"
        )
    for node in space.barred if space is not None else ():
        yield (
            f"node {_hostname(snapshot, node)} filled etcd and may not write to it for an hour: nothing new is wired "
            "there. Find out what its agent's Swarm certificate is used for, or remove the node"
        )
    for status in sorted(snapshot.all(Status), key=lambda s: s.node):
        if status.unwritten:
            yield f"node {_hostname(snapshot, status.node)} cannot write all that it has to say: {status.unwritten}"
        if status.held:
            yield f"node {_hostname(snapshot, status.node)} keeps what it last verified: {status.held}"


def _problems(snapshot: Snapshot, graph: LinkGraph) -> Iterator[str]:
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
        where = _hostname(snapshot, node)
        yield f"node {where}: its agent is silent; its tasks of {', '.join(services)} are used where they answer"
    for report in sorted(snapshot.all(TaskReport), key=lambda r: (r.task, r.node)):
        if report.error and report.state != "gone":
            owner = graph.services.get(report.service)
            name = f"{owner.name} task {report.task}" if owner else f"task {report.task}"
            yield f"{name} on {_hostname(snapshot, report.node)}: {report.error}"
