"""Judgement of nodes: which keys the controller believes to be theirs, and which records. Pure.

Every process that can write to etcd can write the records of an agent. So of `nodes/`, `tasks/` and `recalled/` only
records that are signed by the report key of a member count, and a member is a node

- that is in Swarm's list: Swarm revokes no certificate, so only its managers know;
- whose statement about its keys is proven by its Swarm certificate, or approved by hand (the node label
  `linkwire.key` has its fingerprint);
- whose statement is not older than the last accepted one, which is kept as `members/<node>`.

A record that cannot be verified counts as unknown, like one that cannot be read: it is moved to `Snapshot.invalid`,
where it frees nothing and makes nothing unready. In particular a node whose proof ceases to hold (its certificate
ended, the root was rotated away, its label was removed) keeps its keys, reports and tasks, and only nothing new is
sealed to it. A report on a task that Swarm runs on another node is not unknown but worthless, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from controller.index.baseline import Baseline, Delta, LastSeen
from controller.steps import PlanStep, Step
from controller.swarm.model import Swarm
from controller.trust.report_index import CLAIMS, ReportIndex
from controller.trust.snapshot_judgement import Beliefs, Judgement
from mesh.crypto.hpke import NodePublicKey
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.changelog import ChangeLog
from mesh.model.records import Cluster, Member, Node, Recalled, TaskReport
from mesh.model.snapshot import Delete, Put, Snapshot


@dataclass(frozen=True, slots=True)
class Judged:
    """Believed part of a snapshot.

    Attributes:
        stored: the snapshot without records that no member has signed; those are in its `invalid`.
        members: the nodes that secrets may be sealed to now, with their sealing keys.
        steps: write the accepted statements to the store.
        problems: texts.
    """

    stored: Snapshot
    members: Mapping[str, NodePublicKey]
    steps: tuple[Step, ...] = ()
    problems: tuple[str, ...] = ()


class BelievedSnapshots:
    """Snapshots without what is left out, and a log of the keys in which they may differ."""

    def __init__(self) -> None:
        """Start with an empty snapshot."""
        self._seen = LastSeen()
        self._left_out: dict[str, str | None] = {}
        self._log = ChangeLog[str]()

    def next(self, stored: Snapshot, left_out: Mapping[str, str | None]) -> Snapshot:
        """Return the believed part of the next snapshot; its log names what may differ from earlier ones."""
        changed = self._seen.changed(stored)
        if changed is None:
            self._log.restart()
        before, self._left_out = self._left_out, dict(left_out)
        differ = {key for key in {*before, *left_out} if before.get(key, "") != left_out.get(key, "")}
        self._log.add(differ.union(changed or ()), len(stored.records))
        return stored.without(left_out, self._log.mark())


class Members:
    """Judges one snapshot after the other: nothing is verified twice, and no accepted statement is taken back.

    Only what a change can reach is judged again (controller.index.baseline).
    """

    def __init__(self) -> None:
        """Start without beliefs."""
        self._beliefs = Beliefs()
        self._claims = ReportIndex()
        self._unsaved: set[str] = set()  # nodes whose accepted statement may not be in the store
        self._baseline = Baseline()
        self._snapshots = BelievedSnapshots()
        self._members: Mapping[str, NodePublicKey] = MappingProxyType({})

    @property
    def accepted(self) -> Mapping[str, Member]:
        """Node -> the latest statement that was accepted of it."""
        return self._beliefs.accepted

    def judge(self, swarm: Swarm, stored: Snapshot, now: datetime, silent: frozenset[str] = frozenset()) -> Judged:
        """Find out what to believe.

        Args:
            swarm: complete lists.
            stored: the whole store. Where it is not complete, or another Swarm's, nothing is believed.
            now: the time, with its zone, to check certificates at.
            silent: the nodes that sign nothing any more (controller.trust.presence): they count as absent.
        """
        cluster = stored.get(keyspace.CLUSTER, Cluster)
        if not stored.complete or (cluster is not None and cluster.id != swarm.cluster):
            return Judged(stored, MappingProxyType({}))
        beliefs = self._beliefs
        if beliefs.signatures.cluster != swarm.cluster:
            beliefs.signatures, beliefs.sound = SignatureCache(swarm.cluster), {}
        delta = self._baseline.delta(swarm, stored, now.timestamp())
        self._baseline.clear()  # after a failure below the next judgement is of everything
        nodes, claims = self._all(swarm, stored) if delta is None else self._reached(stored, delta)
        judgement = Judgement(beliefs, swarm, stored, now)
        for node in sorted(nodes):
            judgement.node(node)
        for key in claims:
            judgement.claim(key)
        self._unsaved |= nodes
        steps = tuple(self._steps(swarm, stored))
        members = {node: key for node, key in beliefs.sealed_to.items() if node not in silent}
        if self._members != members:
            self._members = MappingProxyType(members)
        problems = dict.fromkeys(text for _, text in sorted(beliefs.problems.items()))
        absent = dict.fromkeys(key for key in map(keyspace.node, silent) if key in stored.records)
        believed = self._snapshots.next(stored, {**absent, **beliefs.left_out})
        self._baseline.move(swarm, stored, now.timestamp(), whole=delta is None)
        return Judged(believed, self._members, steps, tuple(problems))

    def _reached(self, stored: Snapshot, delta: Delta) -> tuple[set[str], set[str]]:
        """Return the nodes, and the keys of nodes' claims, that a change can reach."""
        nodes = set(delta.swarm.nodes)
        for prefix in (keyspace.NODES, keyspace.MEMBERS):
            nodes.update(key.removeprefix(prefix) for key in delta.keys if key.startswith(prefix))
        claims = {key for key in delta.keys if key.startswith(CLAIMS)}
        reached = claims | self._claims.of(nodes, delta.swarm.tasks)
        self._claims.update(stored, claims)
        return nodes, reached | self._claims.of(nodes, delta.swarm.tasks)

    def _all(self, swarm: Swarm, stored: Snapshot) -> tuple[set[str], set[str]]:
        """Return all nodes, and the keys of all claims."""
        self._beliefs.start_over(swarm, stored)
        claims = {key for kind in (TaskReport, Recalled) for key, _ in stored.keys_of(kind)}
        self._claims = ReportIndex()
        self._claims.update(stored, claims)
        nodes = {node.id for node in stored.all(Node)} | {member.node for member in stored.all(Member)}
        return nodes | self._beliefs.accepted.keys(), claims

    def _steps(self, swarm: Swarm, stored: Snapshot) -> Iterator[Step]:
        unsaved, self._unsaved = sorted(self._unsaved), set()
        accepted = self._beliefs.accepted
        for node in unsaved:
            if node not in swarm.nodes:
                key = keyspace.member(node)
                member = accepted.get(node) or stored.get(key, Member)
                if member is not None and (revision := stored.revision_of(key)):
                    self._unsaved.add(node)
                    yield PlanStep((Delete(key, revision),), f"node {node}: it has left the Swarm")
                else:
                    accepted.pop(node, None)  # not before: it tells which node an unreadable record belongs to
        for node in sorted(swarm.nodes.keys() & unsaved):
            key, member = keyspace.member(node), accepted.get(node)
            if member is not None and stored.get(key, Member) != member:
                self._unsaved.add(node)
                # An unreadable record is replaced: the latest accepted statement is known here.
                replaced = None if key in stored.invalid else stored.revision_of(key)
                reason = f"node {swarm.nodes[node].hostname}: keys accepted, counter {member.counter}"
                yield PlanStep((Put(member, replaced),), reason)
