"""Wiring of services, for `docker linkwire deploy`: each linked service with its links and tasks. Pure.

Its size grows with services and tasks, not with the pairs of tasks that a link has.
"""

from __future__ import annotations

from typing import Any

from mesh.model import keyspace
from mesh.model.records import Endpoint, Node, Service, Status, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.topology.agreed_links import REFUSED, shown
from mesh.topology.link_graph import LinkGraph, index

VERSION = 1


def wiring(snapshot: Snapshot, stack: str | None = None) -> dict[str, Any]:
    """Describe all linked services as one JSON document.

    Args:
        snapshot: everything under the root, as far as it is believed.
        stack: only its services, and those at the other end of their links.
    """
    graph = index(snapshot)
    services = sorted(graph.services.values(), key=lambda service: service.name)
    if stack is not None:
        near = _near(services, f"{stack}_")
        services = [service for service in services if service.name in near]
    return {"version": VERSION, "services": [_service(snapshot, graph, service) for service in services]}


def _near(services: list[Service], prefix: str) -> set[str]:
    """Return the names of a stack's services, and of those at the other end of a link."""
    names = {service.name for service in services if service.name.startswith(prefix)}
    for service in services:
        providers = {shown(link.provider) for link in service.links}
        if service.name.startswith(prefix):
            names |= providers
        elif any(provider.startswith(prefix) for provider in providers):
            names.add(service.name)
    return names


def _service(snapshot: Snapshot, graph: LinkGraph, service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "links": [
            {
                "provider": shown(link.provider),
                "aliases": list(link.aliases),
                "allowed": not link.provider.startswith(REFUSED),
                "exists": link.provider.startswith(REFUSED) or link.provider in graph.by_name,
            }
            for link in service.links
        ],
        "tasks": [_task(snapshot, endpoint) for endpoint in graph.endpoints.get(service.id, ())],
    }


def _task(snapshot: Snapshot, endpoint: Endpoint) -> dict[str, Any]:
    node = snapshot.get(keyspace.node(endpoint.node), Node)
    report = snapshot.get(keyspace.report(endpoint.node, endpoint.task), TaskReport)
    status = snapshot.get(keyspace.status(endpoint.node), Status)
    return {
        "task": endpoint.task,
        "node": node.hostname if node else endpoint.node,
        "wired": report is not None and report.wired,
        "ready": endpoint.ready,
        "silent": endpoint.suspect or status is None,
        "held": status.held if status else "",
        "error": (report.error if report else None) or "",
    }
