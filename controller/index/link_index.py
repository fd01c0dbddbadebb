"""Index of links and link keys, by Swarm's labels and by the records in the store. Pure.

It is computed as a whole when anything in it changes: its size is that of the services, however many tasks they have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from controller.swarm.model import SwarmService
from mesh.model import keyspace
from mesh.model.labels.absent_services import absent_text
from mesh.model.labels.durations import MIN_ROTATE
from mesh.model.labels.link_labels import LinkLabel, key_name
from mesh.model.records import Service
from mesh.process.multimap import MultiMap
from mesh.topology.agreed_links import Agreement, Recorded, agree, hidden


@dataclass(frozen=True, slots=True)
class Use:
    """Settings of one link key, from all its links."""

    rotate: int | None
    """Seconds; the shortest that any of the links asks for."""
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkIndex:
    """Links, as they follow from services and their records alone.

    Attributes:
        linked: ids of the services that link or are linked to, among those that exist or still have live tasks.
        problems: texts, by the names of the services.
        unsettled: those of them that are none before they last (controller.decider).
        agreed: the links of the services that exist.
        keys: service id -> the link keys of its links, at either end.
        ends: link key -> the ids of the services at either end of its links.
        uses: link key -> its settings.
    """

    linked: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    unsettled: frozenset[str] = frozenset()
    agreed: Agreement = field(default_factory=Agreement)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ends: Mapping[str, frozenset[str]] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)

    def keys_of(self, service: str) -> frozenset[str]:
        """Return the link keys of a service's links."""
        return self.keys.get(service, frozenset())


def links_of(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service], ending: Collection[str], invalid: Container[str]
) -> LinkIndex:
    """Compute the links.

    Args:
        now: every service, as Swarm has it.
        stored: every service, as the store has it.
        ending: ids of removed services that still have live tasks.
        invalid: keys of the store that cannot be read.
    """
    names = frozenset(stored[service].name for service in ending if service in stored)
    agreed = agree(now, Recorded({service.id: service.links for service in stored.values()}, names))
    linked, problems, unsettled = _linked(now, stored, agreed, ending, invalid)
    return LinkIndex(linked, problems, unsettled, agreed, *_keys(now, stored, agreed))


def _linked(
    now: Mapping[str, SwarmService],
    stored: Mapping[str, Service],
    agreed: Agreement,
    ending: Collection[str],
    invalid: Container[str],
) -> tuple[frozenset[str], tuple[str, ...], frozenset[str]]:
    links = {service: agreed.links.get(service, ()) for service in now}
    links |= {service: stored[service].links for service in ending if service in stored}
    by_name: MultiMap[str, str] = MultiMap()  # two services of one name while one ends and is created again
    for service_id in links:
        by_name.add(now[service_id].name if service_id in now else stored[service_id].name, service_id)
    linked = {service for service in ending if service in links or keyspace.service(service) in invalid}
    problems: list[str] = []
    unsettled = {refusal.text for refusal in agreed.refusals if refusal.reason == "not accepted"}
    for service in sorted(now.values(), key=lambda s: (s.name, s.id)):
        problems += [f"service {service.name}: {error}" for error in service.label_errors]
        others = [link.provider for link in service.labels.links if link.provider not in by_name]
        absent = [absent_text(service.name, provider) for provider in others]
        problems += absent
        unsettled.update(absent)
    problems += [refusal.text for refusal in agreed.refusals]
    linked.update(service.id for service in now.values() if service.labels.consent.takes_part)
    for service_id, its in links.items():
        if its:
            linked.add(service_id)
        linked.update(*(by_name.get(link.provider, ()) for link in its))
        if keyspace.service(service_id) in invalid and service_id in now:  # its record may have any of its links
            linked.update(*(by_name.get(link.provider, ()) for link in now[service_id].labels.links))
    return frozenset(linked), tuple(problems), frozenset(unsettled)


def _keys(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service], agreed: Agreement
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]], dict[str, Use]]:
    ids: MultiMap[str, str] = MultiMap()
    named = [(service.name, service.id) for service in now.values()]
    named += [(service.name, service.id) for service in stored.values()]
    for name, service_id in named:
        ids.add(name, service_id)
    ends: dict[str, set[str]] = {}
    rotate: defaultdict[str, set[int]] = defaultdict(set)
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for service_id, name, link in _all_links(now, stored, agreed):
        key, swarms = key_name(name, link), now.get(service_id)
        its = ends.setdefault(key, set())
        if link.rotate and (swarms is None or link in agreed.links.get(service_id, ())):
            rotate[key].add(max(link.rotate, MIN_ROTATE))
        if swarms is not None and swarms.labels.renew:
            asked[key].add(swarms.labels.renew)
        if link.provider in ids:
            its |= {service_id, *ids[link.provider]}
    keys: MultiMap[str, str] = MultiMap()
    for key, members in ends.items():
        for service_id in members:
            keys.add(service_id, key)
    uses = {key: Use(min(rotate[key], default=None), tuple(sorted(asked[key]))) for key in ends}
    return _frozen(keys), _frozen(ends), uses


def _frozen(groups: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(members) for name, members in groups.items()}


def _all_links(
    now: Mapping[str, SwarmService], stored: Mapping[str, Service], agreed: Agreement
) -> list[tuple[str, str, LinkLabel]]:
    """Return (service id, its name, link) of all links that are agreed on, or that the store has."""
    links = [(service, now[service].name, link) for service, its in agreed.links.items() for link in its]
    for service in stored.values():
        current = agreed.links.get(service.id, ())
        links += [(service.id, service.name, link) for link in service.links if link not in current]
    return [link for link in links if not hidden(link[2].provider)]
