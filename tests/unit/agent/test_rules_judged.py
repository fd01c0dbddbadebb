"""Every packet meets the fate that its policy means, in whatever order the rules ask."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.firewall import ruleset
from mesh.model.labels.ports import PortRange
from mesh.topology.ipam import twin
from mesh.topology.policy import Allow, Policy
from tests.support.policies import SUBNET, SUBNET6, address, policies
from tests.unit.agent.ruled_packets import Address, Fate, Packet, Ruled

DEVICE = "lwabcdefghijkl"
ICMP = ("icmp", "icmpv6")
DISCOVERY = (
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "nd-router-solicit",
    "nd-router-advert",
    "mld-listener-query",
)
Way = Literal["in", "out"]
_WAYS: tuple[Way, ...] = ("in", "out")
_TRACKED: tuple[tuple[str, Literal["original", "reply"] | None], ...] = (
    *(("established", "original"), ("established", "reply")),
    *(("new", "original"), ("related", "original"), ("related", "reply")),
    # What has no connection has no direction (net/netfilter/nft_ct.c, nft_ct_get_eval), and nothing else has none.
    *(("invalid", None), ("untracked", None)),
)


def meant(policy: Policy, packet: Packet) -> Fate:
    """In the order in which one would say it."""
    if packet.device == "lo":
        return Fate("accept")
    if packet.device != DEVICE:
        return _beside(policy, packet)
    if packet.state == "invalid":
        return Fate("drop")
    if packet.state == "related" and (packet.way == "out" or packet.protocol in ICMP):
        return Fate("accept")
    return _of_a_link(policy, packet) or _of_none(policy, packet)


def _beside(policy: Policy, packet: Packet) -> Fate:
    is_in = packet.way == "in"
    ends = {packet.source, packet.target} if is_in else {packet.target}
    if any(_is_of_mesh(end) for end in ends):
        if is_in:
            return Fate("drop", "apart")
        is_early = packet.flag == "syn" and not packet.is_put_off
        goes_on = packet.state == "established"
        return Fate("drop") if packet.protocol == "tcp" and (is_early or goes_on) else Fate("refuse", "out_")
    other = packet.source if is_in else packet.target
    if other in policy.isolated or any(other in exit_.subnet and other != exit_.gateway for exit_ in policy.exits):
        return Fate("drop" if is_in else "refuse", "apart")
    is_discovery = packet.protocol == "icmpv6" and packet.what in DISCOVERY
    if other.version == 6 and other.is_link_local and (policy.isolated or policy.exits):
        return Fate("accept") if is_discovery else Fate("drop" if is_in else "refuse", "apart")
    if not is_in or policy.open_ports is None or is_discovery or packet.direction == "reply":
        return Fate("accept")
    is_error = packet.protocol in ICMP and packet.state == "related"
    is_published = any(
        one.protocol == packet.protocol and one.first <= packet.dport <= one.last for one in policy.open_ports
    )
    is_let_in = is_error or is_published
    return Fate("accept") if is_let_in else Fate("drop") if packet.state == "invalid" else Fate("refuse", "apart")


def _is_of_mesh(one: Address) -> bool:
    return one in (SUBNET if one.version == 4 else SUBNET6)


def _of_a_link(policy: Policy, packet: Packet) -> Fate | None:
    other = packet.source if packet.way == "in" else packet.target

    if other.version == 6 and _is_of_mesh(other):
        other = IPv4Address(int(other) & 0xFFFFFFFF)

    def is_there(allow: Allow) -> bool:
        return other in allow.peers

    consumers, providers = filter(is_there, policy.inbound), filter(is_there, policy.outbound)
    opens = {allow.service: allow for allow in (consumers if packet.way == "in" else providers)}
    replies = {allow.service: allow for allow in (providers if packet.way == "in" else consumers)}
    services = opens.keys() | replies.keys()
    if len(services) != 1:
        return None  # nobody's, or that of more than one
    (service,) = services
    if packet.direction is None:
        return Fate("refuse", f"{packet.way}_{service}")
    allow = (opens if packet.direction == "original" else replies).get(service)
    passes = allow is not None and _passes(allow.ports, packet)
    return Fate("accept") if passes else Fate("refuse", f"{packet.way}_{service}")


def _passes(ports: Iterable[PortRange] | None, packet: Packet) -> bool:
    if ports is None:
        return True
    is_first = packet.direction == "original"
    if packet.protocol in ICMP:
        return packet.what == ("echo-request" if is_first else "echo-reply")
    port = packet.dport if is_first else packet.sport
    return any(one.protocol == packet.protocol and one.first <= port <= one.last for one in ports)


def _of_none(policy: Policy, packet: Packet) -> Fate:
    if packet.way == "in":
        return Fate("refuse", "in_")
    for balance in policy.balance:
        if not balance.backends and packet.target in {balance.vip, twin(SUBNET6, balance.vip)}:
            return Fate("refuse", f"out_{balance.service}")
    if packet.is_local:
        return Fate("accept")
    return Fate("drop") if packet.target.is_multicast else Fate("refuse", "out_")


def packets(policy: Policy, chance: random.Random) -> Iterator[Packet]:
    """Most of them nearly right: a peer's address, a link's port or the one beside it."""
    everywhere, beside = _addresses(policy), _beside_the_mesh(policy)
    edges = [1, 80, 65535]
    for ports in (policy.open_ports, *(allow.ports for allow in (*policy.inbound, *policy.outbound))):
        for port in ports or ():
            edges += [port.first - 1, port.first, port.last, port.last + 1]
    while True:
        version = chance.choice((4, 6))
        state, direction = chance.choice(_TRACKED)
        device = chance.choice((*[DEVICE] * 6, "lo", *["eth0"] * 3))
        # An end in the mesh decides alone there: with ends from everywhere some rules would be met by chance only.
        addresses = beside if device == "eth0" and chance.random() < 0.7 else everywhere
        yield Packet(
            way=chance.choice(_WAYS),
            device=device,
            source=chance.choice(addresses[version]),
            target=chance.choice(addresses[version]),
            is_local=chance.random() < 0.1,
            protocol=chance.choice(("tcp", "tcp", "udp", "icmp" if version == 4 else "icmpv6", "other")),
            sport=chance.choice(edges),
            dport=chance.choice(edges),
            what=chance.choice(("echo-request", "echo-reply", "destination-unreachable", *DISCOVERY, "nd-redirect")),
            state=state,
            direction=direction,
            flag=chance.choice(("syn", "ack")),
            is_put_off=chance.random() < 0.5,
        )


def _addresses(policy: Policy) -> dict[int, list[Address]]:
    beside = _beside_the_mesh(policy)
    peers = [peer for allow in (*policy.inbound, *policy.outbound) for peer in allow.peers[:4]]
    mesh = [address(1), address(999), *peers, *(balance.vip for balance in policy.balance)]
    every: list[Address] = [*mesh, *(twin(SUBNET6, one) for one in mesh)]
    return {version: [one for one in every if one.version == version] + beside[version] for version in (4, 6)}


def _beside_the_mesh(policy: Policy) -> dict[int, list[Address]]:
    beside: list[Address] = [IPv4Address("192.0.2.1"), IPv6Address("2001:db8:9::1"), *policy.isolated]
    beside += [IPv6Address("fe80::1")]
    beside += [IPv4Address("224.0.0.22"), IPv6Address("ff02::16")]
    beside += [one for exit_ in policy.exits for one in (exit_.gateway, exit_.gateway + 1)]
    return {version: [one for one in beside if one.version == version] for version in (4, 6)}


@given(policies(), st.integers(0, 1 << 32))
def test_every_packet_meets_its_policys_verdict(policy: Policy, seed: int) -> None:
    ruled = Ruled(ruleset.render(policy, DEVICE))
    for packet in itertools.islice(packets(policy, random.Random(seed)), 100):  # noqa: S311 - packets
        assert ruled.fate(packet) == meant(policy, packet), packet


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("state", ["invalid", "untracked"])
def test_connectionless_packets_pass_no_link_at_all(way: Way, state: str) -> None:
    allow = (Allow("both", (address(1),), None),)
    ruled = Ruled(ruleset.render(Policy(SUBNET, SUBNET6, inbound=allow, outbound=allow), DEVICE))
    packet = Packet(way, DEVICE, address(1), address(1), False, "tcp", 80, 80, "", state, None)
    assert ruled.fate(packet) == (Fate("drop") if state == "invalid" else Fate("refuse", f"{way}_both"))
