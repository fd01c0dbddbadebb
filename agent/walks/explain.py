"""Answer to `docker linkwire explain`: one link, walked from its records to its names, a document a step."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from agent.asks.survey import Survey
from agent.desired_state import DesiredState
from agent.probes.examiner import MOST_PORTS
from agent.queries import link_records
from agent.queries.link_records import MOST_ENDS, SwarmTask
from agent.queries.server import BadQueryError, Document
from mesh.diagnosis import link_stages
from mesh.diagnosis.link_facts import End, LinkFacts, Underlay, Unheard
from mesh.diagnosis.questions import Answer, Probe, Question
from mesh.diagnosis.steps import Step
from mesh.model.ports import PortRange
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store

LARGE_BYTES = 1480
"""Of a datagram between nodes: what a full packet of a link is on a network of 1,500, with WireGuard's 60 bytes."""
_LONGEST = 256
"""Characters of a name in a query."""


class Explainer:
    """Explainer of links, from one node.

    Args:
        store: to read from.
        cluster: Swarm's id of it.
        desired: the records that this node acts on.
        survey: from this node.
    """

    def __init__(self, store: Store, cluster: str, desired: DesiredState, survey: Survey) -> None:
        self._store = store
        self._cluster = cluster
        self._desired = desired
        self._survey = survey

    def explain(self, query: Document) -> Iterator[Document]:
        """Walk along one link: a document a step, up to the first that is wrong."""
        asked, ends = _asked(query)
        facts, snapshot = link_records.facts(self._store, self._desired, self._cluster, ends, asked)
        steps = link_stages.by_records(facts)
        yield from map(_document, steps)
        if any(step.outcome == "wrong" for step in steps):
            return
        yield from map(_document, link_stages.by_looking(self._looked(facts, snapshot)))

    def _looked(self, facts: LinkFacts, snapshot: Snapshot) -> LinkFacts:
        """Add what the nodes see, and what comes of trying the link."""
        one, other = facts.consumer_end, facts.provider_end
        if one is None or other is None:
            return facts
        probes = _probes(snapshot, one, other)
        ports = _ports(facts)
        tried = Question(one.node, one.task, other.task, tries=True, ports=ports, probe=probes[0])
        looked = Question(other.node, other.task, one.task, probe=probes[1])
        silent = {end.node: "gives no signs of life in etcd" for end in (one, other) if end.is_silent}
        here, there = self._survey.ask((tried, looked), silent)
        if not ports and isinstance(there, Answer) and isinstance(here, Answer):
            # The provider says what there is to try.
            ports = tuple(x.port for x in there.look.listeners if x.protocol == "tcp" and not x.loopback)
            if ports:
                again = Question(one.node, one.task, other.task, tries=True, ports=ports[:MOST_PORTS])
                (second,) = self._survey.ask((again,), silent)
                here = replace(second, arrived=here.arrived) if isinstance(second, Answer) else here
        ends = ((one, here), (other, there))
        unheard = [Unheard(end.node, end.host, answer) for end, answer in ends if isinstance(answer, str)]
        return replace(
            facts,
            here=here.look if isinstance(here, Answer) else None,
            trial=here.trial if isinstance(here, Answer) else None,
            there=there.look if isinstance(there, Answer) else None,
            underlay=None if one.node == other.node else _underlay(probes[0], here, there),
            unheard=tuple(dict.fromkeys(unheard)),
            clock=time.time(),
        )


def _probes(snapshot: Snapshot, one: End, other: End) -> tuple[Probe | None, Probe | None]:
    """Return what each of the two nodes is to send to the other; None where that cannot be tried."""
    ports = [link_records.free_port(snapshot, end.node, secrets.randbelow(1 << 16)) for end in (one, other)]
    if one.node == other.node or one.is_silent or other.is_silent or ports[0] is None or ports[1] is None:
        return None, None
    nonce = secrets.token_hex(16)
    return Probe(nonce, ports[0], ports[1], LARGE_BYTES), Probe(nonce, ports[1], ports[0], LARGE_BYTES)


def _underlay(probe: Probe | None, here: Answer | str, there: Answer | str) -> Underlay:
    """Put together what arrived at both nodes."""
    mine = here.arrived if isinstance(here, Answer) else None
    theirs = there.arrived if isinstance(there, Answer) else None
    if probe is None or mine is None or theirs is None:
        return Underlay(problem="UDP between the nodes was not tried, since one of their agents did not answer")
    problem = mine.problem or theirs.problem
    return Underlay(mine.sent, theirs.small, mine.small, probe.large_bytes, theirs.large, mine.large, problem=problem)


def _ports(facts: LinkFacts) -> tuple[int, ...]:
    """Return the TCP ports to try that are known beforehand."""
    texts = [facts.asked] if facts.asked else list(facts.ports or ())
    ranges = [PortRange.parse(text) for text in texts]
    return tuple(one.first for one in ranges if one.protocol == "tcp" and one.first == one.last)[:MOST_PORTS]


def _document(step: Step) -> Document:
    return {"step": asdict(step)}


def _asked(query: Document) -> tuple[LinkFacts, tuple[list[SwarmTask], list[SwarmTask]]]:
    """Read a query. Raises BadQueryError."""
    port = _text(query, "port")
    try:
        parsed = PortRange.parse(port) if port else None
    except ValueError as error:
        raise BadQueryError(f"port: {error}") from None
    facts = LinkFacts(_text(query, "consumer"), _text(query, "provider"), asked=str(parsed) if parsed else "")
    return facts, (_tasks(query, "consumer_tasks"), _tasks(query, "provider_tasks"))


def _text(query: Mapping[str, Any], name: str) -> str:
    value = query.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise BadQueryError(f"{name} has to be a text of at most {_LONGEST} characters")
    return value


def _tasks(query: Document, name: str) -> list[SwarmTask]:
    value = query.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadQueryError(f"{name} has to be a list of objects")
    return [SwarmTask(*(_text(one, field) for field in ("id", "name", "node", "host"))) for one in value[:MOST_ENDS]]
