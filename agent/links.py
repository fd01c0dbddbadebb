"""Links, addresses and routes of a network namespace, by rtnetlink.

pyroute2 encodes and decodes the messages; they go over our own sockets (agent/netlink.py). pyroute2's own socket
objects may only be used from the thread that made them and hold an event loop with four descriptors each, so they
cannot be kept for every task of a node and shared by threads (tried with 0.9.7).

Every setter is idempotent: what is already so stays so, and no packet is lost by asking again.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent import sysctl
from agent.errors import RouteClash
from agent.netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, explained
from mesh.errors import DeviceNotFound
from mesh.wgtypes import Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.netlink import Message
    from agent.netns import TaskNetns
    from mesh.wgtypes import IPAddress, IPInterface, IPNetwork

# linux/rtnetlink.h, linux/if.h, linux/if_link.h, linux/if_addr.h
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_RTEXT_FILTER_SKIP_STATS = 0x8
_IFA_F_NODAD = 0x2
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RTPROT_KERNEL, _RTPROT_STATIC = 2, 4
_RTN_UNICAST = 1
_AF_UNSPEC = 0
_AF = {4: 2, 6: 10}  # linux/socket.h
_HEADER_BYTES = 16  # struct nlmsghdr

DEVICE_PREFIX = "lw"
"""What the name of every device of ours begins with."""
ETHERNET_MTU = 1500
_NO_WAY_THERE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class Link:
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
        NetnsGone, Retryable, Terminal.
    """
    wanted = {"attrs": [("IFLA_INFO_KIND", "wireguard")]}
    attrs = [("IFLA_IFNAME", name), ("IFLA_NET_NS_FD", netns.fileno()), ("IFLA_LINKINFO", wanted)]
    with explained(f"create the WireGuard device {name}"):
        try:
            _request(home, _RTM_NEWLINK, _encode(ifinfmsg, attrs), NLM_F_CREATE | NLM_F_EXCL)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
    return True


def move(home: TaskNetns, netns: TaskNetns, name: str) -> None:
    """Move a device from one namespace to another. It loses its addresses and is down there.

    Raises:
        DeviceNotFound, NetnsGone, Retryable, Terminal.
    """
    attrs = [("IFLA_IFNAME", name), ("IFLA_NET_NS_FD", netns.fileno())]
    with explained(f"move the device {name} into {netns.path}"):
        _request(home, _RTM_NEWLINK, _encode(ifinfmsg, attrs))


def kind(netns: TaskNetns, name: str) -> str | None:
    """What a device is ("wireguard", "tun", "" for a physical one), or None when it is not there."""
    link = _link(netns, [("IFLA_IFNAME", name)])
    return None if link is None else _kind(link)


def found(netns: TaskNetns, of_kind: str) -> tuple[str, ...]:
    """The names of the devices of one kind that are ours by their name, sorted. Raises NetnsGone, Retryable."""
    names = (str(link.get_attr("IFLA_IFNAME")) for link in _devices(netns) if _kind(link) == of_kind)
    return tuple(sorted(name for name in names if name.startswith(DEVICE_PREFIX)))


def hardware_addresses(netns: TaskNetns) -> frozenset[str]:
    """The MAC addresses of the devices of a namespace but the loopback's. Raises NetnsGone, Retryable."""
    addresses = (link.get_attr("IFLA_ADDRESS") for link in _devices(netns) if not link["flags"] & _IFF_LOOPBACK)
    return frozenset(str(address) for address in addresses if address)


def observe(netns: TaskNetns, name: str) -> Link | None:
    """Read a device, or None when it is not there. Raises NetnsGone, Retryable."""
    link = _link(netns, [("IFLA_IFNAME", name)])
    if link is None:
        return None
    index = int(link["index"])
    return Link(
        up=bool(link["flags"] & _IFF_UP),
        mtu=int(link.get_attr("IFLA_MTU")),
        addresses=frozenset(_addresses(netns, index)),
        routes=frozenset(r.route for r in _routes(netns) if r.index == index and not r.automatic),
    )


def enable_ipv6(netns: TaskNetns, name: str) -> bool:
    """Let the device have IPv6 addresses; Docker turns that off in a task's namespace.

    Returns:
        False when the kernel has no IPv6: then no IPv6 address can be added either.

    Raises:
        DeviceNotFound, NetnsGone, Retryable.
        Terminal: also where the device's MTU is below 1280 bytes.
    """
    _index(netns, name)
    return netns.run(lambda: sysctl.enable_ipv6(name))


def add_address(netns: TaskNetns, name: str, address: IPInterface) -> None:
    """Give the device an address. Raises DeviceNotFound, NetnsGone, Retryable, Terminal."""
    with explained(f"add the address {address} to {name}"):
        _request(netns, _RTM_NEWADDR, _address(netns, name, address), NLM_F_CREATE | NLM_F_REPLACE)


def remove_address(netns: TaskNetns, name: str, address: IPInterface) -> None:
    """Take an address from the device. Raises DeviceNotFound, NetnsGone, Retryable, Terminal."""
    with explained(f"remove the address {address} from {name}"):
        try:
            _request(netns, _RTM_DELADDR, _address(netns, name, address))
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
        RouteClash: the network overlaps one that the task reaches through another device. A default route is none.
        DeviceNotFound, NetnsGone, Retryable, Terminal.
    """
    index = _index(netns, name)
    _clash(netns, name, index, route.network)
    with explained(f"route {route.network} through {name}"):
        _request(netns, _RTM_NEWROUTE, _route(index, route), NLM_F_CREATE | NLM_F_REPLACE)


def remove_route(netns: TaskNetns, name: str, route: Route) -> None:
    """Remove this very route: one of the same network with another MTU stays, so that adding first is safe.

    Raises:
        DeviceNotFound, NetnsGone, Retryable, Terminal.
    """
    index = _index(netns, name)
    if not any(seen.index == index and seen.route == route for seen in _routes(netns)):
        return
    with explained(f"remove the route of {route.network} through {name}"):
        try:
            _request(netns, _RTM_DELROUTE, _route(index, route))
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def set_mtu(netns: TaskNetns, name: str, mtu: int) -> None:
    """Set the device's MTU, in bytes. Raises DeviceNotFound, NetnsGone, Retryable, Terminal."""
    with explained(f"set the MTU of {name} to {mtu}"):
        _request(netns, _RTM_NEWLINK, _encode(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_MTU", mtu)]))


def set_up(netns: TaskNetns, name: str) -> None:
    """Bring the device up, which opens the UDP socket of a kernel device.

    Raises:
        PortTaken: its listen port is in use on the node; it stays down.
        DeviceNotFound, NetnsGone, Retryable, Terminal.
    """
    with explained(f"bring {name} up"):
        _request(netns, _RTM_NEWLINK, _encode(ifinfmsg, [("IFLA_IFNAME", name)], flags=_IFF_UP, change=_IFF_UP))


def delete(netns: TaskNetns, name: str) -> None:
    """Delete the device if it is there. Raises NetnsGone, Retryable, Terminal."""
    with explained(f"delete {name}"):
        try:
            _request(netns, _RTM_DELLINK, _encode(ifinfmsg, [("IFLA_IFNAME", name)]))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def route_mtu(home: TaskNetns, destinations: Iterable[IPAddress]) -> int:
    """The largest packet, in bytes, that fits the way from the node to each of the underlay addresses.

    Of a route: its own MTU where it has one (set by hand, or learned from the path), else its device's. The node's
    own addresses go through the loopback device and limit nothing; nor does an address without a way there.

    Returns:
        The smallest of them; ETHERNET_MTU where nothing says less or more.

    Raises:
        Retryable, Terminal.
    """
    limits = [mtu for mtu in (_mtu_to(home, destination) for destination in set(destinations)) if mtu is not None]
    return min(limits, default=ETHERNET_MTU)


def _mtu_to(home: TaskNetns, destination: IPAddress) -> int | None:
    attrs = [("RTA_DST", str(destination))]
    payload = _encode(rtmsg, attrs, family=_AF[destination.version], dst_len=destination.max_prefixlen)
    with explained(f"look up the route to {destination}"):
        try:
            route = _decode(rtmsg, _request(home, _RTM_GETROUTE, payload)[0])
        except OSError as error:
            if error.errno in _NO_WAY_THERE:
                return None
            raise
    link = _link(home, [], index=int(route.get_attr("RTA_OIF") or 0))
    if link is None or link["flags"] & _IFF_LOOPBACK:
        return None
    return _route_mtu(route) or int(link.get_attr("IFLA_MTU"))


# pyroute2 has no types: its messages are Any here, and nothing of them leaves this module.


def _encode(message: Any, attrs: list[tuple[str, Any]], **header: int) -> bytes:  # noqa: ANN401 - as above
    encoded = message()
    for field, value in header.items():
        encoded[field] = value
    encoded["attrs"] = attrs
    encoded.encode()
    return bytes(encoded.data[_HEADER_BYTES:])


def _decode(message: Any, received: Message) -> Any:  # noqa: ANN401 - as above
    decoded = message(received.raw)
    decoded.decode()
    return decoded


def _request(netns: TaskNetns, what: int, payload: bytes, flags: int = 0) -> list[Message]:
    return netns.socket(NETLINK_ROUTE).request(what, payload, flags)


def _link(netns: TaskNetns, attrs: list[tuple[str, Any]], **header: int) -> Any:  # noqa: ANN401 - as above
    payload = _encode(ifinfmsg, [*attrs, ("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)], **header)
    with explained(f"read a device of {netns.path}"):
        try:
            return _decode(ifinfmsg, _request(netns, _RTM_GETLINK, payload)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise


def _devices(netns: TaskNetns) -> list[Any]:
    payload = _encode(ifinfmsg, [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)])
    with explained(f"list the devices of {netns.path}"):
        return [_decode(ifinfmsg, m) for m in netns.socket(NETLINK_ROUTE).dump(_RTM_GETLINK, payload)]


def _index(netns: TaskNetns, name: str) -> int:
    link = _link(netns, [("IFLA_IFNAME", name)])
    if link is None:
        raise DeviceNotFound(f"there is no device {name} in {netns.path}")
    return int(link["index"])


def _kind(link: Any) -> str:  # noqa: ANN401 - as above
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND") or "") if info else ""


def _addresses(netns: TaskNetns, index: int) -> Iterator[IPInterface]:
    payload = _encode(ifaddrmsg, [], family=_AF_UNSPEC, index=index)
    with explained(f"list the addresses of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(_RTM_GETADDR, payload)
    for received in answer:
        address = _decode(ifaddrmsg, received)
        if address["index"] == index and address["scope"] != _RT_SCOPE_LINK:
            local = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            yield ip_interface(f"{local}/{address['prefixlen']}")


@dataclass(frozen=True, slots=True)
class _Seen:
    route: Route
    index: int
    """Of the device; 0 for a route with several next hops."""
    automatic: bool
    """Made by the kernel for an address."""


def _routes(netns: TaskNetns) -> Iterator[_Seen]:
    payload = _encode(rtmsg, [("RTA_TABLE", _RT_TABLE_MAIN)], family=_AF_UNSPEC)
    with explained(f"list the routes of {netns.path}"):
        answer = netns.socket(NETLINK_ROUTE).dump(_RTM_GETROUTE, payload)
    for received in answer:
        route = _decode(rtmsg, received)
        if route["type"] != _RTN_UNICAST or route.get_attr("RTA_TABLE") != _RT_TABLE_MAIN:
            continue
        everywhere = "::" if route["family"] == _AF[6] else "0.0.0.0"  # noqa: S104 - a default route, nothing is bound
        network = ip_network(f"{route.get_attr('RTA_DST') or everywhere}/{route['dst_len']}")
        yield _Seen(
            route=Route(network, _route_mtu(route)),
            index=int(route.get_attr("RTA_OIF") or 0),
            automatic=route["proto"] == _RTPROT_KERNEL,
        )


def _route_mtu(route: Any) -> int | None:  # noqa: ANN401 - as above
    metrics = route.get_attr("RTA_METRICS")
    mtu = metrics.get_attr("RTAX_MTU") if metrics else None
    return int(mtu) if mtu else None


def _clash(netns: TaskNetns, name: str, index: int, network: IPNetwork) -> None:
    """Raise RouteClash when another device of the task leads to a part of the network."""
    for seen in _routes(netns):
        theirs = seen.route.network
        if seen.index != index and theirs.prefixlen and _overlap(theirs, network):
            other = _link(netns, [], index=seen.index) if seen.index else None
            device = other.get_attr("IFLA_IFNAME") if other else "several devices"
            raise RouteClash(f"{network} cannot be routed through {name}: the task reaches {theirs} through {device}")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one.overlaps(other)
    return False


def _route(index: int, route: Route) -> bytes:
    attrs: list[tuple[str, Any]] = [("RTA_DST", str(route.network.network_address)), ("RTA_OIF", index)]
    if route.mtu is not None:
        attrs.append(("RTA_METRICS", {"attrs": [("RTAX_MTU", route.mtu)]}))
    return _encode(
        rtmsg,
        attrs,
        family=_AF[route.network.version],
        dst_len=route.network.prefixlen,
        table=_RT_TABLE_MAIN,
        proto=_RTPROT_STATIC,
        scope=_RT_SCOPE_LINK if route.network.version == 4 else _RT_SCOPE_UNIVERSE,  # noqa: PLR2004 - IP version
        type=_RTN_UNICAST,
    )


def _address(netns: TaskNetns, name: str, address: IPInterface) -> bytes:
    attrs: list[tuple[str, Any]] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    if address.version == 6:  # noqa: PLR2004 - IP version
        attrs.append(("IFA_FLAGS", _IFA_F_NODAD))  # nobody else can be asked on such a device
    return _encode(
        ifaddrmsg,
        attrs,
        family=_AF[address.version],
        prefixlen=address.network.prefixlen,
        index=_index(netns, name),
    )
