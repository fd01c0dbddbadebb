"""Watcher of this node's tasks: their new connections, as many as fit, and what their rules refused.

It listens in a sample of the tasks' namespaces, for as long as somebody reads, and reads no more events in a second
than a fixed number: what is beyond is left to the kernel, which drops it, and is said.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from agent.firewall import nf_tables_netlink, ruleset
from agent.flows.conntrack_events import Connection, Subscription
from agent.flows.events import MOST_EVENTS, Begun, Counts, Event, Refusal, Seen
from agent.flows.link_lookup import Wanted, flow_of, takes_part
from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError
from mesh.model.records import Endpoint
from mesh.topology.link_graph import LinkGraph

log = structlog.get_logger(__name__)

MOST_TASKS = 64
"""Namespaces that one watch listens in; of more a sample is drawn."""
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
        tasks: returns the ids of its wired tasks, each with its namespace's path.
        graph: returns the link graph that the node acts on.
    """

    def __init__(self, tasks: Callable[[], Iterable[tuple[str, str]]], graph: Callable[[], LinkGraph]) -> None:
        self._tasks = tasks
        self._graph = graph

    @property
    def graph(self) -> LinkGraph:
        """The link graph that the node acts on."""
        return self._graph()

    def watch(self, wanted: Wanted, goes_on: Callable[[], bool]) -> Iterator[Event]:
        """Yield events: first Begun, then connections and refusals, each second Counts.

        Begun comes again when there are other tasks than before.

        Args:
            wanted: chooses services.
            goes_on: asked every second; the watch ends when it says no.
        """
        with contextlib.closing(_Round(self._graph, wanted, lambda: self._here(wanted))) as made:
            yield from made.run(goes_on)

    def _here(self, wanted: Wanted) -> Iterator[tuple[Endpoint, str]]:
        """Yield this node's wired tasks with a link that is wanted, and their namespaces' paths."""
        graph = self._graph()
        for task, path in self._tasks():
            endpoint = graph.by_task.get(task)
            if endpoint is not None and takes_part(graph, endpoint, wanted):
                yield endpoint, path


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
    """One watch of this node's tasks, those that come while it lasts too."""

    def __init__(
        self, graph: Callable[[], LinkGraph], wanted: Wanted, here: Callable[[], Iterable[tuple[Endpoint, str]]]
    ) -> None:
        self._graph = graph
        self._wanted = wanted
        self._here = here
        self._watched: list[_Watched] = []
        self._looked_at: set[str] = set()
        self._problems: set[str] = set()
        self._overflowed = 0
        self._read = self._full_seconds = 0
        self._begun: Begun | None = None
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        """Let go of all tasks."""
        for watched in list(self._watched):
            self._drop(watched)
        self._selector.close()

    def run(self, goes_on: Callable[[], bool]) -> Iterator[Event]:
        """Yield events for so long."""
        look_at = time.monotonic()
        while True:
            now, is_last = time.monotonic(), not goes_on()
            if now >= look_at or is_last:
                look_at = now + REFUSALS_S
                yield from self._refusals()
                yield from self._tasks()
            yield self._counts()
            if is_last:
                return
            yield from self._second(time.monotonic() + _SECOND)

    def _tasks(self) -> Iterator[Begun]:
        """Listen to tasks that are new, to as many as may be; say it where they are others than before."""
        here = dict(self._here())
        new = [task for task in here if task.task not in self._looked_at]
        room = max(0, MOST_TASKS - len(self._watched))
        for endpoint in new if len(new) <= room else random.sample(new, room):
            self._looked_at.add(endpoint.task)
            try:
                watched = _opened(endpoint, here[endpoint])
            except (LinkwireError, OSError) as error:
                self._problems.add(str(error))
                continue
            self._watched.append(watched)
            self._selector.register(watched.subscription, selectors.EVENT_READ, watched)
        begun = Begun(len(self._watched), len(here), tuple(sorted(self._problems)))
        if begun != self._begun:
            self._begun = begun
            yield begun

    def _counts(self) -> Counts:
        overflowed = self._overflowed + sum(one.subscription.overflowed for one in self._watched)
        return Counts(self._read, self._full_seconds, overflowed, len(self._watched))

    def _second(self, until: float) -> Iterator[Seen]:
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
                    if self._is_wanted(key.data, connection):
                        yield Seen(key.data.endpoint.task, time.monotonic(), connection)
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
        self._overflowed += watched.subscription.overflowed
        self._selector.unregister(watched.subscription)
        watched.close()
        self._watched.remove(watched)

    def _is_wanted(self, watched: _Watched, connection: Connection) -> bool:
        flow = flow_of(self._graph(), watched.endpoint, connection)
        if flow is None or not (self._wanted(flow.consumer.name) or self._wanted(flow.provider.name)):
            return False
        # Of two ends here it is told at the consumer's.
        return watched.endpoint.task == flow.consumer_task or not self._is_watched(flow.consumer_task)

    def _is_watched(self, task: str) -> bool:
        return any(each.endpoint.task == task for each in self._watched)

    def _refusals(self) -> Iterator[Refusal]:
        """Yield what the tasks' rules have refused since the last look, by the other end's service."""
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
                    yield Refusal(watched.endpoint.task, time.monotonic(), direction, service, more)
            watched.refused = now
