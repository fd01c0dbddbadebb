"""The link graph: from records to the interface that each task is meant to have. Pure.

Rule 1 of the design is kept here for every input, also a damaged one: no address and no public key appears
twice among the peers of one device. Of two endpoints that claim the same one, neither is wired.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from mesh.keys import PrivateKey
from mesh.records import Cluster, Endpoint, Service
from mesh.snapshot import Snapshot
from mesh.wgtypes import HostEntry, InterfaceConfig, PeerConfig

KEEPALIVE = 25
"""Seconds. With it a device that was made again is heard of at once and not after 15 s of silence, and a
handshake is never older than its 180 s (WireGuard paper, section 6.5; REJECT_AFTER_TIME) while both ends live."""

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
        by_name: service name -> ids (two for a moment, when a service is made again under its old name).
        consumers: provider name -> ids of the services that link to it.
        endpoints: service id -> its endpoints, by task.
        problems: what is contradictory in the records, in words.
    """

    cluster: Cluster | None
    complete: bool
    services: Mapping[str, Service]
    by_name: Mapping[str, tuple[str, ...]]
    consumers: Mapping[str, tuple[str, ...]]
    endpoints: Mapping[str, tuple[Endpoint, ...]]
    by_task: Mapping[str, Endpoint]
    problems: tuple[str, ...]

    def providers(self, service: Service) -> Iterable[Service]:
        """The services that this one links to and that exist."""
        for link in service.links:
            for found in self.by_name.get(link.provider, ()):
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


def index(snapshot: Snapshot) -> Graph:
    """Index a snapshot."""
    services = {service.id: service for service in snapshot.all(Service)}
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    consumers: defaultdict[str, set[str]] = defaultdict(set)
    for service in services.values():
        by_name[service.name].append(service.id)
        for link in service.links:
            consumers[link.provider].add(service.id)
    sound, problems = _sound(snapshot.all(Endpoint))
    endpoints: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in sound:
        endpoints[endpoint.service].append(endpoint)
    return Graph(
        cluster=next(snapshot.all(Cluster), None),
        complete=snapshot.complete,
        services=services,
        by_name={name: tuple(sorted(ids)) for name, ids in by_name.items()},
        consumers={name: tuple(sorted(ids)) for name, ids in consumers.items()},
        endpoints={service: tuple(found) for service, found in endpoints.items()},
        by_task={endpoint.task: endpoint for endpoint in sound},
        problems=problems,
    )


def _sound(endpoints: Iterable[Endpoint]) -> tuple[list[Endpoint], tuple[str, ...]]:
    """The endpoints that share no address, public key or task with another; and what is wrong with the rest."""
    every = sorted(endpoints, key=lambda endpoint: (endpoint.task, endpoint.service))
    addresses = Counter(endpoint.address for endpoint in every)
    keys = Counter(endpoint.public_key for endpoint in every)
    tasks = Counter(endpoint.task for endpoint in every)
    sound: list[Endpoint] = []
    problems: list[str] = []
    for e in every:
        if tasks[e.task] > 1:
            problems.append(f"task {e.task}: service {e.service} is not the only one that has it: neither is wired")
        elif addresses[e.address] > 1 or keys[e.public_key] > 1:
            problems.append(
                f"task {e.task}: its address {e.address} or public key is also another task's: neither is wired"
            )
        else:
            sound.append(e)
    return sound, tuple(problems)


def _hosts(graph: Graph, service: Service) -> tuple[HostEntry, ...]:
    """Names of a service's providers: every ready task's address, in the order of the addresses.

    This is the seam for the VIP: with one, the entry is the provider's and not its tasks'.
    """
    names: defaultdict[Endpoint, list[str]] = defaultdict(list)
    for link in service.links:
        for found in graph.by_name.get(link.provider, ()):
            for endpoint in graph.endpoints.get(found, ()):
                if endpoint.ready:
                    names[endpoint].extend(alias for alias in link.aliases if alias not in names[endpoint])
    ordered = sorted(names, key=lambda endpoint: endpoint.address)
    return tuple(HostEntry(endpoint.address, tuple(names[endpoint])) for endpoint in ordered)


def desired(graph: Graph, endpoint: Endpoint, private_key: PrivateKey, mtu: int) -> InterfaceConfig | None:
    """The interface that a task is meant to have; None when it is meant to have none.

    Args:
        graph: the index of a snapshot.
        endpoint: the task's own.
        private_key: of the endpoint's public key.
        mtu: bytes, measured by the caller from its routes to the peers' nodes.
    """
    service = graph.services.get(endpoint.service)
    if graph.cluster is None or service is None:
        return None
    subnet: IPv4Network = graph.cluster.subnet
    return InterfaceConfig(
        name=device_name(endpoint.task),
        private_key=private_key,
        listen_port=endpoint.underlay.port,
        address=IPv4Interface((endpoint.address, 32)),
        routes=(subnet,),
        mtu=mtu,
        peers=tuple(
            PeerConfig(
                public_key=peer.public_key,
                endpoint=peer.underlay,
                allowed_ips=frozenset({IPv4Network(peer.address)}),
                keepalive=KEEPALIVE,
            )
            for peer in graph.peers(endpoint)
        ),
        hosts=_hosts(graph, service),
    )
