"""Policy routing of node encryption: rules that look up packets in tables of our own, and the routes there.

The first rule is for packets that the node itself sends (`iif lo`) to the VXLAN port; VXLAN's look-up of a route
carries protocol and port. WireGuard's own packets go to another port, so that there is no loop. A route that is
missing in the table has the next rule decide: the packet goes as it went before.

In mode `all` others follow, and have a table of their own: see `host_rules`.

Messages as of RFC 3549, linux/fib_rules.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from agent.linux import netlink_socket
from agent.linux.netlink_socket import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    explained,
    number,
    text_attribute,
)
from agent.linux.netns import TaskNetns
from agent.linux.rtnetlink_codec import AF, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE
from mesh.model.net import IPAddress

TABLE = 0x4C57
"""Of routes for overlay packets: "LW". Not one of those below 256, which people number their own by."""
HOST_TABLE = TABLE + 1
"""Of routes for what nodes send one another themselves."""
PREFERENCE = 4789
"""Of the rule for overlay packets: after `local` (0), which has the node's own addresses, before `main` (32766)."""
_PLAIN, _ENCRYPTED, _END = PREFERENCE + 1, PREFERENCE + 2, PREFERENCE + 3
"""Of those of mode `all`: packets that go as before jump over the look-up, to a rule that does nothing."""
MARK = TABLE
"""Of forwarded answers to what came in by a device, where nobody has marked the connection or the packet already."""
CONTROL_PORTS = (
    *((socket.IPPROTO_TCP, port) for port in (22, 2377, 7946)),
    (socket.IPPROTO_UDP, 7946),
)
"""SSH, and what Swarm's managers and gossip say: encrypted by themselves, and the way to a node that comes back."""
PROTOCOL = 76
"""Marks rules and routes as ours: "L". None of rt_protos."""

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_RULE = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, destination's length, source's, TOS, table, two reserved, action, flags."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's length, source's, TOS, table, protocol, scope, type, flags."""
_TO_TABLE, _GOTO, _NOP = 1, 2, 3  # FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_NOP
_FIND_SADDR = 0x00010000  # FIB_RULE_FIND_SADDR
_FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 2, 3, 4, 6, 10, 15
_FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 21, 22, 23, 24
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_TABLE, _RTA_IP_PROTO, _RTA_DPORT = 1, 2, 4, 7, 15, 27, 29
_SCOPE = {4: 253, 6: 0}  # RT_SCOPE_LINK; IPv6 has no scopes
_UNICAST = 1
_NUMBER = struct.Struct("=I")
_PORTS = struct.Struct("=HH")
_GROUPS = (7, 8, 11, 19)  # RTNLGRP_IPV4_ROUTE, _IPV4_RULE, _IPV6_ROUTE, _IPV6_RULE
_HEADER = struct.Struct("=IHHII")


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule of ours.

    Attributes:
        version: of IP.
        preference: rules are asked by it, the lowest first.
        table: in which it looks up; 0 for one that does not.
        goto: preference of the rule to go on with; 0 for none.
        protocol: of the packets, 0 for any.
        source_ports: the first and the last, (0, 0) for any.
        ports: the same of the destination.
        source: address that they are sent from; the unspecified one where the look-up is to choose it; None for any.
        mark: of the packets, 0 for any. Those with one may be forwarded; all others are sent by the node itself.
    """

    version: int
    preference: int
    table: int = 0
    goto: int = 0
    protocol: int = 0
    source_ports: tuple[int, int] = (0, 0)
    ports: tuple[int, int] = (0, 0)
    source: IPAddress | None = None
    mark: int = 0


@dataclass(frozen=True, slots=True)
class NodeRoute:
    """Our route to another node, for packets that are sent from an address of this one."""

    node: IPAddress
    source: IPAddress
    table: int = TABLE


@dataclass(frozen=True, slots=True)
class PlainPorts:
    """Ports of what stays outside in mode `all`, beside CONTROL_PORTS.

    Attributes:
        devices: UDP, of the node's own devices.
        tasks: the first and the last UDP port of its tasks' devices, and of those of other nodes.
        etcd: TCP, by which a node without a device comes to its records; none where etcd itself is in plain text.
    """

    devices: tuple[int, ...] = ()
    tasks: tuple[int, int] = (0, 0)
    etcd: tuple[int, ...] = ()


NO_PORTS = PlainPorts()


def overlay_rule(version: int, port: int) -> Rule:
    """Return the rule for overlay packets, by their UDP port."""
    return Rule(version, PREFERENCE, table=TABLE, protocol=socket.IPPROTO_UDP, ports=(port, port))


def host_rules(host: IPAddress, plain: PlainPorts) -> frozenset[Rule]:
    """Return the rules for what a node sends to other nodes itself, by TCP and UDP.

    They are for packets from its one known address alone, or from none yet, as other nodes' devices take no other.
    The kernel knows the way, and its MTU, before a packet is made. ICMP is left out, and what is forwarded: a
    container's packets would get the device's address. Only answers to what came in by a device go back by it, which
    agent.node_encryption.ruleset marks.

    Args:
        host: the node's address.
        plain: ports of packets that go as before.
    """
    tcp, udp, version = socket.IPPROTO_TCP, socket.IPPROTO_UDP, host.version

    def past(protocol: int, *, source: tuple[int, int] = (0, 0), to: tuple[int, int] = (0, 0)) -> Rule:
        return Rule(version, _PLAIN, goto=_END, protocol=protocol, source_ports=source, ports=to)

    rules = {Rule(version, _END), Rule(version, _ENCRYPTED, table=HOST_TABLE, mark=MARK)}
    for protocol, port in (*CONTROL_PORTS, *((tcp, port) for port in plain.etcd)):
        rules |= {past(protocol, source=(port, port)), past(protocol, to=(port, port))}
    rules |= {past(udp, source=(port, port)) for port in plain.devices if port}
    if any(plain.tasks):
        rules.add(past(udp, source=plain.tasks, to=plain.tasks))
    # IPv6 compares the address that it would choose (FIB_RULE_FIND_SADDR); IPv4 has none yet, and that compares too.
    sources = {host, IPv4Address(0)} if isinstance(host, IPv4Address) else {host}
    for protocol in (tcp, udp):
        rules |= {Rule(version, _ENCRYPTED, table=HOST_TABLE, protocol=protocol, source=source) for source in sources}
    return frozenset(rules)


def in_order(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return rules in the order in which they are added: exceptions before what they are exceptions from."""
    return tuple(sorted(rules, key=lambda rule: (rule.table == HOST_TABLE, -rule.preference, repr(rule))))


def rules(netns: TaskNetns) -> frozenset[Rule]:
    """Read our rules. Raises NetnsGoneError, Retryable, Terminal."""
    found = set()
    with explained(f"list the routing rules of {netns.path}"):
        for version, family in AF.items():
            try:
                answer = netns.socket(NETLINK_ROUTE).dump(_GETRULE, _RULE.pack(family, *[0] * 8))
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    continue
                raise
            for message in answer:
                rule = _decode_rule(message.payload, version)
                if rule is not None and message.payload[0] == family:
                    found.add(rule)
    return frozenset(found)


def add_rule(netns: TaskNetns, rule: Rule) -> None:
    """Have packets looked up by a rule. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"add the routing rule {rule.preference}"):
        _try(netns, _NEWRULE, _encode_rule(rule), NLM_F_CREATE | NLM_F_EXCL, errno.EEXIST)


def remove_rule(netns: TaskNetns, rule: Rule) -> None:
    """Have packets looked up there no more. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"remove the routing rule {rule.preference}"):
        _try(netns, _DELRULE, _encode_rule(rule), 0, errno.ENOENT)


def routes(netns: TaskNetns) -> dict[NodeRoute, int]:
    """Read our routes, each with the index of its device. Raises NetnsGoneError, Retryable, Terminal."""
    found: dict[NodeRoute, int] = {}
    with explained(f"list the routes of {netns.path}"):
        for family in AF.values():
            for table in (TABLE, HOST_TABLE):
                # The kernel lists this table alone, where it can (Linux 4.20); it has none before the first route.
                request = _ROUTE.pack(family, *[0] * 8) + attribute(_RTA_TABLE, _NUMBER.pack(table))
                try:
                    answer = netns.socket(NETLINK_ROUTE).dump(RTM_GETROUTE, request)
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                        continue
                    raise
                for message in answer:
                    values = dict(attributes(message.payload[_ROUTE.size :]))
                    is_ours = number(values.get(_RTA_TABLE)) == table and message.payload[5] == PROTOCOL
                    if is_ours and _RTA_DST in values and _RTA_PREFSRC in values:
                        route = NodeRoute(_address(values[_RTA_DST]), _address(values[_RTA_PREFSRC]), table)
                        found[route] = number(values.get(_RTA_OIF))
    return found


def index(netns: TaskNetns, device: str) -> int:
    """Look up the number of a device. Raises DeviceNotFoundError, NetnsGoneError."""
    with explained(f"look up the device {device} of {netns.path}"):
        return netns.socket(NETLINK_ROUTE).device_index(device)


def set_route(netns: TaskNetns, device: str, route: NodeRoute) -> None:
    """Send packets that are looked up in our table through the device. Raises DeviceNotFoundError and as above.

    A route that led through another device is replaced at once: each packet finds the one or the other.
    """
    with explained(f"route overlay packets to {route.node} through {device}"):
        through = index(netns, device)
        _try(netns, RTM_NEWROUTE, _encode_route(route, through), NLM_F_CREATE | NLM_F_REPLACE)


def remove_route(netns: TaskNetns, route: NodeRoute) -> None:
    """Let those packets go as they went before. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"remove the route of overlay packets to {route.node}"):
        _try(netns, RTM_DELROUTE, _encode_route(route), 0, errno.ESRCH)


def leaves_by(netns: TaskNetns, route: NodeRoute, port: int) -> str:
    """Ask the kernel by which device it sends packets to a UDP port of another node; empty where there is no way.

    Raises NetnsGoneError, Retryable, Terminal.
    """
    version = route.node.version
    head = _ROUTE.pack(AF[version], route.node.max_prefixlen, route.source.max_prefixlen, *[0] * 6)
    attrs = attribute(_RTA_DST, route.node.packed) + attribute(_RTA_SRC, route.source.packed)
    attrs += attribute(_RTA_IP_PROTO, bytes((socket.IPPROTO_UDP,))) + attribute(_RTA_DPORT, struct.pack("!H", port))
    with explained(f"look up the route to {route.node}"):
        try:
            (answer,) = netns.socket(NETLINK_ROUTE).request(RTM_GETROUTE, head + attrs)
            out = number(dict(attributes(answer.payload[_ROUTE.size :])).get(_RTA_OIF))
            return netns.run(lambda: socket.if_indextoname(out)) if out else ""
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENXIO, errno.EACCES, errno.EINVAL):
                return ""
            raise


def subscribed(netns: TaskNetns) -> socket.socket:
    """Open a socket that is readable after changes of routing rules and routes. Raises NetnsGoneError, Terminal."""
    with explained("follow the changes of routes"):
        return netns.run(lambda: netlink_socket.subscribed(NETLINK_ROUTE, *_GROUPS))


def is_removal(datagram: bytes) -> bool:
    """Tell whether what such a socket gave tells of a rule or of one of our routes that went away."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        payload = memoryview(datagram)[offset + _HEADER.size : offset + max(length, _HEADER.size)]
        if kind == _DELRULE:
            return True
        if kind == RTM_DELROUTE and len(payload) > _ROUTE.size and payload[5] == PROTOCOL:
            return True
        offset += max((length + 3) & ~3, _HEADER.size)
    return False


def _try(netns: TaskNetns, what: int, payload: bytes, flags: int, already: int = 0) -> None:
    """Send a request; that it is so already is no error. Raises OSError."""
    try:
        netns.socket(NETLINK_ROUTE).request(what, payload, flags)
    except OSError as error:
        if error.errno != already:
            raise


def _encode_rule(rule: Rule) -> bytes:
    action = _TO_TABLE if rule.table else _GOTO if rule.goto else _NOP
    length = rule.source.max_prefixlen if rule.source is not None else 0
    finds = rule.source is not None and not isinstance(rule.source, IPv4Address)
    head = _RULE.pack(AF[rule.version], 0, length, 0, 0, 0, 0, action, _FIND_SADDR if finds else 0)
    attrs = attribute(_FRA_PRIORITY, _NUMBER.pack(rule.preference)) + attribute(_FRA_PROTOCOL, bytes((PROTOCOL,)))
    for kind, value in ((_FRA_TABLE, rule.table), (_FRA_GOTO, rule.goto), (_FRA_FWMARK, rule.mark)):
        attrs += attribute(kind, _NUMBER.pack(value)) if value else b""
    attrs += b"" if rule.mark else text_attribute(_FRA_IIFNAME, "lo")
    attrs += attribute(_FRA_SRC, rule.source.packed) if rule.source is not None else b""
    attrs += attribute(_FRA_IP_PROTO, bytes((rule.protocol,))) if rule.protocol else b""
    for kind, ports in ((_FRA_SPORT_RANGE, rule.source_ports), (_FRA_DPORT_RANGE, rule.ports)):
        attrs += attribute(kind, _PORTS.pack(*ports)) if any(ports) else b""
    return head + attrs


def _decode_rule(payload: memoryview, version: int) -> Rule | None:
    """Decode a rule; None for one that is not ours."""
    values = dict(attributes(payload[_RULE.size :]))
    if number(values.get(_FRA_PROTOCOL)) != PROTOCOL:
        return None
    action, is_sent_from = payload[7], payload[2] > 0
    source_ports, ports = (
        _PORTS.unpack(values[kind]) if kind in values else (0, 0) for kind in (_FRA_SPORT_RANGE, _FRA_DPORT_RANGE)
    )
    return Rule(
        version,
        number(values.get(_FRA_PRIORITY)),
        table=number(values.get(_FRA_TABLE)) if action == _TO_TABLE else 0,
        goto=number(values.get(_FRA_GOTO)),
        protocol=number(values.get(_FRA_IP_PROTO)),
        source_ports=(source_ports[0], source_ports[1]),
        ports=(ports[0], ports[1]),
        source=_address(values[_FRA_SRC]) if is_sent_from else None,
        mark=number(values.get(_FRA_FWMARK)),
    )


def _encode_route(route: NodeRoute, through: int = 0) -> bytes:
    """Encode a route through the device of an index; to be removed, whichever that is."""
    version = route.node.version
    head = _ROUTE.pack(AF[version], route.node.max_prefixlen, 0, 0, 0, PROTOCOL, _SCOPE[version], _UNICAST, 0)
    attrs = attribute(_RTA_DST, route.node.packed) + attribute(_RTA_PREFSRC, route.source.packed)
    attrs += attribute(_RTA_TABLE, _NUMBER.pack(route.table))
    return head + attrs + (attribute(_RTA_OIF, _NUMBER.pack(through)) if through else b"")


def _address(packed: memoryview) -> IPAddress:
    return ip_address(bytes(packed))
