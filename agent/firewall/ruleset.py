"""Ruleset of a task: its policy as nftables rules, and their listing, in libnftables' JSON. No I/O here.

The rules of one task are the table `inet linkwire` of its network namespace. Rendered and listed rules are brought
to one form, so that equal means equal: no handles, elements of sets without an order, a set of one is that
one, and counters without what they count. Whatever else anybody put into the table is in the form too, and so is a
difference.

Where a packet goes (the first five hook into the kernel; before them DNS questions do, see agent.dns.ruleset):

    vip      what the task sends to a provider's VIP is given one of its ready tasks, once for a connection
    out      what it sends by the device: out_link; to the mesh by any other way: early; to an address apart, or to
             another than the gateway on an exit, or to a link-local address: refused
    source   what it sends by the device has its address there: a connection that was begun before there was one, too
    early    a connection's first packet is dropped, for its program to come again in a second, and so is one of a TCP
             connection that is established, which outlives its device being made again; all else is refused
    in       what comes by the device: in_link; from the mesh by any other way, from an address apart, from
             another than the gateway on an exit, or from a link-local address: dropped; of a task that is closed
             whatever opens another port than the published ones: refused
    forward  by the device, either way: dropped
    in_link, out_link          who is at the other end? from_ROLE_SERVICE, to_ROLE_SERVICE; nobody known: refused
    from_ROLE_SERVICE, to_...  what the link allows passes, and replies to that; else counted for the link and refused
    open_PORTS, reply_PORTS    a longer list of ports that links allow, once for all of them that have it
    in_odd, out_odd            before that is refused: what fits no connection is dropped, errors about one pass
    refuse                     answers, so that whoever asked knows at once

Every packet is judged, not only a connection's first: what is taken from a link ends the connections on it. Replies
are judged by the port they come from, so that this is so at both ends, and for a flow of replies to nothing. What
fits no connection has no direction either, so no link allows it, and in_odd can wait until none does. It is never
answered: the kernel may call a packet of a living connection that when it is late or damaged, and the answer would
end the connection, at whichever end gets it (moby#40374).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from agent.dns import ruleset as dns
from agent.firewall.port_lists import shared_name
from agent.linux.nft_json import (
    FAMILY,
    REFUSAL,
    Body,
    Json,
    Rules,
    canonical,
    compared,
    early,
    field_is,
    goto,
    is_in,
    table_of,
)
from mesh.errors import Terminal
from mesh.model.labels.ports import PortRange, Protocol, merge
from mesh.model.records import Refused
from mesh.topology.ipam import twin
from mesh.topology.policy import Allow, Balance, Exit, Policy

Direction = Literal["in", "out"]
Families = tuple[tuple[Literal["ip", "ip6"], Callable[[IPv4Address], str]], ...]
"""Each as nft calls it, and how it writes an address of the mesh."""

NAME = "linkwire"
"""The table's; its family is inet."""
_ACCEPT: Json = {"accept": None}
_DROP: Json = {"drop": None}
_MASQUERADE: Json = {"masquerade": None}
_APART = "apart"
# At the usual priority for its work (nft(8), "priority"): dstnat in output is -100, filter 0, srcnat 100.
_HOOKS: Mapping[str, Json] = {
    "vip": {"type": "nat", "hook": "output", "prio": -100, "policy": "accept"},
    "out": {"type": "filter", "hook": "output", "prio": 0, "policy": "accept"},
    "source": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
    "in": {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"},
    "forward": {"type": "filter", "hook": "forward", "prio": 0, "policy": "accept"},
    "dns": dns.HOOK,
}
# As numbers: libnftables looks names up in /etc/protocols, which a small image lacks (IANA, protocol numbers).
_ICMP, _TCP, _ICMPV6 = 1, 6, 58
_OTHER_END: Mapping[Direction, str] = {"in": "saddr", "out": "daddr"}
# What the kernel sends by itself (IGMP, MLD, router solicitations), to nobody on a link.
_MULTICAST = (IPv4Network("224.0.0.0/4"), IPv6Network("ff00::/8"))
_WAY = {"original": "open", "reply": "reply"}
_PREFIX: Mapping[Direction, str] = {"in": "from", "out": "to"}
_LINK_LOCAL = IPv6Network("fe80::/10")
# What IPv6 cannot do without: neighbour discovery (RFC 4861), and a bridge's questions for listeners (RFC 3810).
_DISCOVERY: Json = {
    "set": [
        *(f"nd-{name}" for name in ("neighbor-advert", "neighbor-solicit", "router-advert", "router-solicit")),
        "mld-listener-query",
    ]
}
_RELATED: Json = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "related"}}
_INVALID: Json = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
_GOES_ON: list[Json] = [
    {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": _TCP}},
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}},
    _DROP,
]
_ODD: Mapping[Direction, list[Json]] = {way: [{"jump": {"target": f"{way}_odd"}}] for way in ("in", "out")}


@dataclass(frozen=True, slots=True)
class Table:
    """The table as it is listed."""

    rules: Rules
    refused: tuple[Refused, ...]
    """Those that are not 0, sorted by direction and service."""


@dataclass(frozen=True, slots=True)
class _End:
    """The other end of a link: a consumer of the task (`inbound`), a provider (`outbound`), or both."""

    service: str
    inbound: Allow | None
    outbound: Allow | None

    @property
    def name(self) -> str:
        role = "both" if self.inbound and self.outbound else "consumer" if self.inbound else "provider"
        return f"{role}_{self.service}"


def render(policy: Policy, device: str) -> Rules:
    """Render a policy as rules for a task whose WireGuard device has this name."""
    ends, addresses = _ends(policy)
    families = _families(policy.subnet6)
    chains: dict[str, Body] = {
        **dns.chains(policy.resolving),
        "vip": [rule for balance in policy.balance for rule in _spread(balance, families)],
        "out": [
            [_device("oifname", device), goto("out_link")],
            [_device("oifname", "lo"), _ACCEPT],
            *([is_in("daddr", network), goto("early")] for network in (policy.subnet, policy.subnet6)),
            *([match, *_refused(_APART)] for match in _any_of("daddr", policy.isolated)),
            *([*_beside_gateway("daddr", exit_), *_refused(_APART)] for exit_ in policy.exits),
            *_link_local("daddr", policy, [*_refused(_APART)]),
        ],
        "in": [
            [_device("iifname", device), goto("in_link")],
            [_device("iifname", "lo"), _ACCEPT],
            *(
                [is_in(field, network), _counted(_APART), _DROP]
                for network in (policy.subnet, policy.subnet6)
                for field in ("saddr", "daddr")
            ),
            *([match, _counted(_APART), _DROP] for match in _any_of("saddr", policy.isolated)),
            *([*_beside_gateway("saddr", exit_), _counted(_APART), _DROP] for exit_ in policy.exits),
            *_link_local("saddr", policy, [_counted(_APART), _DROP]),
            *(_closed(policy.open_ports) if policy.open_ports is not None else ()),
        ],
        "source": [
            [_device("oifname", device), is_in("saddr", network, "!="), _MASQUERADE]
            for network in (policy.subnet, policy.subnet6)
        ],
        "early": [early(), _GOES_ON, [*_refused("out_")]],
        "forward": [[_device("iifname", device), _DROP], [_device("oifname", device), _DROP]],
        "in_link": [*_by_address("in", addresses, families), _ODD["in"], [*_refused("in_")]],
        "out_link": [
            *_by_address("out", addresses, families),
            _ODD["out"],
            *(rule for balance in policy.balance if not balance.backends for rule in _nobody(balance, families)),
            # A VIP that led to the task itself: the packet goes to itself, but this hook still sees the first way.
            [compared({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), _ACCEPT],
            *([is_in("daddr", network), _DROP] for network in _MULTICAST),
            [*_refused("out_")],
        ],
        "in_odd": [
            [_INVALID, _DROP],
            [compared({"meta": {"key": "l4proto"}}, {"set": [_ICMP, _ICMPV6]}), _RELATED, _ACCEPT],
        ],
        "out_odd": [[_INVALID, _DROP], [_RELATED, _ACCEPT]],  # also our own answers to what in_link refused
        "refuse": REFUSAL,
    }
    for end in ends:
        chains[f"from_{end.name}"] = _judged("in", end.service, chains, replies=end.outbound, opened=end.inbound)
        chains[f"to_{end.name}"] = _judged("out", end.service, chains, replies=end.inbound, opened=end.outbound)
    links = (*policy.inbound, *policy.outbound)
    services = {"", *(balance.service for balance in policy.balance), *(allow.service for allow in links)}
    counters = {_APART, *(f"{direction}_{service}" for direction in _PREFIX for service in services)}
    return table_of(NAME, counters, chains, _HOOKS)


def parse(listing: str) -> Table:
    """Read libnftables' listing of the table.

    Raises:
        Terminal: it is no such listing.
    """
    try:
        items = [item for item in json.loads(listing)["nftables"] if "metainfo" not in item]
        counts = {item["counter"]["name"]: item["counter"]["packets"] for item in items if "counter" in item}
        return Table(canonical(items), refused(counts))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Terminal(f"libnftables lists the table of rules in an unknown form: {error!r}") from error


def refused(counts: Mapping[str, int]) -> tuple[Refused, ...]:
    """Interpret the table's counters, by their names and the packets they counted."""
    refusals: list[Refused] = []
    for name, packets in sorted(counts.items()):
        match name.partition("_"):
            case _ if not packets:
                pass
            case ("apart", "", ""):
                refusals.append(Refused("apart", "", packets))
            case ("in" | "out" as direction, "_", service):
                refusals.append(Refused(direction, service, packets))
    return tuple(refusals)


def _ends(policy: Policy) -> tuple[list[_End], dict[IPv4Address, str]]:
    """Return all other ends of links, and the name of the end by address.

    An address that more than one service claims is none's, and refused.
    """
    inbound = {allow.service: allow for allow in policy.inbound}
    outbound = {allow.service: allow for allow in policy.outbound}
    ends: dict[str, _End] = {}
    claims: dict[IPv4Address, set[str]] = {}
    for service in sorted(inbound.keys() | outbound.keys()):
        consumer, provider = inbound.get(service), outbound.get(service)
        consuming = frozenset(consumer.peers if consumer else ())
        providing = frozenset(provider.peers if provider else ())
        for addresses, end in (
            (consuming & providing, _End(service, consumer, provider)),
            (consuming - providing, _End(service, consumer, None)),
            (providing - consuming, _End(service, None, provider)),
        ):
            if addresses:
                ends[end.name] = end
            for address in addresses:
                claims.setdefault(address, set()).add(end.name)
    return list(ends.values()), {address: names.pop() for address, names in claims.items() if len(names) == 1}


def _families(subnet6: IPv6Network) -> Families:
    # Each address is in several rules, and writing an IPv6 address is slow.
    return (("ip", cache(str)), ("ip6", cache(lambda address: str(twin(subnet6, address)))))


def _spread(balance: Balance, families: Families) -> Iterable[list[Json]]:
    """Choose a backend at random: turns would begin again with every change of a rule, at all consumers at once."""
    for family, written in families:
        backends = [written(backend) for backend in balance.backends]
        if not backends:
            continue
        chosen: object = backends[0]
        if len(backends) > 1:
            key = {"numgen": {"mode": "random", "mod": len(backends), "offset": 0}}
            chosen = {"map": {"key": key, "data": {"set": [list(pair) for pair in enumerate(backends)]}}}
        yield [field_is(family, "daddr", written(balance.vip)), {"dnat": {"family": family, "addr": chosen}}]


def _nobody(balance: Balance, families: Families) -> Iterable[list[Json]]:
    """Refuse a VIP without backends, counted for its link; it would be refused anyway, but for no link."""
    return ([field_is(f, "daddr", at(balance.vip)), *_refused(f"out_{balance.service}")] for f, at in families)


def _by_address(direction: Direction, addresses: Mapping[IPv4Address, str], families: Families) -> Body:
    """Go to the chain of the other end: one look-up, however many there are."""
    rules: Body = []
    for family, written in families:
        elements = [[written(peer), goto(f"{_PREFIX[direction]}_{name}")] for peer, name in addresses.items()]
        if elements:
            key = {"payload": {"protocol": family, "field": _OTHER_END[direction]}}
            rules.append([{"vmap": {"key": key, "data": {"set": elements}}}])
    return rules


def _judged(
    direction: Direction, service: str, chains: dict[str, Body], *, replies: Allow | None, opened: Allow | None
) -> Body:
    """Judge what goes to or comes from a service; long lists of ports are put into `chains`."""
    allowed = (*_shared(replies, "reply", chains), *_shared(opened, "original", chains))
    return [*allowed, _ODD[direction], [*_refused(f"{direction}_{service}")]]


def _shared(allow: Allow | None, direction: Literal["original", "reply"], chains: dict[str, Body]) -> Body:
    """Accept what a link allows; by a chain of its own where others may allow the same."""
    if allow is None:
        return []
    name = shared_name(allow.ports or ())
    if name is None:
        return _passing(allow, direction)
    chain = f"{_WAY[direction]}_{name}"
    if chain not in chains:
        chains[chain] = _passing(allow, direction)
    return [[{"jump": {"target": chain}}]]


def _passing(allow: Allow, direction: Literal["original", "reply"]) -> Body:
    """Accept what a link allows in one direction of its connections, by where the provider's port stands there."""
    field = "dport" if direction == "original" else "sport"
    is_direction = compared({"ct": {"key": "direction"}}, direction)
    if allow.ports is None:
        return [[is_direction, _ACCEPT]]
    rules = [
        [is_direction, field_is(protocol, field, {"set": ports}), _ACCEPT]
        for protocol, ports in _by_protocol(allow.ports)
    ]
    echo = "echo-request" if direction == "original" else "echo-reply"
    return [*rules, *([is_direction, field_is(icmp, "type", echo), _ACCEPT] for icmp in ("icmp", "icmpv6"))]


def _beside_gateway(field: str, exit_: Exit) -> tuple[Json, Json]:
    family = FAMILY[exit_.subnet.version]
    return is_in(field, exit_.subnet), field_is(family, field, str(exit_.gateway), "!=")


def _link_local(field: str, policy: Policy, verdict: list[Json]) -> Body:
    """Let nothing but neighbour discovery pass by link-local addresses, which no record has, where some are apart."""
    if not (policy.isolated or policy.exits):
        return []
    is_link_local = is_in(field, _LINK_LOCAL)
    return [[is_link_local, field_is("icmpv6", "type", _DISCOVERY), _ACCEPT], [is_link_local, *verdict]]


def _closed(open_ports: Iterable[PortRange]) -> Body:
    """Let nobody open anything but these ports; what answers the task's own connections comes in."""
    opened = [[field_is(protocol, "dport", {"set": ports}), _ACCEPT] for protocol, ports in _by_protocol(open_ports)]
    return [
        [compared({"ct": {"key": "direction"}}, "reply"), _ACCEPT],
        [field_is("icmpv6", "type", _DISCOVERY), _ACCEPT],
        *opened,
        _ODD["in"],
        [*_refused(_APART)],
    ]


def _any_of(field: str, addresses: Iterable[IPv4Address | IPv6Address]) -> Iterable[Json]:
    every = tuple(addresses)
    for version, family in FAMILY.items():
        if chosen := [str(address) for address in every if address.version == version]:
            yield field_is(family, field, {"set": chosen})


def _device(key: Literal["iifname", "oifname"], name: str) -> Json:
    return compared({"meta": {"key": key}}, name)


def _counted(counter: str) -> Json:
    return {"counter": counter}


def _refused(counter: str) -> tuple[Json, Json]:
    return _counted(counter), goto("refuse")


def _by_protocol(every: Iterable[PortRange]) -> Iterable[tuple[Protocol, list[object]]]:
    merged = merge(every)
    protocols: tuple[Protocol, ...] = ("tcp", "udp")
    for protocol in protocols:
        if ports := [_port(port) for port in merged if port.protocol == protocol]:
            yield protocol, ports


def _port(port: PortRange) -> object:
    return port.first if port.first == port.last else {"range": [port.first, port.last]}
