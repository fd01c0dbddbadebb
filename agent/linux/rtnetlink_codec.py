"""Codec of rtnetlink messages about devices, addresses and routes. No I/O (RFC 3549).

Of each message only what the agent uses. A general library looks at every field of every attribute, which takes 20
times as long: most of the time of a look at a device, and there is one every few seconds for each task.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

from agent.linux.netlink_socket import NLA_F_NESTED, attribute, attributes, number, text, text_attribute
from mesh.topology.wgtypes import Route

if TYPE_CHECKING:
    from mesh.model.net import IPInterface, IPNetwork

# linux/rtnetlink.h, linux/if.h, linux/if_link.h, linux/if_addr.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETNSID = 90
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
AF = {4: 2, 6: 10}  # linux/socket.h
_AF_UNSPEC = 0
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 3, 4, 18, 28, 29
_IFLA_LINK, _IFLA_MASTER, _IFLA_LINK_NETNSID = 5, 10, 37
_NETNSA_NSID, _NETNSA_FD = 1, 3  # linux/net_namespace.h
_IFLA_INFO_KIND = 1
_RTEXT_FILTER_SKIP_STATS = 0x8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x2
_RTA_DST, _RTA_OIF, _RTA_METRICS, _RTA_TABLE = 1, 4, 8, 15
_RTAX_MTU = 2
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RTPROT_KERNEL, _RTPROT_STATIC = 2, 4
_RTN_UNICAST, _RTN_LOCAL = 1, 2

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which of them to change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix's length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination's length, source's, TOS, table, protocol, scope, type, flags."""
_NUMBER = struct.Struct("=I")
_EVERYWHERE = {AF[4]: bytes(4), AF[6]: bytes(16)}


@dataclass(frozen=True, slots=True)
class InterfaceMessage:
    """A device, as the kernel lists it."""

    index: int
    name: str
    kind: str
    """"wireguard", "tun", ...; "" for a physical one."""
    flags: int
    mtu: int
    """Bytes."""
    master: int = 0
    """Index of the bridge that it is a port of; 0 for none."""
    peer: int = 0
    """Index of the other end, of a veth device; 0 for none."""
    peer_netns: int | None = None
    """Number that the namespace of the other end has here; None for this one."""


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """An address of a device."""

    index: int
    """Of the device."""
    address: IPInterface
    scope: int

    @property
    def automatic(self) -> bool:
        """Link-local: the kernel makes it itself."""
        return self.scope == _RT_SCOPE_LINK


@dataclass(frozen=True, slots=True)
class RouteMessage:
    """A route of the main table."""

    route: Route
    index: int
    """Of the device; 0 for a route with several next hops."""
    automatic: bool
    """Made by the kernel for an address."""


def encode_link(name: str, *, up: bool = False, mtu: int | None = None) -> bytes:
    """Encode a device's name, and how it should be. `mtu` in bytes."""
    flags = IFF_UP if up else 0
    wanted = b"" if mtu is None else attribute(_IFLA_MTU, _NUMBER.pack(mtu))
    return _LINK.pack(_AF_UNSPEC, 0, 0, flags, flags) + text_attribute(_IFLA_IFNAME, name) + wanted


def encode_placed(name: str, netns: int, kind: str | None = None) -> bytes:
    """Encode a device that is to be in the namespace of an open descriptor: moved there or, with a kind, made."""
    made = b"" if kind is None else attribute(_IFLA_LINKINFO | NLA_F_NESTED, text_attribute(_IFLA_INFO_KIND, kind))
    return encode_link(name) + attribute(_IFLA_NET_NS_FD, _NUMBER.pack(netns)) + made


def encode_link_request(name: str = "", index: int = 0) -> bytes:
    """Ask for one device, by its name or its index; with neither, for a dump of all."""
    wanted = text_attribute(_IFLA_IFNAME, name) if name else b""
    quick = attribute(_IFLA_EXT_MASK, _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS))
    return _LINK.pack(_AF_UNSPEC, 0, index, 0, 0) + wanted + quick


def encode_address(index: int, address: IPInterface) -> bytes:
    """Encode an address of a device, to be added or removed."""
    # Of the link's scope no program, and no other device without an address, takes it for the node's own.
    local = isinstance(address, IPv4Interface) and address.ip.is_link_local
    scope = _RT_SCOPE_LINK if local else _RT_SCOPE_UNIVERSE
    head = _ADDRESS.pack(AF[address.version], address.network.prefixlen, 0, scope, index)
    attrs = attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    # Nobody else can be asked on such a device.
    lonely = attribute(_IFA_FLAGS, _NUMBER.pack(_IFA_F_NODAD)) if isinstance(address, IPv6Interface) else b""
    return head + attrs + lonely


def encode_address_request(index: int) -> bytes:
    """Ask for a dump of the addresses of a device. Kernels before 4.20 list those of others too."""
    return _ADDRESS.pack(_AF_UNSPEC, 0, 0, 0, index)


def encode_route(index: int, route: Route) -> bytes:
    """Encode a route through a device, to be added or removed."""
    network = route.network
    scope = _RT_SCOPE_LINK if isinstance(network, IPv4Network) else _RT_SCOPE_UNIVERSE
    head = _ROUTE.pack(
        *(AF[network.version], network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
    )
    attrs = attribute(_RTA_DST, network.network_address.packed) + attribute(_RTA_OIF, _NUMBER.pack(index))
    if route.mtu is not None:
        attrs += attribute(_RTA_METRICS | NLA_F_NESTED, attribute(_RTAX_MTU, _NUMBER.pack(route.mtu)))
    return head + attrs


def encode_every_route_request() -> bytes:
    """Ask for a dump of the routes of all tables."""
    return _ROUTE.pack(_AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)


def encode_route_request() -> bytes:
    """Ask for a dump of the routes of the main table. Kernels before 4.20 list those of others too."""
    head = _ROUTE.pack(_AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    return head + attribute(_RTA_TABLE, _NUMBER.pack(_RT_TABLE_MAIN))


def decode_link(payload: memoryview) -> InterfaceMessage:
    """Decode a device, from what follows a message's header."""
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    values = dict(attributes(payload[_LINK.size :]))
    info = dict(attributes(values.get(_IFLA_LINKINFO, memoryview(b""))))
    return InterfaceMessage(
        index=index,
        name=text(values.get(_IFLA_IFNAME)),
        kind=text(info.get(_IFLA_INFO_KIND)),
        flags=flags,
        mtu=number(values.get(_IFLA_MTU)),
        master=number(values.get(_IFLA_MASTER)),
        peer=number(values.get(_IFLA_LINK)),
        peer_netns=number(values[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in values else None,
    )


def encode_netns_request(netns: int) -> bytes:
    """Ask for the number of another namespace, by an open descriptor of it."""
    return bytes(_NUMBER.size) + attribute(_NETNSA_FD, _NUMBER.pack(netns))  # struct rtgenmsg, padded


def decode_netns(payload: memoryview) -> int | None:
    """Decode that number; None where it has none."""
    values = dict(attributes(payload[_NUMBER.size :]))
    found = int.from_bytes(values[_NETNSA_NSID], sys.byteorder, signed=True)
    return found if found >= 0 else None


def decode_address(payload: memoryview) -> AddressMessage:
    """Decode an address, from what follows a message's header."""
    family, length, _, scope, index = _ADDRESS.unpack_from(payload)
    values = dict(attributes(payload[_ADDRESS.size :]))
    local = bytes(values[_IFA_LOCAL] if _IFA_LOCAL in values else values[_IFA_ADDRESS])
    kind = IPv4Interface if family == AF[4] else IPv6Interface
    return AddressMessage(index, kind((local, length)), scope)


def decode_route(payload: memoryview) -> RouteMessage | None:
    """Decode a route, from what follows a message's header; None for one of another table, or that leads nowhere."""
    family, length, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(payload)
    values = dict(attributes(payload[_ROUTE.size :]))
    if kind != _RTN_UNICAST or number(values.get(_RTA_TABLE)) != _RT_TABLE_MAIN or family not in _EVERYWHERE:
        return None
    network = _destination(family, length, values.get(_RTA_DST))
    metrics = dict(attributes(values.get(_RTA_METRICS, memoryview(b""))))
    mtu = number(metrics.get(_RTAX_MTU)) or None
    return RouteMessage(Route(network, mtu), number(values.get(_RTA_OIF)), protocol == _RTPROT_KERNEL)


def decode_reached(payload: memoryview) -> tuple[IPNetwork, int] | None:
    """Decode the network that a route of any table leads to, and by which device; None for one that leads nowhere."""
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(payload)
    values = dict(attributes(payload[_ROUTE.size :]))
    if kind not in (_RTN_UNICAST, _RTN_LOCAL) or family not in _EVERYWHERE:
        return None
    return _destination(family, length, values.get(_RTA_DST)), number(values.get(_RTA_OIF))


def _destination(family: int, length: int, address: memoryview | None) -> IPNetwork:
    packed = bytes(address) if address is not None else _EVERYWHERE[family]
    return IPv4Network((packed, length)) if family == AF[4] else IPv6Network((packed, length))
