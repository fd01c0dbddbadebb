"""Devices, addresses and routes of a network namespace, by rtnetlink.

The messages go over our own sockets (agent/linux/netlink_socket.py). pyroute2's socket objects may only be used from
the thread that made them and hold an event loop with four descriptors each, so they cannot be kept for every task of
a node and shared by threads (tried with 0.9.7). It encodes and decodes what is asked for rarely, the look-up of a
route; what is asked for at every look at a task, agent/linux/rtnetlink_codec.py does.

Every setter is idempotent: what is already so stays so, and no packet is lost by asking again.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent.errors import RouteClashError
from agent.linux import rtnetlink_codec, sysctl
from agent.linux.netlink_socket import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attribute, explained
from mesh.model.net import overlap

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from agent.linux.netlink_socket import Message
    from agent.linux.netns import TaskNetns
    from agent.linux.rtnetlink_codec import InterfaceMessage, RouteMessage
    from mesh.model.net import IPAddress, IPInterface, IPNetwork
    from mesh.topology.wgtypes import Route

_HEADER_BYTES = 16  # struct nlmsghdr
_RTA_IP_PROTO = 27  # linux/rtnetlink.h; pyroute2 does not know it
_RTN_LOCAL = 2  # linux/rtnetlink.h: to one of the node's own addresses
_RTM_F_FIB_MATCH = 0x2000  # linux/rtnetlink.h: the route as it is configured (Linux 4.13)

DEVICE_PREFIX = "lw"
"""What the name of every device of ours begins with."""
ETHERNET_MTU = 1500
_VETH = "veth"
_NEARLY_EVERYWHERE = {4: 7, 6: 8}
"""Bits of a route that says nothing of what is there: halves of everything, fd00::/8."""
_NO_WAY_THERE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """A device as it is seen in its network namespace."""

    up: bool
    mtu: int
    """Bytes."""
    addresses: frozenset[IPInterface]
    """Without those the kernel makes itself (link-local)."""
    routes: frozenset[Route]
    """Of the main table, without those the kernel makes itself for an address."""


def create_wireguard(home: TaskNetns, netns: TaskNetns, name: str) -> bool:
    """Make a WireGuard device in `netns` whose UDP socket is in `home`, in one step.

    The message is sent from home with the other namespace as its target: the kernel opens the socket where the
    request came from (drivers/net/wireguard/device.c, wg_newlink), and the name is never seen at home.

    Returns:
        False when a device or, at home, another one of that name is there already.

    Raises:
        NetnsGoneError, Retryable, Terminal.
    """
    wanted = rtnetlink_codec.encode_placed(name, netns.fileno(), "wireguard")
    with explained(f"create the WireGuard device {name}"):
        try:
            _request(home, rtnetlink_codec.RTM_NEWLINK, wanted, NLM_F_CREATE | NLM_F_EXCL)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
    return True


def move(home: TaskNetns, netns: TaskNetns, name: str) -> None:
    """Move a device from one namespace to another. It loses its addresses and is down there.

    Raises:
        DeviceNotFoundError, NetnsGoneError, Retryable, Terminal.
    """
    with explained(f"move the device {name} into {netns.path}"):
        _request(home, rtnetlink_codec.RTM_NEWLINK, rtnetlink_codec.encode_placed(name, netns.fileno()))


def kind(netns: TaskNetns, name: str) -> str | None:
    """Return the kind of a device ("wireguard", "tun", "" for a physical one); None when it is not there."""
    link = _link(netns, name)
    return None if link is None else link.kind


def is_up(netns: TaskNetns, name: str) -> bool | None:
    """Tell whether a device is up, or None when it is not there. Raises NetnsGoneError, Retryable."""
    link = _link(netns, name)
    return None if link is None else bool(link.flags & rtnetlink_codec.IFF_UP)


def of_kind(netns: TaskNetns, kind: str) -> tuple[str, ...]:
    """List the names of all devices of one kind, sorted. Raises NetnsGoneError, Retryable."""
    return tuple(sorted(link.name for link in _devices(netns) if link.kind == kind))


def found(netns: TaskNetns, kind: str) -> tuple[str, ...]:
    """List the names of our devices of one kind, sorted. Raises NetnsGoneError, Retryable."""
    return tuple(name for name in of_kind(netns, kind) if name.startswith(DEVICE_PREFIX))


def names(netns: TaskNetns) -> tuple[str, ...]:
    """List the names of a namespace's devices. Raises NetnsGoneError, Retryable."""
    return tuple(link.name for link in _devices(netns))


def far_ends(netns: TaskNetns, other: TaskNetns, bridges: Container[str] | None = None) -> tuple[str, ...]:
    """List the other ends of a namespace's veth devices that are in another namespace, by their names there.

    Args:
        netns: the one that has the devices.
        other: the one that has their other ends.
        bridges: if given, only ports of bridges of these names count.

    Raises:
        NetnsGoneError, Retryable, Terminal.
    """
    with explained(f"look up {other.path} in {netns.path}"):
        request = rtnetlink_codec.encode_netns_request(other.fileno())
        answer = _request(netns, rtnetlink_codec.RTM_GETNSID, request)
    number = rtnetlink_codec.decode_netns(answer[0].payload)
    if number is None:
        return ()
    peers = {link.peer for link in _devices(netns) if link.kind == _VETH and link.peer_netns == number}
    devices = _devices(other) if peers else []
    masters = {link.index for link in devices if bridges is not None and link.name in bridges}
    ends = (link for link in devices if link.kind == _VETH and link.index in peers)
    return tuple(sorted(link.name for link in ends if bridges is None or link.master in masters))


def observe(netns: TaskNetns, name: str) -> InterfaceState | None:
    """Read a device, or None when it is not there. Raises NetnsGoneError, Retryable."""
    link = _link(netns, name)
    if link is None:
        return None
    return InterfaceState(
        up=bool(link.flags & rtnetlink_codec.IFF_UP),
        mtu=link.mtu,
        addresses=frozenset(_addresses(netns, link.index)),
        routes=frozenset(r.route for r in _routes(netns) if r.index == link.index and not r.automatic),
    )


def enable_ipv6(netns: TaskNetns, name: str) -> bool:
    """Let the device have IPv6 addresses; Docker turns that off in a task's namespace.

    Returns:
        False when the kernel has no IPv6: then no IPv6 address can be added either.

    Raises:
        DeviceNotFoundError, NetnsGoneError, Retryable.
        Terminal: also where the device's MTU is below 1280 bytes.
    """
    _index(netns, name)
    return netns.run(lambda: sysctl.enable_ipv6(name))


def add_address(netns: TaskNetns, name: str, address: IPInterface) -> None:
    """Give the device an address. Raises DeviceNotFoundError, NetnsGoneError, Retryable, Terminal."""
    with explained(f"add the address {address} to {name}"):
        wanted = rtnetlink_codec.encode_address(_index(netns, name), address)
        _request(netns, rtnetlink_codec.RTM_NEWADDR, wanted, NLM_F_CREATE | NLM_F_REPLACE)


def remove_address(netns: TaskNetns, name: str, address: IPInterface) -> None:
    """Take an address from the device. Raises DeviceNotFoundError, NetnsGoneError, Retryable, Terminal."""
    with explained(f"remove the address {address} from {name}"):
        try:
            _request(netns, rtnetlink_codec.RTM_DELADDR, rtnetlink_codec.encode_address(_index(netns, name), address))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise


def add_route(netns: TaskNetns, name: str, route: Route) -> None:
    """Route a network through the device, which must be up; a route of it with another MTU is changed in place.

    Without a gateway, and all with the one priority the kernel gives where none is asked for, a network has one
    route at most in either family, and NLM_F_REPLACE exchanges it in one step (fib_table_insert in
    net/ipv4/fib_trie.c, fib6_add_rt2node in net/ipv6/ip6_fib.c): the table is at no moment without one. An IPv4
    lookup that runs on another processor just then may still hold the old one, see that it is dead and pass it over
    (fib_table_lookup, fib_dead): that one packet has no way.

    Raises:
        RouteClashError: the network overlaps one that the task reaches through another device. A default route is
        none. DeviceNotFoundError, NetnsGoneError, Retryable, Terminal.
    """
    index = _index(netns, name)
    _clash(netns, name, index, route.network)
    with explained(f"route {route.network} through {name}"):
        wanted = rtnetlink_codec.encode_route(index, route)
        _request(netns, rtnetlink_codec.RTM_NEWROUTE, wanted, NLM_F_CREATE | NLM_F_REPLACE)


def remove_route(netns: TaskNetns, name: str, route: Route) -> None:
    """Remove this very route: one of the same network with another MTU stays, so that adding first is safe.

    Raises:
        DeviceNotFoundError, NetnsGoneError, Retryable, Terminal.
    """
    index = _index(netns, name)
    if not any(seen.index == index and seen.route == route for seen in _routes(netns)):
        return
    with explained(f"remove the route of {route.network} through {name}"):
        try:
            _request(netns, rtnetlink_codec.RTM_DELROUTE, rtnetlink_codec.encode_route(index, route))
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def holders(netns: TaskNetns, address: IPAddress) -> tuple[str, ...]:
    """List the devices that have an address, by name, link-local addresses too. Raises NetnsGoneError, Retryable."""
    with explained(f"list the addresses of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(
            rtnetlink_codec.RTM_GETADDR, rtnetlink_codec.encode_address_request(0)
        )
    seen = (rtnetlink_codec.decode_address(message.payload) for message in answer)
    indexes = {one.index for one in seen if one.address.ip == address}
    links = (_link(netns, index=index) for index in indexes)
    return tuple(sorted(link.name for link in links if link is not None))


def set_mtu(netns: TaskNetns, name: str, mtu: int) -> None:
    """Set the device's MTU, in bytes. Raises DeviceNotFoundError, NetnsGoneError, Retryable, Terminal."""
    with explained(f"set the MTU of {name} to {mtu}"):
        _request(netns, rtnetlink_codec.RTM_NEWLINK, rtnetlink_codec.encode_link(name, mtu=mtu))


def set_up(netns: TaskNetns, name: str) -> None:
    """Bring the device up, which opens the UDP socket of a kernel device.

    Raises:
        PortTakenError: its listen port is in use on the node; it stays down.
        DeviceNotFoundError, NetnsGoneError, Retryable, Terminal.
    """
    with explained(f"bring {name} up"):
        _request(netns, rtnetlink_codec.RTM_NEWLINK, rtnetlink_codec.encode_link(name, up=True))


def delete(netns: TaskNetns, name: str) -> None:
    """Delete the device if it is there. Raises NetnsGoneError, Retryable, Terminal."""
    with explained(f"delete {name}"):
        try:
            _request(netns, rtnetlink_codec.RTM_DELLINK, rtnetlink_codec.encode_link(name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def ways_to(netns: TaskNetns, networks: Iterable[IPNetwork]) -> tuple[str, ...]:
    """List all routes by which a namespace reaches a part of the networks, as `NETWORK by DEVICE`, sorted.

    One that leads nearly everywhere, as a default route does, is none. Raises NetnsGoneError, Retryable, Terminal.
    """
    wanted = tuple(networks)
    with explained(f"list all routes of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(
            rtnetlink_codec.RTM_GETROUTE, rtnetlink_codec.encode_every_route_request()
        )
    ways = set()
    for network, index in filter(None, (rtnetlink_codec.decode_reached(message.payload) for message in answer)):
        if network.prefixlen > _NEARLY_EVERYWHERE[network.version] and any(overlap(network, one) for one in wanted):
            link = _link(netns, index=index) if index else None
            ways.add(f"{network} by {link.name if link else 'several devices'}")
    return tuple(sorted(ways))


def route_mtu(home: TaskNetns, destinations: Iterable[IPAddress], *, learned: bool = True) -> int:
    """Return the largest packet, in bytes, that fits the way from the node to each of the underlay addresses.

    Of a route: its own MTU where it has one (set by hand, or learned from the path), else its device's. The node's
    own addresses go through the loopback device and limit nothing; nor does an address without a way there.

    Args:
        home: the node's own namespace.
        destinations: the addresses.
        learned: whether what was learned from the path counts.

    Returns:
        The smallest of them; ETHERNET_MTU where nothing says less or more.

    Raises:
        Retryable, Terminal.
    """
    found = (_mtu_to(home, destination, learned=learned) for destination in set(destinations))
    return min((mtu for mtu in found if mtu is not None), default=ETHERNET_MTU)


def _mtu_to(home: TaskNetns, destination: IPAddress, *, learned: bool) -> int | None:
    with explained(f"look up the route to {destination}"):
        try:
            found = _request(home, rtnetlink_codec.RTM_GETROUTE, _encode_lookup(destination, learned=learned))
        except OSError as error:
            if error.errno in _NO_WAY_THERE:
                return None
            raise
    # pyroute2 has no types: its message is Any here, and nothing of it leaves this function.
    route: Any = rtmsg(found[0].raw)
    route.decode()
    link = _link(home, index=int(route.get_attr("RTA_OIF") or 0))
    if link is None or link.flags & rtnetlink_codec.IFF_LOOPBACK or route["type"] == _RTN_LOCAL:
        return None
    metrics = route.get_attr("RTA_METRICS")
    mtu = metrics.get_attr("RTAX_MTU") if metrics else None
    return int(mtu) if mtu else link.mtu


def _encode_lookup(destination: IPAddress, *, learned: bool) -> bytes:
    lookup: Any = rtmsg()
    lookup["flags"] = 0 if learned else _RTM_F_FIB_MATCH
    lookup["family"], lookup["dst_len"] = rtnetlink_codec.AF[destination.version], destination.max_prefixlen
    # Of IPv4 the kernel takes a look-up for one of UDP where nothing is said, and mode `all` of node encryption sends
    # UDP through its own device: its MTU would be that of the way, and become smaller with every look.
    protocol = socket.IPPROTO_ICMP if destination.version == 4 else socket.IPPROTO_ICMPV6  # noqa: PLR2004 - IP
    lookup["attrs"] = [("RTA_DST", str(destination))]
    lookup.encode()
    return bytes(lookup.data[_HEADER_BYTES:]) + attribute(_RTA_IP_PROTO, bytes([protocol]))


def _request(netns: TaskNetns, what: int, payload: bytes, flags: int = 0) -> list[Message]:
    return netns.socket(NETLINK_ROUTE).request(what, payload, flags)


def _link(netns: TaskNetns, name: str = "", index: int = 0) -> InterfaceMessage | None:
    with explained(f"read a device of {netns.path}"):
        try:
            answer = _request(netns, rtnetlink_codec.RTM_GETLINK, rtnetlink_codec.encode_link_request(name, index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    return rtnetlink_codec.decode_link(answer[0].payload)


def _devices(netns: TaskNetns) -> list[InterfaceMessage]:
    with explained(f"list the devices of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(rtnetlink_codec.RTM_GETLINK, rtnetlink_codec.encode_link_request())
    return [rtnetlink_codec.decode_link(message.payload) for message in answer]


def _index(netns: TaskNetns, name: str) -> int:
    with explained(f"look up the device {name} of {netns.path}"):
        return netns.socket(NETLINK_ROUTE).device_index(name)


def _addresses(netns: TaskNetns, index: int) -> Iterator[IPInterface]:
    with explained(f"list the addresses of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(
            rtnetlink_codec.RTM_GETADDR, rtnetlink_codec.encode_address_request(index)
        )
    for message in answer:
        seen = rtnetlink_codec.decode_address(message.payload)
        if seen.index == index and not seen.automatic:
            yield seen.address


def _routes(netns: TaskNetns) -> Iterator[RouteMessage]:
    with explained(f"list the routes of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(
            rtnetlink_codec.RTM_GETROUTE, rtnetlink_codec.encode_route_request()
        )
    return filter(None, (rtnetlink_codec.decode_route(message.payload) for message in answer))


def _clash(netns: TaskNetns, name: str, index: int, network: IPNetwork) -> None:
    """Raise RouteClashError when another device of the task leads to a part of the network."""
    for seen in _routes(netns):
        theirs = seen.route.network
        if seen.index != index and theirs.prefixlen and overlap(theirs, network):
            other = _link(netns, index=seen.index) if seen.index else None
            device = other.name if other else "several devices"
            raise RouteClashError(
                f"{network} cannot be routed through {name}: the task reaches {theirs} through {device}"
            )
