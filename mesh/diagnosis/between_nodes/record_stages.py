"""Stages of a walk between two nodes that the records answer: member, key, place, step. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.diagnosis.between_nodes.facts import NodeEnd, NodesFacts
from mesh.diagnosis.steps import Step, ago, ok
from mesh.model.encryption.status import LAST

ON = "docker linkwire node encryption on"
STATUS = "docker linkwire node encryption status"
CONTROLLER_LOGS = "docker service logs --tail 20 linkwire_controller"
_NO_STORE = "etcd does not answer: nothing is switched, and no other node can be asked"


def member(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether node encryption is asked for, whether anybody switches it, and whether both nodes are members."""
    if facts.wanted == facts.mode == "off":
        text = f"node encryption is off: overlay packets between {_both(facts)} go in plain text"
        yield Step("member", "wrong", text, command=ON)
        return
    if facts.store:
        text, command = f"{_NO_STORE}: {facts.store}", "docker service ps --no-trunc linkwire_etcd"
        yield Step("member", "warning", text, command=command)
    elif not facts.leads:
        text, command = "no controller leads: nothing is switched", "docker service ps --no-trunc linkwire_controller"
        yield Step("member", "warning", text, command=command)
    if facts.held:
        text = f"the records are not acted on: {facts.held}"
        yield Step("member", "warning", text, command="docker linkwire check")
    for end in _asked(facts):
        if not end.approved or (end.unproven and not end.place):
            text = f"the keys of node {end.host} are not accepted, so it has no part in node encryption"
            command = f"docker linkwire node ls; docker linkwire node approve {end.host}"
            yield Step("member", "wrong", text, f"node {end.host}", command=command, node=end.node)
            return
    yield ok("member", f"{_both(facts)} are members; node encryption is {facts.mode}, {facts.wanted} is asked for")


def key(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether both nodes state an encryption key, and have the link key of all nodes."""
    for end in _asked(facts):
        if not end.states_key and not end.is_silent:
            text = f"{end.host} states no encryption key: its agent is of an earlier version, or its log says why"
            yield Step("key", "wrong", text, f"node {end.host}", node=end.node)
            return
    for end in _asked(facts):
        if end.place and not end.has_link_key:
            text = f"the link key of all nodes is not in the store, sealed to {end.host}"
            yield Step("key", "wrong", text, f"node {end.host}", command=CONTROLLER_LOGS, node=end.node)
            return
    yield ok("key", "both nodes state their encryption key, and have the link key of all nodes")


def place(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether the controllers have given both nodes a place."""
    for end in (facts.one, facts.other):
        if not end.place:
            why = "no agent is heard there" if end.is_silent else "see the controller's problems"
            effect = "refused" if facts.step == "enforce" else "sent and taken in plain text"
            text = f"{end.host} has no place in node encryption: {why}; its overlay packets are {effect}"
            command = "docker linkwire events --kind problem"
            yield Step("place", "wrong", text, f"node {end.host}", command=command, node=end.node)
            return
    yield ok("place", f"{facts.one.host} at {facts.one.place}, {facts.other.host} at {facts.other.place}")


def step(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether both nodes have taken the present step, and whether that is the last one."""
    since = ago(max(0.0, facts.clock - facts.generation)) if facts.generation else ""
    if facts.mode == "off":
        text = f"node encryption is to be {facts.wanted}, and no controller has begun it: all nodes are waited for"
        yield Step("step", "wrong", text, command=STATUS)
        return
    for end in _asked(facts):
        if (end.acknowledged, end.step) == (facts.generation, facts.step):
            continue
        why = "its agent is silent, and its kernel goes on with the last step" if end.is_silent else end.problem
        why = f": {why}" if why else ""
        text = f"{end.host} has not acknowledged step {facts.step}, it is at {end.step}{why}"
        yield Step("step", "wrong", text, f"node {end.host}", since, node=end.node)
        return
    if (facts.mode, facts.step) != (facts.wanted, LAST.get(facts.wanted)):
        text = f"node encryption is being switched: {facts.mode}, step {facts.step}; {facts.wanted} is asked for"
        yield Step("step", "warning", text, since=since, command=STATUS)
        return
    yield ok("step", f"both nodes have acknowledged step {facts.step} of {facts.mode}")


def _asked(facts: NodesFacts) -> tuple[NodeEnd, ...]:
    """Return the nodes of which the store says something: without it nothing is known."""
    return () if facts.store else (facts.one, facts.other)


def _both(facts: NodesFacts) -> str:
    return f"{facts.one.host} and {facts.other.host}"
