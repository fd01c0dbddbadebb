"""FlowAsker: asks other nodes to watch flows, through etcd, and hands on what they write while it is read."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Self

import structlog

from agent.asks.writing import ShortLived
from agent.flows.batch import Batch, unpack
from agent.flows.merge import Merge
from mesh.errors import InvalidRecordError, LinkwireError
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.asks.records import FlowAsk, Watched
from mesh.model.records import Member
from mesh.model.snapshot import Snapshot, Versioned
from mesh.store.client import Follower, Store

log = structlog.get_logger(__name__)

RENEW_S = 5.0
"""Seconds after which the ask is written again; it counts for three times as long (flow_answerer.EXPIRES_S)."""


class FlowAsker:
    """Other nodes' part of one query: asked while it is entered. Not safe for several threads.

    Args:
        node: id of this node.
        cluster: Swarm's id of it.
        store: to read what the others write.
        written: writes the ask.
        merge: takes what they write.
    """

    def __init__(self, node: str, cluster: str, store: Store, written: ShortLived, merge: Merge) -> None:
        self._node = node
        self._store = store
        self._written = written
        self._merge = merge
        self._signatures = SignatureCache(cluster)
        self._members = Snapshot()
        self._knows_all = True
        self._follower: Follower | None = None
        self._read_to = 0
        self._read: Snapshot | None = None
        self._renew_at = 0.0
        self._nodes: Callable[[], Collection[str]] = tuple
        self._expected = frozenset[str]()
        self._ask: FlowAsk | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._follower is not None:
            self._follower.stop()
        if self._ask is not None and self._expected:
            with contextlib.suppress(LinkwireError):  # its lease ends it, and each node's own clock
                self._written.delete(keyspace.key_of(self._ask))

    def ask(self, slot: int, name: str | None, asked: Collection[str], nodes: Callable[[], Collection[str]]) -> str:
        """Begin to ask.

        Args:
            slot: of this query, which no other one has.
            name: stack or service; None for all.
            asked: the nodes that may answer; empty for all.
            nodes: returns those that are expected to.

        Returns:
            Why the nodes cannot be asked, in words; empty where they can.
        """
        self._nodes = nodes
        self._ask = FlowAsk(self._node, slot, secrets.token_hex(16), name or "", tuple(sorted(asked)), ending=False)
        return self._write(self._ask)

    def renew(self, now: float) -> str | None:
        """Ask again where it is time; returns as `ask`, None where it was not time."""
        if self._ask is None or now < self._renew_at or self._ask.ending:
            return None
        return self._write(self._ask)

    def _write(self, ask: FlowAsk) -> str:
        self._renew_at = time.monotonic() + RENEW_S
        try:
            nodes = set(self._nodes()) - {self._node}
            if nodes - self._expected:
                self._expect(ask.slot, sorted(nodes | self._expected))
            elif not self._knows_all:  # a node may have joined, or have new keys
                self._learn()
            if self._expected:
                self._written.write(ask)
        except LinkwireError as error:
            log.warning("nodes not asked for flows", error=str(error))
            return f"other nodes cannot be asked: {error}"
        return ""

    def _expect(self, slot: int, nodes: Sequence[str]) -> None:
        """Follow what some nodes write, and know the keys that sign it."""
        self._merge.expect(nodes)
        self._learn()
        below, before = [keyspace.watched(node, self._node, slot, "") for node in nodes], self._follower
        self._follower, self._expected = self._store.follow(below, lambda: None), frozenset(nodes)
        if before is not None:
            before.stop()

    def _learn(self) -> None:
        self._members = self._store.load((keyspace.MEMBERS,))
        self._knows_all = True

    def end(self) -> bool:
        """Ask for what the nodes have left; return whether they can answer."""
        if self._ask is None or not self._expected:
            return False
        ask = self._ask
        self._ask = FlowAsk(ask.node, ask.slot, ask.nonce, ask.name, ask.nodes, ending=True)
        try:
            self._written.write(self._ask)
        except LinkwireError as error:
            log.warning("nodes not asked for flows", error=str(error))
            return False
        return True

    def read(self, now: float) -> None:
        """Hand on what has come."""
        if self._follower is None or self._ask is None:
            return
        snapshot = self._follower.snapshot
        if snapshot is self._read or not snapshot.complete:
            return
        if snapshot.revision < self._read_to:  # another etcd
            self._read_to = 0
        new = [found for found in snapshot.keys_of(Watched) if found[1].revision > self._read_to]
        for key, value in sorted(new, key=lambda each: each[1].revision):
            self._read_to = value.revision
            self._take(key, value, now)
        self._read = snapshot

    def _take(self, key: str, value: Versioned[Watched], now: float) -> None:
        record = value.record
        source = self._merge.sources.get(record.node)
        if source is None or self._ask is None or record.nonce != self._ask.nonce:
            return
        try:
            batch = self._opened(key, value)
        except LinkwireError as error:
            if not source.problems:
                log.warning("flows not believed", node=record.node, error=str(error))
            source.problems.add("what it says cannot be believed: this node's agent's log says why")
            self._knows_all = False
            return
        source.problems.clear()
        self._merge.add(record.node, record.watch, record.number, batch, now)

    def _opened(self, key: str, value: Versioned[Watched]) -> Batch:
        """Read a batch. Raises InvalidRecordError where it is not the node's own."""
        member = self._members.get(keyspace.member(value.record.node), Member)
        if member is None:
            raise InvalidRecordError("its node has not shown its keys (yet)")
        if problem := self._signatures.problem(key, value, member.report_key):
            raise InvalidRecordError(problem)
        self._signatures.raise_floor(key, value, member.report_key)
        return unpack(value.record.packed)
