"""A TCP segment of a living connection that connection tracking calls invalid: far beyond the other end's window."""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import partial
from ipaddress import ip_address

from agent.linux.netlink_socket import NETLINK_NETFILTER, attributes
from agent.linux.netns import TaskNetns

_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ = 19, 20, 21  # TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ: linux/tcp.h
_RECEIVED, _SENT = 1, 2  # TCP_RECV_QUEUE, TCP_SEND_QUEUE
_OFF_SILENTLY = 0xFFFFFFFF  # TCP_REPAIR_OFF_NO_WP, -1
_BEYOND = 50_000_000
"""Bytes: more than any window."""
_IPV6_HDRINCL = 36  # linux/in6.h
_STATISTICS = 1 << 8 | 4  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET_STATS_CPU: linux/netfilter/nfnetlink_conntrack.h
_INVALID = 4  # CTA_STATS_INVALID
_ACK, _PUSH = 1 << 4, 1 << 3

Place = tuple[str, int]


def stray(connection: socket.socket) -> bytes:
    """Build a packet from this end of a connection to the other, by the addresses that this end has."""
    sent, received = _numbers(connection)
    return _packet(connection, connection.getsockname()[:2], connection.getpeername()[:2], sent, received)


def answering(connection: socket.socket) -> bytes:
    """Build a packet to this end of a connection from the other."""
    sent, received = _numbers(connection)
    return _packet(connection, connection.getpeername()[:2], connection.getsockname()[:2], received, sent)


def _packet(connection: socket.socket, source: Place, target: Place, number: int, awaited: int) -> bytes:
    ends = ip_address(source[0]).packed + ip_address(target[0]).packed
    number = (number + _BEYOND) % (1 << 32)
    head = struct.pack("!HHIIBBHHH", source[1], target[1], number, awaited, 5 << 4, _ACK | _PUSH, 512, 0, 0)
    segment = head + b"late"
    segment = segment[:16] + checksum(ends + struct.pack("!II", len(segment), 6) + segment) + segment[18:]
    if connection.family == socket.AF_INET6:
        return struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + ends + segment
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0)
    return packet[:10] + checksum(packet + ends) + ends + segment


def send(netns: TaskNetns, packet: bytes) -> None:
    """Send a packet from a namespace, past its TCP; a firewall that refuses it there may say so."""
    family, level, option = socket.AF_INET, socket.IPPROTO_IP, socket.IP_HDRINCL
    if packet[0] >> 4 == 6:
        family, level, option = socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_HDRINCL
    target = packet[16:20] if family == socket.AF_INET else packet[24:40]
    with netns.run(partial(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        raw.setsockopt(level, option, 1)
        with contextlib.suppress(PermissionError):
            raw.sendto(packet, (str(ip_address(target)), 0))


def invalid(netns: TaskNetns) -> int:
    """Return how many packets connection tracking has called invalid in a namespace."""
    answer = netns.socket(NETLINK_NETFILTER).dump(_STATISTICS, struct.pack("=BBH", 0, 0, 0))
    processors = [dict(attributes(message.payload[4:])) for message in answer]
    return sum(int.from_bytes(counts[_INVALID], "big") for counts in processors)


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _numbers(connection: socket.socket) -> tuple[int, int]:
    """Return the numbers of the next byte that is sent and of the next that is awaited."""
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    found = []
    for queue in (_SENT, _RECEIVED):
        connection.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, queue)
        found.append(connection.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ) & 0xFFFFFFFF)
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, struct.pack("I", _OFF_SILENTLY))
    return found[0], found[1]
