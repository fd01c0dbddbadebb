"""Link graph: an index over a snapshot of who is linked to whom, updated at the cost of what changed. Pure.

No IPv4 address (and so no IPv6 twin) and no public key appears twice among sound endpoints, whatever the records hold
(rule 1 of the design). Of two endpoints that claim the same one, neither is wired.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from immutables import Map

from mesh.crypto.keys import PublicKey
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, key_name
from mesh.model.labels.ports import PortRange, merge
from mesh.model.records import Cluster, Endpoint, Service
from mesh.model.snapshot import Snapshot
from mesh.topology.agreed_links import hidden, shown
from mesh.topology.ipam import TWIN_PREFIX, nobody
from mesh.topology.strict_isolation import NetworkIndex, index_networks, reindex_networks

_READ = (keyspace.CLUSTER, keyspace.SERVICES, keyspace.ENDPOINTS)
"""Prefixes of the records that an index is made of."""


@dataclass(frozen=True, slots=True)
class LinkGraph:
    """An index over a snapshot, so that one task's interface costs what its own links cost.

    Attributes:
        cluster: None until a controller has taken the store into use; nothing may be concluded from it then.
        complete: as in Snapshot.
        services: by id.
        vips: service id -> its VIP, where that is in the mesh's subnet and assigned once.
        by_name: service name -> ids (two for a moment, when a service is created again under its old name).
        consumers: provider name -> ids of the services that link to it.
        links: (consumer's id, provider's name) -> the consumer's links to that provider.
        endpoints: service id -> its endpoints, by task.
        by_task: task -> its endpoint.
        addresses: address of an endpoint or a VIP -> a task or service that has it; "" for `addresses.nobody`.
        keys: public key of an endpoint -> a task that has it.
        networks: tasks and services by the other networks that they are on.
        problems: contradictions in the records, in words.
        unreachable: addresses of suspect endpoints that answer none of this node's tasks; set by the agent.
    """

    cluster: Cluster | None
    complete: bool
    services: Mapping[str, Service]
    vips: Mapping[str, IPv4Address]
    by_name: Mapping[str, tuple[str, ...]]
    consumers: Mapping[str, tuple[str, ...]]
    links: Mapping[tuple[str, str], tuple[LinkLabel, ...]]
    endpoints: Mapping[str, tuple[Endpoint, ...]]
    by_task: Mapping[str, Endpoint]
    addresses: Mapping[IPv4Address, str]
    keys: Mapping[PublicKey, str]
    networks: NetworkIndex
    problems: tuple[str, ...]
    unreachable: frozenset[IPv4Address] = frozenset()

    def providers(self, service: Service) -> Iterator[Service]:
        """Yield the existing services that this one links to, each once."""
        for name in dict.fromkeys(link.provider for link in service.links):
            for provider in self.by_name.get(name, ()):
                yield self.services[provider]

    def peers(self, endpoint: Endpoint) -> tuple[Endpoint, ...]:
        """Return every endpoint that this one shares a link with, in either direction, by task."""
        service = self.services.get(endpoint.service)
        if service is None:
            return ()
        linked = {provider.id for provider in self.providers(service)}
        linked.update(self.consumers.get(service.name, ()))
        peers = {e.task: e for id_ in linked for e in self.endpoints.get(id_, ()) if e.task != endpoint.task}
        return tuple(peers[task] for task in sorted(peers))

    def link_keys(self, one: Service, other: Service) -> tuple[str, ...]:
        """Return the names of all link keys between two services, in both directions, sorted."""
        names = {key_name(one.name, link) for link in self.links.get((one.id, other.name), ())}
        names.update(key_name(other.name, link) for link in self.links.get((other.id, one.name), ()))
        return tuple(sorted(names))

    def ready(self, service: str) -> list[IPv4Address]:
        """Return the addresses of a service's tasks that new connections may go to, sorted.

        Suspect endpoints that are unreachable are among them only where no other is left: a silent agent does not
        prove that its node is dead, and a connection that may fail beats one that is refused.
        """
        ready = [endpoint for endpoint in self.endpoints.get(service, ()) if endpoint.ready]
        reached = [e.address for e in ready if not (e.suspect and e.address in self.unreachable)]
        return sorted(reached or (e.address for e in ready), key=int)

    def suspects(self, endpoint: Endpoint) -> frozenset[IPv4Address]:
        """Return the addresses of suspect endpoints of this one's providers; the agent probes whether they answer."""
        service = self.services.get(endpoint.service)
        providers = self.providers(service) if service is not None else ()
        endpoints = (e for provider in providers for e in self.endpoints.get(provider.id, ()))
        return frozenset(e.address for e in endpoints if e.suspect and e.ready and e.task != endpoint.task)

    def unready(self, names: Iterable[str], service: str = "") -> tuple[str, ...]:
        """Return the names of services that have no ready task for a service, do not exist, or refuse its link."""
        consumer = self.services.get(service)
        refused = {shown(link.provider) for link in consumer.links if hidden(link.provider)} if consumer else set()
        return tuple(
            f"{name} (it does not allow the link)" if name in refused and name in self.by_name else name
            for name in names
            if name in refused or not any(map(self.ready, self.by_name.get(name, ())))
        )

    def ports(self, consumer: Service, provider: Service) -> tuple[PortRange, ...] | None:
        """Return the ports that a link opens: its own, else the provider's exposed ones; None for all."""
        opened: list[PortRange] = []
        for link in self.links.get((consumer.id, provider.name), ()):
            ports = link.ports or provider.expose
            if ports is None:
                return None
            opened += ports
        return merge(opened)


def index(snapshot: Snapshot) -> LinkGraph:
    """Index a snapshot."""
    services = {service.id: service for service in snapshot.all(Service)}
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    consumers: defaultdict[str, set[str]] = defaultdict(set)
    links: defaultdict[tuple[str, str], list[LinkLabel]] = defaultdict(list)
    for service in services.values():
        by_name[service.name].append(service.id)
        for link in service.links:
            consumers[link.provider].add(service.id)
            links[service.id, link.provider].append(link)
    cluster, problems = _sound_cluster(next(snapshot.all(Cluster), None))
    every = sorted(snapshot.all(Endpoint), key=lambda endpoint: (endpoint.task, endpoint.service))
    subnet = cluster.subnet if cluster else None
    holders = Counter([*(endpoint.address for endpoint in every), *(service.vip for service in services.values())])
    if subnet is not None:
        holders[nobody(subnet)] += 1
    sound = _sound_endpoints(every, holders, subnet, problems)
    vips = _sound_vips(services.values(), holders, subnet, problems)
    endpoints: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in sound:
        endpoints[endpoint.service].append(endpoint)
    return LinkGraph(
        cluster=cluster,
        complete=snapshot.complete,
        services=services,
        vips=vips,
        by_name={name: tuple(sorted(ids)) for name, ids in by_name.items()},
        consumers={name: tuple(sorted(ids)) for name, ids in consumers.items()},
        links={ends: tuple(labels) for ends, labels in links.items()},
        endpoints={service: tuple(of_service) for service, of_service in endpoints.items()},
        by_task={endpoint.task: endpoint for endpoint in sound},
        addresses={
            **({nobody(subnet): ""} if subnet is not None else {}),
            **{service.vip: service.id for service in services.values()},
            **{endpoint.address: endpoint.task for endpoint in every},
        },
        keys={endpoint.public_key: endpoint.task for endpoint in every},
        networks=index_networks(services, every),
        problems=tuple(problems),
    )


def reindex(graph: LinkGraph, before: Snapshot, now: Snapshot) -> LinkGraph:
    """Index a snapshot from the index of an earlier one; return the same object where nothing indexed has changed.

    The result equals `index(now)`, but that mappings by task are persistent maps, which cost nothing to copy. Only
    the frequent changes are made in place: endpoints that come, go and move while the records are consistent.
    Anything else is indexed from scratch.

    Args:
        graph: the index of `before`.
        before: the snapshot indexed last.
        now: the snapshot to index.
    """
    changed = now.changed_since(before)
    if changed is None:
        return index(now)
    read = sorted(key for key in changed if key.startswith(_READ))
    if graph.problems or not all(key.startswith(keyspace.ENDPOINTS) for key in read):
        return index(now)
    old = [endpoint for key in read if (endpoint := before.get(key, Endpoint)) is not None]
    new = [endpoint for key in read if (endpoint := now.get(key, Endpoint)) is not None]
    if graph.complete != now.complete:
        graph = replace(graph, complete=now.complete)
    if old == new:
        return graph
    return _moved(graph, old, new) or index(now)


def _moved(graph: LinkGraph, old: list[Endpoint], new: list[Endpoint]) -> LinkGraph | None:
    """Replace endpoints; return None where two have the same task, address or key, or one is outside the subnet."""
    by_task, addresses = Map(graph.by_task).mutate(), Map(graph.addresses).mutate()
    keys, endpoints = Map(graph.keys).mutate(), Map(graph.endpoints).mutate()
    for gone in old:
        del by_task[gone.task], addresses[gone.address], keys[gone.public_key]
    subnet = graph.cluster.subnet if graph.cluster is not None else None
    for e in new:
        clash = e.task in by_task or e.address in addresses or e.public_key in keys
        if clash or (subnet is not None and e.address not in subnet):
            return None
        by_task[e.task], addresses[e.address], keys[e.public_key] = e, e.task, e.task
    for service in {e.service for e in (*old, *new)}:
        left = {e.task: e for e in endpoints.pop(service, ())}
        for gone in old:
            if gone.service == service:
                del left[gone.task]
        left |= {e.task: e for e in new if e.service == service}
        if left:
            endpoints[service] = tuple(left[task] for task in sorted(left))
    return replace(
        graph,
        by_task=by_task.finish(),
        addresses=addresses.finish(),
        keys=keys.finish(),
        endpoints=endpoints.finish(),
        networks=reindex_networks(graph.networks, graph.services, old, new),
    )


def _sound_cluster(cluster: Cluster | None) -> tuple[Cluster | None, list[str]]:
    if cluster is None or cluster.subnet6.prefixlen == TWIN_PREFIX:
        return cluster, []
    return None, [f"cluster: the IPv6 prefix {cluster.subnet6} is not a /{TWIN_PREFIX}: nothing is wired"]


def _sound_endpoints(
    every: Iterable[Endpoint], holders: Mapping[IPv4Address, int], subnet: IPv4Network | None, problems: list[str]
) -> list[Endpoint]:
    """Return the endpoints whose address, public key and task are theirs alone; report the others in `problems`."""
    every = tuple(every)
    keys = Counter(endpoint.public_key for endpoint in every)
    tasks = Counter(endpoint.task for endpoint in every)
    sound: list[Endpoint] = []
    for e in every:
        if tasks[e.task] > 1:
            problems.append(f"task {e.task}: endpoint of service {e.service} and of another one: neither is wired")
        elif holders[e.address] > 1 or keys[e.public_key] > 1:
            problems.append(f"task {e.task}: address {e.address} or public key assigned twice: neither is wired")
        elif subnet is not None and e.address not in subnet:
            problems.append(f"task {e.task}: address {e.address} is outside {subnet}: the task is not wired")
        else:
            sound.append(e)
    return sound


def _sound_vips(
    services: Iterable[Service], holders: Mapping[IPv4Address, int], subnet: IPv4Network | None, problems: list[str]
) -> dict[str, IPv4Address]:
    """Return the VIPs in the subnet that are assigned once, by service id; report the others in `problems`."""
    sound: dict[str, IPv4Address] = {}
    for service in sorted(services, key=lambda s: s.id):
        if holders[service.vip] > 1:
            problems.append(f"service {service.name}: VIP {service.vip} is assigned twice: it is not used")
        elif subnet is not None and service.vip not in subnet:
            problems.append(f"service {service.name}: VIP {service.vip} is outside {subnet}: it is not used")
        else:
            sound[service.id] = service.vip
    return sound
