"""Stages of the service behind the link: rule, vip, backends, listens, name. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.diagnosis.link_facts import Connection, End, LinkFacts, Listener
from mesh.diagnosis.steps import Step, ok
from mesh.diagnosis.tunnel_stages import LOGS
from mesh.model.labels.ports import PortRange

_SHOWN = 5


def rule(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the rules let the asked port pass, and are in place."""
    asked = PortRange.parse(facts.asked) if facts.asked else None
    if asked is not None and not is_open(facts, asked):
        opened = ", ".join(facts.ports or ()) or "no port"
        yield Step(
            "rule",
            "wrong",
            f"the link from {facts.consumer} to {facts.provider} opens {opened}, and not {asked}",
            f"service {facts.consumer}",
            command=_opening(facts, str(asked)),
        )
        return
    for end, look in ((facts.consumer_end, facts.here), (facts.provider_end, facts.there)):
        if end is not None and look is not None and look.rules_hold is False:
            text = f"the rules in the namespace of {end.name} are not those that Linkwire put there"
            yield Step("rule", "wrong", text, f"node {end.host}", command=LOGS)
            return
    ports = "all ports" if facts.ports is None else ", ".join(facts.ports) or "no port"
    apart = facts.here.apart if facts.here is not None else 0
    # No warning: they are counted for the task and not for the link, and a neighbour may have sent them.
    beside = (
        f"; {apart} packets of {_name(facts.consumer_end)} beside its links were refused (strict): a program there "
        f"that gets no connection uses another name or address than {', '.join(facts.names[:_SHOWN])}"
    )
    yield ok("rule", f"the link opens {ports}{beside if apart else ''}")


def vip(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the provider's virtual address leads to the tasks that are ready."""
    if not facts.vip:
        yield Step("vip", "wrong", f"{facts.provider} has no address in the mesh", f"service {facts.provider}")
        return
    ready = {end.address for end in facts.provider_ends if end.ready}
    here = facts.here
    if here is not None and here.wired and ready and not ready & set(here.backends):
        leads = f"leads to {', '.join(here.backends[:_SHOWN])}" if here.backends else "leads nowhere"
        text = f"{facts.vip} of {facts.provider} {leads} in {_name(facts.consumer_end)}, and to no task that is ready"
        yield Step("vip", "wrong", text, f"node {_host(facts.consumer_end)}", command=LOGS)
        return
    yield ok("vip", f"{facts.vip} is {facts.provider}")


def backends(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether a task of the provider takes new connections."""
    ready = [end for end in facts.provider_ends if end.ready]
    if not ready:
        count = len(facts.provider_ends)
        tasks = "its only task is" if count == 1 else f"none of its {count} tasks is"
        if count == 1:
            tasks = f"{tasks} not"
        text = f"{facts.provider} has no ready task: {tasks} ready, so it takes no new connection"
        command = f"docker service ps --no-trunc {facts.provider}; docker inspect its container's health check"
        yield Step("backends", "wrong", text, f"service {facts.provider}", command=command)
        return
    text = f"{len(ready)} of {len(facts.provider_ends)} tasks of {facts.provider} take connections"
    yield ok("backends", text)


def listens(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether a program in the provider's task answers at the ports that were tried."""
    trial, end = facts.trial, facts.provider_end
    if trial is None or end is None:
        yield Step("listens", "skipped", "nobody could try")
        return
    listeners = facts.there.listeners if facts.there is not None else None
    if facts.asked.endswith("/udp"):
        yield from _datagrams(facts, end, listeners)
        return
    failed = [one for one in trial.connections if one.outcome != "open"]
    if failed:
        yield _refused(facts, end, failed[0], listeners)
        return
    if not trial.connections:
        yield _nothing(facts, end, listeners)
        return
    done = sorted({one.port for one in trial.connections})
    ports = ", ".join(f"{port}/tcp" for port in done)
    yield ok("listens", f"connected to {ports} from inside {_name(facts.consumer_end)}")


def name(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the link's names lead to the provider in the consumer's task."""
    trial = facts.trial
    if trial is None:
        yield Step("name", "skipped", "nobody could look")
        return
    good = {facts.vip, *(end.address for end in facts.provider_ends)}
    for alias, addresses in trial.names:
        first = addresses[0] if addresses else ""
        if first not in good:
            leads = f"resolves to {first}" if first else "does not resolve by the hosts file"
            text = f"{alias} {leads} in {_name(facts.consumer_end)}, and not to {facts.vip}"
            command = "take the other entry out of extra_hosts, or the image" if first else LOGS
            yield Step("name", "wrong", text, f"task {_name(facts.consumer_end)}", command=command)
            return
    yield ok("name", ", ".join(f"{alias} is {addresses[0]}" for alias, addresses in trial.names[:_SHOWN]))


def is_open(facts: LinkFacts, asked: PortRange) -> bool:
    """Tell whether the link opens a port."""
    ranges = [PortRange.parse(text) for text in facts.ports] if facts.ports is not None else None
    return ranges is None or any(
        one.protocol == asked.protocol and one.first <= asked.first and asked.last <= one.last for one in ranges
    )


def _refused(facts: LinkFacts, end: End, failed: Connection, listeners: tuple[Listener, ...] | None) -> Step:
    port, consumer = failed.port, _name(facts.consumer_end)
    ways = {"refused": "is refused", "silent": "gets no answer", "unreachable": "has no way", "open": "works"}
    connected = f"a connection from {consumer} to {port}/tcp of {end.name} {ways[failed.outcome]}"
    text, place, command = "", f"task {end.name}", ""
    if listeners is not None:
        at = [one for one in listeners if one.protocol == "tcp" and one.port == port]
        others = sorted({str(one) for one in listeners if one.protocol == "tcp" and not one.loopback})
        if at and all(one.loopback for one in at):
            text += ": its program listens on 127.0.0.1 only"
            command = _from_loopback(facts, port)
        elif not at:
            text += f": nothing listens there; it listens on {', '.join(others[:_SHOWN]) or 'no TCP port'}"
            command = _correcting(facts, f"{port}/tcp", others)
        elif failed.is_vip and failed.outcome == "refused":
            text += " by the virtual address, though the task listens"
            command = LOGS
        else:
            text += ", though its program listens: its own firewall, or a full backlog"
            command = f"docker service logs {facts.provider}"
    command, cause = command or f"docker service logs {facts.provider}", ""
    if listeners is not None and failed.outcome == "refused":  # by the provider's task, whoever connects
        cause = f"a connection to {port}/tcp of {end.name} is refused{text}"
    return Step("listens", "wrong", f"{connected}{text}", place, command=command, cause=cause)


def _nothing(facts: LinkFacts, end: End, listeners: tuple[Listener, ...] | None) -> Step:
    """Judge where no port was tried: none was named, and the provider does not say at which it listens."""
    if listeners is None:
        return Step("listens", "skipped", f"name a port to try one: {facts.provider}:PORT")
    outside = [one for one in listeners if not one.loopback]
    if outside:
        return ok("listens", f"{end.name} listens on {', '.join(str(one) for one in outside[:_SHOWN])}")
    only = " but on 127.0.0.1" if listeners else ""
    text = f"no program in {end.name} listens on any port{only}"
    return Step("listens", "wrong", text, f"task {end.name}", command=f"docker service logs {facts.provider}")


def _datagrams(facts: LinkFacts, end: End, listeners: tuple[Listener, ...] | None) -> Iterator[Step]:
    """Judge a UDP port: a datagram that is sent there tells nothing, but the node sees who waits for one."""
    port = PortRange.parse(facts.asked).first
    if listeners is None:
        yield Step("listens", "skipped", f"{end.host} could not be asked")
        return
    at = [one for one in listeners if one.protocol == "udp" and one.port == port]
    if any(not one.loopback for one in at):
        yield ok("listens", f"{end.name} listens on {facts.asked}")
        return
    others = sorted({str(one) for one in listeners if one.protocol == "udp" and not one.loopback})
    why = "its program listens on 127.0.0.1 only" if at else "nothing listens there"
    command = _from_loopback(facts, port) if at else _correcting(facts, facts.asked, others)
    yield Step("listens", "wrong", f"{facts.asked} of {end.name}: {why}", f"task {end.name}", command=command)


def _opening(facts: LinkFacts, port: str) -> str:
    """Say how a port is opened that the link does not open, in the words of the side that lists its ports."""
    if facts.ports_of == "provider":
        return f"add {port} to the `expose` of {facts.provider} in its compose file, and deploy"
    return f"add {port} to the `ports` of this link in the compose file of {facts.consumer}, and deploy"


def _correcting(facts: LinkFacts, port: str, others: list[str]) -> str:
    """Say how the link and the provider's program come to the same port, where nothing listens at that one."""
    listen = f"have the program in {facts.provider} listen on {port}"
    match facts.ports_of:
        case "link":
            return f"correct {port} in the `ports` of this link in the compose file of {facts.consumer}, or {listen}"
        case "provider":
            return f"correct {port} in the `expose` of {facts.provider} in its compose file, or {listen}"
    # The link opens all ports, so there is no list to correct: the port is the user's own word.
    used = f"connect to {' or '.join(others[:_SHOWN])} instead, or " if others else ""
    return f"{used}{listen}"


def _from_loopback(facts: LinkFacts, port: int) -> str:
    return f"make the program in {facts.provider} listen on 0.0.0.0:{port}"


def _name(end: End | None) -> str:
    return end.name if end is not None else "the consumer"


def _host(end: End | None) -> str:
    return end.host if end is not None else ""
