"""Which address and which UDP port to try next: pure choices, made safe by compare-and-create in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.errors import Terminal

MAX_PORT = 65535
TWIN_PREFIX = 96
"""Bits of the mesh's IPv6 prefix: with any more, two IPv4 addresses would have one twin."""


def _start(hint: str, size: int) -> int:
    """Where to begin looking: spread by the hint, so that what was freed last is not what is given next."""
    return int.from_bytes(hashlib.sha256(hint.encode()).digest()[:8], "big") % size


def ula(cluster: str) -> IPv6Network:
    """The mesh's IPv6 prefix, a /96 of a unique local /48 (RFC 4193): two meshes that meet do not clash.

    RFC 4193, 3.2.2 makes the 40 bits of the global id from a time and a MAC address; the Swarm's id is as unique.
    """
    global_id = hashlib.sha256(f"linkwire {cluster}".encode()).digest()[:5]
    return IPv6Network((b"\xfd" + global_id + bytes(10), TWIN_PREFIX))


def twin(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """The IPv6 address of whoever holds an IPv4 address: its last 32 bits are that (as in RFC 6052, 2.2).

    So both are given and let go as one, and neither is ever another's.
    """
    return IPv6Address(int(prefix.network_address) | int(address))


def nobody(subnet: IPv4Network) -> IPv4Address:
    """The address of the mesh that is never anybody's: the subnet's last, which `pick_address` does not give.

    A link's name leads there while its provider has no address, so that it is refused at once and asked of no DNS.
    """
    return subnet.broadcast_address


def pick_address(subnet: IPv4Network, taken: Container[IPv4Address], hint: str) -> IPv4Address:
    """A free address of the subnet, never its first (the network) or last (the broadcast).

    Args:
        subnet: the mesh's own.
        taken: what is held or rests.
        hint: who it is for; the same hint gives the same address while that is free.

    Raises:
        Terminal: every address is taken.
    """
    size = max(0, subnet.num_addresses - 2)
    first = int(subnet.network_address) + 1
    start = _start(hint, size) if size else 0
    for step in range(size):
        address = IPv4Address(first + (start + step) % size)
        if address not in taken:
            return address
    raise Terminal(f"all {size} addresses of {subnet} are taken: give the controller a larger --subnet")


def pick_port(first: int, last: int, taken: Container[int], hint: str) -> int:
    """A free UDP port of a node's range, both ends included.

    Raises:
        Terminal: every port of the range is taken, or it is no range: a node said so, and any node may say anything.
    """
    if not 0 < first <= last <= MAX_PORT:
        raise Terminal(f"{first}-{last} is not a range of UDP ports")
    size = last - first + 1
    start = _start(hint, size)
    for step in range(size):
        port = first + (start + step) % size
        if port not in taken:
            return port
    raise Terminal(f"all {size} UDP ports {first}-{last} of the node are taken: widen its agent's --ports")
