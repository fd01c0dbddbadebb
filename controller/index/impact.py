"""Impact of a change: the parts of a plan that it can concern. Pure.

A plan is made of parts: services, tasks, nodes' reports and link keys. Each depends on the records with its own id.
Beside those

- a task depends on its node, in the store and in Swarm, on whether its service is linked and exists, and on the
  networks of which Swarm gives the addresses;
- an address, port, sealed key or report depends on everything whose id it names;
- a link key depends on the labels of its services, the nodes of their tasks and endpoints, the sealing keys of these
  nodes, the boxes sealed to them, the note of its epoch, the nodes that are revoked, and the time;
- the link key of all nodes depends on the records of node encryption, and on every node. The rest of node encryption
  is in no scope: it is planned as a whole each time (controller.planning.node_encryption).

Any other change concerns everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controller.index.baseline import Delta
from controller.index.index import Index, holder_id
from controller.index.scope import EVERYTHING, Scope
from controller.swarm.model import Swarm, SwarmService
from mesh.model import keyspace
from mesh.model.encryption.records import NODES_KEY
from mesh.model.records import Address, Attachment, Port
from mesh.model.snapshot import Snapshot

_OF_NO_PLAN = (
    keyspace.STATUS,
    keyspace.MEMBERS,
    keyspace.RECALLED,
    keyspace.RECALL,
    keyspace.LEADER,
    keyspace.MANIFEST,
    keyspace.ACCESS,
    keyspace.CONTROLLERS,
)
"""No plan reads these records. Unreadable ones count, as under every key."""

_NEEDS = (keyspace.SERVICES, keyspace.ENDPOINTS, keyspace.ENCRYPTION, keyspace.UNDERLAYS)
"""Records by which nodes need link keys."""

_Seat = tuple[tuple[str, str] | None, tuple[str, str] | None]
"""The service and the node of a live task, and those of its endpoint."""


def ends_unknown(stored: Snapshot) -> bool:
    """Tell whether it is unknown which nodes need which link keys: a record that says so cannot be read."""
    return any(key.startswith(_NEEDS) for key in stored.invalid)


def renew(index: Index, swarm: Swarm, stored: Snapshot, delta: Delta, members: Iterable[str]) -> Scope:
    """Move the indexes on to the next lists and the next snapshot.

    Args:
        index: of what Swarm and the store hold.
        swarm: complete lists.
        stored: the whole store, complete.
        delta: everything that may differ.
        members: the nodes whose believed sealing keys may differ.

    Returns:
        The parts of the plan that may differ; the others do not.
    """
    named = _named(index.stored, stored, delta)
    named.nodes.update(delta.swarm.nodes, members)
    if named.nodes and index.encryption is not None:
        named.link_keys.add(NODES_KEY)
    for node in named.nodes:
        named.ids.add(node)
        named.ids.update(index.tasks.on_node.get(node, ()))
    was_unknown, stood = ends_unknown(index.stored), _standing(index, delta)
    before, lists = _Before(index, swarm, delta, named), (index.swarm, swarm)
    banned = set(index.revoked)
    index.renew(swarm, stored, delta, named.ids)
    # A node's problem is named while it has endpoints, those too that somebody wrote who was late.
    ends = (index.endpoints.get(key.rpartition("/")[2]) for key in delta.keys if key.startswith(keyspace.ENDPOINTS))
    named.ids.update(endpoint.node for endpoint in ends if endpoint is not None)
    if before.relinks(index):
        index.relink()
    if keyspace.CLUSTER in delta.keys or keyspace.CLUSTER in stored.invalid or before.other_networks(index):
        return EVERYTHING
    for service in before.relinked(index):
        named.ids.update(index.tasks.of_service.get(service, ()), index.placed.get(service, ()), (service,))
    named.link_keys.update(before.link_keys(index))
    if banned.union(index.revoked):  # a service's record has the addresses of its tasks there
        tasks = [task for name in named.ids for each in lists if (task := each.tasks.get(name)) is not None]
        named.ids.update(task.service for task in tasks if task.node in banned or task.node in index.revoked)
    any_key = was_unknown or stood != _standing(index, delta)
    return Scope(frozenset(named.ids), None if any_key else frozenset(named.link_keys))


def _standing(index: Index, delta: Delta) -> list[str | None]:
    """Return the nodes that have left or were revoked: they may know any link key."""
    return [index.revoked.get(node, "" if node in index.present else None) for node in sorted(delta.swarm.nodes)]


@dataclass(frozen=True, slots=True)
class _Named:
    """Ids and link keys that the changes themselves name."""

    ids: set[str]
    nodes: set[str]
    link_keys: set[str]


def _named(before: Snapshot, stored: Snapshot, delta: Delta) -> _Named:
    named = _Named({*delta.swarm.services, *delta.swarm.tasks}, set(), set())
    for key in delta.keys:
        kind, _, rest = key.partition("/")
        if key in before.invalid or key in stored.invalid:
            named.ids.add(key.rpartition("/")[2])
        elif key.startswith(_OF_NO_PLAN):
            continue
        match kind:
            case "nodes":
                named.nodes.add(rest)
            case "encryption" | "peers":
                named.link_keys.add(NODES_KEY)
            case "epochs" | "vaults":
                named.link_keys.add(rest)
            case "linkkeys":
                named.link_keys.add(rest.partition("/")[2])
            case "addresses" | "ports":
                named.ids.update(_holder_ids(stored, key))  # its holder before needs nothing for that
            case _:
                named.ids.add(key.rpartition("/")[2])
    return named


def _holder_ids(stored: Snapshot, key: str) -> Iterator[str]:
    versioned = stored.records.get(key)
    record = versioned.record if versioned is not None else None
    if isinstance(record, Port):
        yield record.task
    elif isinstance(record, Address) and record.holder is not None:
        yield holder_id(record.holder)


class _Before:
    """State before a change, to be compared with the indexes after it."""

    def __init__(self, index: Index, swarm: Swarm, delta: Delta, named: _Named) -> None:
        self._seats = {name: _seat(index, name) for name in named.ids}
        self._links = index.links
        self._nodes = named.nodes
        stored = {key.partition("/")[2] for key in delta.keys if key.startswith(keyspace.SERVICES)}
        self._relinks = bool(stored) or any(
            _says(index.swarm.services.get(name)) != _says(swarm.services.get(name)) for name in delta.swarm.services
        )
        self._there = {name: _is_there(index, name) for name in stored.union(delta.swarm.services)}
        moved = [attachments for lists in (index.swarm, swarm) for attachments in _listed(lists, delta)]
        networks = {(a.network, a.address.version) for attachments in moved for a in attachments}
        self._networks = {network: network in index.networks for network in networks}

    def relinks(self, index: Index) -> bool:
        """Tell whether links may differ: by labels, or since a service ended with its last task."""
        moved = (where for name in self._seats for seat in (self._seats[name], _seat(index, name)) for where in seat)
        return self._relinks or any(where is not None and where[0] not in index.swarm.services for where in moved)

    def other_networks(self, index: Index) -> bool:
        """Tell whether Swarm gives the addresses of other networks than before."""
        return any((network in index.networks) != was for network, was in self._networks.items())

    def relinked(self, index: Index) -> set[str]:
        """Return the ids of the services whose tasks all have to be looked at."""
        there = {name for name, was in self._there.items() if _is_there(index, name) != was}
        old, new = self._links, index.links
        if old is new:
            return there
        was, now = old.agreed.links, new.agreed.links
        changed = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        return there.union(old.linked ^ new.linked, old.agreed.lax ^ new.agreed.lax, changed)

    def link_keys(self, index: Index) -> Iterator[str]:
        """Yield the link keys whose nodes, services or settings may differ."""
        services: set[str] = set()
        for name, was in self._seats.items():
            now = _seat(index, name)
            if now != was:
                services.update(where[0] for where in (*was, *now) if where is not None)
        for node in self._nodes:
            services.update(
                index.tasks.live[name].service
                for name in index.tasks.on_node.get(node, ())
                if name in index.tasks.live
            )
        old, new = self._links, index.links
        if old is not new:
            services |= old.linked ^ new.linked
            yield from (key for key in old.uses.keys() | new.uses.keys() if old.uses.get(key) != new.uses.get(key))
            yield from (key for key in old.ends.keys() | new.ends.keys() if old.ends.get(key) != new.ends.get(key))
        for service in services:
            yield from new.keys_of(service)  # of a key that it had before, the ends are others


def _seat(index: Index, name: str) -> _Seat:
    task, endpoint = index.tasks.live.get(name), index.endpoints.get(name)
    return (
        (task.service, task.node) if task is not None else None,
        (endpoint.service, endpoint.node) if endpoint is not None else None,
    )


def _says(service: SwarmService | None) -> tuple[object, ...]:
    """Return the part of a service that links depend on."""
    if service is None:
        return ()
    published = service.published if service.labels.closed else None
    said = (service.name, service.labels, service.label_errors, published)
    return (*said, service.stack, service.hosts, service.aliases)


def _is_there(index: Index, service: str) -> bool:
    return service in index.swarm.services or service in index.services


def _listed(lists: Swarm, delta: Delta) -> Iterator[tuple[Attachment, ...]]:
    for name in delta.swarm.tasks:
        if (task := lists.tasks.get(name)) is not None:
            yield task.attachments
    for name in delta.swarm.services:
        if (service := lists.services.get(name)) is not None:
            yield service.attachments
