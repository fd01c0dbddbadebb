"""Events that a transaction means: its operations, held against the records as they were. Pure.

So an event is whatever the controller writes, however it came to the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controller.swarm.model import Swarm
from mesh.model import keyspace
from mesh.model.audit.page import Event, Stream
from mesh.model.encryption.records import EncryptionWanted, NodeEncryption, Underlay
from mesh.model.labels.durations import format_duration
from mesh.model.labels.link_labels import LinkLabel, key_name
from mesh.model.labels.ports import PortRange
from mesh.model.records import Access, Endpoint, LinkKeyEpoch, Member, Node, Recall, Record, Service
from mesh.model.snapshot import Delete, Op, Put, Snapshot
from mesh.model.vault.records import Vault
from mesh.topology.agreed_links import REFUSED, hidden, shown

MAX_LINKS = 50
"""Links of one service that are told one by one in a transaction: no deploy pushes many older events out."""

Recorded = tuple[Stream, Event]


@dataclass(frozen=True, slots=True)
class View:
    """Everything that events are told from.

    Attributes:
        stored: the records as they were signed, before the transaction.
        swarm: complete lists, for names and for where a change comes from.
        mends: whether the transaction only puts back what was signed.
    """

    stored: Snapshot
    swarm: Swarm
    mends: bool = False


def events(ops: Iterable[Op], view: View) -> Iterator[Recorded]:
    """Yield the events of a transaction, in the order of its operations."""
    for op in ops:
        if not isinstance(op, Put | Delete):
            continue
        if view.mends:
            yield "decisions", Event.of("record restored", key=op.key)
            continue
        versioned = view.stored.records.get(op.key)
        before = versioned.record if versioned is not None else None
        after = op.record if isinstance(op, Put) else None
        if after != before:
            yield from _changed(before, after, view)


def _changed(before: Record | None, after: Record | None, view: View) -> Iterator[Recorded]:
    match after or before:
        case Service():
            was, now = (one if isinstance(one, Service) else None for one in (before, after))
            yield from (("decisions", event) for event in _service(was, now, view))
        case Endpoint():
            earlier, later = (one if isinstance(one, Endpoint) else None for one in (before, after))
            yield from (("routine", event) for event in _endpoint(earlier, later, view))
        case LinkKeyEpoch() as epoch:
            kind = _verb(before, after, "link key begun", "link key renewed", "link key dropped")
            yield "routine", Event.of(kind, key=epoch.key, epoch=epoch.epoch)
        case Member() as member:
            kind = _verb(before, after, "node accepted", "node keys replaced", "node forgotten")
            yield "decisions", Event.of(kind, **_node(member, view))
        case Access():
            yield from (("decisions", event) for event in _revocations(_revoked(before), _revoked(after), view.swarm))
        case Vault() as vault:
            kind = _verb(before, after, "vault begun", "vault changed", "vault gone")
            yield "decisions", Event.of(kind, id=vault.id)
        case EncryptionWanted() | NodeEncryption() | Underlay():
            yield from (("decisions", event) for event in _encryption(before, after, view))
        case Recall() as recall:
            kind = "restore ended" if after is None else "restore begun"
            yield "decisions", Event.of(kind, node=recall.node)
        case _:
            pass


def _encryption(before: Record | None, after: Record | None, view: View) -> Iterator[Event]:
    """Tell of node encryption; of a rotation of the nodes' keys with the nodes that had it begin by their clocks."""
    match after or before:
        case EncryptionWanted(epoch=epoch):
            if isinstance(before, EncryptionWanted) and before.epoch != epoch:
                spent = (node.id for node in view.stored.all(Node) if node.encryption_spent == before.epoch)
                names = ",".join(sorted(_hostname(name, view.swarm) for name in spent))
                yield Event.of("node keys requested", epoch=epoch, clocks_went_back=names)
        case NodeEncryption() as encryption:
            kind = _verb(before, after, "node encryption begun", "node encryption changed", "node encryption ended")
            yield Event.of(kind, mode=encryption.mode, step=encryption.step)
        case Underlay() as place:
            kind = _verb(before, after, "encryption peer added", "encryption peer changed", "encryption peer removed")
            yield Event.of(kind, **_place(place, view.swarm))
        case _:
            pass


def _revoked(record: Record | None) -> frozenset[str]:
    return frozenset(record.revoked) if isinstance(record, Access) else frozenset()


def _revocations(before: frozenset[str], after: frozenset[str], swarm: Swarm) -> Iterator[Event]:
    for kind, names in (("node revoked", after - before), ("revocation undone", before - after)):
        for node in sorted(name.partition("@")[0] for name in names):
            yield Event.of(kind, node=_hostname(node, swarm), id=node)


def _service(before: Service | None, after: Service | None, view: View) -> Iterator[Event]:
    service = after or before
    if service is None:
        return
    origin = _origin(service, view.swarm)
    old, new = _links(before), _links(after)
    if after is None or before is None or _settings(before) != _settings(after):
        kind = _verb(before, after, "service joined", "service settings changed", "service left")
        yield Event.of(kind, service=service.name, **_settings(service), **origin)
    differ = [provider for provider in sorted(old.keys() | new.keys()) if old.get(provider) != new.get(provider)]
    for provider in differ[:MAX_LINKS]:
        was, now = old.get(provider), new.get(provider)
        link = now or was
        if link is not None:
            kind = _verb(was, now, "link created", "link changed", "link removed")
            yield Event.of(kind, consumer=service.name, **_link(service.name, link), **origin)
    if more := len(differ) - len(differ[:MAX_LINKS]):
        yield Event.of("more links changed", consumer=service.name, count=more, **origin)
    for provider in sorted(_refused(after) - _refused(before))[:MAX_LINKS]:
        yield Event.of("link refused", consumer=service.name, provider=provider, **origin)


def _links(service: Service | None) -> dict[str, LinkLabel]:
    """Return the links of a service that are made, by provider."""
    return {link.provider: link for link in service.links if not hidden(link.provider)} if service else {}


def _refused(service: Service | None) -> set[str]:
    """Return the providers that do not allow a service's links."""
    links = service.links if service else ()
    return {shown(link.provider) for link in links if link.provider.startswith(REFUSED)}


def _settings(service: Service) -> dict[str, str]:
    """Return the settings of a service that decide who reaches it; what is the default is not named."""
    expose = None if service.expose is None else _ports(service.expose) or "none"
    strict = "" if service.strict else "false"
    if service.open_ports is not None:
        return {"expose": expose or "", "strict": "all", "published": _ports(service.open_ports) or "none"}
    return {"expose": expose or "", "strict": strict}


def _link(consumer: str, link: LinkLabel) -> dict[str, str]:
    return {
        "provider": link.provider,
        "ports": _ports(link.ports),
        "aliases": ",".join(alias for alias in link.aliases if alias != link.provider),
        "key": key_name(consumer, link),
        "rotate": "" if link.rotate is None else format_duration(link.rotate),
    }


def _ports(ports: Iterable[PortRange]) -> str:
    return ",".join(map(str, ports))


def _origin(record: Service, swarm: Swarm) -> dict[str, str]:
    """Return where a change of a service comes from, as far as Swarm knows: it keeps no user's name."""
    service = swarm.services.get(record.id)
    if service is None:
        return {"stack": "", "id": record.id}
    deploy = service.deploy
    version = str(deploy.version or "")
    return {
        "stack": service.stack or "",
        "id": record.id,
        "version": version,
        "updated": deploy.updated,
        "deploy": deploy.mark,
    }


def _endpoint(before: Endpoint | None, after: Endpoint | None, view: View) -> Iterator[Event]:
    endpoint = after or before
    if endpoint is None or (before and after and before.public_key == after.public_key):
        return
    service = view.swarm.services.get(endpoint.service)
    record = view.stored.get(keyspace.service(endpoint.service), Service)
    name = service.name if service else record.name if record else endpoint.service
    kind = _verb(before, after, "task key made", "task key replaced", "task key dropped")
    hostname = _hostname(endpoint.node, view.swarm)
    yield Event.of(kind, service=name, task=endpoint.task, node=hostname, epoch=endpoint.epoch)


def _node(member: Member, view: View) -> dict[str, str]:
    node = view.swarm.nodes.get(member.node)
    approved = node.approved if node is not None else None
    return {
        "node": _hostname(member.node, view.swarm),
        "id": member.node,
        "counter": str(member.counter),
        "sealing_key": member.sealing_key.fingerprint,
        "approved": approved or "",
    }


def _place(place: Underlay, swarm: Swarm) -> dict[str, str]:
    hostname = _hostname(place.node, swarm)
    return {"node": hostname, "id": place.node, "public_key": str(place.public_key), "address": str(place.endpoint)}


def _hostname(node: str, swarm: Swarm) -> str:
    known = swarm.nodes.get(node)
    return known.hostname if known is not None else node


def _verb(before: object, after: object, begins: str, changes: str, ends: str) -> str:
    return ends if after is None else begins if before is None else changes
