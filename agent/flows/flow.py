"""The link that a connection goes over, by the records. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.flows.conntrack_events import Address, Connection
from mesh.model.records import Endpoint, Service
from mesh.topology.link_graph import LinkGraph


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
