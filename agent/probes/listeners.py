"""Listeners of a task: the ports that its programs wait at, as the kernel lists the sockets of its namespace."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal

from agent.linux.netns import TaskNetns
from mesh.diagnosis.link_facts import Listener

MOST = 64
"""Listeners that are told of one task."""
_LISTEN, _UNCONNECTED = 0x0A, 0x07  # net/tcp_states.h; a UDP socket without a peer is TCP_CLOSE
_FILES: tuple[tuple[str, Literal["tcp", "udp"], int], ...] = (
    ("tcp", "tcp", _LISTEN),
    ("tcp6", "tcp", _LISTEN),
    ("udp", "udp", _UNCONNECTED),
    ("udp6", "udp", _UNCONNECTED),
)
_LARGEST = 4 << 20
"""Bytes of a list that are read: a task may hold any number of sockets, and open ones come first."""


def listeners(netns: TaskNetns) -> tuple[Listener, ...]:
    """List a task's listeners, sorted. Raises NetnsGoneError."""
    found = {one for name, text in netns.run(_read).items() for one in _parse(name, text)}
    outside = {(one.port, one.protocol) for one in found if not one.loopback}
    every = (one for one in found if not one.loopback or (one.port, one.protocol) not in outside)
    return tuple(sorted(every, key=lambda one: (one.loopback, one.protocol, one.port)))[:MOST]


def _read() -> dict[str, str]:
    texts = {}
    for name, _, _ in _FILES:
        # Of the thread: /proc/net is the whole process's, which is in the node's namespace.
        path = Path("/proc/thread-self/net") / name
        if path.exists():  # no IPv6
            with path.open() as lines:
                texts[name] = lines.read(_LARGEST)
    return texts


def _parse(name: str, text: str) -> Iterator[Listener]:
    (protocol, wanted) = next((protocol, state) for known, protocol, state in _FILES if known == name)
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and int(fields[3], 16) == wanted:  # noqa: PLR2004 - proc(5): sl, local, remote, state
            host, _, port = fields[1].partition(":")
            yield Listener(int(port, 16), protocol, loopback=_address(host).is_loopback)


def _address(text: str) -> IPv4Address | IPv6Address:
    """Read an address as the kernel writes it: words of 32 bits in the machine's own order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    address = ip_address(socket.inet_ntop(family, packed))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
