"""Presence of nodes: those whose agents go on to sign, by this controller's monotonic clock. No I/O.

A node's agent writes its vitals every few seconds, with a generation that grows. A lease does not tell whether it
lives: anybody who can reach etcd can keep a dead node's lease alive, and its record with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from controller.index.baseline import LastSeen
from mesh.crypto.signed_envelope import VerifyKey
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.records import Member, Node, Status
from mesh.model.snapshot import Snapshot

SILENCE_S = 8.0
"""Seconds after which a node that signs nothing new is silent."""
LOOK_S = 2.0
"""Seconds between two looks: after twice as many, what is more than this has passed unseen, and counts for nobody."""
_SIGNS = (keyspace.NODES, keyspace.STATUS)
_GONE = float("-inf")
"""Time of a sign whose record is gone: who writes it again has to have signed something newer."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """The last sign of life: its key and generation, and when it was seen."""

    key: VerifyKey
    generation: int
    seen: float


class Presence:
    """Times at which each node was heard last. Not safe for several threads."""

    def __init__(self, cluster: str) -> None:
        """Start without nodes; `cluster` is Swarm's id, which every signature is bound to."""
        self._signatures = SignatureCache(cluster)
        self._seen = LastSeen()
        self._signs: dict[str, _Sign] = {}  # by node, the one that has been silent longest first
        self._unknown: set[tuple[str, str]] = set()  # node and key of signs that are not known to be its own, yet
        self._observed = 0.0
        self._paused = False

    def pause(self) -> None:
        """Let no node's silence begin before the next look: etcd does not answer, so that nobody is heard."""
        self._paused = True

    def observe(self, stored: Snapshot, accepted: Mapping[str, Member], now: float) -> None:
        """Look at the whole store, also while another controller leads.

        Args:
            stored: complete.
            accepted: the statements that were accepted of nodes; of others the store's count.
            now: seconds of the monotonic clock.
        """
        unseen = now - self._observed - LOOK_S
        if self._paused or unseen > LOOK_S:  # etcd did not answer, or this process was slow
            self._signs = {
                node: replace(sign, seen=now if self._paused and sign.seen != _GONE else min(now, sign.seen + unseen))
                for node, sign in self._signs.items()
            }
        self._observed, self._paused = now, False
        # A node may sign, and die, before its statement is accepted: then this was its sign of life.
        looked_at = {*self._changed(stored), *self._unknown}
        self._unknown = set()
        for node, key in looked_at:
            versioned = stored.records.get(key)
            if keyspace.node(node) not in stored.records:  # it is absent, which is as good as silent
                if (gone := self._signs.pop(node, None)) is not None:
                    self._signs = {node: replace(gone, seen=_GONE), **self._signs}
                continue
            if versioned is None:
                continue
            member = accepted.get(node) or stored.get(keyspace.member(node), Member)
            if member is None:
                self._unknown.add((node, key))
                continue
            last = self._signs.get(node)
            if last is not None and last.key == member.report_key and versioned.generation <= last.generation:
                continue
            if self._signatures.problem(key, versioned, member.report_key) is not None:
                self._unknown.add((node, key))
                continue
            self._signs.pop(node, None)
            self._signs[node] = _Sign(member.report_key, versioned.generation, now)

    def _changed(self, stored: Snapshot) -> Iterator[tuple[str, str]]:
        changed = self._seen.changed(stored)
        # Without a list of changes, those that are gone have to be looked for too.
        keys: Iterable[str] = changed if changed is not None else _all(stored).union(map(keyspace.node, self._signs))
        for key in keys:
            if key.startswith(_SIGNS):
                yield key.partition("/")[2], key

    def silent(self) -> frozenset[str]:
        """Return the nodes that were heard once, and not for SILENCE_S when the store was last looked at."""
        return frozenset(self._silent())

    def _silent(self) -> Iterator[str]:
        for node, sign in self._signs.items():
            if self._observed - sign.seen < SILENCE_S:
                return
            yield node

    def due_in(self, now: float) -> float:
        """Return the seconds until the store has to be looked at although nothing wakes the controller."""
        return LOOK_S if self._paused or not self._signs else max(0.0, self._observed + LOOK_S - now)


def _all(stored: Snapshot) -> set[str]:
    return {key for kind in (Node, Status) for key, _ in stored.keys_of(kind)}
