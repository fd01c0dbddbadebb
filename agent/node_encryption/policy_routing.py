"""Policy routing of node encryption: a rule that looks up overlay packets in a table of our own, and its routes.

The rule is for packets that the node itself sends (`iif lo`) to the VXLAN port; VXLAN's look-up of a route carries
protocol and port. WireGuard's own packets go to another port, so that there is no loop. A route that is missing in
the table has the next rule decide: the packet goes as it went before.

Messages as of RFC 3549, linux/fib_rules.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

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
"""Of routes: "LW". Not one of those below 256, which people number their own by."""
PREFERENCE = 4789
"""Of the rule: after `local` (0), which has the node's own addresses, and before `main` (32766)."""
PROTOCOL = 76
"""Marks rules and routes as ours: "L". None of rt_protos."""

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_RULE = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, destination's length, source's, TOS, table, two reserved, action, flags."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's length, source's, TOS, table, protocol, scope, type, flags."""
_TO_TABLE = 1  # FR_ACT_TO_TBL
_FRA_IIFNAME, _FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_DPORT_RANGE = 3, 6, 15, 21, 22, 24
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_TABLE, _RTA_IP_PROTO, _RTA_DPORT = 1, 2, 4, 7, 15, 27, 29
_SCOPE = {4: 253, 6: 0}  # RT_SCOPE_LINK; IPv6 has no scopes
_UNICAST = 1
_NUMBER = struct.Struct("=I")
_PORTS = struct.Struct("=HH")
_GROUPS = (7, 8, 11, 19)  # RTNLGRP_IPV4_ROUTE, _IPV4_RULE, _IPV6_ROUTE, _IPV6_RULE
_HEADER = struct.Struct("=IHHII")


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Our rule of one IP version, for packets to a UDP port."""

    version: int
    port: int


@dataclass(frozen=True, slots=True)
class NodeRoute:
    """Our route to another node, for packets that are sent from an address of this one."""

    node: IPAddress
    source: IPAddress


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
                port = _port_of(message.payload)
                if port is not None and message.payload[0] == family:
                    found.add(Rule(version, port))
    return frozenset(found)


def add_rule(netns: TaskNetns, rule: Rule) -> None:
    """Have packets looked up in our table. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"add the routing rule for UDP port {rule.port}"):
        _try(netns, _NEWRULE, _encode_rule(rule), NLM_F_CREATE | NLM_F_EXCL, errno.EEXIST)


def remove_rule(netns: TaskNetns, rule: Rule) -> None:
    """Have packets looked up there no more. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"remove the routing rule for UDP port {rule.port}"):
        _try(netns, _DELRULE, _encode_rule(rule), 0, errno.ENOENT)


def routes(netns: TaskNetns) -> dict[NodeRoute, int]:
    """Read the routes of our table, each with the index of its device. Raises NetnsGoneError, Retryable, Terminal."""
    found: dict[NodeRoute, int] = {}
    with explained(f"list the routes of {netns.path}"):
        for family in AF.values():
            # The kernel lists this table alone, where it can (Linux 4.20); it has none before the first route.
            request = _ROUTE.pack(family, *[0] * 8) + attribute(_RTA_TABLE, _NUMBER.pack(TABLE))
            try:
                answer = netns.socket(NETLINK_ROUTE).dump(RTM_GETROUTE, request)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    continue
                raise
            for message in answer:
                values = dict(attributes(message.payload[_ROUTE.size :]))
                is_ours = number(values.get(_RTA_TABLE)) == TABLE and message.payload[5] == PROTOCOL
                if is_ours and _RTA_DST in values and _RTA_PREFSRC in values:
                    route = NodeRoute(_address(values[_RTA_DST]), _address(values[_RTA_PREFSRC]))
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
    head = _RULE.pack(AF[rule.version], 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    return head + b"".join(
        (
            text_attribute(_FRA_IIFNAME, "lo"),
            attribute(_FRA_PRIORITY, _NUMBER.pack(PREFERENCE)),
            attribute(_FRA_TABLE, _NUMBER.pack(TABLE)),
            attribute(_FRA_PROTOCOL, bytes((PROTOCOL,))),
            attribute(_FRA_IP_PROTO, bytes((socket.IPPROTO_UDP,))),
            attribute(_FRA_DPORT_RANGE, _PORTS.pack(rule.port, rule.port)),
        )
    )


def _port_of(payload: memoryview) -> int | None:
    """Return the port of a rule, None for one that is not ours."""
    values = dict(attributes(payload[_RULE.size :]))
    if number(values.get(_FRA_TABLE)) != TABLE or number(values.get(_FRA_PROTOCOL)) != PROTOCOL:
        return None
    ports = values.get(_FRA_DPORT_RANGE)
    return _PORTS.unpack(ports)[0] if ports is not None else None


def _encode_route(route: NodeRoute, through: int = 0) -> bytes:
    """Encode a route through the device of an index; to be removed, whichever that is."""
    version = route.node.version
    head = _ROUTE.pack(AF[version], route.node.max_prefixlen, 0, 0, 0, PROTOCOL, _SCOPE[version], _UNICAST, 0)
    attrs = attribute(_RTA_DST, route.node.packed) + attribute(_RTA_PREFSRC, route.source.packed)
    attrs += attribute(_RTA_TABLE, _NUMBER.pack(TABLE))
    return head + attrs + (attribute(_RTA_OIF, _NUMBER.pack(through)) if through else b"")


def _address(packed: memoryview) -> IPAddress:
    return ip_address(bytes(packed))
