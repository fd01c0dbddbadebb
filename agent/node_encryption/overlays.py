"""Addresses that this node's overlays really send to: the forwarding entries of their VXLAN devices.

A node's data path address is in no API. Docker keeps the device of each overlay in a namespace of its own, and gives
it an entry for each task elsewhere, with the address of the node that has it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from agent.linux import interfaces
from agent.linux.netlink_socket import NETLINK_ROUTE, attributes, explained
from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError
from mesh.model.net import IPAddress

FOLDER = Path("/run/docker/netns")
_OVERLAYS = "1-*"
"""Names of the namespaces of overlays there (libnetwork, drivers/overlay/ov_network.go)."""
VXLAN_BYTES = {4: 50, 6: 70}
"""Bytes that VXLAN adds to a packet, by the underlay's IP version: IP 20 or 40, UDP 8, its own 8, Ethernet's 14."""
_KIND = "vxlan"
_GETNEIGH = 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg, linux/neighbour.h
_AF_BRIDGE = 7
_NDA_DST = 1


def destinations(folder: Path = FOLDER) -> frozenset[IPAddress]:
    """Read the addresses of all overlays of the node; an overlay that is just coming or going is left out."""
    found: set[IPAddress] = set()
    for path in sorted(folder.glob(_OVERLAYS)):
        with suppress(LinkwireError), TaskNetns(str(path)) as netns:
            found |= entries(netns)
    return frozenset(found)


def largest_mtu(folder: Path = FOLDER) -> int:
    """Read the largest MTU of the node's overlays, in bytes; 0 where there is none."""
    found = 0
    for path in sorted(folder.glob(_OVERLAYS)):
        with suppress(LinkwireError), TaskNetns(str(path)) as netns:
            states = [interfaces.observe(netns, name) for name in interfaces.of_kind(netns, _KIND)]
            found = max([found, *(state.mtu for state in states if state is not None)])
    return found


def entries(netns: TaskNetns) -> frozenset[IPAddress]:
    """Read the addresses that the VXLAN devices of a namespace send to. Raises LinkwireError."""
    if not interfaces.of_kind(netns, _KIND):
        return frozenset()
    with explained(f"list the forwarding entries of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(_GETNEIGH, _NEIGHBOUR.pack(_AF_BRIDGE, 0, 0, 0, 0))
    values = (dict(attributes(message.payload[_NEIGHBOUR.size :])) for message in answer)
    # Only VXLAN devices have entries with a destination. That of nobody is the one for what is not known.
    addresses = (ip_address(bytes(value[_NDA_DST])) for value in values if _NDA_DST in value)
    return frozenset(address for address in addresses if not address.is_unspecified)
