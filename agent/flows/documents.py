"""Documents of the query `flows`, as `docker linkwire flows --format json` prints them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.flows.events import Refusal
from agent.flows.merge import Merge, Source, Told
from mesh.topology.link_graph import LinkGraph

_LACKS = ("full_seconds", "overflowed_tasks", "left_out", "not_believed", "missing_batches", "is_silent", "problems")
"""Fields of a node's part by which something is missing."""


def watched(node: str, merge: Merge, problems: Sequence[str], apart: Collection[str] = ()) -> Mapping[str, Any]:
    """Describe what is watched at the beginning.

    Args:
        node: the one that was asked.
        merge: with what the nodes have answered.
        problems: of the whole, in words.
        apart: nodes that were not asked, to be named.
    """
    heard = {each: source for each, source in merge.sources.items() if source.begun is not None}
    return {
        "kind": "watched",
        "node": node,
        "tasks": sum(source.begun.tasks for source in heard.values() if source.begun),
        "tasks_here": sum(source.begun.tasks_here for source in heard.values() if source.begun),
        "nodes": [_begun(each, source) for each, source in heard.items()],
        "nodes_not_watched": sorted({*apart, *merge.sources} - heard.keys()),
        "problems": list(problems),
    }


def _begun(node: str, source: Source) -> Mapping[str, Any]:
    begun = source.begun
    problems = sorted({*(begun.problems if begun else ()), *source.problems})
    tasks, here = (begun.tasks, begun.tasks_here) if begun else (0, 0)
    return {"node": node, "tasks": tasks, "tasks_here": here, "problems": problems}


def told(graph: LinkGraph, one: Told, at: float) -> Mapping[str, Any]:
    """Describe a connection or a refusal; `at` is in Unix seconds."""
    event = one.event
    if isinstance(event, Refusal):
        own, other = graph.by_task.get(event.task), graph.services.get(event.other)
        service = graph.services.get(own.service) if own is not None else None
        return {
            "kind": "refused",
            "time": at,
            "node": one.node,
            "service": service.name if service is not None else "",
            "task": event.task,
            "direction": event.direction,
            "other": other.name if other is not None else "",
            "packets": event.packets,
        }
    connection, flow = event.connection, one.flow
    return {
        "kind": "connection",
        "time": at,
        "node": one.node,
        "consumer": flow.consumer.name if flow else "",
        "provider": flow.provider.name if flow else "",
        "consumer_task": flow.consumer_task if flow else "",
        "provider_task": flow.provider_task if flow else "",
        "protocol": connection.protocol,
        "source": str(connection.source),
        "source_port": connection.source_port,
        "destination": str(connection.destination),
        "destination_port": connection.destination_port,
        "backend": str(connection.backend),
    }


def sums(kind: str, node: str, merge: Merge, problems: Sequence[str], silent: Collection[str]) -> Mapping[str, Any]:
    """Describe how much there was, of all nodes together and each node's part of it.

    Args:
        kind: `end`, or `counts`, in which those nodes alone are named of which something is missing.
        node: the one that was asked.
        merge: with all that the nodes have said.
        problems: of the whole, in words.
        silent: nodes that have answered, and then no longer.
    """
    totals = [source.total for source in merge.sources.values()]
    parts = (_part(each, source, each in silent) for each, source in merge.sources.items() if source.begun)
    return {
        "kind": kind,
        "node": node,
        "events": sum(each.events for each in totals),
        "shown": merge.shown,
        "full_seconds": sum(each.full_seconds for each in totals),
        "overflowed_tasks": sum(each.overflowed_tasks for each in totals),
        "tasks": sum(each.tasks for each in totals),
        "nodes": [part for part in parts if kind == "end" or _is_short(part)],
        "nodes_not_watched": sorted(each for each, source in merge.sources.items() if source.begun is None),
        "problems": list(problems),
    }


def _part(node: str, source: Source, is_silent: bool) -> Mapping[str, Any]:
    total = source.total
    return {
        **_begun(node, source),
        "events": total.events,
        "full_seconds": total.full_seconds,
        "overflowed_tasks": total.overflowed_tasks,
        "left_out": source.left_out + source.surplus,
        "not_believed": source.disbelieved,
        "missing_batches": source.missing,
        "is_silent": is_silent,
    }


def _is_short(part: Mapping[str, Any]) -> bool:
    """Tell whether something of a node is missing."""
    return any(part[name] for name in _LACKS) or part["tasks"] < part["tasks_here"]
