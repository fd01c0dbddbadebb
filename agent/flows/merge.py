"""Merge of several nodes' events into one stream, by time. Pure: its caller says what time it is.

A node is believed about its own tasks alone, and about these no more than its events: names, services and links come
from the records that a controller has signed. A connection between two nodes is seen at both ends and told once, at
the consumer's where both come in time. So no node can hide what another one sees.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from agent.flows.batch import MOST_AGE_S, Batch
from agent.flows.events import MOST_EVENTS, Begun, Counts, Event, Refusal, Seen
from agent.flows.link_lookup import Flow, Wanted, flow_of
from mesh.topology.link_graph import LinkGraph

SAME_S = 10.0
"""Seconds within which the two ends tell of the same connection."""
BURST = 20 * MOST_EVENTS
"""Events that are taken of a node at once, beside MOST_EVENTS a second: its own watch reads no more."""
LONGEST_AGO_S = 2 * MOST_AGE_S
"""An event is told as no older, whatever a node says."""
_SHIFTS = 8
"""Batches by which a node's clock is known: the one that came fastest counts."""

_Same = tuple[str, str, str, int, int]
"""Consumer's task, provider's task, protocol and ports."""


@dataclass(slots=True)
class Source:
    """One node's part of the stream.

    Attributes:
        begun: what is watched there; None: it has not answered.
        counts: how much there was.
        heard_at: when it said something last.
        left_out: events that it had no room for, in this watch.
        surplus: events that were too many of it, and those left out before.
        disbelieved: events that are not of its own tasks, or of no link that is asked for.
        missing: batches that did not arrive.
        problems: what cannot be believed, in words.
        has_ended: whether it has said all.
    """

    begun: Begun | None = None
    counts: Counts = field(default_factory=Counts)
    heard_at: float = 0.0
    left_out: int = 0
    disbelieved: int = 0
    missing: int = 0
    problems: set[str] = field(default_factory=set)
    has_ended: bool = False
    watch: str = ""
    next_number: int = 0
    taken: int = 0
    first_at: float = 0.0
    shifts: deque[float] = field(default_factory=lambda: deque(maxlen=_SHIFTS))
    surplus: int = 0
    before: Counts = field(default_factory=Counts)

    @property
    def total(self) -> Counts:
        """How much there was, in earlier watches too."""
        now, before = self.counts, self.before
        events, full = now.events + before.events, now.full_seconds + before.full_seconds
        return Counts(events, full, max(now.overflowed_tasks, before.overflowed_tasks), now.tasks)

    def begin(self, watch: str, now: float) -> None:
        """Begin a watch, another one than before."""
        self.first_at = self.first_at or now
        self.before, self.counts = self.total, Counts()
        self.surplus, self.left_out = self.surplus + self.left_out, 0
        self.watch, self.next_number = watch, 0
        self.shifts.clear()


@dataclass(frozen=True, slots=True)
class Told:
    """One event that is told.

    Attributes:
        at: when it happened, by the monotonic clock here.
        node: id of the node that saw it.
        event: a Seen or a Refusal.
        flow: of a connection.
    """

    at: float
    node: str
    event: Seen | Refusal
    flow: Flow | None


class Merge:
    """Merge of one query. Not safe for several threads.

    Args:
        graph: returns the link graph.
        wanted: chooses services.
        nodes: those that are asked.
    """

    def __init__(self, graph: Callable[[], LinkGraph], wanted: Wanted, nodes: Iterable[str]) -> None:
        self._graph = graph
        self._wanted = wanted
        self.sources = {node: Source() for node in sorted(nodes)}
        self.shown = 0
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Told]] = []
        self._told: dict[_Same, tuple[str, float]] = {}
        self._at_consumers: dict[_Same, tuple[str, float]] = {}
        self._forget_at = 0.0

    @property
    def graph(self) -> LinkGraph:
        """The link graph by which nodes are believed."""
        return self._graph()

    def expect(self, nodes: Iterable[str]) -> None:
        """Take events of these nodes too."""
        for node in nodes:
            self.sources.setdefault(node, Source())

    def add_own(self, node: str, event: Event, now: float) -> None:
        """Take an event of this node's own watcher, whose clock is ours."""
        source = self.sources[node]
        source.heard_at = now
        match event:
            case Begun():
                source.begun = event
            case Counts():
                source.counts = event
            case _:
                self._take(node, source, event, event.at)

    def add(self, node: str, watch: str, number: int, batch: Batch, now: float) -> None:
        """Take a batch of another node; one that was taken already is not taken again.

        Args:
            node: that has signed it.
            watch: of the batch; another one begins when the node's agent has started anew.
            number: of the batch.
            batch: as it was read.
            now: the time here, when it was read.
        """
        source = self.sources[node]
        if watch != source.watch and not source.has_ended:
            source.begin(watch, now)
        if number < source.next_number or source.has_ended or watch != source.watch:
            return
        source.missing += number - source.next_number
        source.next_number = number + 1
        source.shifts.append(now - batch.at)
        source.begun, source.counts, source.heard_at = batch.begun, batch.counts, now
        source.left_out, source.has_ended = batch.left_out, batch.is_last
        shift = min(source.shifts)
        events: tuple[Seen | Refusal, ...] = (*batch.seen, *batch.refused)
        for event in events:
            if source.taken >= BURST + MOST_EVENTS * (now - source.first_at):
                source.surplus += 1
                continue
            source.taken += 1
            self._take(node, source, event, max(now - LONGEST_AGO_S, min(event.at + shift, now)))

    def _take(self, node: str, source: Source, event: Seen | Refusal, at: float) -> None:
        told = self._believed(node, event, at)
        if told is None:
            source.disbelieved += 1
            return
        if told.flow is not None and event.task == told.flow.consumer_task:
            self._at_consumers[_same(told.flow)] = node, at
        heapq.heappush(self._waiting, (at, next(self._order), told))

    def _believed(self, node: str, event: Seen | Refusal, at: float) -> Told | None:
        graph = self._graph()
        own = graph.by_task.get(event.task)
        if own is None or own.node != node:
            return None
        if isinstance(event, Refusal):
            return Told(at, node, event, None) if own.service in graph.services else None
        flow = flow_of(graph, own, event.connection)
        if flow is None or not (self._wanted(flow.consumer.name) or self._wanted(flow.provider.name)):
            return None
        return Told(at, node, event, flow)

    def pop(self, until: float) -> Iterator[Told]:
        """Yield what happened until then and was not yet told, by time."""
        while self._waiting and self._waiting[0][0] <= until:
            told = heapq.heappop(self._waiting)[2]
            if told.flow is not None:
                if self._is_told_elsewhere(told, told.flow):
                    continue
                self._told[_same(told.flow)] = told.node, told.at
                self.shown += 1
            yield told
        if until >= self._forget_at:
            self._forget_at = until + SAME_S
            self._told = _after(self._told, until - SAME_S)
            self._at_consumers = _after(self._at_consumers, until - SAME_S)

    def _is_told_elsewhere(self, told: Told, flow: Flow) -> bool:
        """Tell whether the connection's other end, on another node, has told of it, or is about to."""
        others = [self._told.get(_same(flow))]
        if told.event.task != flow.consumer_task:
            others.append(self._at_consumers.get(_same(flow)))
        return any(
            other is not None and other[0] != told.node and abs(other[1] - told.at) <= SAME_S for other in others
        )


def _same(flow: Flow) -> _Same:
    one = flow.connection
    return flow.consumer_task, flow.provider_task, one.protocol, one.source_port, one.destination_port


def _after(ends: dict[_Same, tuple[str, float]], at: float) -> dict[_Same, tuple[str, float]]:
    return {same: end for same, end in ends.items() if end[1] >= at}
