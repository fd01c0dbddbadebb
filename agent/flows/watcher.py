"""Watcher of this node's tasks: their new connections, as many as fit, and what their rules refused.

It listens in a sample of the tasks' namespaces, for as long as somebody reads, and reads no more events in a second
than a fixed number: what is beyond is left to the kernel, which drops it, and is said.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from agent.firewall import nf_tables_netlink, ruleset
from agent.flows.conntrack_events import Connection, Subscription
from agent.flows.flow import Flow, flow_of
from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError, Retryable
from mesh.model.records import Endpoint, Service
from mesh.topology.link_graph import LinkGraph

log = structlog.get_logger(__name__)

MOST_TASKS = 64
"""Namespaces that one query listens in; of more a sample is drawn."""
MOST_EVENTS = 400
"""Events that one query reads in a second, those included that go over no link."""
MOST_QUERIES = 2
"""At the same time, of one agent."""
REFUSALS_S = 2.0
"""Between two looks at the rules' counters."""
_SECOND = 1.0
_AT_ONCE = 32
"""Events that are read of one namespace before the others have their turn."""

Refusals = Counter[tuple[str, str]]
"""(direction, the other service's id) -> packets."""


@dataclass(slots=True)
class _Watched:
    """One task that is listened to."""

    endpoint: Endpoint
    netns: TaskNetns
    subscription: Subscription
    refused: Refusals = field(default_factory=Counter)

    def close(self) -> None:
        self.subscription.close()
        self.netns.close()


class Watcher:
    """Watcher of one node. Safe for several threads.

    Args:
        node: its id.
        tasks: returns the ids of its wired tasks, each with its namespace's path.
        graph: returns the link graph that the node acts on.
    """

    def __init__(
        self, node: str, tasks: Callable[[], Iterable[tuple[str, str]]], graph: Callable[[], LinkGraph]
    ) -> None:
        self._node = node
        self._tasks = tasks
        self._graph = graph
        self._free = threading.BoundedSemaphore(MOST_QUERIES)

    def watch(self, wanted: Callable[[str], bool], seconds: float) -> Iterator[Mapping[str, Any]]:
        """Yield documents: first what is watched, then connections and refusals, each second a count, last its sum.

        Args:
            wanted: asked of a service's name: links with it at either end are shown.
            seconds: for so long.

        Raises:
            Retryable: too many are watching already, or the node knows no links yet.
        """
        if not self._free.acquire(blocking=False):
            raise Retryable(f"{MOST_QUERIES} queries watch this node's flows already: try again when one has ended")
        try:
            yield from self._watch(wanted, seconds)
        finally:
            self._free.release()

    def _watch(self, wanted: Callable[[str], bool], seconds: float) -> Iterator[Mapping[str, Any]]:
        graph = self._graph()
        if graph.cluster is None:
            raise Retryable("this node has not read any links yet")
        here = list(self._here(graph, wanted))
        sample = here if len(here) <= MOST_TASKS else random.sample(here, MOST_TASKS)
        with contextlib.ExitStack() as stack:
            watched: list[_Watched] = []
            problems: set[str] = set()
            for endpoint, path in sample:
                try:
                    one = _opened(endpoint, path)
                except (LinkwireError, OSError) as error:
                    problems.add(str(error))
                    continue
                stack.callback(one.close)
                watched.append(one)
            yield {
                "kind": "watched",
                "node": self._node,
                "tasks": len(watched),
                "tasks_here": len(here),
                "nodes_not_watched": sorted(self._elsewhere(graph, wanted)),
                "problems": sorted(problems),
            }
            yield from _Round(self._graph, wanted, watched).run(seconds)

    def _here(self, graph: LinkGraph, wanted: Callable[[str], bool]) -> Iterator[tuple[Endpoint, str]]:
        """Yield this node's wired tasks with a link that is wanted, and their namespaces' paths."""
        for task, path in self._tasks():
            endpoint = graph.by_task.get(task)
            service = graph.services.get(endpoint.service) if endpoint is not None else None
            if (
                endpoint is not None
                and service is not None
                and any(wanted(name) for name in (service.name, *_partners(graph, service)))
            ):
                yield endpoint, path

    def _elsewhere(self, graph: LinkGraph, wanted: Callable[[str], bool]) -> set[str]:
        """Return the other nodes that run consumers of such links: between two of them nothing is seen here."""
        return {
            endpoint.node
            for service in graph.services.values()
            if service.links and any(wanted(name) for name in (service.name, *_partners(graph, service)))
            for endpoint in graph.endpoints.get(service.id, ())
        } - {self._node}


def _partners(graph: LinkGraph, service: Service) -> Iterator[str]:
    """Yield the names of the services at the other ends of a service's links."""
    yield from (link.provider for link in service.links)
    for consumer in graph.consumers.get(service.name, ()):
        if consumer in graph.services:
            yield graph.services[consumer].name


def _opened(endpoint: Endpoint, path: str) -> _Watched:
    netns = TaskNetns(path)
    try:
        one = _Watched(endpoint, netns, Subscription(netns))
    except BaseException:
        netns.close()
        raise
    one.refused = _refused(netns)
    return one


def _refused(netns: TaskNetns) -> Refusals:
    counters: Refusals = Counter()
    for each in ruleset.refused(nf_tables_netlink.counted(netns, ruleset.NAME)):
        counters[each.direction, each.service] += each.packets
    return counters


class _Round:
    """One query's watch."""

    def __init__(
        self, graph: Callable[[], LinkGraph], wanted: Callable[[str], bool], watched: Sequence[_Watched]
    ) -> None:
        self._graph = graph
        self._wanted = wanted
        self._watched = list(watched)
        self._read = self._shown = self._full_seconds = 0

    def run(self, seconds: float) -> Iterator[Mapping[str, Any]]:
        """Yield documents for so long."""
        end = time.monotonic() + seconds
        look_at = time.monotonic() + REFUSALS_S
        with selectors.DefaultSelector() as self._selector:
            for watched in self._watched:
                self._selector.register(watched.subscription, selectors.EVENT_READ, watched)
            while (began := time.monotonic()) < end:
                yield from self._second(min(began + _SECOND, end))
                now = time.monotonic()
                if now >= look_at or now >= end:
                    look_at = now + REFUSALS_S
                    yield from self._refusals()
                yield self._counts("counts")
            yield self._counts("end")

    def _counts(self, kind: str) -> Mapping[str, Any]:
        overflowed = sum(one.subscription.overflowed for one in self._watched)
        return {
            "kind": kind,
            "events": self._read,
            "shown": self._shown,
            "full_seconds": self._full_seconds,
            "overflowed_tasks": overflowed,
            "tasks": len(self._watched),
        }

    def _second(self, until: float) -> Iterator[Mapping[str, Any]]:
        """Read events until a time, and no more than MOST_EVENTS; then sleep until it."""
        budget = MOST_EVENTS
        while budget > 0 and (left := until - time.monotonic()) > 0:
            if not self._watched:
                time.sleep(left)
                return
            for key, _ in self._selector.select(left):
                for connection in self._events(key.data, min(_AT_ONCE, budget)):
                    budget -= 1
                    self._read += 1
                    if (flow := self._flow(key.data, connection)) is not None:
                        self._shown += 1
                        yield flow
        if budget <= 0:
            self._full_seconds += 1
            time.sleep(max(0.0, until - time.monotonic()))

    def _events(self, watched: _Watched, most: int) -> Iterable[Connection]:
        try:
            return watched.subscription.read(most)
        except OSError as error:
            log.warning("flows of a task not read", task=watched.endpoint.task, error=str(error))
            self._drop(watched)
            return ()

    def _drop(self, watched: _Watched) -> None:
        """Let go of a task: its namespace must not live on because of us."""
        self._selector.unregister(watched.subscription)
        watched.close()
        self._watched.remove(watched)

    def _flow(self, watched: _Watched, connection: Connection) -> Mapping[str, Any] | None:
        flow = flow_of(self._graph(), watched.endpoint, connection)
        if flow is None or not (self._wanted(flow.consumer.name) or self._wanted(flow.provider.name)):
            return None
        if watched.endpoint.task != flow.consumer_task and self._is_watched(flow.consumer_task):
            return None  # it is told of at the consumer's end
        return self._document(flow)

    def _is_watched(self, task: str) -> bool:
        return any(each.endpoint.task == task for each in self._watched)

    def _document(self, flow: Flow) -> Mapping[str, Any]:
        connection = flow.connection
        return {
            "kind": "connection",
            "time": time.time(),
            "consumer": flow.consumer.name,
            "provider": flow.provider.name,
            "consumer_task": flow.consumer_task,
            "provider_task": flow.provider_task,
            "protocol": connection.protocol,
            "source": str(connection.source),
            "source_port": connection.source_port,
            "destination": str(connection.destination),
            "destination_port": connection.destination_port,
            "backend": str(connection.backend),
        }

    def _refusals(self) -> Iterator[Mapping[str, Any]]:
        """Yield what the tasks' rules have refused since the last look, by the other end's service."""
        graph = self._graph()
        for watched in list(self._watched):
            try:
                now = _refused(watched.netns)
            except LinkwireError:  # the task has ended
                self._drop(watched)
                continue
            # Rules that were replaced begin to count anew.
            for (direction, service), packets in sorted(now.items()):
                more = packets - watched.refused[direction, service]
                if more > 0:
                    other = graph.services.get(service)
                    yield {
                        "kind": "refused",
                        "time": time.time(),
                        "service": graph.services[watched.endpoint.service].name
                        if watched.endpoint.service in graph.services
                        else watched.endpoint.service,
                        "task": watched.endpoint.task,
                        "direction": direction,
                        "other": other.name if other is not None else service,
                        "packets": more,
                    }
            watched.refused = now
