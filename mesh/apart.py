"""Addresses of tasks and services on other networks than the mesh, and which of them a task keeps away from. Pure.

This is `strict`: between two wired services nothing passes outside the mesh, by any network that both are on.
Networks are told apart by Docker's ids: a bridge of another node is another network, although it looks alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.net import IPAddress
from mesh.policy import Exit
from mesh.records import Attachment, Endpoint, Service


def in_order(attachments: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Each once, by network, IP version and address: the form of every record's `elsewhere`."""
    found = tuple(attachments)
    if len(found) < 2:  # noqa: PLR2004 - what is alone is in order
        return found
    return tuple(sorted(set(found), key=lambda a: (a.network, a.address.version, int(a.address))))


@dataclass(frozen=True, slots=True)
class Here:
    """What an agent knows of its own node's networks, as its Docker gave it: sooner than by the store.

    Attributes:
        tasks: this node's tasks -> their addresses on other networks than the mesh.
        exits: the bridges by which they leave the node.
    """

    tasks: Mapping[str, tuple[Attachment, ...]]
    exits: tuple[Exit, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address on a network that a task of a wired service has, or such a service itself."""

    address: IPAddress
    strict: bool


@dataclass(frozen=True, slots=True)
class Outside:
    """An index by network, so that what one task keeps away from costs what it shares, and not all tasks.

    Attributes:
        networks: Docker's id of a network -> who is on it.
        strict: task -> whether its service is strict, for every task that takes part in the mesh.
    """

    networks: Mapping[str, tuple[Neighbour, ...]]
    strict: Mapping[str, bool]

    def apart(self, own: Endpoint, here: Mapping[str, tuple[Attachment, ...]]) -> tuple[IPAddress, ...]:
        """The addresses that nothing may pass to or from, sorted.

        One strict side is enough. Which services they are does not matter: one strict service's tasks are apart too.

        Args:
            own: the task's own endpoint.
            here: task -> what it is attached to, for this node's tasks, as Docker gave it: sooner than by the store.
        """
        attached = {*own.elsewhere, *here.get(own.task, ())}
        shared = {attachment.network for attachment in attached}
        always = self.strict.get(own.task, True)
        found = {
            neighbour.address
            for network in shared
            for neighbour in self.networks.get(network, ())
            if always or neighbour.strict
        }
        for task, attachments in here.items():
            if task in self.strict and (always or self.strict[task]):
                found.update(a.address for a in attachments if a.network in shared)
        found.difference_update(attachment.address for attachment in attached)
        return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def outside(services: Mapping[str, Service], endpoints: Iterable[Endpoint]) -> Outside:
    """Index all wired services and all of their tasks, also those that contradictory records keep from being wired.

    A task whose service has no record that can be read is taken for a strict one's: that is the default.
    """
    networks: defaultdict[str, list[Neighbour]] = defaultdict(list)
    strict: dict[str, bool] = {}
    for endpoint in endpoints:
        is_strict = _strict(services, endpoint)
        strict[endpoint.task] = is_strict or strict.get(endpoint.task, False)
        for attachment in endpoint.elsewhere:
            networks[attachment.network].append(Neighbour(attachment.address, is_strict))
    for service in services.values():
        for attachment in service.elsewhere:
            networks[attachment.network].append(Neighbour(attachment.address, service.strict))
    return Outside({network: _sorted(found) for network, found in networks.items()}, strict)


def moved(
    before: Outside, services: Mapping[str, Service], old: Iterable[Endpoint], new: Iterable[Endpoint]
) -> Outside:
    """The index without some endpoints and with others, whose tasks are no other endpoint's."""
    networks, strict = dict(before.networks), dict(before.strict)
    for endpoint in old:
        del strict[endpoint.task]
        for attachment in endpoint.elsewhere:
            left = list(networks.pop(attachment.network))
            left.remove(Neighbour(attachment.address, _strict(services, endpoint)))
            if left:
                networks[attachment.network] = tuple(left)
    for endpoint in new:
        is_strict = strict[endpoint.task] = _strict(services, endpoint)
        for attachment in endpoint.elsewhere:
            found = [*networks.get(attachment.network, ()), Neighbour(attachment.address, is_strict)]
            networks[attachment.network] = _sorted(found)
    return Outside(networks, strict)


def _strict(services: Mapping[str, Service], endpoint: Endpoint) -> bool:
    service = services.get(endpoint.service)
    return service is None or service.strict


def _sorted(neighbours: Iterable[Neighbour]) -> tuple[Neighbour, ...]:
    return tuple(sorted(neighbours, key=lambda one: (one.address.version, int(one.address), one.strict)))
