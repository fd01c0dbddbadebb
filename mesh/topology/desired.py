"""Desired interface of a task, derived from the link graph: addresses, peers, names and policy. Pure.

With the link graph it keeps rule 1 of the design: no two peers of one device share an address or a public key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, IPv6Network
from typing import Literal

from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import LinkKeys
from mesh.model.labels.ports import PortRange
from mesh.model.records import Cluster, Endpoint, Service
from mesh.topology.ipam import nobody, twin
from mesh.topology.link_graph import LinkGraph
from mesh.topology.peer_cache import PeerCache
from mesh.topology.policy import Allow, Balance, Policy, Resolving
from mesh.topology.strict_isolation import LocalNetworks
from mesh.topology.wgtypes import Answer, HostEntry, InterfaceConfig, PeerConfig, Route

MIN_MTU = 1280
"""Bytes. RFC 8200, section 5: a device with less has no IPv6. Where the path takes less, WireGuard's own packets are
fragmented for IPv6, and the route limits IPv4 packets."""

DEVICE_PREFIX = "lw"


def device_name(task: str) -> str:
    """Return the name of a task's device, unique on its node: 14 of the 15 bytes that IFNAMSIZ leaves."""
    return DEVICE_PREFIX + task[:12].lower()


def desired(
    graph: LinkGraph,
    endpoint: Endpoint,
    private_key: PrivateKey,
    least_mtu: int,
    here: LocalNetworks,
    *,
    link_keys: LinkKeys,
    peer_configs: PeerCache | None = None,
) -> InterfaceConfig | None:
    """Return the desired interface of a task; None when it should have none.

    Args:
        graph: the index of a snapshot.
        endpoint: the task's own.
        private_key: the one of the endpoint's public key.
        least_mtu: bytes that a packet inside may have on the path to every peer's node, measured by the caller.
        here: this node's other networks.
        link_keys: those that this node holds.
        peer_configs: the interface's peers as they were derived last.
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
        peers=_peers(graph, prefix, service, endpoint, link_keys, peer_configs or PeerCache()),
        # glibc sorts an address of its own first: a task linked to its own service would always connect to itself.
        hosts=tuple(entry for entry in hosts(graph, service.id) if entry.address != endpoint.address),
        policy=_policy(graph, cluster, service, endpoint, here),
        answers=tuple(sorted(_by_dns(graph, service, cluster), key=lambda answer: answer.name)),
    )


def _peers(  # noqa: PLR0917 - the arguments of `desired`
    graph: LinkGraph, prefix: IPv6Network, service: Service, own: Endpoint, link_keys: LinkKeys, configs: PeerCache
) -> tuple[PeerConfig, ...]:
    names = cache(lambda other: graph.link_keys(service, graph.services[other]))
    every = graph.peers(own)
    peers = tuple(
        configs.of(peer, prefix, link_keys.between(own.public_key, peer.public_key, names(peer.service)))
        for peer in every
    )
    link_keys.drop_stale(own.public_key, {peer.public_key for peer in peers})
    configs.drop_stale([peer.task for peer in every])
    return peers


_Lead = Literal["vip", "dnsrr", "task"]
"""Kind of an address behind a name: a VIP, the VIP of a service with dnsrr, or a ready task of such a service."""


def _aliases(service: Service) -> Iterator[tuple[str, list[str]]]:
    """Yield each link's provider and names; a name belongs to the first link that has it, so to one provider."""
    owners: dict[str, str] = {}  # lower-case alias -> provider: names resolve whatever their case
    for link in service.links:
        yield link.provider, [a for a in link.aliases if owners.setdefault(a.lower(), link.provider) == link.provider]


def hosts(graph: LinkGraph, service_id: str) -> tuple[HostEntry, ...]:
    """Return the hosts file's lines for a service's links: VIPs, each followed by its twin, then tasks.

    They follow from the records alone, so they exist before a task of the service has an address.

    With dnsrr the VIP comes first: most programs use the first address only, and each new connection to the VIP goes
    to a random ready task. The tasks follow for programs that want them all. All of these are IPv4: a resolver sorts
    IPv6 addresses by how near they look (RFC 6724, rule 9), and would always choose the nearest twin.
    """
    service, cluster = graph.services.get(service_id), graph.cluster
    if service is None or cluster is None:
        return ()
    names: defaultdict[tuple[IPv4Address, _Lead, str], list[str]] = defaultdict(list)
    for provider, aliases in _aliases(service):
        for address, kind in _leads(graph, provider, cluster) if aliases else ():
            entry = names[address, kind, provider]
            entry += (alias for alias in aliases if alias not in entry)
    entries: list[HostEntry] = []
    for address, kind, provider in sorted(names, key=lambda lead: (lead[1] == "task", int(lead[0]), lead[2])):
        entries.append(HostEntry(address, tuple(names[address, kind, provider])))
        if kind == "vip":
            entries.append(HostEntry(twin(cluster.subnet6, address), entries[-1].names))
    return tuple(entries)


def _by_dns(graph: LinkGraph, service: Service, cluster: Cluster) -> Iterator[Answer]:
    """Yield the DNS answers for the same names: with dnsrr the ready tasks, or the VIP where no task is ready."""
    for provider, aliases in _aliases(service):
        leads = _leads(graph, provider, cluster)
        tasks = [address for address, kind in leads if kind == "task"]
        first = [address for address, kind in leads if kind == "vip" or (kind == "dnsrr" and not tasks)]
        twins = [twin(cluster.subnet6, address) for address, kind in leads if kind == "vip"]
        rotates = any(kind != "vip" for _, kind in leads)
        yield from (Answer(name, (*first, *tasks, *twins), rotates) for name in sorted({a.lower() for a in aliases}))


def _leads(graph: LinkGraph, provider: str, cluster: Cluster) -> list[tuple[IPv4Address, _Lead]]:
    """Return the addresses behind a provider's name: its VIP, even with no task ready; with dnsrr ready tasks too.

    While two services have one name, those with a ready task are preferred: a program that resolves once must not be
    left with the service that ends. A name without an address would be looked up in DNS and its search domains, so a
    missing provider has the address that is nobody's (`mesh.topology.ipam.nobody`).
    """
    ids = graph.by_name.get(provider, ())
    leads: list[tuple[IPv4Address, _Lead]] = []
    for service in [service for service in ids if graph.ready(service)] or ids:
        dnsrr = graph.services[service].dnsrr
        if service in graph.vips:
            leads.append((graph.vips[service], "dnsrr" if dnsrr else "vip"))
        if dnsrr:
            leads += ((address, "task") for address in graph.ready(service))
    return leads or [(nobody(cluster.subnet), "vip")]


def _policy(graph: LinkGraph, cluster: Cluster, service: Service, own: Endpoint, here: LocalNetworks) -> Policy:
    """Return a task's policy. With a link to its own service it is at both ends, but not its own peer."""
    providers = sorted(graph.providers(service), key=lambda provider: provider.id)
    consumers = [graph.services[consumer] for consumer in graph.consumers.get(service.name, ())]
    balance = [
        Balance(graph.vips[provider.id], tuple(graph.ready(provider.id)), provider.id)
        for provider in providers
        if provider.id in graph.vips
    ]
    return Policy(
        subnet=cluster.subnet,
        subnet6=cluster.subnet6,
        balance=tuple(sorted(balance, key=lambda entry: entry.vip)),
        outbound=tuple(_allow(graph, other, own, graph.ports(service, other)) for other in providers),
        inbound=tuple(_allow(graph, other, own, graph.ports(other, service)) for other in consumers),
        isolated=graph.networks.isolated_addresses(own, here.tasks),
        exits=here.exits if service.strict else (),
        open_ports=service.open_ports,
        resolving=Resolving(tuple(sorted({a.lower() for _, aliases in _aliases(service) for a in aliases}))),
    )


def _allow(graph: LinkGraph, other: Service, own: Endpoint, ports: tuple[PortRange, ...] | None) -> Allow:
    """Return what a link allows with another service; tasks that are not ready too, so that connections stay open."""
    peers = (e.address for e in graph.endpoints.get(other.id, ()) if e.task != own.task)
    return Allow(other.id, tuple(sorted(peers, key=int)), ports)
