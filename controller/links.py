"""Who links to whom, and with which link keys, by what Swarm says now and what the store still says. Pure.

Made anew as a whole when anything of it changes: it is as large as there are services, however many tasks they have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from controller.observed import SwarmService
from mesh import keyspace
from mesh.labels import LinkLabel, key_name
from mesh.records import Service


@dataclass(frozen=True, slots=True)
class Use:
    """What the links of one link key say together."""

    rotate: int | None
    """Seconds; the shortest that any of them asks for."""
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Links:
    """What follows from services alone.

    Attributes:
        linked: ids of the services that link or are linked to, among those that exist or still have live tasks.
        problems: in words, by the names of the services.
        keys: service id -> the link keys of its links, at either end.
        ends: link key -> the ids of the services at either end of its links.
        uses: link key -> what its links say.
    """

    linked: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ends: Mapping[str, frozenset[str]] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)

    def keys_of(self, service: str) -> frozenset[str]:
        """The link keys of a service's links."""
        return self.keys.get(service, frozenset())


def links_of(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service], ending: Collection[str], invalid: Container[str]
) -> Links:
    """Read them.

    Args:
        now: every service, as Swarm has it.
        stored: every service, as the store has it.
        ending: ids of the services that Swarm has no more, and that have live tasks.
        invalid: keys of the store that cannot be read.
    """
    linked, problems = _linked(now, stored, ending, invalid)
    return Links(linked, problems, *_keys(now, stored))


def _linked(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service], ending: Collection[str], invalid: Container[str]
) -> tuple[frozenset[str], tuple[str, ...]]:
    links = {service.id: service.labels.links for service in now.values()}
    links |= {found: stored[found].links for found in ending if found in stored}
    by_name: dict[str, set[str]] = {}  # two of a name while one ends and is made again
    for found in links:
        name = now[found].name if found in now else stored[found].name
        by_name.setdefault(name, set()).add(found)
    linked = {found for found in ending if found in links or keyspace.service(found) in invalid}
    problems: list[str] = []
    for service in sorted(now.values(), key=lambda s: (s.name, s.id)):
        problems += [f"service {service.name}: {error}" for error in service.label_errors]
        problems += [
            f"service {service.name}: links to {link.provider}, which does not exist (yet)"
            for link in service.labels.links
            if link.provider not in by_name
        ]
    for found, its in links.items():
        if its:
            linked.add(found)
        linked.update(*(by_name.get(link.provider, ()) for link in its))
    return frozenset(linked), tuple(problems)


def _keys(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service]
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]], dict[str, Use]]:
    ids: defaultdict[str, set[str]] = defaultdict(set)
    named = [(service.name, service.id) for service in now.values()]
    named += [(service.name, service.id) for service in stored.values()]
    for name, service_id in named:
        ids[name].add(service_id)
    ends: dict[str, set[str]] = {}
    rotate: defaultdict[str, set[int]] = defaultdict(set)
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for service_id, name, link in _all_links(now, stored):
        key, swarms = key_name(name, link), now.get(service_id)
        its = ends.setdefault(key, set())
        if link.rotate and (swarms is None or link in swarms.labels.links):  # what Swarm says now counts
            rotate[key].add(link.rotate)
        if swarms is not None and swarms.labels.renew:
            asked[key].add(swarms.labels.renew)
        if link.provider in ids:
            its |= {service_id, *ids[link.provider]}
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for key, found in ends.items():
        for service_id in found:
            keys[service_id].add(key)
    uses = {key: Use(min(rotate[key], default=None), tuple(sorted(asked[key]))) for key in ends}
    return _frozen(keys), _frozen(ends), uses


def _frozen(found: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(its) for name, its in found.items()}


def _all_links(now: Mapping[str, SwarmService], stored: Mapping[str, Service]) -> list[tuple[str, str, LinkLabel]]:
    """(service id, its name, link), of what Swarm says now and of what the store still says."""
    found = [(service.id, service.name, link) for service in now.values() for link in service.labels.links]
    for service in stored.values():
        swarms = now.get(service.id)
        known = swarms.labels.links if swarms is not None else ()
        found += [(service.id, service.name, link) for link in service.links if link not in known]
    return found
