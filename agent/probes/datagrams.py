"""Datagrams between this node and another, besides WireGuard: both nodes send at the same time, and count.

Each sends from the port that the other sends to, as WireGuard does, so that a firewall treats them alike.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import closing
from dataclasses import dataclass

from mesh.diagnosis.questions import Arrived, Probe
from mesh.model.labels.ports import MAX_PORT
from mesh.model.net import IPAddress
from mesh.topology.underlay import FIRST_PORT

WINDOW_S = 3.5
"""For how long a side sends and waits: the other one may begin later, when it has read its question."""
_EVERY_S = 0.1
_ENOUGH = 4
"""Rounds that a side goes on for after it has heard from the other one."""
_NONCE = 32
_MARK = b"linkwire probe "
_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP."""
# linux/in.h and linux/in6.h: IP_MTU_DISCOVER, IPV6_MTU_DISCOVER; ..._PROBE never cuts a packet into fragments.
_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3


def is_good(probe: Probe, ports: tuple[int, int]) -> bool:
    """Tell whether a probe that another node asks for may be sent, from one of this node's ports for tasks."""
    first, last = ports
    is_hexadecimal = len(probe.nonce) == _NONCE and set(probe.nonce) <= set("0123456789abcdef")
    return is_hexadecimal and first <= probe.own_port <= last and FIRST_PORT <= probe.port <= MAX_PORT


@dataclass(frozen=True, slots=True)
class Through:
    """A device that datagrams are to leave by and come in by, whatever the routes say.

    Attributes:
        device: its name.
        source: address of this node that the other one takes there.
    """

    device: str
    source: IPAddress


def exchange(host: IPAddress, probe: Probe, through: Through | None = None) -> Arrived:
    """Send to the other node and count what arrives from it; returns what went wrong instead of raising.

    Args:
        host: the other node's address.
        probe: what to send.
        through: by that device alone; None for the way that the routes have.
    """
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IP's version
    small = _MARK + bytes.fromhex(probe.nonce)
    large = small.ljust(max(len(small) + 1, probe.large_bytes - _HEADERS[host.version]), b".")
    with closing(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as opened:
        try:
            opened.setsockopt(*_DISCOVER[host.version], _PROBE)
            if through is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, through.device.encode())
            opened.bind((str(through.source) if through is not None else "", probe.own_port))
        except OSError as error:
            return Arrived(problem=f"UDP port {probe.own_port} cannot be used: {error.strerror}")
        return _exchange(opened, (str(host), probe.port), (small, large))


def _exchange(opened: socket.socket, target: tuple[str, int], packets: tuple[bytes, bytes]) -> Arrived:
    counts, sent, rounds_left, problem = [0, 0], 0, _ENOUGH, ""
    ready = select.poll()
    ready.register(opened, select.POLLIN)
    deadline = time.monotonic() + WINDOW_S
    while time.monotonic() < deadline and rounds_left:
        for packet in packets:
            try:
                opened.sendto(packet, target)
            except OSError as error:
                # A rule that drops what leaves says EPERM: then it is lost as on any other way.
                if packet is packets[0] and error.errno != errno.EPERM:
                    problem = f"datagrams to {target[0]} cannot be sent: {error.strerror}"
        sent += 1
        rounds_left -= bool(counts[0])
        until = time.monotonic() + _EVERY_S
        while (left := until - time.monotonic()) > 0 and ready.poll(left * 1000):
            _count(opened, packets, counts)
    return Arrived(sent, counts[0], counts[1], problem)


def _count(opened: socket.socket, packets: tuple[bytes, bytes], counts: list[int]) -> None:
    try:
        packet = opened.recv(65_536)
    except OSError:  # the other side does not wait yet
        return
    for number, expected in enumerate(packets):
        counts[number] += packet == expected
