"""Our messages of rtnetlink against pyroute2's: what one writes is what the other writes, and reads the same."""

from __future__ import annotations

import struct
from ipaddress import ip_interface, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent.linux import rtnetlink_codec
from mesh.model.net import IPInterface
from mesh.topology.wgtypes import Route

AF = {4: 2, 6: 10}
MAIN = 254

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=15)
numbers = st.integers(1, 2**31 - 1)
interfaces = st.builds(
    lambda address, cut: ip_interface((address, address.max_prefixlen * cut // 8)),
    st.ip_addresses(),
    st.integers(0, 8),
)
networks = interfaces.map(lambda interface: interface.network)
routes = st.builds(Route, networks, st.none() | numbers)
macs = st.none() | st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))


def by_pyroute2(kind: Any, attrs: list[tuple[str, Any]], **header: int) -> bytes:  # noqa: ANN401 - it has no types
    message = kind()
    for field, value in header.items():
        message[field] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data[16:])


def read_by_pyroute2(kind: Any, payload: bytes) -> Any:  # noqa: ANN401 - it has no types
    message = kind(struct.pack("=IHHII", 16 + len(payload), 0, 0, 0, 0) + payload)
    message.decode()
    return message


def plain(payload: bytes) -> bytes:
    """Without the mark of an attribute that holds others, which the kernel lets be left out (linux/netlink.h)."""
    return payload.replace(b"\x12\x80", b"\x12\x00").replace(b"\x08\x80", b"\x08\x00")


@given(names, numbers, numbers)
def test_what_is_asked_of_a_device(name: str, mtu: int, netns: int) -> None:
    named = ("IFLA_IFNAME", name)
    assert rtnetlink_codec.encode_link(name) == by_pyroute2(ifinfmsg, [named])
    assert rtnetlink_codec.encode_link(name, up=True) == by_pyroute2(ifinfmsg, [named], flags=1, change=1)
    assert rtnetlink_codec.encode_link(name, mtu=mtu) == by_pyroute2(ifinfmsg, [named, ("IFLA_MTU", mtu)])
    placed = [named, ("IFLA_NET_NS_FD", netns)]
    assert rtnetlink_codec.encode_placed(name, netns) == by_pyroute2(ifinfmsg, placed)
    made = [*placed, ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "wireguard")]})]
    assert plain(rtnetlink_codec.encode_placed(name, netns, "wireguard")) == plain(by_pyroute2(ifinfmsg, made))


@given(names, numbers)
def test_what_is_asked_for(name: str, index: int) -> None:
    quick = ("IFLA_EXT_MASK", 8)
    assert rtnetlink_codec.encode_link_request(name) == by_pyroute2(ifinfmsg, [("IFLA_IFNAME", name), quick])
    assert rtnetlink_codec.encode_link_request(index=index) == by_pyroute2(ifinfmsg, [quick], index=index)
    assert rtnetlink_codec.encode_link_request() == by_pyroute2(ifinfmsg, [quick])
    assert rtnetlink_codec.encode_address_request(index) == by_pyroute2(ifaddrmsg, [], family=0, index=index)
    assert rtnetlink_codec.encode_route_request() == by_pyroute2(rtmsg, [("RTA_TABLE", MAIN)], family=0)


@given(numbers, interfaces)
def test_an_address(index: int, address: IPInterface) -> None:
    attrs: list[tuple[str, Any]] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    attrs += [("IFA_FLAGS", 2)] if address.version == 6 else []
    header = {"family": AF[address.version], "prefixlen": address.network.prefixlen, "index": index}
    header["scope"] = 253 if address.version == 4 and address.ip.is_link_local else 0
    assert rtnetlink_codec.encode_address(index, address) == by_pyroute2(ifaddrmsg, attrs, **header)


@given(numbers, routes)
def test_a_route(index: int, route: Route) -> None:
    attrs: list[tuple[str, Any]] = [("RTA_DST", str(route.network.network_address)), ("RTA_OIF", index)]
    attrs += [("RTA_METRICS", {"attrs": [("RTAX_MTU", route.mtu)]})] if route.mtu else []
    head = {"family": AF[route.network.version], "dst_len": route.network.prefixlen, "table": MAIN}
    head |= {"proto": 4, "scope": 253 if route.network.version == 4 else 0, "type": 1}
    assert plain(rtnetlink_codec.encode_route(index, route)) == plain(by_pyroute2(rtmsg, attrs, **head))


@given(names, st.tuples(numbers, numbers, st.integers(0, 2**16)), st.none() | names, macs)
def test_a_device_is_read(name: str, figures: tuple[int, int, int], kind: str | None, mac: str | None) -> None:
    index, mtu, flags = figures
    attrs: list[tuple[str, Any]] = [("IFLA_IFNAME", name), ("IFLA_TXQLEN", 1000), ("IFLA_MTU", mtu)]
    attrs += [("IFLA_ADDRESS", mac)] if mac else []
    attrs += [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})] if kind else []
    payload = by_pyroute2(ifinfmsg, attrs, index=index, flags=flags)
    seen = rtnetlink_codec.decode_link(memoryview(payload))
    assert seen == rtnetlink_codec.InterfaceMessage(index, name, kind or "", flags, mtu)
    theirs = read_by_pyroute2(ifinfmsg, payload)
    assert (seen.index, seen.mtu) == (theirs["index"], theirs.get_attr("IFLA_MTU"))


@given(numbers, interfaces, st.sampled_from([0, 253, 254]), st.booleans())
def test_an_address_is_read(index: int, address: IPInterface, scope: int, local: bool) -> None:
    attrs: list[tuple[str, Any]] = [("IFA_ADDRESS", str(address.ip))]
    attrs += [("IFA_LOCAL", str(address.ip))] if local else []
    head = {"family": AF[address.version], "prefixlen": address.network.prefixlen, "index": index, "scope": scope}
    seen = rtnetlink_codec.decode_address(memoryview(by_pyroute2(ifaddrmsg, attrs, **head)))
    assert seen == rtnetlink_codec.AddressMessage(index, address, scope)
    assert seen.automatic == (scope == 253)


@given(numbers, routes, st.sampled_from([1, 2, 3]), st.sampled_from([MAIN, 255, 1000]), st.sampled_from([2, 3, 4]))
def test_a_route_is_read(index: int, route: Route, kind: int, table: int, protocol: int) -> None:
    attrs: list[tuple[str, Any]] = [("RTA_TABLE", table), ("RTA_OIF", index)]
    attrs += [("RTA_DST", str(route.network.network_address))] if route.network.prefixlen else []
    attrs += [("RTA_METRICS", {"attrs": [("RTAX_HOPLIMIT", 3), ("RTAX_MTU", route.mtu)]})] if route.mtu else []
    head = {"family": AF[route.network.version], "dst_len": route.network.prefixlen, "type": kind, "proto": protocol}
    seen = rtnetlink_codec.decode_route(memoryview(by_pyroute2(rtmsg, attrs, **head)))
    expected = rtnetlink_codec.RouteMessage(route, index, protocol == 2)
    assert seen == (expected if kind == 1 and table == MAIN else None)


def test_multipath_route_belongs_to_no_device() -> None:
    payload = by_pyroute2(rtmsg, [("RTA_TABLE", MAIN), ("RTA_DST", "10.0.0.0")], family=AF[4], dst_len=8, type=1)
    assert rtnetlink_codec.decode_route(memoryview(payload)) == rtnetlink_codec.RouteMessage(
        Route(ip_network("10.0.0.0/8")), 0, False
    )
