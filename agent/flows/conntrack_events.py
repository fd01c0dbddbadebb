"""New connections of a task's namespace, as the kernel tells of them: linux/netfilter/nfnetlink_conntrack.h.

An event comes when a connection's first packet has passed all rules, so one that is refused has none. The kernel
makes events only while somebody listens (net.netfilter.nf_conntrack_events=2), so listening costs the task's
connections a little, and nothing else does.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.linux.netlink_socket import NETLINK_NETFILTER, attributes, subscribed
from agent.linux.netns import TaskNetns
from mesh.errors import Terminal

_NEW = 1 << 8  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
_GROUP_NEW = 1  # NFNLGRP_CONNTRACK_NEW
_MESSAGE = struct.Struct("=IHHII")
_FAMILY_BYTES = 4  # struct nfgenmsg
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
_IP, _PROTO = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_V4_SOURCE, _V4_DESTINATION, _V6_SOURCE, _V6_DESTINATION = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_BUFFER_BYTES = 1 << 18
"""Some 300 events; the kernel drops those that find no room, and says so."""
_DATAGRAM_BYTES = 1 << 16

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as it was tracked first."""

    protocol: str
    source: Address
    source_port: int
    """0 where the protocol has no ports."""
    destination: Address
    """As the connecting program named it: it may be a VIP."""
    destination_port: int
    backend: Address
    """From which answers come: the VIP's choice."""


class Subscription:
    """Subscription to one namespace's new connections. An open one keeps the namespace alive.

    Raises:
        NetnsGoneError: the namespace has ended.
        OSError: the kernel does not tell of connections.
    """

    def __init__(self, netns: TaskNetns) -> None:
        self._socket = netns.run(lambda: subscribed(NETLINK_NETFILTER, _GROUP_NEW, buffer_bytes=_BUFFER_BYTES))
        self.overflowed = False
        """Whether there were more than the kernel could tell of."""

    def fileno(self) -> int:
        """Return its descriptor, to wait for events."""
        return self._socket.fileno()

    def read(self, most: int) -> list[Connection]:
        """Return the connections that the kernel has told of, of at most so many messages."""
        found: list[Connection] = []
        for _ in range(most):
            try:
                datagram = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overflowed = True
                continue
            found += connections(datagram)
        return found

    def close(self) -> None:
        """Listen no more. May be called twice."""
        self._socket.close()


def connections(datagram: bytes) -> Iterator[Connection]:
    """Read the new connections of one datagram; messages of another kind are left out."""
    offset = 0
    while offset + _MESSAGE.size <= len(datagram):
        length, kind, _, _, _ = _MESSAGE.unpack_from(datagram, offset)
        if length < _MESSAGE.size or offset + length > len(datagram):
            return
        if kind == _NEW:
            with suppress(KeyError, ValueError, Terminal):  # of a form that this program does not know
                yield _connection(memoryview(datagram)[offset + _MESSAGE.size + _FAMILY_BYTES : offset + length])
        offset += (length + 3) & ~3


def _connection(payload: memoryview) -> Connection:
    entry = dict(attributes(payload))
    original, reply = _nested(entry[_ORIGINAL]), _nested(entry[_REPLY])
    place, protocol = _nested(original[_IP]), _nested(original[_PROTO])
    answering = _nested(reply[_IP])
    number = protocol[_NUMBER][0]
    return Connection(
        _PROTOCOLS.get(number, str(number)),
        _address(place, _V4_SOURCE, _V6_SOURCE),
        _port(protocol.get(_SOURCE_PORT)),
        _address(place, _V4_DESTINATION, _V6_DESTINATION),
        _port(protocol.get(_DESTINATION_PORT)),
        _address(answering, _V4_SOURCE, _V6_SOURCE),
    )


def _nested(value: memoryview) -> dict[int, memoryview]:
    return dict(attributes(value))


def _address(place: dict[int, memoryview], v4: int, v6: int) -> Address:
    return IPv4Address(bytes(place[v4])) if v4 in place else IPv6Address(bytes(place[v6]))


def _port(value: memoryview | None) -> int:
    return int.from_bytes(value, "big") if value is not None else 0
