"""The link that a connection goes over, and the nodes whose tasks have such links, by the records. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.flows.conntrack_events import Address, Connection
from mesh.model.records import Endpoint, Service
from mesh.topology.link_graph import LinkGraph

Wanted = Callable[[str], bool]
"""Asked of a service's name: links with it at either end are watched."""


def wanted_by(name: str | None) -> Wanted:
    """Return what chooses the services of a name, a stack's or a service's; None for all."""
    return lambda service: name is None or service == name or service.startswith(f"{name}_")


def takes_part(graph: LinkGraph, endpoint: Endpoint, wanted: Wanted) -> bool:
    """Tell whether a task has a link that is wanted."""
    service = graph.services.get(endpoint.service)
    return service is not None and _is_linked(graph, service, wanted)


def nodes_of(graph: LinkGraph, wanted: Wanted) -> set[str]:
    """Return the nodes of tasks that have a link that is wanted, at either end."""
    return {
        endpoint.node
        for service in graph.services.values()
        if _is_linked(graph, service, wanted)
        for endpoint in graph.endpoints.get(service.id, ())
    }


def _is_linked(graph: LinkGraph, service: Service, wanted: Wanted) -> bool:
    return any(map(wanted, (service.name, *_partners(graph, service))))


def _partners(graph: LinkGraph, service: Service) -> Iterator[str]:
    """Yield the names of the services at the other ends of a service's links."""
    yield from (link.provider for link in service.links)
    for consumer in graph.consumers.get(service.name, ()):
        if consumer in graph.services:
            yield graph.services[consumer].name


@dataclass(frozen=True, slots=True)
class Flow:
    """A new connection over a link."""

    consumer: Service
    provider: Service
    consumer_task: str
    provider_task: str
    connection: Connection


def flow_of(graph: LinkGraph, own: Endpoint, connection: Connection) -> Flow | None:
    """Return the flow that a connection is, seen in a task's namespace; None where it goes over no link.

    Args:
        graph: the node's.
        own: the task's endpoint.
        connection: as it was tracked there.
    """
    source, backend = _endpoint(graph, connection.source), _endpoint(graph, connection.backend)
    if source is None or backend is None or own.task not in (source.task, backend.task):
        return None
    consumer, provider = graph.services.get(source.service), graph.services.get(backend.service)
    if consumer is None or provider is None or (consumer.id, provider.name) not in graph.links:
        return None
    return Flow(consumer, provider, source.task, backend.task, connection)


def _endpoint(graph: LinkGraph, address: Address) -> Endpoint | None:
    """Return the endpoint with an address of the mesh; in IPv6 its last 32 bits are those of IPv4."""
    if graph.cluster is None:
        return None
    if isinstance(address, IPv6Address):
        if address not in graph.cluster.subnet6:
            return None
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    return graph.by_task.get(graph.addresses.get(address, ""))
