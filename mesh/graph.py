"""The link graph: from records to the interface that each task is meant to have. Pure.

Rule 1 of the design is kept here for every input, also a damaged one: no address (and so no IPv6 twin) and no public
key appears twice among the peers of one device. Of two endpoints that claim the same one, neither is wired.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Literal

from mesh.addresses import TWIN_PREFIX, nobody, twin
from mesh.apart import Here, Outside, outside
from mesh.keys import PrivateKey, PublicKey
from mesh.labels import LinkLabel, key_name
from mesh.linkkeys import LinkKeys
from mesh.peerconfigs import PeerConfigs
from mesh.policy import Allow, Balance, Policy, Resolving
from mesh.ports import PortRange, merge
from mesh.records import Cluster, Endpoint, Service
from mesh.snapshot import Snapshot
from mesh.wgtypes import Answer, HostEntry, InterfaceConfig, PeerConfig, Route

MIN_MTU = 1280
"""Bytes. RFC 8200, section 5: a device with less does without IPv6. Where the way takes less, WireGuard's own packets
are fragmented for IPv6, and the route says so for IPv4."""

DEVICE_PREFIX = "lw"


def device_name(task: str) -> str:
    """The name of a task's device, unique on its node: 14 of the 15 bytes that IFNAMSIZ leaves."""
    return DEVICE_PREFIX + task[:12].lower()


@dataclass(frozen=True, slots=True)
class Graph:
    """An index over a snapshot, so that one task's interface costs what its own links cost.

    Attributes:
        cluster: None while no controller has taken the store into use: nothing may then be concluded.
        complete: as in Snapshot.
        services: by id.
        vips: service id -> its VIP, of those that may be given out: it is of the mesh and nobody else's.
        by_name: service name -> ids (two for a moment, when a service is made again under its old name).
        consumers: provider name -> ids of the services that link to it.
        links: (consumer's id, provider's name) -> what the one's labels say of the other.
        endpoints: service id -> its endpoints, by task.
        by_task: task -> its endpoint.
        addresses: address of an endpoint or a VIP -> a task or service that has it; of nobody: "".
        keys: public key of an endpoint -> a task that has it.
        outside: who is where on other networks.
        problems: what is contradictory in the records, in words.
        unreachable: addresses of suspect endpoints that answer none of this node's tasks; of no record.
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
    outside: Outside
    problems: tuple[str, ...]
    unreachable: frozenset[IPv4Address] = frozenset()

    def providers(self, service: Service) -> Iterator[Service]:
        """The services that this one links to and that exist, each once."""
        for name in dict.fromkeys(link.provider for link in service.links):
            for found in self.by_name.get(name, ()):
                yield self.services[found]

    def peers(self, endpoint: Endpoint) -> tuple[Endpoint, ...]:
        """Every endpoint that this one shares a link with, in either direction, by task."""
        service = self.services.get(endpoint.service)
        if service is None:
            return ()
        linked = {provider.id for provider in self.providers(service)}
        linked.update(self.consumers.get(service.name, ()))
        peers = {e.task: e for found in linked for e in self.endpoints.get(found, ()) if e.task != endpoint.task}
        return tuple(peers[task] for task in sorted(peers))

    def link_keys(self, one: Service, other: Service) -> tuple[str, ...]:
        """The names of all link keys between two services, whichever of them links to the other, sorted."""
        names = {key_name(one.name, link) for link in self.links.get((one.id, other.name), ())}
        names.update(key_name(other.name, link) for link in self.links.get((other.id, one.name), ()))
        return tuple(sorted(names))

    def ready(self, service: str) -> list[IPv4Address]:
        """The addresses of a service's tasks that new connections may go to, sorted.

        Of suspect endpoints, those that are unreachable only where nothing else is left: a silent agent is no proof
        of its node's death, and with nobody else to go to, keeping all beats refusing all.
        """
        ready = [endpoint for endpoint in self.endpoints.get(service, ()) if endpoint.ready]
        reached = [e.address for e in ready if not (e.suspect and e.address in self.unreachable)]
        return sorted(reached or (e.address for e in ready), key=int)

    def suspects(self, endpoint: Endpoint) -> frozenset[IPv4Address]:
        """The addresses of those that this one may open connections to, as long as they answer."""
        service = self.services.get(endpoint.service)
        providers = self.providers(service) if service is not None else ()
        found = (e for provider in providers for e in self.endpoints.get(provider.id, ()))
        return frozenset(e.address for e in found if e.suspect and e.ready and e.task != endpoint.task)

    def unready(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the services of these names of which no task is ready, or which do not exist."""
        return tuple(name for name in names if not any(map(self.ready, self.by_name.get(name, ()))))

    def ports(self, consumer: Service, provider: Service) -> tuple[PortRange, ...] | None:
        """What a service may open at one that it links to: the link's ports, else what is exposed; None for all."""
        found: list[PortRange] = []
        for link in self.links.get((consumer.id, provider.name), ()):
            ports = link.ports or provider.expose
            if ports is None:
                return None
            found += ports
        return merge(found)


def index(snapshot: Snapshot) -> Graph:
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
    held = Counter([*(endpoint.address for endpoint in every), *(service.vip for service in services.values())])
    if subnet is not None:
        held[nobody(subnet)] += 1
    sound = _sound_endpoints(every, held, subnet, problems)
    vips = _sound_vips(services.values(), held, subnet, problems)
    endpoints: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in sound:
        endpoints[endpoint.service].append(endpoint)
    return Graph(
        cluster=cluster,
        complete=snapshot.complete,
        services=services,
        vips=vips,
        by_name={name: tuple(sorted(ids)) for name, ids in by_name.items()},
        consumers={name: tuple(sorted(ids)) for name, ids in consumers.items()},
        links={ends: tuple(found) for ends, found in links.items()},
        endpoints={service: tuple(found) for service, found in endpoints.items()},
        by_task={endpoint.task: endpoint for endpoint in sound},
        addresses={
            **({nobody(subnet): ""} if subnet is not None else {}),
            **{one.vip: one.id for one in services.values()},
            **{one.address: one.task for one in every},
        },
        keys={one.public_key: one.task for one in every},
        outside=outside(services, every),
        problems=tuple(problems),
    )


def _sound_cluster(cluster: Cluster | None) -> tuple[Cluster | None, list[str]]:
    if cluster is None or cluster.subnet6.prefixlen == TWIN_PREFIX:
        return cluster, []
    return None, [f"the mesh's IPv6 prefix {cluster.subnet6} is no /{TWIN_PREFIX}: nothing is wired"]


def _sound_endpoints(
    every: Iterable[Endpoint], held: Mapping[IPv4Address, int], subnet: IPv4Network | None, problems: list[str]
) -> list[Endpoint]:
    """The endpoints that share no address, public key or task with another; `problems` gets the others."""
    every = tuple(every)
    keys = Counter(endpoint.public_key for endpoint in every)
    tasks = Counter(endpoint.task for endpoint in every)
    sound: list[Endpoint] = []
    for e in every:
        if tasks[e.task] > 1:
            problems.append(f"task {e.task}: service {e.service} is not the only one that has it: neither is wired")
        elif held[e.address] > 1 or keys[e.public_key] > 1:
            problems.append(
                f"task {e.task}: its address {e.address} or public key is also another's: neither is wired"
            )
        elif subnet is not None and e.address not in subnet:
            problems.append(f"task {e.task}: its address {e.address} is not of {subnet}: it is not wired")
        else:
            sound.append(e)
    return sound


def _sound_vips(
    services: Iterable[Service], held: Mapping[IPv4Address, int], subnet: IPv4Network | None, problems: list[str]
) -> dict[str, IPv4Address]:
    """The VIPs that are of the mesh and of one service alone; `problems` gets the others."""
    sound: dict[str, IPv4Address] = {}
    for service in sorted(services, key=lambda s: s.id):
        if held[service.vip] > 1:
            problems.append(
                f"service {service.name}: its VIP {service.vip} is also another's: its name leads nowhere"
            )
        elif subnet is not None and service.vip not in subnet:
            problems.append(
                f"service {service.name}: its VIP {service.vip} is not of {subnet}: its name leads nowhere"
            )
        else:
            sound[service.id] = service.vip
    return sound


def desired(
    graph: Graph,
    endpoint: Endpoint,
    private_key: PrivateKey,
    least_mtu: int,
    here: Here,
    *,
    link_keys: LinkKeys,
    known: PeerConfigs | None = None,
) -> InterfaceConfig | None:
    """The interface that a task is meant to have; None when it is meant to have none.

    Args:
        graph: the index of a snapshot.
        endpoint: the task's own.
        private_key: of the endpoint's public key.
        least_mtu: bytes that fit into a packet inside on the way to every peer's node, measured by the caller.
        here: what is known of this node's other networks.
        link_keys: those that this node holds.
        known: the interface's peers as they were worked out last.
    """
    service, cluster = graph.services.get(endpoint.service), graph.cluster
    if cluster is None or service is None:
        return None
    prefix = cluster.subnet6
    return InterfaceConfig(
        name=device_name(endpoint.task),
        private_key=private_key,
        listen_port=endpoint.underlay.port,
        addresses=(IPv4Interface((endpoint.address, 32)), IPv6Interface((twin(prefix, endpoint.address), 128))),
        routes=(Route(cluster.subnet, least_mtu if least_mtu < MIN_MTU else None), Route(prefix)),
        mtu=max(MIN_MTU, least_mtu),
        peers=_peers(graph, prefix, service, endpoint, link_keys, known or PeerConfigs()),
        # Linked to its own service, a task would take itself each time: glibc sorts an address of its own first.
        hosts=tuple(entry for entry in hosts(graph, service.id) if entry.address != endpoint.address),
        policy=_policy(graph, cluster, service, endpoint, here),
        answers=tuple(sorted(_by_dns(graph, service, cluster), key=lambda answer: answer.name)),
    )


def _peers(  # noqa: PLR0917 - as `desired` has them
    graph: Graph, prefix: IPv6Network, service: Service, own: Endpoint, link_keys: LinkKeys, known: PeerConfigs
) -> tuple[PeerConfig, ...]:
    names = cache(lambda other: graph.link_keys(service, graph.services[other]))
    every = graph.peers(own)
    peers = tuple(
        known.of(peer, prefix, link_keys.between(own.public_key, peer.public_key, names(peer.service)))
        for peer in every
    )
    link_keys.keep_only(own.public_key, {peer.public_key for peer in peers})
    known.keep_only([peer.task for peer in every])
    return peers


_Lead = Literal["vip", "dnsrr", "task"]
"""What an address is that a name leads to: a VIP, the VIP of a service with dnsrr, a ready task of such a service."""


def _aliases(service: Service) -> Iterator[tuple[str, list[str]]]:
    """Each link's provider and names. A name is one link's alone, the first that has it: it never leads to two."""
    owners: dict[str, str] = {}  # lower-case alias -> provider: names resolve whatever their case
    for link in service.links:
        yield link.provider, [a for a in link.aliases if owners.setdefault(a.lower(), link.provider) == link.provider]


def hosts(graph: Graph, service_id: str) -> tuple[HostEntry, ...]:
    """The lines for the names of a service's links: VIPs, each followed by its twin, then tasks.

    They rest on the records alone, and so are known before a task of the service has an address.

    With dnsrr the VIP is the first of all: a program takes the first address and keeps it, and each new connection to
    the VIP goes to a ready task by chance. The tasks follow for a program that wants to know them all, and all of it
    is IPv4: a resolver sorts IPv6 addresses by how near they look (RFC 6724, rule 9), and a twin nearest the task's
    own, or the task itself, would be taken each time.
    """
    service, cluster = graph.services.get(service_id), graph.cluster
    if service is None or cluster is None:
        return ()
    names: defaultdict[tuple[IPv4Address, _Lead, str], list[str]] = defaultdict(list)
    for provider, aliases in _aliases(service):
        for address, what in _leads(graph, provider, cluster) if aliases else ():
            entry = names[address, what, provider]
            entry += (alias for alias in aliases if alias not in entry)
    found: list[HostEntry] = []
    for address, what, provider in sorted(names, key=lambda lead: (lead[1] == "task", int(lead[0]), lead[2])):
        found.append(HostEntry(address, tuple(names[address, what, provider])))
        if what == "vip":
            found.append(HostEntry(twin(cluster.subnet6, address), found[-1].names))
    return tuple(found)


def _by_dns(graph: Graph, service: Service, cluster: Cluster) -> Iterator[Answer]:
    """What is answered by DNS for the same names: with dnsrr the ready tasks, or where there is none the VIP."""
    for provider, aliases in _aliases(service):
        leads = _leads(graph, provider, cluster)
        tasks = [address for address, what in leads if what == "task"]
        first = [address for address, what in leads if what == "vip" or (what == "dnsrr" and not tasks)]
        twins = [twin(cluster.subnet6, address) for address, what in leads if what == "vip"]
        rotates = any(what != "vip" for _, what in leads)
        yield from (Answer(name, (*first, *tasks, *twins), rotates) for name in sorted({a.lower() for a in aliases}))


def _leads(graph: Graph, provider: str, cluster: Cluster) -> list[tuple[IPv4Address, _Lead]]:
    """What a provider's name leads to: its VIP, whether or not any task is ready, and with dnsrr every ready task.

    Of two services of one name, for the moment that there are two, only those that can answer are given if any can:
    a program that asks once and never again must not be left with the one that ends. A name that led nowhere would be
    asked of DNS and its search domains: where there is nobody, it leads to the address that is nobody's.
    """
    ids = graph.by_name.get(provider, ())
    found: list[tuple[IPv4Address, _Lead]] = []
    for one in [one for one in ids if graph.ready(one)] or ids:
        dnsrr = graph.services[one].dnsrr
        if one in graph.vips:
            found.append((graph.vips[one], "dnsrr" if dnsrr else "vip"))
        if dnsrr:
            found += ((address, "task") for address in graph.ready(one))
    return found or [(nobody(cluster.subnet), "vip")]


def _policy(graph: Graph, cluster: Cluster, service: Service, own: Endpoint, here: Here) -> Policy:
    """What may pass. A link to the service itself makes a task both ends of it, but no peer of its own."""
    providers = sorted(graph.providers(service), key=lambda provider: provider.id)
    consumers = [graph.services[found] for found in graph.consumers.get(service.name, ())]
    balance = [
        Balance(graph.vips[provider.id], tuple(graph.ready(provider.id)), provider.id)
        for provider in providers
        if provider.id in graph.vips
    ]
    return Policy(
        subnet=cluster.subnet,
        subnet6=cluster.subnet6,
        balance=tuple(sorted(balance, key=lambda one: one.vip)),
        outbound=tuple(_allow(graph, other, own, graph.ports(service, other)) for other in providers),
        inbound=tuple(_allow(graph, other, own, graph.ports(other, service)) for other in consumers),
        apart=graph.outside.apart(own, here.tasks),
        exits=here.exits if service.strict else (),
        resolving=Resolving(tuple(sorted({a.lower() for _, aliases in _aliases(service) for a in aliases}))),
    )


def _allow(graph: Graph, other: Service, own: Endpoint, ports: tuple[PortRange, ...] | None) -> Allow:
    """Whether a task is ready does not matter: what is open stays open."""
    peers = (e.address for e in graph.endpoints.get(other.id, ()) if e.task != own.task)
    return Allow(other.id, tuple(sorted(peers, key=int)), ports)
