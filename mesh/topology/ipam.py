"""IP address management: choices of addresses and UDP ports, made safe by compare-and-create in the store. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.errors import Terminal
from mesh.model.labels.ports import MAX_PORT

TWIN_PREFIX = 96
"""Bits of the mesh's IPv6 prefix; a longer one would give two IPv4 addresses the same twin."""


def _start(hint: str, size: int) -> int:
    """Return the first offset to try, spread by the hint, so that the address freed last is not assigned next."""
    return int.from_bytes(hashlib.sha256(hint.encode()).digest()[:8], "big") % size


def ula(cluster: str) -> IPv6Network:
    """Return the mesh's IPv6 prefix, a /96 of a unique local /48 (RFC 4193), so that two meshes do not clash.

    RFC 4193, 3.2.2 makes the 40 bits of the global id from a time and a MAC address; the Swarm's id is as unique.
    """
    global_id = hashlib.sha256(f"linkwire {cluster}".encode()).digest()[:5]
    return IPv6Network((b"\xfd" + global_id + bytes(10), TWIN_PREFIX))


def twin(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """Return the IPv6 address of the holder of an IPv4 address, which is its last 32 bits (as in RFC 6052, 2.2).

    So both are assigned and released together.
    """
    return IPv6Address(int(prefix.network_address) | int(address))


def nobody(subnet: IPv4Network) -> IPv4Address:
    """Return the subnet's last address, which `pick_address` never assigns.

    A link's name resolves to it while its provider has no address: connections are refused at once, and the name is
    not looked up in DNS.
    """
    return subnet.broadcast_address


def pick_address(subnet: IPv4Network, taken: Container[IPv4Address], hint: str) -> IPv4Address:
    """Choose a free address of the subnet, never its first (the network) or last (the broadcast).

    Args:
        subnet: the mesh's.
        taken: addresses that are assigned or must not be reused yet.
        hint: name of the new holder; the same hint gives the same address while that is free.

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
    """Choose a free UDP port of a node's range, both ends included.

    Raises:
        Terminal: every port is taken, or the range is invalid: the node reported it, and a node may report anything.
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
