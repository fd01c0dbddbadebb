"""ICMP echo requests of two sizes through a task's tunnel: whether it passes packets, and whether large ones too.

A rule of every link lets them pass (agent.firewall.ruleset).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.linux.netns import TaskNetns

ANSWER_S = 1.5
"""For how long answers are waited for: a new handshake takes a few round trips."""
_EVERY_S = 0.25
_HEADERS = 28
"""Bytes of IPv4 and ICMP in front of what is sent."""
_ECHO = struct.Struct("!BBHHH")  # RFC 792: type, code, checksum, identifier, sequence number
_ECHO_REQUEST = 8
_MTU_DISCOVER, _PROBE = 10, 3
"""IP_MTU_DISCOVER and IP_PMTUDISC_PROBE (linux/in.h): never cut into fragments, whatever the kernel thinks fits."""
_SMALL, _LARGE = 1, 2
"""Sequence numbers."""


@dataclass(frozen=True, slots=True)
class Echoes:
    """Whether a small packet was answered, and a large one; None for one that could not be sent."""

    small: bool
    large: bool | None


def echo(netns: TaskNetns, address: IPv4Address, size: int) -> Echoes:
    """Send both until both are answered, or for ANSWER_S.

    Args:
        netns: the task's.
        address: of its peer.
        size: bytes of the large packet, its headers included.

    Raises:
        NetnsGoneError, OSError.
    """
    with closing(netns.run(_opened)) as pinger:
        deadline, answered = time.monotonic() + ANSWER_S, set[int]()
        wanted = {_SMALL, _LARGE}
        while answered < wanted and time.monotonic() < deadline:
            for number, length in ((_SMALL, 0), (_LARGE, max(0, size - _HEADERS))):
                if number in wanted - answered and not _send(pinger, address, number, length):
                    wanted.discard(number)
            _collect(pinger, answered, wanted, min(deadline, time.monotonic() + _EVERY_S))
    return Echoes(_SMALL in answered, _LARGE in answered if _LARGE in wanted else None)


def _opened() -> socket.socket:
    """Open a ping socket: Docker allows them to all in a task (net.ipv4.ping_group_range, moby#41030)."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    made.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _PROBE)
    return made


def _send(pinger: socket.socket, address: IPv4Address, number: int, length: int) -> bool:
    try:
        pinger.sendto(_ECHO.pack(_ECHO_REQUEST, 0, 0, 0, number) + bytes(length), (str(address), 0))
    except OSError:  # no peer has it, or it is larger than the way
        return number == _SMALL
    return True


def _collect(pinger: socket.socket, answered: set[int], wanted: set[int], until: float) -> None:
    ready = select.poll()
    ready.register(pinger, select.POLLIN)
    while answered < wanted and (left := until - time.monotonic()) > 0:
        if not ready.poll(left * 1000):
            return
        try:
            answer = pinger.recv(65_536)
        except OSError:  # an error came back
            return
        if len(answer) >= _ECHO.size:
            answered.add(_ECHO.unpack_from(answer)[4])
