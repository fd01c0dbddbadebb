"""Answer to `docker linkwire explain NODE NODE`: node encryption between two nodes, from records to packets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from agent.asks.survey import Survey
from agent.desired_state import DesiredState
from agent.queries.server import BadQueryError, Document
from agent.status.node_status import believed
from agent.walks.link_records import free_port, taken_ports
from agent.walks.looking import LARGE_BYTES, SILENT, underlay
from mesh.diagnosis.between_nodes import walk
from mesh.diagnosis.between_nodes.facts import NodeEnd, NodesFacts, TunnelLook
from mesh.diagnosis.link_facts import Unheard
from mesh.diagnosis.questions import Answer, Probe, Question
from mesh.diagnosis.steps import Step
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.encryption.records import NODES_KEY, NodeEncryption, Underlay
from mesh.model.records import Leader, Node, SealedLinkKey, Status
from mesh.model.snapshot import Snapshot

_LONGEST = 256
_OLDER = "is of a version that does not know this question"
_INSIDE = 60
"""Bytes by which a datagram through the devices is smaller than one besides them (WireGuard over IPv4)."""


class NodesExplainer:
    """Explainer of node encryption between two nodes, from one node.

    Args:
        load: reads from the store what the agent itself does not follow.
        desired: the records that this node acts on.
        cluster: Swarm's id of it.
        survey: from this node.
    """

    def __init__(
        self, load: Callable[[Sequence[str]], Snapshot], desired: DesiredState, cluster: str, survey: Survey
    ) -> None:
        self._load = load
        self._desired = desired
        self._cluster = cluster
        self._survey = survey

    def explain(self, query: Document) -> Iterator[Document]:
        """Walk between two nodes: a document a step, up to the first that is wrong.

        The query has `nodes`, each as its id and its name, and `wanted`, the mode that was asked for.
        """
        ends, wanted = _asked(query)
        snapshot, unread = self._read(ends)
        facts = self._facts(snapshot, unread, ends, wanted)
        steps = walk.by_records(facts)
        yield from map(_document, steps)
        if any(step.outcome == "wrong" for step in steps):
            return
        yield from map(_document, walk.by_looking(self._look(snapshot, facts)))

    def _read(self, ends: tuple[NodeEnd, NodeEnd]) -> tuple[Snapshot, str]:
        """Read the records of both nodes; a text says why etcd does not answer."""
        prefixes = (keyspace.NODES, keyspace.MEMBERS, keyspace.STATUS)
        keys = [f"{prefix}{end.node}" for end in ends for prefix in prefixes]
        keys += [f"{keyspace.PORTS}{end.node}/" for end in ends]
        keys += [keyspace.link_key(end.node, NODES_KEY) for end in ends]
        try:
            return believed(self._load((keyspace.LEADER, *keys)), self._cluster), ""
        except LinkwireError as error:
            return self._desired.verified, str(error)

    def _facts(self, snapshot: Snapshot, unread: str, ends: tuple[NodeEnd, NodeEnd], wanted: str) -> NodesFacts:
        verified = self._desired.verified
        record = verified.get(keyspace.ENCRYPTION, NodeEncryption)
        one, other = (_end(snapshot, verified, end) for end in ends)
        facts = NodesFacts(
            one,
            other,
            wanted,
            leads=bool(unread) or snapshot.get(keyspace.LEADER, Leader) is not None,
            store=unread,
            held=self._desired.trust.held,
            clock=time.time(),
        )
        if record is None:
            return facts
        return replace(
            facts,
            mode=record.mode,
            step=record.step,
            generation=record.generation,
            port=record.data_path_port,
        )

    def _look(self, snapshot: Snapshot, facts: NodesFacts) -> NodesFacts:
        """Add what both nodes see, and what comes of trying."""
        one, other = facts.one, facts.other
        choice = secrets.randbelow(1 << 16)
        bare, inside = (_probes(snapshot, one, other, choice + at, size) for at, size in enumerate(_SIZES))
        silent = {end.node: SILENT for end in (one, other) if end.is_silent}
        questions = [
            Question(end.node, "", "", probe=bare[at], between=far.node, inside=inside[at])
            for at, (end, far) in enumerate(((one, other), (other, one)))
        ]
        here, there = self._survey.ask(questions, silent)
        heard = ((one, here), (other, there))
        return replace(
            facts,
            here=_seen(here),
            there=_seen(there),
            bare=underlay(bare[0], here, there),
            inside=underlay(inside[0], _inside(here), _inside(there)),
            unheard=tuple(Unheard(end.node, end.host, why) for end, said in heard if (why := _unheard(said))),
        )


_SIZES = (LARGE_BYTES, LARGE_BYTES - _INSIDE)


def _end(snapshot: Snapshot, verified: Snapshot, end: NodeEnd) -> NodeEnd:
    """Add what the records say of a node."""
    key = keyspace.node(end.node)
    node = snapshot.get(key, Node)
    place = verified.get(keyspace.underlay(end.node), Underlay)
    status = snapshot.get(keyspace.status(end.node), Status)
    state = status.encryption if status is not None else None
    ports = tuple(key.port for key in place.keys) if place is not None else ()
    end = replace(
        end,
        is_silent=key not in snapshot.records and key not in snapshot.invalid,
        approved=key not in snapshot.invalid,
        unproven=node is not None and node.unproven is not None,
        states_key=node is not None and node.encryption_key is not None,
        place=" and ".join((str(place.endpoint), *map(str, ports[1:]))) if place is not None else "",
        ports=ports,
        has_link_key=snapshot.get(keyspace.link_key(end.node, NODES_KEY), SealedLinkKey) is not None,
    )
    if state is None:
        return end
    return replace(end, acknowledged=state.generation, step=state.step, problem=state.problem)


def _probes(
    snapshot: Snapshot, one: NodeEnd, other: NodeEnd, choice: int, large_bytes: int
) -> tuple[Probe | None, Probe | None]:
    """Return what each of the two nodes is to send to the other; None where that cannot be tried."""
    taken = taken_ports(snapshot)
    ports = [
        free_port(snapshot.get(keyspace.node(end.node), Node), taken.get(end.node, frozenset()), choice)
        for end in (one, other)
    ]
    if one.is_silent or other.is_silent or ports[0] is None or ports[1] is None:
        return None, None
    nonce = secrets.token_hex(16)
    return Probe(nonce, ports[0], ports[1], large_bytes), Probe(nonce, ports[1], ports[0], large_bytes)


def _seen(answer: Answer | str) -> TunnelLook | None:
    return answer.tunnel if isinstance(answer, Answer) else None


def _inside(answer: Answer | str) -> Answer | str:
    """Return the answer with what came through the device in the place of what came besides it."""
    return replace(answer, arrived=answer.inside) if isinstance(answer, Answer) else answer


def _unheard(answer: Answer | str) -> str:
    """Return why a node did not tell what it sees; empty where it did."""
    if isinstance(answer, str):
        return answer
    return _OLDER if answer.tunnel is None else ""


def _document(step: Step) -> Document:
    return {"step": step.told()}


def _asked(query: Document) -> tuple[tuple[NodeEnd, NodeEnd], str]:
    """Read a query. Raises BadQueryError."""
    try:
        one, other = (NodeEnd(_text(each["id"]), _text(each["host"])) for each in query["nodes"])
        wanted = _text(query["wanted"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadQueryError(f"the query is malformed ({type(error).__name__}: {error})") from None
    if one.node == other.node:
        raise BadQueryError("nodes has to be two different ones")
    return (one, other), wanted


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"a text of at most {_LONGEST} characters is needed")
    return value
