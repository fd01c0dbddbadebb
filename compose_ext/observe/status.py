"""`docker linkwire status`: one screen about Linkwire and all links, and everything that is wrong, worst first."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import click

from compose_ext.docker_cli import Docker, printable
from compose_ext.health.facts import gather
from compose_ext.health.judgement import BROKEN, DEGRADED, NOTHING_SEEN, WELL, Facts, Health, holder_note, judge
from compose_ext.pflag import Command, Seconds, form, pass_docker, switch
from compose_ext.swarm.link_states import NO_READY_TASK, Link
from compose_ext.terminal import Table, lasting, say, show, show_json

_WORDS = {WELL: "well", DEGRADED: "degraded", BROKEN: "broken"}
_STATES = ("connected", "idle", "broken", "unwired", "unknown")
_LOOK_EVERY = 1.0
_WAIT, _MOST = 120, 3600
_MIB = 1024**2
_MILLISECONDS = 10**11
"""An epoch above it is in milliseconds, as since version 0.1; below it in seconds."""


def rows(health: Health, now: float) -> Iterator[tuple[str, str, str]]:
    """Yield the screen's lines: subject, name, what there is of it."""
    facts = health.facts
    yield "STATUS", _WORDS[health.severity], _counted(health)
    yield from _control(facts)
    yield from _agents(facts)
    for agent in facts.agents.values():
        if note := holder_note(agent):
            yield "agents", printable(str(agent.get("hostname"))), note
    if facts.answer is not None:
        tasks = facts.control.get("tasks")
        if isinstance(tasks, dict) and facts.control.get("reached"):  # else nothing is known of them
            yield "tasks", "", ", ".join(f"{count} {state}" for state, count in tasks.items())
        if facts.encryption is not None and facts.encryption.summary != "off":
            yield "nodes", "encryption", facts.encryption.summary
        pairs = _pairs(facts.answer.links)
        others = sorted(pairs.keys() - set(_STATES))
        told = ", ".join(f"{pairs[state]} {state}" for state in (*_STATES, *others))
        yield "links", str(len(facts.answer.links)), f"pairs of tasks: {told}"
        alone = _without_backend(facts.answer.links)
        if alone:
            yield "links", "", f"{alone} {'has' if alone == 1 else 'have'} {NO_READY_TASK}"
        epochs = [link.epoch for link in facts.answer.links if link.epoch is not None]
        if epochs:
            yield "keys", "link keys", f"{len(epochs)}, the oldest renewed {lasting(now - _seconds(min(epochs)))} ago"
    if facts.certificates:
        first = min(facts.certificates, key=lambda each: each.days)
        yield (
            "",
            "certificates",
            f"{len(facts.certificates)}, the first to expire is {first.name}, in {first.days} days",
        )


def table(health: Health, now: float) -> Table:
    """Return the screen, with everything that is wrong under it."""
    lines, last = [], ""
    for subject, name, text in rows(health, now):
        lines.append(("" if subject == last else subject, name, text))
        last = subject or last
    problems = tuple(f"{_WORDS[each.severity]}: {each.text}" for each in health.findings)
    return Table(lines[0], tuple(lines[1:]), problems)


def document(health: Health, now: float) -> dict[str, Any]:
    """Return the same for programs."""
    facts = health.facts
    links = facts.answer.links if facts.answer is not None else ()
    pairs = _pairs(links)
    heard = facts.agents
    nodes = facts.nodes or ()
    return {
        "status": _WORDS[health.severity],
        "control": {key: facts.control.get(key) for key in ("reached", "leader", "etcd", "members", "tasks")},
        "running": None if facts.running is None else {role: list(names) for role, names in facts.running.items()},
        "controllers": None if facts.running is None else _controllers(facts),
        "agents": [
            {
                "node": node.hostname,
                "up": node.is_up,
                "drained": node.is_drained,
                "heard": node.id in heard,
                "version": heard.get(node.id, {}).get("version"),
                "backend": heard.get(node.id, {}).get("backend"),
                "gate": node.has_gate,
                "holder": heard.get(node.id, {}).get("holder"),
            }
            for node in nodes
        ],
        "node_encryption": None if facts.encryption is None else asdict(facts.encryption),
        "links": len(links),
        "no_ready_task": _without_backend(links),
        "pairs": dict(sorted(pairs.items())),
        "certificates": [{"name": each.name, "days": each.days} for each in facts.certificates],
        "findings": [{"severity": _WORDS[each.severity], "text": each.text} for each in health.findings],
        "time": round(now),
    }


def _pairs(links: Iterable[Link]) -> Counter[str]:
    """Add up how many pairs of tasks are in each state."""
    return sum((Counter(link.states) for link in links), Counter[str]())


def _without_backend(links: Iterable[Link]) -> int:
    return sum(link.is_without_backend for link in links)


def _counted(health: Health) -> str:
    if count := len(health.findings):
        return f"{count} thing{'s' if count > 1 else ''} wrong, worst first below"
    if health.facts.running is None:
        return "nothing wrong is seen from this node; a manager knows all"
    return NOTHING_SEEN


def _control(facts: Facts) -> Iterator[tuple[str, str, str]]:
    control, running = facts.control, facts.running or {}
    if control.get("reached"):
        yield "control", "leader", _leader(facts) or "none"
    if "controller" in running:
        words = {True: " (leads)", False: " (standby)", None: ""}
        named = ", ".join(f"{one['node']}{words[one['leads']]}" for one in _controllers(facts))
        yield "control", "controllers", named or "none runs"
    if "etcd" in running:
        yield "control", "etcd", ", ".join(running["etcd"]) or "none runs"
    for member in facts.members:
        told = [_node_name(facts, member.name) or "a member", *(["leads"] if member.is_leader else [])]
        told.append("does not answer" if member.problem else "answers")
        if member.size is not None:
            told.append(f"{member.size / _MIB:.1f} MiB")
        yield "control", f"etcd at {member.endpoint}", ", ".join(told)
    size = control.get("etcd")
    if isinstance(size, dict):
        # The members' own word is of now, the record's of a minute ago.
        used = max((member.size for member in facts.members if member.size is not None), default=size["size"])
        yield "control", "etcd's size", f"{used / _MIB:.1f} MiB of {size['quota'] / _MIB:.0f} MiB"


def _node_name(facts: Facts, name: str) -> str:
    """Return the hostname where a member has its node's id for its name, as one of several has."""
    return next((node.hostname for node in facts.nodes or () if node.id == name), name)


def _leader(facts: Facts) -> str:
    """Return the name of the node on which a controller leads; empty where none does."""
    names = {node.id: node.hostname for node in facts.nodes or ()}
    holder = str(facts.control.get("leader") or "")
    return printable(names.get(holder, holder))


def _controllers(facts: Facts) -> list[dict[str, Any]]:
    """Return each controller that runs, the one that leads first; two may be on one node."""
    nodes = list((facts.running or {}).get("controller", ()))
    if not facts.control.get("reached"):
        return [{"node": node, "leads": None} for node in nodes]
    leader = _leader(facts)
    leading = [leader] if leader in nodes else []
    for node in leading:
        nodes.remove(node)
    return [{"node": node, "leads": True} for node in leading] + [{"node": node, "leads": False} for node in nodes]


def _agents(facts: Facts) -> Iterator[tuple[str, str, str]]:
    heard = facts.agents
    if facts.nodes is None:
        for agent in heard.values():
            yield "agents", printable(str(agent["hostname"])), _agent(agent)
        return
    unheard = "silent" if facts.control.get("reached") else "not known"
    for node in facts.nodes:
        told = _agent(heard[node.id]) if node.id in heard else "none" if node.is_drained else unheard
        marks = [told, *(["gate"] if node.has_gate else []), *([] if node.is_up else ["node is down"])]
        marks += ["node is drained"] if node.is_drained else []
        yield "agents", node.hostname, ", ".join(marks)


def _agent(agent: Any) -> str:  # noqa: ANN401 - of the agent's document
    return printable(f"{agent.get('version')}, {agent.get('backend')}")


def _seconds(epoch: int) -> float:
    return epoch / 1000 if epoch > _MILLISECONDS else float(epoch)


@click.command(
    "status",
    cls=Command,
    usage="docker linkwire status [OPTIONS]",
    examples="""
        docker linkwire status
        docker linkwire status --wait --timeout 60
        docker linkwire status --format json
    """,
)
@form("table", "json")
@switch("--wait", help="Wait until nothing is wrong")
@click.option(
    "--timeout",
    type=Seconds(_MOST),
    default=str(_WAIT),
    metavar="SECONDS",
    help=f"How long to wait at most (default {_WAIT})",
)
@pass_docker
def status_command(docker: Docker, form: str, timeout: str, *, wait: bool) -> int:
    """Show the state of Linkwire and of all links, and everything that is wrong, worst first.

    Exits with 0 if all is well, with 1 if something is wrong and links work, and with 2 if links are broken, or
    nothing new can be wired.
    """
    until = time.monotonic() + float(timeout)
    health, told = judge(gather(docker)), ""
    while wait and health.severity != WELL and time.monotonic() < until:
        if form == "table" and health.findings[0].text != told:
            told = health.findings[0].text
            say(f"waiting: {told}")
        time.sleep(_LOOK_EVERY)
        health = judge(gather(docker))
    if form == "json":
        show_json(document(health, time.time()))
    else:
        show(table(health, time.time()))
    return health.severity
