"""Stages that the records answer: record, key; and what keeps nodes from acting on them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.diagnosis.link_facts import End, LinkFacts
from mesh.diagnosis.steps import Step, ago, ok

CLOCK_S = 30.0
"""Seconds between two nodes' clocks that are worth a word."""
_NO_LEADER = "no controller leads: nothing that changes is wired"
_NO_STORE = "etcd does not answer: nothing that changes is wired, and no other node can be asked"


def record(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the link and its ends are in the records, and whether anybody renews these."""
    yield from control(facts)
    if not facts.is_recorded:
        why = "" if facts.leads else ", and no controller leads that could record it"
        yield Step(
            "record",
            "wrong",
            f"Linkwire has no record of a link from {facts.consumer} to {facts.provider}{why}",
            command="docker service logs --tail 20 linkwire_controller",
            cause="" if facts.leads else _NO_LEADER,
        )
        return
    if not facts.is_allowed:
        text = f"{facts.provider} does not allow the link"
        yield Step("record", "wrong", text, f"service {facts.provider}")
        return
    if facts.consumer_end is None or facts.provider_end is None:
        service = facts.consumer if facts.consumer_end is None else facts.provider
        text = f"no task of {service} has an address in the mesh"
        why = "" if facts.leads else ": no controller leads that could give it one"
        command, cause = f"docker service ps {service}", "" if facts.leads else _NO_LEADER
        yield Step("record", "wrong", text + why, f"service {service}", command=command, cause=cause)
        return
    for end in (facts.consumer_end, facts.provider_end):
        if not end.approved:
            yield _unapproved(end)
            return
        if not end.address and end.unproven:
            yield _unapproved(end)
            return
        if not end.address:
            why = "no controller leads that could give it one" if not facts.leads else "see the controller's log"
            text = f"{end.name} on {end.host} has no address in the mesh: {why}"
            logs = "docker service logs --tail 20 linkwire_controller"
            cause = "" if facts.leads else _NO_LEADER
            yield Step("record", "wrong", text, f"task {end.name}", command=logs, cause=cause)
            return
    yield ok("record", f"{_place(facts.consumer_end)} and {_place(facts.provider_end)}")


def control(facts: LinkFacts) -> Iterator[Step]:
    """Warn of what keeps changes from being recorded or acted on, while links that are there go on."""
    if facts.store:
        text, command = f"{_NO_STORE}: {facts.store}", "docker service ps --no-trunc linkwire_etcd"
        yield Step("record", "warning", text, command=command, cause=_NO_STORE)
    elif not facts.leads:
        yield Step(
            "record",
            "warning",
            _NO_LEADER,
            command="docker service ps --no-trunc linkwire_controller",
        )
    if facts.held:
        text = f"the records are not acted on: {facts.held}"
        yield Step("record", "warning", text, command="docker linkwire check")


def key(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether both nodes have the keys that they need."""
    for end in (facts.consumer_end, facts.provider_end):
        if end is not None and end.has_keys is False:
            text = f"the keys of {end.name} are not in the store, sealed to {end.host}"
            logs = "docker service logs --tail 20 linkwire_controller"
            cause = f"keys of tasks on {end.host} are not in the store, sealed to it"
            yield Step("key", "wrong", text, f"node {end.host}", command=logs, cause=cause)
            return
    yield ok("key", "both nodes have the keys of their task and of the link")


def clocks(facts: LinkFacts) -> Iterator[Step]:
    """Warn of a node whose clock is wrong."""
    for end, look in ((facts.consumer_end, facts.here), (facts.provider_end, facts.there)):
        off = look.clock - facts.clock if look is not None else 0.0
        if end is not None and abs(off) > CLOCK_S:
            way = "ahead of" if off > 0 else "behind"
            text = f"the clock of {end.host} is {ago(abs(off))} {way} that of the node that was asked"
            why = "certificates and new handshakes depend on it"
            command = f"on {end.host}: timedatectl set-ntp true"
            cause = f"the clock of {end.host} is {way} that of the node that was asked: {why}"
            yield Step("agent", "warning", f"{text}: {why}", f"node {end.host}", command=command, cause=cause)


def silent(facts: LinkFacts) -> Iterator[Step]:
    """Warn of nodes that did not tell what they see; without etcd that is said already."""
    for unheard in () if facts.store else facts.unheard:
        yield Step(
            "agent",
            "warning",
            f"the agent on {unheard.host} {unheard.reason}",
            f"node {unheard.host}",
            command=f"docker service ps --no-trunc --filter node={unheard.host} linkwire_agent",
            node=unheard.node,
        )


def _unapproved(end: End) -> Step:
    return Step(
        "record",
        "wrong",
        f"the keys of node {end.host} are not accepted, so {end.name} gets no address",
        f"node {end.host}",
        command=f"docker linkwire node ls; docker linkwire node approve {end.host}",
        cause=f"the keys of node {end.host} are not accepted, so its tasks get no address",
    )


def _place(end: End) -> str:
    return f"{end.name} is {end.address} on {end.host}"
