"""Judgement of one snapshot: which keys are a node's own, and which records it has signed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from mesh.crypto.hpke import NodePublicKey
from mesh.errors import Terminal
from mesh.identity.attestation import (
    TOLERANCE,
    CertificateExpiredError,
    Identity,
    InvalidProofError,
    NodeProof,
    NodeStatement,
    verify,
)
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.records import Member, Node, Recalled, Record, TaskReport, Unproven
from mesh.model.snapshot import Snapshot, Versioned

AGAIN = timedelta(seconds=30)
"""Time after which a failed proof is verified again: a clock may have been wrong."""

_APPROVE = "approve it with `docker linkwire node approve`"
_UNPROVEN: dict[Unproven | None, str] = {
    "locked": f"its Swarm key is encrypted (autolock): {_APPROVE}",
    "unreadable": f"its agent cannot read its Swarm certificate: see the agent's log, or {_APPROVE}",
    None: f"it gives no proof of its keys: {_APPROVE}",
}

_REVOKED = "revoked since {since}: its tasks have no links (`docker linkwire node approve` undoes it)"


_Sound = tuple[Versioned[TaskReport], SwarmTask | None, Member]
"""A report, the task as Swarm has it, and the member that signed it."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """Outcome of a proof; without an identity it failed."""

    inputs: tuple[NodeStatement, NodeProof, tuple[bytes, ...]]
    at: datetime
    identity: Identity | None
    problem: str


class Beliefs:
    """Everything that is believed, kept from one judgement to the next.

    Attributes:
        accepted: node -> the latest statement that was accepted of it.
        signatures: verified signatures of nodes.
        sound: key of a believed report -> what that rests on; while it is the same, the report is not verified again.
        left_out: key -> why it counts as unknown; None where it counts as absent.
        problems: texts by the key that they are found in.
        sealed_to: node -> the key that secrets may be sealed to.
    """

    def __init__(self) -> None:
        """Start without beliefs."""
        self.accepted: dict[str, Member] = {}
        self.signatures = SignatureCache("")
        self.sound: dict[str, _Sound] = {}
        self.left_out: dict[str, str | None] = {}
        self.problems: dict[str, str] = {}
        self.sealed_to: dict[str, NodePublicKey] = {}
        self._proven: dict[str, _Proven] = {}

    def start_over(self, swarm: Swarm, stored: Snapshot) -> None:
        """Drop everything that the next full judgement finds again, and everything about ended tasks."""
        living = {keyspace.report(task.node, task.id) for task in swarm.tasks.values()}
        self.signatures.drop_stale(stored.records, living | {keyspace.node(node) for node in swarm.nodes})
        self.sound = {key: sound for key, sound in self.sound.items() if key in stored.records}
        self._proven = {node: proven for node, proven in self._proven.items() if node in swarm.nodes}
        self.left_out, self.problems, self.sealed_to = {}, {}, {}

    def proof_problem(self, node: Node, swarm: Swarm, now: datetime) -> str | None:
        """Explain why a node's proof does not show its keys to be its own; None where it does."""
        if node.proof is None:
            return _UNPROVEN[node.unproven]
        inputs = node.statement(swarm.cluster), node.proof, swarm.roots
        proven = self._proven.get(node.id)
        outdated = proven is not None and proven.identity is None and not now - AGAIN < proven.at <= now
        if proven is None or proven.inputs != inputs or outdated:
            proven = self._proven[node.id] = _verified(inputs, now)
        if proven.identity is not None and now > proven.identity.expires + TOLERANCE:
            return f"its certificate ended at {proven.identity.expires:%Y-%m-%d %H:%M} UTC"
        return None if proven.identity is not None else proven.problem


def _verified(inputs: tuple[NodeStatement, NodeProof, tuple[bytes, ...]], now: datetime) -> _Proven:
    statement, proof, roots = inputs
    try:
        return _Proven(inputs, now, verify(proof, statement, roots, now), "")
    except CertificateExpiredError as error:
        return _Proven(inputs, now, None, str(error).replace("the node's", "its", 1))  # as of one that held before
    except (InvalidProofError, Terminal) as error:
        return _Proven(inputs, now, None, f"its proof does not hold: {error}")


class Judgement:
    """One pass of `Members.judge`: nodes come first, since reports are verified with their keys."""

    def __init__(self, beliefs: Beliefs, swarm: Swarm, stored: Snapshot, now: datetime) -> None:
        """Prepare; the arguments are those of `Members.judge`."""
        self._beliefs = beliefs
        self._swarm = swarm
        self._stored = stored
        self._now = now

    def node(self, name: str) -> None:
        """Judge a node by its records in the store, also where there are none now."""
        beliefs, key = self._beliefs, keyspace.node(name)
        record = self._stored.get(keyspace.member(name), Member)
        accepted = beliefs.accepted.get(name)
        if record is not None and (accepted is None or (record.counter >= accepted.counter and record != accepted)):
            beliefs.accepted[name] = record
        beliefs.sealed_to.pop(name, None)
        self._forget(key)
        versioned = self._stored.records.get(key)
        if versioned is not None and isinstance(versioned.record, Node):
            self._node(key, versioned, versioned.record)

    def claim(self, key: str) -> None:
        """Judge a report, or what a node brought back."""
        self._forget(key)
        versioned = self._stored.records.get(key)
        match versioned.record if versioned is not None else None:
            case TaskReport():
                self._report(key, cast("Versioned[TaskReport]", versioned))
            case Recalled() as recalled:
                self._recalled(key, cast("Versioned[Recalled]", versioned), recalled)

    def _forget(self, key: str) -> None:
        self._beliefs.left_out.pop(key, None)
        self._beliefs.problems.pop(key, None)

    def _unknown(self, key: str, reason: str) -> None:
        """Count a record as unknown: it holds what its key names, and nothing is concluded from it."""
        self._beliefs.left_out[key] = reason

    def _node(self, key: str, versioned: Versioned[Record], node: Node) -> None:
        observed = self._swarm.nodes.get(node.id)
        if observed is None:
            self._beliefs.left_out[key] = None
            self._beliefs.problems[key] = f"node {node.id}: an agent speaks for it, and it is not in this Swarm"
            return
        accepted = self._beliefs.accepted.get(node.id)
        forged = self._beliefs.signatures.problem(key, versioned, node.report_key)
        if forged is not None:
            self._unknown(key, forged)
            return
        same = accepted is not None and (accepted.report_key, accepted.sealing_key) == (
            node.report_key,
            node.sealing_key,
        )
        if accepted is not None and node.counter < accepted.counter + (0 if same else 1):
            text = f"counter {node.counter}, where {accepted.counter} was accepted"
            self._unknown(key, f"node {observed.hostname}: an earlier statement about its keys ({text})")
            return
        if observed.revoked is not None:
            self._beliefs.problems[key] = f"node {observed.hostname}: {_REVOKED.format(since=observed.revoked)}"
            return
        problem = self._not_shown(node, observed)
        if problem is None:
            self._beliefs.sealed_to[node.id] = node.sealing_key
            statement = Member(node.id, node.sealing_key, node.report_key, node.counter)
            if statement != accepted:
                self._beliefs.accepted[node.id] = statement
        elif same:
            text = f"node {observed.hostname}: {problem}. What it has stays, and nothing new is sealed to it"
            self._beliefs.problems[key] = text
        else:
            self._unknown(key, f"node {observed.hostname}: {problem}")
            return
        self._beliefs.signatures.raise_floor(key, versioned, node.report_key)

    def _not_shown(self, node: Node, observed: SwarmNode) -> str | None:
        if observed.approved is not None and observed.approved == node.statement(self._swarm.cluster).fingerprint:
            return None
        problem = self._beliefs.proof_problem(node, self._swarm, self._now)
        if problem is not None and observed.approved is not None:
            problem += " (the node label linkwire.key approves other keys)"
        return problem

    def _report(self, key: str, versioned: Versioned[TaskReport]) -> None:
        report, task = versioned.record, self._swarm.tasks.get(versioned.record.task)
        member = self._beliefs.accepted.get(report.node)
        sound = self._beliefs.sound.get(key)
        if (
            sound is not None
            and (sound[0] is versioned and sound[1] is task and sound[2] is member)
            and report.node in self._swarm.nodes
        ):
            return
        observed = self._swarm.nodes.get(report.node)
        if observed is None:
            # Of a node that has left: the plan takes it away. Not while an agent goes on to write it.
            if keyspace.node(report.node) in self._stored.records:
                self._beliefs.left_out[key] = None
            return
        if task is not None and task.node != report.node:
            self._beliefs.left_out[key] = None
            text = f"node {observed.hostname}: it reports on task {task.id}, which Swarm runs on another node"
            self._beliefs.problems[key] = text
            return
        if member is None:
            self._unknown(key, f"node {observed.hostname}: it reports on tasks, and has not shown its keys")
            return
        problem = self._beliefs.signatures.problem(key, versioned, member.report_key)
        if problem is not None:
            self._unknown(key, problem)
        else:
            self._beliefs.signatures.raise_floor(key, versioned, member.report_key)
            self._beliefs.sound[key] = versioned, task, member

    def _recalled(self, key: str, versioned: Versioned[Recalled], recalled: Recalled) -> None:
        """Leave out what the node has not signed: it would hide the node's answer. The content proves itself."""
        member = self._beliefs.accepted.get(recalled.node)
        if member is None or self._beliefs.signatures.problem(key, versioned, member.report_key) is not None:
            self._beliefs.left_out[key] = None
