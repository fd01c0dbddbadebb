"""Which nodes the controller believes about their keys, and which records are theirs. No I/O here.

Everybody who can write to etcd can write what an agent writes. So of `nodes/`, `tasks/` and
`recalled/` only that counts which is signed by the report key of a member, and a member is a node

- that is in Swarm's list: Swarm revokes no certificate, so only its managers know; nor is a role taken from one;
- whose statement about its keys is proven by its Swarm certificate, or approved by hand (the node label
  `linkwire.key` has its fingerprint);
- whose statement is not an earlier one than the last that was accepted. That one is kept as `members/<node>`.

What cannot be verified counts as unknown, like a record that cannot be read: it is moved to `Snapshot.invalid`, where
it frees nothing and makes nothing unready. In particular a node whose proof stops to hold (its certificate ended, the
root was rotated away, its label was taken back) keeps its keys, reports and tasks, and only nothing new is sealed to
it. A report on a task that Swarm runs on another node is not unknown but worthless, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import cast

from controller.claims import CLAIMS, Claims
from controller.observed import Swarm, SwarmNode, SwarmTask
from controller.quiet import WHOLE_S
from controller.steps import Change, Step
from mesh import keyspace
from mesh.changes import Changes
from mesh.errors import Terminal
from mesh.hybrid import NodePublicKey
from mesh.proof import TOLERANCE, Identity, InvalidProof, NodeProof, NodeStatement, verify
from mesh.records import Cluster, Member, Node, Recalled, Record, TaskReport, Unproven, Versioned
from mesh.signatures import Signatures
from mesh.snapshot import Delete, Put, Snapshot

AGAIN = timedelta(seconds=60)
"""After how long a proof that did not hold is looked at again: a clock may have been wrong."""
_NEVER = datetime.min.replace(tzinfo=UTC)

_APPROVE = "approve it with `docker linkwire node approve`"
_UNPROVEN: dict[Unproven | None, str] = {
    "locked": f"its Swarm key is encrypted (autolock): {_APPROVE}",
    "unreadable": f"its agent cannot read its Swarm certificate: see the agent's log, or {_APPROVE}",
    None: f"it gives no proof of its keys: {_APPROVE}",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What is believed.

    Attributes:
        stored: the snapshot without what is not a member's own; that is in its `invalid`.
        members: the nodes that secrets may be sealed to now, with their sealing keys.
        steps: that keep what was accepted.
        problems: in words.
    """

    stored: Snapshot
    members: Mapping[str, NodePublicKey]
    steps: tuple[Step, ...] = ()
    problems: tuple[str, ...] = ()


_Sound = tuple[Versioned[TaskReport], SwarmTask | None, Member]
"""A report, the task as Swarm has it, and whose report it is."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """What came of a proof; without an identity it did not hold."""

    of: tuple[NodeStatement, NodeProof, tuple[bytes, ...]]
    at: datetime
    identity: Identity | None
    problem: str


class Members:
    """Judges one snapshot after the other, and remembers: nothing is verified twice, and nothing goes back.

    Of a snapshot and a picture of Swarm that say what has changed in them, only that is judged anew which this
    reaches, and everything every WHOLE_S seconds: by time alone proofs end, and have a tolerance of minutes.
    """

    def __init__(self) -> None:
        self.accepted: dict[str, Member] = {}
        """Node -> the latest statement that was accepted of it."""
        self.signatures = Signatures("")
        self.sound: dict[str, _Sound] = {}
        """Key of a believed report -> what that rests on: while it is the same, the report is not looked at again."""
        self.left_out: dict[str, str | None] = {}
        """Key -> why it counts as unknown; None where it counts as absent."""
        self.problems: dict[str, str] = {}
        """By the key that they are found in."""
        self.sealed_to: dict[str, NodePublicKey] = {}
        """Node -> the key that secrets may be sealed to."""
        self._proven: dict[str, _Proven] = {}
        self._claims = Claims()
        self._unsaved: set[str] = set()  # nodes of which the store may not say what was accepted
        self._whole_at = _NEVER
        self._swarm = Swarm("", {}, {}, {})
        self._last = Snapshot()
        self._members: Mapping[str, NodePublicKey] = MappingProxyType({})
        self._log = Changes[str]()
        self._logged: dict[str, str | None] = {}  # what was left out when the log was written last

    def judge(self, swarm: Swarm, stored: Snapshot, now: datetime) -> Judged:
        """Find out what to believe.

        Args:
            swarm: complete lists.
            stored: everything under the root. Where it is not complete, or another Swarm's, nothing is believed.
            now: the time, with its zone, to check certificates at.
        """
        cluster = stored.get(keyspace.CLUSTER, Cluster)
        if not stored.complete or (cluster is not None and cluster.id != swarm.cluster):
            return Judged(stored, MappingProxyType({}))
        if self.signatures.cluster != swarm.cluster:
            self.signatures, self.sound = Signatures(swarm.cluster), {}
        nodes, claims = self._reached(swarm, stored, now) or self._all(swarm, stored)
        judgement = _Judgement(self, swarm, stored, now)
        for node in sorted(nodes):
            judgement.node(node)
        for key in claims:
            judgement.claim(key)
        self._unsaved |= nodes
        steps = tuple(self._steps(swarm, stored))
        if self._members != self.sealed_to:
            self._members = MappingProxyType(dict(self.sealed_to))
        problems = dict.fromkeys(text for _, text in sorted(self.problems.items()))
        believed = self._without(stored)
        self._swarm, self._last = swarm, stored
        if self._whole_at == _NEVER:
            self._whole_at = now
        return Judged(believed, self._members, steps, tuple(problems))

    def _reached(self, swarm: Swarm, stored: Snapshot, now: datetime) -> tuple[set[str], set[str]] | None:
        """Nodes, and keys of what nodes say, that may have to be judged otherwise than last; None: all of them."""
        changed, listed = stored.changed_since(self._last), swarm.changed_since(self._swarm)
        if changed is None or listed is None or not timedelta(0) <= now - self._whole_at < timedelta(seconds=WHOLE_S):
            return None
        nodes = set(listed.nodes)
        for prefix in (keyspace.NODES, keyspace.MEMBERS):
            nodes.update(key.removeprefix(prefix) for key in changed if key.startswith(prefix))
        claims = {key for key in changed if key.startswith(CLAIMS)}
        reached = claims | self._claims.of(nodes, listed.tasks)
        self._claims.take(stored, claims)
        return nodes, reached | self._claims.of(nodes, listed.tasks)

    def _all(self, swarm: Swarm, stored: Snapshot) -> tuple[set[str], set[str]]:
        """As `_reached`, when nothing is known of what has changed; what is over is forgotten."""
        self._whole_at = _NEVER  # until this is done
        living = {keyspace.report(task.node, task.id) for task in swarm.tasks.values()}
        self.signatures.drop_stale(stored.records, living | {keyspace.node(node) for node in swarm.nodes})
        self.sound = {key: sound for key, sound in self.sound.items() if key in stored.records}
        self._proven = {node: proven for node, proven in self._proven.items() if node in swarm.nodes}
        self.left_out, self.problems, self.sealed_to = {}, {}, {}
        claims = {key for kind in (TaskReport, Recalled) for key, _ in stored.keys_of(kind)}
        self._claims = Claims()
        self._claims.take(stored, claims)
        nodes = {node.id for node in stored.all(Node)} | {member.node for member in stored.all(Member)}
        return nodes | self.accepted.keys(), claims

    def _steps(self, swarm: Swarm, stored: Snapshot) -> Iterator[Step]:
        unsaved, self._unsaved = sorted(self._unsaved), set()
        for node in unsaved:
            if node not in swarm.nodes:
                key = keyspace.member(node)
                known = self.accepted.get(node) or stored.get(key, Member)
                if known is not None and (held := stored.revision_of(key)):
                    self._unsaved.add(node)
                    yield Change((Delete(key, held),), f"node {node}: it has left the Swarm")
                else:
                    self.accepted.pop(node, None)  # not before: it says whose a record is that cannot be read
        for node in sorted(swarm.nodes.keys() & unsaved):
            key, member = keyspace.member(node), self.accepted.get(node)
            if member is not None and stored.get(key, Member) != member:
                self._unsaved.add(node)
                # What cannot be read is replaced: the latest that was accepted is known here.
                revision = None if key in stored.invalid else stored.revision_of(key)
                reason = f"node {swarm.nodes[node].hostname}: its keys are accepted, counter {member.counter}"
                yield Change((Put(member, revision),), reason)

    def _without(self, stored: Snapshot) -> Snapshot:
        """What is believed; of what may differ in it from what was, a log is kept."""
        changed = stored.changed_since(self._last)
        if changed is None:
            self._log.restart()
        was, self._logged = self._logged, dict(self.left_out)
        differ = {k for k in {*was, *self.left_out} if was.get(k, "") != self.left_out.get(k, "")}
        self._log.add(differ.union(changed or ()), len(stored.records))
        return stored.without(self.left_out, self._log.mark())

    def proof_problem(self, node: Node, swarm: Swarm, now: datetime) -> str | None:
        """Why a node's proof does not show its keys to be its own; None where it does."""
        if node.proof is None:
            return _UNPROVEN[node.unproven]
        of = node.statement(swarm.cluster), node.proof, swarm.roots
        known = self._proven.get(node.id)
        if known is None or known.of != of or (known.identity is None and not now - AGAIN < known.at <= now):
            known = self._proven[node.id] = _verified(of, now)
        if known.identity is not None and now > known.identity.expires + TOLERANCE:
            return f"its certificate ended at {known.identity.expires:%Y-%m-%d %H:%M} UTC"
        return None if known.identity is not None else known.problem


def _verified(of: tuple[NodeStatement, NodeProof, tuple[bytes, ...]], now: datetime) -> _Proven:
    statement, proof, roots = of
    try:
        return _Proven(of, now, verify(proof, statement, roots, now), "")
    except (InvalidProof, Terminal) as error:
        return _Proven(of, now, None, f"its proof does not hold: {error}")


class _Judgement:
    """One run of `Members.judge`: nodes first, for whose a report is follows from them."""

    def __init__(self, memory: Members, swarm: Swarm, stored: Snapshot, now: datetime) -> None:
        self._memory = memory
        self._swarm = swarm
        self._stored = stored
        self._now = now

    def node(self, name: str) -> None:
        """Whatever the store says of it now, also if that is nothing."""
        memory, key = self._memory, keyspace.node(name)
        record = self._stored.get(keyspace.member(name), Member)
        known = memory.accepted.get(name)
        if record is not None and (known is None or (record.counter >= known.counter and record != known)):
            memory.accepted[name] = record
        memory.sealed_to.pop(name, None)
        self._forget(key)
        found = self._stored.records.get(key)
        if found is not None and isinstance(found.record, Node):
            self._node(key, found, found.record)

    def claim(self, key: str) -> None:
        """Likewise."""
        self._forget(key)
        found = self._stored.records.get(key)
        match found.record if found is not None else None:
            case TaskReport():
                self._report(key, cast("Versioned[TaskReport]", found))
            case Recalled() as recalled:
                self._recalled(key, cast("Versioned[Recalled]", found), recalled)

    def _forget(self, key: str) -> None:
        self._memory.left_out.pop(key, None)
        self._memory.problems.pop(key, None)

    def _unknown(self, key: str, reason: str) -> None:
        """It holds what its key names, and nothing is concluded from it; the plan names the reason."""
        self._memory.left_out[key] = reason

    def _node(self, key: str, found: Versioned[Record], node: Node) -> None:
        observed = self._swarm.nodes.get(node.id)
        if observed is None:
            self._memory.left_out[key] = None
            self._memory.problems[key] = f"node {node.id}: an agent speaks for it, and it is not in this Swarm"
            return
        accepted = self._memory.accepted.get(node.id)
        known = accepted is not None and accepted.report_key == node.report_key
        forged = self._memory.signatures.problem(key, found, node.report_key)
        if forged is not None:
            self._unknown(key, forged)
            return
        same = known and accepted is not None and accepted.sealing_key == node.sealing_key
        if accepted is not None and node.counter < accepted.counter + (0 if same else 1):
            text = f"counter {node.counter}, where {accepted.counter} was accepted"
            self._unknown(key, f"node {observed.hostname}: an earlier statement about its keys ({text})")
            return
        problem = self._not_shown(node, observed)
        if problem is None:
            self._memory.sealed_to[node.id] = node.sealing_key
            said = Member(node.id, node.sealing_key, node.report_key, node.counter)
            if said != accepted:
                self._memory.accepted[node.id] = said
        elif same:
            text = f"node {observed.hostname}: {problem}. What it has stays, and nothing new is sealed to it"
            self._memory.problems[key] = text
        else:
            self._unknown(key, f"node {observed.hostname}: {problem}")
            return
        self._memory.signatures.raise_floor(key, found, node.report_key)

    def _not_shown(self, node: Node, observed: SwarmNode) -> str | None:
        if observed.approved is not None and observed.approved == node.statement(self._swarm.cluster).fingerprint:
            return None
        problem = self._memory.proof_problem(node, self._swarm, self._now)
        if problem is not None and observed.approved is not None:
            problem += " (the node label linkwire.key approves other keys)"
        return problem

    def _report(self, key: str, found: Versioned[TaskReport]) -> None:
        report, task = found.record, self._swarm.tasks.get(found.record.task)
        member = self._memory.accepted.get(report.node)
        sound = self._memory.sound.get(key)
        if (
            sound is not None
            and (sound[0] is found and sound[1] is task and sound[2] is member)
            and report.node in self._swarm.nodes
        ):
            return
        observed = self._swarm.nodes.get(report.node)
        if observed is None:
            # Of a node that has left: the plan takes it away. Not while an agent goes on to write it.
            if keyspace.node(report.node) in self._stored.records:
                self._memory.left_out[key] = None
            return
        if task is not None and task.node != report.node:
            self._memory.left_out[key] = None
            text = f"node {observed.hostname}: it reports on task {task.id}, which Swarm runs on another node"
            self._memory.problems[key] = text
            return
        if member is None:
            self._unknown(key, f"node {observed.hostname}: it reports on tasks, and has not shown its keys")
            return
        problem = self._memory.signatures.problem(key, found, member.report_key)
        if problem is not None:
            self._unknown(key, problem)
        else:
            self._memory.signatures.raise_floor(key, found, member.report_key)
            self._memory.sound[key] = found, task, member

    def _recalled(self, key: str, found: Versioned[Recalled], recalled: Recalled) -> None:
        """What is in it proves itself; but garbage in a node's name would keep the node from being heard."""
        member = self._memory.accepted.get(recalled.node)
        if member is None or self._memory.signatures.problem(key, found, member.report_key) is not None:
            self._memory.left_out[key] = None
