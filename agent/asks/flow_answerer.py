"""FlowAnswerer: watches this node's tasks for other nodes that ask, and writes what it sees, so much and no more.

An ask lasts as long as it is written again: neither a lease nor a record that stays there keeps a watch alive. A few
records are written in turn, and are deleted when the ask has gone.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from agent.asks.writing import ShortLived
from agent.flows.batch import Batch, Pace, pack
from agent.flows.events import Begun, Counts, Event, Refusal, Seen
from agent.flows.link_lookup import nodes_of, wanted_by
from agent.flows.watcher import Watcher
from mesh.errors import LinkwireError, Retryable
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.asks.records import FlowAsk, Watched
from mesh.model.records import Member
from mesh.model.snapshot import Snapshot, Versioned
from mesh.store.client import Store

log = structlog.get_logger(__name__)

MOST_WATCHES = 4
"""For other nodes, at the same time."""
MOST_SLOTS = 2
"""Asks of one node that are answered at the same time."""
PARTS = 4
"""Records that are written in turn."""
EXPIRES_S = 15.0
"""Seconds after which an ask that was not written again is over."""
ALIVE_S = 5.0
"""Seconds after which a node that sees nothing writes that it goes on watching."""
_MOST_LOOKS = 4 * MOST_WATCHES
"""Asks that are looked at, at the same time, the answered ones included."""
BUSY = f"its agent watches for other nodes {MOST_WATCHES} times already"

_Place = tuple[str, int]
"""The asking node, and which one of its asks."""


@dataclass(slots=True)
class _Watch:
    """A watch for one ask.

    Attributes:
        ask: the newest word of it.
        generation: of that.
        heard_at: when that was read.
        gone: set when it was deleted, or another one is in its place.
        changed: set whenever any of this is.
    """

    ask: FlowAsk
    generation: int
    heard_at: float
    gone: bool = False
    changed: threading.Event = field(default_factory=threading.Event)

    def is_over(self) -> bool:
        """Whether nobody asks any more."""
        return self.gone or time.monotonic() > self.heard_at + EXPIRES_S

    def goes_on(self) -> bool:
        """Whether to go on watching."""
        return not self.ask.ending and not self.is_over()


class FlowAnswerer:
    """Answerer of one node.

    Args:
        node: its id.
        cluster: Swarm's id of it.
        store: to check who asks.
        written: writes what is seen.
        watcher: watches this node's tasks.
    """

    def __init__(self, node: str, cluster: str, store: Store, written: ShortLived, watcher: Watcher) -> None:
        self._node = node
        self._store = store
        self._written = written
        self._watcher = watcher
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(MOST_WATCHES)
        self._watches: dict[_Place, _Watch] = {}
        self._seen: dict[_Place, int] = {}  # generations of asks that were looked at
        self._signatures = SignatureCache(cluster)
        self._members: dict[str, Member] = {}
        self._snapshot = Snapshot()

    def heard(self, snapshot: Snapshot) -> None:
        """Begin, renew and end watches. Called with all asks that there are, whenever one changes."""
        with self._lock:
            self._snapshot = snapshot
            self._look()

    def _look(self) -> None:
        """Do so, with the lock."""
        now = time.monotonic()
        asks = {
            (value.record.node, value.record.slot): (key, value)
            for key, value in self._snapshot.keys_of(FlowAsk)
            if value.record.node != self._node and 0 <= value.record.slot < MOST_SLOTS
        }
        self._seen = {place: generation for place, generation in self._seen.items() if place in asks}
        for place, watch in self._watches.items():
            if place not in asks or asks[place][1].record.nonce != watch.ask.nonce:
                watch.gone = True
                watch.changed.set()
        for place, (key, value) in asks.items():
            if place not in self._watches:
                self._begin(place, key, value, now)
            else:
                self._renew(self._watches[place], key, value, now)

    def _begin(self, place: _Place, key: str, value: Versioned[FlowAsk], now: float) -> None:
        ask = value.record
        is_asked = not ask.ending and (not ask.nodes or self._node in ask.nodes)
        if self._seen.get(place) == value.generation or not is_asked or len(self._watches) >= _MOST_LOOKS:
            return
        self._seen[place] = value.generation
        watch = self._watches[place] = _Watch(ask, value.generation, now)
        threading.Thread(target=self._serve, args=(place, watch, key, value), name="flows", daemon=True).start()

    def _renew(self, watch: _Watch, key: str, value: Versioned[FlowAsk], now: float) -> None:
        if not watch.gone and value.generation > watch.generation and self._is_believed(key, value):
            watch.ask, watch.generation, watch.heard_at = value.record, value.generation, now
            watch.changed.set()

    def _is_believed(self, key: str, value: Versioned[FlowAsk]) -> bool:
        """Tell whether the asking node itself has written it, and nothing newer that was believed."""
        member = self._members.get(value.record.node)
        if member is None or self._signatures.problem(key, value, member.report_key) is not None:
            return False
        self._signatures.raise_floor(key, value, member.report_key)
        return True

    def _serve(self, place: _Place, watch: _Watch, key: str, value: Versioned[FlowAsk]) -> None:
        batches = _Batches(self._node, watch.ask, self._written)
        try:
            self._watch(watch, key, value, batches)
        except LinkwireError as error:
            log.warning("flows not told", node=place[0], error=str(error))
        except Exception as error:
            log.exception("watching flows crashed", node=place[0], error=str(error))
        finally:
            while batches.number and not watch.is_over():
                watch.changed.clear()
                watch.changed.wait(1.0)
            batches.delete()
            with self._lock:
                del self._watches[place]
                self._seen[place] = max(self._seen.get(place, 0), watch.generation)
                self._look()  # another ask may be in its place

    def _watch(self, watch: _Watch, key: str, value: Versioned[FlowAsk], batches: _Batches) -> None:
        asker = watch.ask.node
        if not self._is_believed(key, value):  # unknown yet, or it has new keys
            member = self._store.load((keyspace.member(asker),)).get(keyspace.member(asker), Member)
            if member is not None:
                self._members[asker] = member
            if not self._is_believed(key, value):
                log.warning("flows not told", node=asker, error="the ask is not signed by that node")
                return
        wanted = wanted_by(watch.ask.name or None)
        nodes = nodes_of(self._watcher.graph, wanted)
        if self._node not in nodes:
            return
        batches.pace = Pace.of(len(nodes))
        if not self._free.acquire(blocking=False):
            batches.write(Begun(0, 0, (BUSY,)))
            return
        try:
            for event in self._watcher.watch(wanted, watch.goes_on):
                batches.take(event)
            if watch.ask.ending:
                batches.write(is_last=True)
        finally:
            self._free.release()


class _Batches:
    """Batches that one watch writes."""

    def __init__(self, node: str, ask: FlowAsk, written: ShortLived) -> None:
        self._node = node
        self._ask = ask
        self._written = written
        self._begun = Begun(0, 0)
        self._is_changed = False
        self._counts = Counts()
        self._seen: list[Seen] = []
        self._refused: list[Refusal] = []
        self._left_out = self.number = 0
        self._watch = secrets.token_hex(8)
        self._written_at = float("-inf")
        self.pace = Pace.of(1)

    def take(self, event: Event) -> None:
        """Take an event of the watcher, and write those that there are when it is time."""
        match event:
            case Begun():
                self._begun, self._is_changed = event, True
            case Seen():
                self._seen.append(event)
            case Refusal():
                self._refused.append(event)
            case Counts():
                self._counts = event
                passed = time.monotonic() - self._written_at
                has_more = self._seen or self._refused or self._is_changed
                due = self.pace.every if has_more else max(ALIVE_S, 2 * self.pace.every)
                if passed >= due * 0.9:  # the watcher counts every second, a little more or less
                    self.write()

    def write(self, begun: Begun | None = None, *, is_last: bool = False) -> None:
        """Write a batch. Raises Terminal where etcd does not let this agent; else its events may be left out."""
        self._begun, self._is_changed = begun or self._begun, False
        self._written_at = time.monotonic()
        seen, refused, self._seen, self._refused = tuple(self._seen), tuple(self._refused), [], []
        batch = Batch(self._written_at, self._begun, self._counts, self._left_out, seen, refused, is_last)
        packed, left_out = pack(batch, self.pace.room)
        ask, number = self._ask, self.number
        record = Watched(self._node, ask.node, ask.slot, number % PARTS, ask.nonce, self._watch, number, packed)
        try:
            self._written.write(record)
        except Retryable as error:
            log.warning("flows not told", node=ask.node, error=str(error))
            left_out = len(seen) + len(refused)
        else:
            self.number += 1
        self._left_out += left_out

    def delete(self) -> None:
        """Delete what was written; where that fails its lease ends it."""
        keys: Iterable[str] = (
            keyspace.watched(self._node, self._ask.node, self._ask.slot, part)
            for part in range(min(self.number, PARTS))
        )
        try:
            if self.number:
                self._written.delete(*keys)
        except LinkwireError as error:
            log.warning("flows not told", node=self._ask.node, error=str(error))
