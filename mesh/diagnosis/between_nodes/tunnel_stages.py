"""Stages of a walk between two nodes that are seen and tried there: from the device to its largest packet. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.diagnosis.between_nodes.facts import NodesFacts
from mesh.diagnosis.link_facts import Underlay
from mesh.diagnosis.steps import Step, ago, ok
from mesh.diagnosis.tunnel_stages import DROPPED, blocked
from mesh.model.encryption.status import letting

LOGS = "docker service logs --tail 20 linkwire_agent"
SESSION_S = 180.0
"""Seconds after a handshake for which WireGuard sends by it (REJECT_AFTER_TIME)."""
_HEADERS = 60
"""Bytes that WireGuard adds to a packet over IPv4."""


def silent(facts: NodesFacts) -> Iterator[Step]:
    """Warn of nodes that did not tell what they see; without etcd that is said already."""
    for unheard in () if facts.store else facts.unheard:
        text = f"the agent on {unheard.host} {unheard.reason}"
        command = f"docker service ps --no-trunc --filter node={unheard.host} linkwire_agent"
        yield Step("agent", "warning", text, f"node {unheard.host}", command=command, node=unheard.node)


def device(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether each node has its device."""
    seen = []
    for end, look in facts.ends:
        if look is None:
            seen.append(f"that of {end.host} was not looked at")
            continue
        if look.error or not look.device or not look.is_up:
            why = look.error or look.problem
            fault = "could not be read" if look.error else "is down" if look.device else "is missing"
            text = f"the device of {end.host} {fault}{f': {why}' if why else ''}"
            yield Step("device", "wrong", text, f"node {end.host}", command=LOGS, node=end.node)
            return
        seen.append(f"{look.device} on {end.host}")
    yield ok("device", ", ".join(seen))


def peer(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether each device has the other node as a peer, with a preshared key."""
    for end, look in facts.ends:
        if look is not None and not (look.is_peer and look.has_preshared_key):
            lacks = "has no preshared key for" if look.is_peer else "does not know"
            why = f": {look.problem}" if look.problem else ""
            text = f"the device of {end.host} {lacks} the other node{why}"
            yield Step("peer", "wrong", text, f"node {end.host}", command=LOGS, node=end.node)
            return
    yield ok("peer", "each device that was looked at has the other node as a peer, with a preshared key")


def handshake(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether the two devices agree on a session; where the underlay is at fault, that names the cause."""
    looks = [look for _, look in facts.ends if look is not None]
    if not looks:
        yield Step("handshake", "skipped", "nobody could look")
        return
    ages = [look.handshake_age for look in looks if look.handshake_age is not None]
    last = f"{ago(min(ages))} ago" if ages else "never"
    if _passes(facts) or (ages and min(ages) < SESSION_S):
        figures = "; ".join(
            f"{end.host} received {look.received} and sent {look.sent} bytes"
            for end, look in facts.ends
            if look is not None
        )
        yield ok("handshake", f"last handshake {last}; {figures}")
        return
    text, since = f"the devices have no session; last handshake {last}", f"at most {ago(min(ages))}" if ages else ""
    if facts.bare is not None and (blocked(facts.bare) or facts.bare.problem):
        yield Step("handshake", "warning", text, since=since)
        return
    for end, look in facts.ends:
        if look is not None and look.wire_filters:
            port = look.port
            text = f"{text}: a firewall on {end.host} drops UDP {port}: nftables chain {', '.join(look.wire_filters)}"
            command = f"open UDP {port} towards {end.host}; look there: nft list ruleset"
            yield Step("handshake", "wrong", text, f"node {end.host}", since, command, end.node)
            return
    ports = _ports(facts)
    why = f"UDP passes on other ports: a firewall drops UDP {ports}, another program holds it, or their keys differ"
    hosts = f"{facts.one.host} and {facts.other.host}"
    command = f"open UDP {ports} between {hosts}; look there: nft list ruleset"
    yield Step("handshake", "wrong", f"{text}: {why}", f"between {hosts}", since, command)


def underlay(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether datagrams pass between the two nodes besides WireGuard, in both directions."""
    found, one, other = facts.bare, facts.one.host, facts.other.host
    if found is None:
        yield Step("underlay", "skipped", "UDP between the nodes was not tried")
        return
    if found.problem:
        yield Step("underlay", "skipped", found.problem)
        return
    ways = _lost(found, one, other)
    if ways and _passes(facts):
        yield Step("underlay", "skipped", "the probe's datagrams were lost, but the device passes: a node was busy")
        return
    if not ways:
        yield ok("underlay", f"UDP passes both ways between {one} and {other}")
        return
    text = " and ".join(f"UDP from {source} does not reach {target}" for source, target in ways)
    targets = " and ".join(target for _, target in ways)
    command = f"open UDP {_ports(facts)} and the tasks' ports towards {targets}; look there: nft list ruleset"
    at = f"between {one} and {other}"
    yield Step("underlay", "wrong", f"{text}: {DROPPED}", at, _since(facts), command, ways=ways)


def route(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether the kernel of each node sends overlay packets to the other one by the device."""
    if facts.step == "accept":
        yield Step("route", "skipped", "nobody sends by the device at step accept")
        return
    seen = []
    for (end, look), other in zip(facts.ends, (facts.other, facts.one), strict=True):
        if look is None:
            continue
        if look.out_by != look.device:
            by = f"leave by {look.out_by}, in plain text" if look.out_by else "have no way"
            text = f"overlay packets from {end.host} to {other.host} {by}"
            command = f"on {end.host}: ip rule; ip route show table all | grep {look.device}"
            yield Step("route", "wrong", text, f"node {end.host}", command=command, node=end.node)
            return
        seen.append(end.host)
    if not seen:
        yield Step("route", "skipped", "nobody could look")
        return
    yield ok("route", f"overlay packets to the other node go by the device on {' and '.join(seen)}")


def firewall(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether a node's own firewall drops what comes out of its device, or what is to go into it."""
    for end, look in facts.ends:
        if look is not None and look.overlay_filters:
            chains = ", ".join(look.overlay_filters)
            text = f"a firewall on {end.host} drops overlay packets in its devices: nftables chain {chains}"
            yield Step("firewall", "wrong", text, f"node {end.host}", command=_letting(facts), node=end.node)
            return
    found = facts.inside
    if found is None or found.problem:
        yield Step("firewall", "skipped", found.problem if found is not None else "nothing was sent by the devices")
        return
    ways = _lost(found, facts.one.host, facts.other.host)
    if not ways:
        yield ok("firewall", "datagrams that come out of the devices arrive, both ways")
        return
    text = " and ".join(f"datagrams by the device from {source} do not arrive on {target}" for source, target in ways)
    target, look = (facts.other.host, facts.there) if ways[0][1] == facts.other.host else (facts.one.host, facts.here)
    why = f"though the devices have a session: a firewall on {target} drops what comes out of the device"
    command = _letting(facts) if look is not None else "nft list ruleset"
    yield Step("firewall", "warning", f"{text}, {why}", f"node {target}", command=command, ways=ways)


def plain(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether plain overlay packets can leave or come in."""
    for end, look in facts.ends:
        if look is not None and facts.step == "enforce" and not look.refuses_plain:
            text = f"the rules that refuse plain overlay packets are not on {end.host}"
            yield Step("plain", "wrong", text, f"node {end.host}", command=LOGS, node=end.node)
            return
    warned = False
    for end, look in facts.ends:
        if look is not None and look.problem:
            warned = True
            yield Step("plain", "warning", f"{end.host}: {look.problem}", f"node {end.host}", node=end.node)
    if warned:
        return
    if facts.step == "enforce":
        counts = ", ".join(f"{look.refused} on {end.host}" for end, look in facts.ends if look is not None)
        yield ok("plain", f"plain overlay packets are refused: {counts or 'nobody could look'}")
    elif facts.step == "send":
        yield ok("plain", "the device takes them all; in mode prefer plain ones are not refused")
    else:
        yield Step("plain", "skipped", "at step accept all overlay packets are plain")


def mtu(facts: NodesFacts) -> Iterator[Step]:
    """Judge whether the largest packet passes through the devices."""
    found = facts.inside
    if found is None or found.problem or not _passes(facts):
        yield Step("mtu", "skipped", "no large packet was sent by the devices")
        return
    lost = [way for way, count in (("there", found.large_there), ("back", found.large_here)) if not count]
    if not lost:
        yield ok("mtu", f"packets of {found.large_bytes} bytes pass through the devices, both ways")
        return
    ends = f"{facts.one.host} and {facts.other.host}"
    text = f"small packets pass, those of {found.large_bytes} bytes are lost {' and '.join(lost)}"
    why = f"the way between {ends} loses packets of {found.large_bytes + _HEADERS} bytes and does not say so"
    command = "on both nodes: ip route replace OTHER-NODE/32 via GATEWAY mtu 1400; or mend the network's MTU"
    yield Step("mtu", "wrong", f"{text}: {why}", f"between {ends}", command=command)


def _passes(facts: NodesFacts) -> bool:
    """Tell whether small datagrams passed through the devices, both ways."""
    found = facts.inside
    return found is not None and not found.problem and bool(found.there) and bool(found.here)


def _lost(found: Underlay, one: str, other: str) -> tuple[tuple[str, str], ...]:
    ways = [(one, other)] if found.there == 0 else []
    return (*ways, *([(other, one)] if found.here == 0 else []))


def _letting(facts: NodesFacts) -> str:
    return f"let it pass there, with nft: {letting(facts.port)}"


def _ports(facts: NodesFacts) -> str:
    """Return the UDP ports of both nodes' devices."""
    return " and ".join(dict.fromkeys(str(port) for end, _ in facts.ends for port in end.ports))


def _since(facts: NodesFacts) -> str:
    """Say for how long nothing passes, at most: at the last handshake something did."""
    ages = [look.handshake_age for _, look in facts.ends if look is not None and look.handshake_age is not None]
    return f"at most {ago(min(ages))}" if ages else ""
