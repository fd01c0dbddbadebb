"""Isolation (`strict`): the addresses outside the mesh that a task must neither send to nor receive from. Pure.

Between two linked services of which one is strict, nothing passes outside the mesh, by any network that both are on.
Docker's ids identify networks: a bridge of another node is another network, although its addresses are the same. In
endpoints the controller names the node with it, so that no node's word on its own networks reaches another's tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.model.net import IPAddress
from mesh.model.records import Attachment, Endpoint, Service
from mesh.topology.policy import Exit


def in_order(attachments: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Sort by network, IP version and address, each once: the form of every record's `elsewhere`."""
    found = tuple(attachments)
    if len(found) < 2:  # noqa: PLR2004 - nothing to sort
        return found
    return tuple(sorted(set(found), key=lambda a: (a.network, a.address.version, int(a.address))))


@dataclass(frozen=True, slots=True)
class LocalNetworks:
    """An agent's own view of its node's networks, from its Docker: earlier than the store has it.

    Attributes:
        tasks: this node's tasks -> their addresses on other networks than the mesh.
        exits: the bridges by which these tasks reach other hosts.
    """

    tasks: Mapping[str, tuple[Attachment, ...]]
    exits: tuple[Exit, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address of a task or service of the mesh on another network."""

    address: IPAddress
    strict: bool


@dataclass(frozen=True, slots=True)
class NetworkIndex:
    """An index by network, so that isolating a task costs the neighbours that it shares networks with, not all tasks.

    Attributes:
        neighbours: Docker's id of a network -> the addresses of the mesh's tasks and services on it.
        strict: task -> whether its service is strict, for every task of the mesh.
    """

    neighbours: Mapping[str, tuple[Neighbour, ...]]
    strict: Mapping[str, bool]

    def isolated_addresses(self, own: Endpoint, here: Mapping[str, tuple[Attachment, ...]]) -> tuple[IPAddress, ...]:
        """Return the addresses that nothing may pass to or from, sorted.

        One strict side is enough, whether or not the two are linked: tasks of one strict service are isolated from
        each other too.

        Args:
            own: the task's own endpoint.
            here: as `LocalNetworks.tasks`.
        """
        attached = {*own.elsewhere, *here.get(own.task, ())}
        shared = {attachment.network for attachment in attached}
        always = self.strict.get(own.task, True)
        isolated = {
            neighbour.address
            for network in shared
            for neighbour in self.neighbours.get(network, ())
            if always or neighbour.strict
        }
        for task, attachments in here.items():
            if task in self.strict and (always or self.strict[task]):
                isolated.update(a.address for a in attachments if a.network in shared)
        isolated.difference_update(attachment.address for attachment in attached)
        return tuple(sorted(isolated, key=lambda address: (address.version, int(address))))


def index_networks(services: Mapping[str, Service], endpoints: Iterable[Endpoint]) -> NetworkIndex:
    """Index all services of the mesh and all their tasks, also those whose records are contradictory.

    A task whose service has no readable record counts as strict: that is the default.
    """
    neighbours: defaultdict[str, list[Neighbour]] = defaultdict(list)
    strict: dict[str, bool] = {}
    for endpoint in endpoints:
        is_strict = _strict(services, endpoint)
        strict[endpoint.task] = is_strict or strict.get(endpoint.task, False)
        for attachment in endpoint.elsewhere:
            neighbours[attachment.network].append(Neighbour(attachment.address, is_strict))
    for service in services.values():
        for attachment in (*service.elsewhere, *service.revoked):
            neighbours[attachment.network].append(Neighbour(attachment.address, service.strict))
    return NetworkIndex({network: _sorted(found) for network, found in neighbours.items()}, strict)


def reindex_networks(
    before: NetworkIndex, services: Mapping[str, Service], old: Iterable[Endpoint], new: Iterable[Endpoint]
) -> NetworkIndex:
    """Return an index without the old endpoints and with the new ones; no task has two of the new ones."""
    neighbours, strict = dict(before.neighbours), dict(before.strict)
    for endpoint in old:
        del strict[endpoint.task]
        for attachment in endpoint.elsewhere:
            left = list(neighbours.pop(attachment.network))
            left.remove(Neighbour(attachment.address, _strict(services, endpoint)))
            if left:
                neighbours[attachment.network] = tuple(left)
    for endpoint in new:
        is_strict = strict[endpoint.task] = _strict(services, endpoint)
        for attachment in endpoint.elsewhere:
            found = [*neighbours.get(attachment.network, ()), Neighbour(attachment.address, is_strict)]
            neighbours[attachment.network] = _sorted(found)
    return NetworkIndex(neighbours, strict)


def _strict(services: Mapping[str, Service], endpoint: Endpoint) -> bool:
    service = services.get(endpoint.service)
    return service is None or service.strict


def _sorted(neighbours: Iterable[Neighbour]) -> tuple[Neighbour, ...]:
    return tuple(sorted(neighbours, key=lambda n: (n.address.version, int(n.address), n.strict)))
