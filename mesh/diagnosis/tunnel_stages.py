"""Stages of the tunnel: device, peer, handshake, underlay, mtu. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mesh.diagnosis.link_facts import End, LinkFacts, Look, Underlay
from mesh.diagnosis.steps import Step, ago, ok

PORTS = "UDP 51820-53819"
"""The ports that `docker linkwire install` asks to open among the nodes, unless told others."""
LOGS = "docker service logs --tail 20 linkwire_agent"
DROPPED = "a firewall or the network drops it"
_HEADERS = 60
"""Bytes that WireGuard adds to a packet over IPv4."""


def device(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether each end has its device."""
    seen = []
    for end, look in _ends(facts):
        error = end.error or (look.error if look is not None else "")
        if look is not None and not look.device:
            why = f": {error}" if error else ""
            text = f"{end.name} is not wired{why}"
            cause = f"tasks on {end.host} are not wired{why}"
            yield Step("device", "wrong", text, f"node {end.host}", command=_advice(error), cause=cause)
            return
        if look is not None and not look.is_up:
            text = f"device {look.device} of {end.name} is down"
            yield Step("device", "wrong", text, f"node {end.host}", command=LOGS)
            return
        if error:
            text, cause = f"{end.name}: {error}", f"tasks on {end.host}: {error}"
            yield Step("device", "wrong", text, f"node {end.host}", command=_advice(error), cause=cause)
            return
        seen.append(f"{look.device} of {end.name}" if look is not None else f"that of {end.name} was not looked at")
    yield ok("device", ", ".join(seen))


def peer(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether each end's device has the other's key."""
    for end, look in _ends(facts):
        if look is not None and not look.is_peer:
            text = f"the device of {end.name} does not have the other task as a peer"
            yield Step("peer", "wrong", text, f"node {end.host}", command=LOGS)
            return
    yield ok("peer", "each device that was looked at has the other's key")


def handshake(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the two devices agree on a session; where the underlay is at fault, that names the cause."""
    here, trial = facts.here, facts.trial
    if here is None or trial is None:
        yield Step("handshake", "skipped", "nobody could look")
        return
    last = "never" if here.handshake_age is None else f"{ago(here.handshake_age)} ago"
    if trial.small:
        yield ok("handshake", f"a packet through the tunnel was answered; last handshake {last}")
        return
    text = f"a packet through the tunnel was not answered; last handshake {last}"
    if facts.unheard and not facts.store:
        unheard = facts.unheard[0]
        silent = f"the agent on {unheard.host} {unheard.reason}"
        why = "where a node's kernel has no WireGuard, its links end with the agent"
        yield Step(
            "handshake",
            "wrong",
            f"{text}, and {silent}: {why}",
            f"node {unheard.host}",
            _since(facts),
            f"docker service ps --no-trunc --filter node={unheard.host} linkwire_agent",
            unheard.node,
            f"packets through tunnels are not answered, and {silent}: {why}",
        )
        return
    is_blocked = facts.underlay is not None and blocked(facts.underlay)
    there = facts.there
    why = ""
    if not is_blocked and there is not None and there.handshake_age is None and here.handshake_age is None:
        why = ": their keys differ, or a firewall drops UDP on the tasks' own ports"
    hosts = dict.fromkeys(sorted((_host(facts.consumer_end), _host(facts.provider_end))))
    where = f"{'between' if len(hosts) > 1 else 'on'} {' and '.join(hosts)}"
    yield Step(
        "handshake",
        "warning" if is_blocked or _not_probed(facts) else "wrong",
        f"{text}{why}",
        since=_since(facts),
        command="" if is_blocked else LOGS,
        cause=f"packets through tunnels {where} are not answered{why}",
    )


def underlay(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether datagrams pass between the two nodes themselves, in both directions."""
    found, ends = facts.underlay, (facts.consumer_end, facts.provider_end)
    if found is None or None in ends:
        yield ok("underlay", "both tasks are on one node")
        return
    consumer, provider = (end.host for end in ends if end is not None)
    since = _since(facts)
    if found.problem:
        is_cut = facts.trial is not None and not facts.trial.small
        yield Step("underlay", "wrong" if is_cut else "skipped", found.problem, since=since if is_cut else "")
        return
    ways = [(consumer, provider)] if found.there == 0 else []
    ways += [(provider, consumer)] if found.here == 0 else []
    if ways and facts.trial is not None and facts.trial.small:
        text = "the probe's datagrams were lost, but the tunnel passes: a node was busy, or a firewall knows ports"
        yield Step("underlay", "skipped", text)
        return
    if not ways:
        yield ok("underlay", f"UDP passes both ways between {consumer} and {provider}")
        return
    text = " and ".join(f"UDP from {source} does not reach {target}" for source, target in ways)
    at, command = f"between {consumer} and {provider}", opening(target for _, target in ways)
    yield Step("underlay", "wrong", f"{text}: {DROPPED}", at, since, command, ways=tuple(ways))


def opening(targets: Iterable[str]) -> str:
    """Return the advice to let UDP reach some nodes, by their names."""
    return f"open {PORTS} towards {' and '.join(dict.fromkeys(targets))}; look there: nft list ruleset"


def mtu(facts: LinkFacts) -> Iterator[Step]:
    """Judge whether the largest packet passes."""
    trial, found = facts.trial, facts.underlay
    if trial is None or trial.large is None:
        yield Step("mtu", "skipped", "no large packet was sent")
        return
    if trial.large:
        yield ok("mtu", f"a packet of {trial.large_bytes} bytes was answered")
        return
    ends = f"{_host(facts.consumer_end)} and {_host(facts.provider_end)}"
    proof = ""
    if found is not None and not found.problem and found.large_bytes:
        lost = [way for way, count in (("there", found.large_there), ("back", found.large_here)) if not count]
        proof = f"; bare datagrams of {found.large_bytes} bytes are lost {' and '.join(lost)} too" if lost else ""
    yield Step(
        "mtu",
        "wrong",
        f"small packets pass, one of {trial.large_bytes} bytes gets no answer: the way between {ends} loses packets "
        f"of {trial.large_bytes + _HEADERS} bytes and does not say so{proof}",
        f"between {ends}",
        ways=((_host(facts.consumer_end), _host(facts.provider_end)),),
        command="on both nodes: ip route replace OTHER-NODE/32 via GATEWAY mtu 1400; or mend the network's MTU",
    )


def blocked(found: Underlay) -> bool:
    """Tell whether nothing passes in at least one direction."""
    return not found.problem and 0 in (found.there, found.here)


def _not_probed(facts: LinkFacts) -> bool:
    return facts.underlay is not None and bool(facts.underlay.problem)


def _since(facts: LinkFacts) -> str:
    """Say for how long nothing passes, at most: at the last handshake something did."""
    age = facts.here.handshake_age if facts.here is not None else None
    return f"at most {ago(age)}" if age is not None else ""


def _ends(facts: LinkFacts) -> Iterator[tuple[End, Look | None]]:
    for end, look in ((facts.consumer_end, facts.here), (facts.provider_end, facts.there)):
        if end is not None:
            yield end, look


def _host(end: End | None) -> str:
    return end.host if end is not None else ""


def _advice(error: str) -> str:
    if "cannot be routed" in error:
        return "docker network create --subnet ANOTHER ... and move the service to it: the mesh's subnet is fixed"
    return LOGS
