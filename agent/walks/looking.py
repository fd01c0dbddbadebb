"""Looks at both ends of links, and tries of them: questions to their nodes, and what they come to.

Of one link all is asked for at once. Many links are tried first, since of those that work there is nothing to find
out about the network below. Two nodes whose links fail exchange datagrams beside WireGuard, once for all these links.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace

from agent.asks.batches import Unit, ask_all
from agent.asks.survey import Survey
from agent.probes.examiner import MOST_PORTS
from agent.walks.link_records import LinkRecords
from mesh.diagnosis.link_facts import End, LinkFacts, Underlay, Unheard
from mesh.diagnosis.questions import Answer, Probe, Question
from mesh.diagnosis.tunnel_stages import blocked
from mesh.model.labels.ports import PortRange

LARGE_BYTES = 1480
"""Of a datagram between nodes: what a full packet of a link is on a network of 1,500, with WireGuard's 60 bytes."""
SILENT = "gives no signs of life in etcd"
"""Said of a silent agent, which is not asked."""

_Pair = frozenset[str]
"""Ids of two nodes, or of one."""


@dataclass(slots=True)
class _Link:
    """A link while it is looked at: its two ends, and what their nodes have answered so far."""

    facts: LinkFacts
    one: End
    other: End
    here: Answer | str = ""
    there: Answer | str = ""
    probe: Probe | None = None
    underlay: Underlay | None = None

    @property
    def nodes(self) -> _Pair:
        return frozenset({self.one.node, self.other.node})

    @property
    def passes(self) -> bool | None:
        """Whether packets pass, small and large; None where nobody could try."""
        if isinstance(self.here, str) or isinstance(self.there, str) or not self.here.look.device:
            return None
        trial = self.here.trial
        return trial is not None and trial.small and trial.large is not False

    @property
    def loses_large(self) -> bool:
        """Whether small packets pass, and large ones do not."""
        trial = self.here.trial if isinstance(self.here, Answer) else None
        return trial is not None and trial.small and trial.large is False

    @property
    def looked(self) -> Question:
        return Question(self.other.node, self.other.task, self.one.task)

    @property
    def tried(self) -> Question:
        ports = tried_ports(self.facts) or (listening(self.there) if isinstance(self.there, Answer) else ())
        return Question(self.one.node, self.one.task, self.other.task, tries=True, ports=ports)


def look_at(survey: Survey, records: LinkRecords, facts: LinkFacts) -> LinkFacts:
    """Add to the facts of one link what its nodes see, and what comes of trying all of it at once."""
    one, other = facts.consumer_end, facts.provider_end
    if one is None or other is None or one.task == other.task:
        return facts
    mine, theirs = probes(records, one, other, secrets.randbelow(1 << 16))
    link = _Link(facts, one, other)
    silent = {end.node: SILENT for end in (one, other) if end.is_silent}
    here, there = survey.ask((replace(link.tried, probe=mine), replace(link.looked, probe=theirs)), silent)
    if not tried_ports(facts) and isinstance(there, Answer) and isinstance(here, Answer) and listening(there):
        # The provider says what there is to try.
        link.there = there
        (second,) = survey.ask((link.tried,), silent)
        here = replace(second, arrived=here.arrived) if isinstance(second, Answer) else here
    if one.node != other.node:
        link.underlay = underlay(mine, here, there)
    link.here, link.there = _since(here), _since(there)
    return _found(link)


def look(
    survey: Survey, records: LinkRecords, links: Sequence[LinkFacts], unheard: MutableMapping[str, str]
) -> list[LinkFacts]:
    """Add to the facts of some links what their nodes see, and what comes of trying them.

    Args:
        survey: from this node.
        records: of the links.
        links: as their records have them.
        unheard: id of a node that does not answer, and what is said of it; others that do not are added.
    """
    ends = [(facts, facts.consumer_end, facts.provider_end) for facts in links]
    looking = {
        at: _Link(facts, one, other)
        for at, (facts, one, other) in enumerate(ends)
        if one is not None and other is not None and one.task != other.task
    }
    made = list(looking.values())
    for end in (end for link in made for end in (link.one, link.other) if end.is_silent):
        unheard.setdefault(end.node, SILENT)
    for at, (there,) in ask_all(survey, [(link.looked,) for link in made], unheard):
        made[at].there = _since(there)
    for at, (here,) in ask_all(survey, [(link.tried,) for link in made], unheard):
        made[at].here = _since(here)
    _look_between(survey, records, [link for link in made if link.passes is False], unheard)
    return [_found(looking[at]) if at in looking else facts for at, facts in enumerate(links)]


def _look_between(
    survey: Survey, records: LinkRecords, failed: Sequence[_Link], unheard: MutableMapping[str, str]
) -> None:
    """Exchange datagrams between each two nodes whose links fail, and try once more what they do not explain."""
    between: dict[_Pair, _Link] = {}
    for link in sorted(failed, key=lambda link: link.loses_large):  # of two faults the worse one
        between.setdefault(link.nodes, link)
    first = list(between.values())
    start = secrets.randbelow(1 << 16)
    sent = [probes(records, link.one, link.other, start + at) for at, link in enumerate(first)]
    _ask_both(survey, [(link, *both) for link, both in zip(first, sent, strict=True)], unheard)
    again: list[_Link] = []
    for link in failed:
        found = between[link.nodes]
        if link is found:
            continue
        link.underlay = found.underlay if link.one.node == found.one.node else _turned(found.underlay)
        if not _explains(found, link):
            again.append(link)
    _ask_both(survey, [(link, None, None) for link in again], unheard)


def _ask_both(
    survey: Survey, links: Sequence[tuple[_Link, Probe | None, Probe | None]], unheard: MutableMapping[str, str]
) -> None:
    """Ask both nodes of links at the same time, as a walk along one link does."""
    units: list[Unit] = [
        (replace(link.tried, probe=mine), replace(link.looked, probe=theirs)) for link, mine, theirs in links
    ]
    for at, (here, there) in ask_all(survey, units, unheard):
        link, mine, _ = links[at]
        link.here, link.there = _since(here), _since(there)
        if link.underlay is None and link.one.node != link.other.node:
            link.underlay = underlay(mine, here, there)


def _explains(found: _Link, link: _Link) -> bool:
    """Tell whether the network between two nodes is at fault, by one link between them, so that another fails too."""
    between = found.underlay
    if between is None:
        return False
    if blocked(between) or between.problem:
        return not link.loses_large
    return link.loses_large and found.loses_large


def _turned(found: Underlay | None) -> Underlay | None:
    """Return the same for a link in the other direction."""
    if found is None:
        return None
    return replace(
        found, there=found.here, here=found.there, large_there=found.large_here, large_here=found.large_there
    )


def _since(answer: Answer | str) -> Answer | str:
    """Count a node's clock from this one's: answers come one after another, and are judged together."""
    if isinstance(answer, str):
        return answer
    return replace(answer, look=replace(answer.look, clock=answer.look.clock - time.time()))


def _found(link: _Link) -> LinkFacts:
    ends = ((link.one, link.here), (link.other, link.there))
    unheard = [Unheard(end.node, end.host, answer) for end, answer in ends if isinstance(answer, str)]
    between = link.underlay
    if between is None and unheard and link.one.node != link.other.node:
        between = underlay(None, link.here, link.there)
    return replace(
        link.facts,
        here=link.here.look if isinstance(link.here, Answer) else None,
        trial=link.here.trial if isinstance(link.here, Answer) else None,
        there=link.there.look if isinstance(link.there, Answer) else None,
        underlay=between,
        unheard=tuple(dict.fromkeys(unheard)),
        clock=0.0,
    )


def probes(records: LinkRecords, one: End, other: End, choice: int) -> tuple[Probe | None, Probe | None]:
    """Return what each of two nodes is to send to the other; None where that cannot be tried.

    Args:
        records: with the nodes' ports.
        one: an end on one node.
        other: the same on the other.
        choice: any number; others at the same time are to be other ones.
    """
    ports = [records.free_port(end.node, choice) for end in (one, other)]
    if one.node == other.node or one.is_silent or other.is_silent or ports[0] is None or ports[1] is None:
        return None, None
    nonce = secrets.token_hex(16)
    return Probe(nonce, ports[0], ports[1], LARGE_BYTES), Probe(nonce, ports[1], ports[0], LARGE_BYTES)


def underlay(probe: Probe | None, here: Answer | str, there: Answer | str) -> Underlay:
    """Put together what arrived at both nodes."""
    mine = here.arrived if isinstance(here, Answer) else None
    theirs = there.arrived if isinstance(there, Answer) else None
    if probe is None or mine is None or theirs is None:
        return Underlay(problem="UDP between the nodes was not tried, since one of their agents did not answer")
    problem = mine.problem or theirs.problem
    return Underlay(mine.sent, theirs.small, mine.small, probe.large_bytes, theirs.large, mine.large, problem=problem)


def tried_ports(facts: LinkFacts) -> tuple[int, ...]:
    """Return the TCP ports to try that are known beforehand."""
    texts: Iterable[str] = [facts.asked] if facts.asked else facts.ports or ()
    ranges = [PortRange.parse(text) for text in texts]
    return tuple(one.first for one in ranges if one.protocol == "tcp" and one.first == one.last)[:MOST_PORTS]


def listening(there: Answer) -> tuple[int, ...]:
    """Return the TCP ports to try where none is known beforehand: those that the provider's task listens at."""
    return tuple(x.port for x in there.look.listeners if x.protocol == "tcp" and not x.loopback)[:MOST_PORTS]
