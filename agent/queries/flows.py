"""The query `flows`: new connections and refusals of the Swarm's tasks, each node's seen by its own agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Self

import structlog

from agent.asks.flow_answerer import ALIVE_S, MOST_SLOTS
from agent.asks.flow_asker import FlowAsker
from agent.flows import documents
from agent.flows.batch import Pace
from agent.flows.events import Event
from agent.flows.link_lookup import Wanted, nodes_of, wanted_by
from agent.flows.merge import Merge
from agent.flows.watcher import Watcher
from agent.interface.task import TaskState
from agent.queries.answers import text
from agent.queries.server import BadQueryError, Document
from mesh.errors import Retryable

log = structlog.get_logger(__name__)

MOST_S = 86_400.0
_DEFAULT_S = 10.0
_LONGEST_NAME = 256
_MOST_NODES = 1000
ANSWER_S = 4.0
"""Seconds in which other nodes have to answer before the stream begins; those that answer later are told of too."""
END_S = 4.0
"""Seconds that are waited for the rest at the end."""
LONGEST_HOLD_S = 5.0
"""Seconds for which an event waits for earlier ones of other nodes, at most; their pace says how long it is."""
_TICK_S = 0.1
_SECOND = 1.0


def wired(tasks: Mapping[str, TaskState]) -> Iterator[tuple[str, str]]:
    """Yield the ids of the tasks that are wired, each with its namespace's path."""
    for state in list(tasks.values()):
        if state.local.netns is not None and state.interface.applied is not None:
            yield state.local.task, state.local.netns


@dataclass(frozen=True, slots=True)
class _Query:
    """Arguments of one query.

    Attributes:
        name: stack or service; None for all.
        seconds: to watch.
        nodes: that are watched; empty for all; None for this one alone, as an earlier plugin expects.
    """

    name: str | None
    seconds: float
    nodes: frozenset[str] | None

    @classmethod
    def read(cls, query: Document) -> _Query:
        """Read arguments. Raises BadQueryError."""
        name, seconds, nodes = text(query, "name"), query.get("seconds", _DEFAULT_S), query.get("nodes")
        if not isinstance(seconds, int | float) or not 0 < seconds <= MOST_S:
            raise BadQueryError(f"seconds has to be a number up to {MOST_S:g}")
        if name is not None and not 0 < len(name) <= _LONGEST_NAME:
            raise BadQueryError(f"name has to be a text of at most {_LONGEST_NAME} characters")
        if nodes is None:
            return cls(name, float(seconds), None)
        if not isinstance(nodes, list) or len(nodes) > _MOST_NODES or not all(isinstance(one, str) for one in nodes):
            raise BadQueryError(f"nodes has to be a list of at most {_MOST_NODES} ids")
        return cls(name, float(seconds), frozenset(nodes))


class Flows:
    """Answers of one agent. Safe for several threads.

    Args:
        node: id of this one.
        watcher: of its tasks.
        others: makes what asks the other nodes.
    """

    def __init__(self, node: str, watcher: Watcher, others: Callable[[Merge], FlowAsker]) -> None:
        self._node = node
        self._watcher = watcher
        self._others = others
        self._lock = threading.Lock()
        self._free = set(range(MOST_SLOTS))

    def flows(self, query: Document) -> Iterator[Document]:
        """Tell of new connections and refusals for `seconds`, all or those of `name`, a stack or a service.

        With `nodes`, a list of ids, those nodes are watched, with an empty one all; without it this node alone.

        Raises:
            BadQueryError: an argument is wrong.
            Retryable: too many are watching already, or the node knows no links yet.
        """
        asked = _Query.read(query)
        with self._lock:
            if not self._free:
                raise Retryable(
                    f"{MOST_SLOTS} queries of this node watch flows already: try again when one has ended"
                )
            slot = self._free.pop()
        try:
            yield from self._watch(asked, slot)
        finally:
            with self._lock:
                self._free.add(slot)

    def _watch(self, asked: _Query, slot: int) -> Iterator[Document]:
        if self._watcher.graph.cluster is None:
            raise Retryable("this node has not read any links yet")
        wanted = wanted_by(asked.name)
        nodes = self._nodes(asked, wanted)
        merge = Merge(lambda: self._watcher.graph, wanted, nodes)
        with ExitStack() as stack:
            others = stack.enter_context(self._others(merge))
            stream = _Stream(self._node, merge, others)
            if self._node in nodes:
                stream.own = stack.enter_context(_Own(self._watcher, wanted))
            if asked.nodes is not None:
                stream.ask(slot, asked.name, asked.nodes, lambda: self._nodes(asked, wanted))
            apart = nodes_of(self._watcher.graph, wanted) - {self._node} if asked.nodes is None else set[str]()
            yield from stream.run(asked.seconds, apart)

    def _nodes(self, asked: _Query, wanted: Wanted) -> Collection[str]:
        """Return the nodes to watch: those with such tasks, of those that are asked, and of these always this one."""
        if asked.nodes is None:
            return {self._node}
        nodes = nodes_of(self._watcher.graph, wanted) | {self._node}
        return nodes & asked.nodes if asked.nodes else nodes


class _Own:
    """This node's own watch, in a thread of its own while it is entered."""

    def __init__(self, watcher: Watcher, wanted: Wanted) -> None:
        self._watcher = watcher
        self._wanted = wanted
        self._stopped = threading.Event()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="own flows", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def end(self) -> None:
        """End the watch, and wait until all that it saw is there."""
        self._stopped.set()
        self._thread.join(END_S)

    def events(self) -> Iterator[Event]:
        """Yield the events that have come."""
        try:
            while True:
                yield self._events.get_nowait()
        except Empty:
            return

    def _run(self) -> None:
        try:
            for event in self._watcher.watch(self._wanted, lambda: not self._stopped.is_set()):
                self._events.put(event)
        except Exception as error:
            log.exception("watching flows crashed", error=str(error))


class _Stream:
    """One query's documents."""

    def __init__(self, node: str, merge: Merge, others: FlowAsker) -> None:
        self._node = node
        self._merge = merge
        self._others = others
        self._problem = ""
        self.own: _Own | None = None

    def ask(self, slot: int, name: str | None, asked: Collection[str], nodes: Callable[[], Collection[str]]) -> None:
        """Ask the other nodes; where that cannot be, the stream says so."""
        self._problem = self._others.ask(slot, name, asked, nodes)

    def run(self, seconds: float, apart: Collection[str]) -> Iterator[Document]:
        """Yield documents: what is watched, then events, each second counts, last the sum.

        Args:
            seconds: to watch.
            apart: nodes that are not asked, to be named.
        """
        self._hear_first()
        yield documents.watched(self._node, self._merge, self._problems(), apart)
        end, count_at = time.monotonic() + seconds, time.monotonic() + _SECOND
        while (now := time.monotonic()) < end:
            self._take(now)
            said = self._others.renew(now)
            self._problem = self._problem if said is None else said
            yield from self._told(now - self._hold())
            if now >= count_at:
                count_at = now + _SECOND
                yield self._sums("counts")
            time.sleep(min(_TICK_S, max(0.0, end - now)))
        self._hear_rest()
        yield from self._told(time.monotonic())
        yield self._sums("end")

    def _hear_first(self) -> None:
        """Wait until every node has answered, but no longer than ANSWER_S."""
        until = time.monotonic() + (_SECOND if self._problem else ANSWER_S)
        while (now := time.monotonic()) < until:
            self._take(now)
            if all(source.begun is not None for source in self._merge.sources.values()):
                return
            time.sleep(_TICK_S)

    def _hear_rest(self) -> None:
        """Wait for what the nodes have left, but no longer than END_S."""
        until = time.monotonic() + END_S
        is_asked = self._others.end()
        if self.own is not None:
            self.own.end()
        self._take(time.monotonic())
        while is_asked and (now := time.monotonic()) < until and not self._is_heard(now):
            time.sleep(_TICK_S)
            self._take(time.monotonic())

    def _is_heard(self, now: float) -> bool:
        silent = self._silent(now)
        return all(
            node == self._node or node in silent or source.has_ended or not source.begun or not source.begun.tasks
            for node, source in self._merge.sources.items()
        )

    def _sums(self, kind: str) -> Document:
        return documents.sums(kind, self._node, self._merge, self._problems(), self._silent(time.monotonic()))

    def _problems(self) -> list[str]:
        return [self._problem] if self._problem else []

    def _take(self, now: float) -> None:
        for event in self.own.events() if self.own is not None else ():
            self._merge.add_own(self._node, event, now)
        self._others.read(now)

    def _told(self, until: float) -> Iterator[Document]:
        graph, offset = self._merge.graph, time.time() - time.monotonic()
        for told in self._merge.pop(until):
            yield documents.told(graph, told, told.at + offset)

    def _hold(self) -> float:
        """Return how long an event waits for others that happened before it."""
        others = len(self._merge.sources) - (self.own is not None)
        return min(Pace.of(others).every + _SECOND, LONGEST_HOLD_S) if others else 0.0

    def _silent(self, now: float) -> frozenset[str]:
        """Return the nodes that have answered, and no longer do."""
        longest = 3 * max(ALIVE_S, 2 * Pace.of(len(self._merge.sources)).every)
        return frozenset(
            node
            for node, source in self._merge.sources.items()
            if node != self._node and source.begun and not source.has_ended and now > source.heard_at + longest
        )
