"""The two ways of writing a change down, read back by their own decoders and by another's."""

from __future__ import annotations

import socket
import struct
from base64 import b64decode
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from agent.linux.netlink_socket import NLA_F_NESTED, attribute
from agent.wireguard import genetlink, uapi
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.errors import Terminal
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.wgtypes import DeviceChange, Peer, PeerChange

NAME = "lw0123456789ab"
KEY = PrivateKey(bytes(range(32)))

public_keys = st.binary(min_size=32, max_size=32).map(PublicKey)
networks = st.builds(
    lambda address, cut: ip_network((address, address.max_prefixlen * cut // 8), strict=False),
    st.ip_addresses(),
    st.integers(0, 8),
)
peers = st.builds(
    PeerChange,
    public_keys,
    st.builds(UdpEndpoint, st.ip_addresses(), st.integers(1, 65535)),
    st.frozensets(networks, max_size=30),
    preshared_key=st.none() | st.binary(min_size=32, max_size=32).filter(any).map(PresharedKey),
    keepalive=st.integers(0, 65535),
)
changes = st.builds(
    DeviceChange,
    st.binary(min_size=32, max_size=32).map(PrivateKey) | st.none(),
    st.integers(0, 65535) | st.none(),
    st.lists(peers, max_size=20, unique_by=lambda peer: peer.public_key).map(tuple),
)


def expected(change: DeviceChange) -> dict[PublicKey, Peer]:
    return {
        peer.public_key: Peer(
            public_key=peer.public_key,
            endpoint=peer.endpoint,
            allowed_ips=peer.allowed_ips or frozenset(),
            preshared_key=peer.preshared_key,
            keepalive=peer.keepalive or 0,
            last_handshake=None,
            rx_bytes=0,
            tx_bytes=0,
        )
        for peer in change.peers
    }


@given(changes, st.integers(60, 2000))
def test_packed_messages_unpack_the_same_however_split(change: DeviceChange, limit: int) -> None:
    # A request to set and the answer to get are made of the same attributes.
    messages = genetlink.encode_set(NAME, change, limit)
    device = genetlink.Decoder().decode(NAME, map(memoryview, messages))
    assert device.peers == expected(change)
    assert device.listen_port == (change.listen_port or 0)


@given(changes)
def test_another_reader_sees_the_same_in_it(change: DeviceChange) -> None:
    keys = []
    for payload in genetlink.encode_set(NAME, change):
        read = read_by_pyroute2(payload)
        assert read.get_attr("WGDEVICE_A_IFNAME") == NAME
        keys += [check_peer(nested, change) for nested in read.get_attr("WGDEVICE_A_PEERS") or ()]
    assert keys == [peer.public_key for peer in change.peers]


def read_by_pyroute2(payload: bytes) -> Any:  # noqa: ANN401 - pyroute2 has no types
    read = wgmsg(struct.pack("=IHHII", 16 + len(payload), 0, 0, 0, 0) + payload)
    read.decode()
    return read


def check_peer(read: Any, change: DeviceChange) -> PublicKey:  # noqa: ANN401 - pyroute2 has no types
    key = PublicKey.parse(read.get_attr("WGPEER_A_PUBLIC_KEY").decode())
    peer = expected(change)[key]
    assert peer.endpoint is not None
    seen = read.get_attr("WGPEER_A_ENDPOINT")
    assert (ip_address(seen["addr"]), seen["port"]) == (peer.endpoint.host, peer.endpoint.port)
    assert read.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == peer.keepalive
    allowed = read.get_attr("WGPEER_A_ALLOWEDIPS") or ()
    assert {ip_network(entry["addr"]) for entry in allowed} == peer.allowed_ips
    shared = read.get_attr("WGPEER_A_PRESHARED_KEY")
    assert (None if shared is None else b64decode(shared)) == (peer.preshared_key and peer.preshared_key.raw)
    return key


@given(networks)
def test_allowed_ip_packs_like_any_nested_attribute(network: IPNetwork) -> None:
    family = attribute(1, struct.pack("=H", {4: socket.AF_INET, 6: socket.AF_INET6}[network.version]))
    address = attribute(2, network.network_address.packed)
    plain = attribute(NLA_F_NESTED, family + address + attribute(3, bytes([network.prefixlen])))
    assert genetlink._allowed_ip(network) == plain


@given(st.builds(UdpEndpoint, st.ip_addresses(), st.integers(0, 65535)), st.integers(0, 65535))
def test_peer_packs_like_any_nested_attribute(endpoint: UdpEndpoint, keepalive: int) -> None:
    key, shared = PublicKey(bytes(range(32))), PresharedKey(bytes(range(1, 33)))
    change = PeerChange(key, endpoint, preshared_key=shared, keepalive=keepalive)
    port, host = struct.pack("!H", endpoint.port), endpoint.host.packed
    family = struct.pack("=H", socket.AF_INET if len(host) == 4 else socket.AF_INET6)
    address = family + port + (host + bytes(8) if len(host) == 4 else bytes(4) + host + bytes(4))
    plain = attribute(1, key.raw) + attribute(2, shared.raw) + attribute(4, address)
    plain += attribute(5, struct.pack("=H", keepalive))
    assert list(genetlink._peer_pieces(change, 1000)) == [attribute(NLA_F_NESTED, plain)]


def test_key_and_port_are_in_first_message() -> None:
    some = tuple(PeerChange(PublicKey(bytes([n] * 32))) for n in range(10))
    first, *rest = genetlink.encode_set(NAME, DeviceChange(KEY, 51820, some), limit=100)
    assert KEY.raw in first
    assert len(rest) > 1
    assert not any(KEY.raw in message for message in rest)
    assert genetlink.encode_set(NAME, DeviceChange()) == []
    assert len(genetlink.encode_set(NAME, DeviceChange(listen_port=1))) == 1


def test_no_message_exceeds_an_attributes_limit() -> None:
    huge = PeerChange(
        PublicKey(bytes(32)), allowed_ips=frozenset(ip_network(f"fd00::{n:x}/128") for n in range(9000))
    )
    messages = genetlink.encode_set(NAME, DeviceChange(peers=(huge,) * 2))
    assert len(messages) > 2
    assert max(map(len, messages)) < 65536


def flags(change: PeerChange) -> list[int]:
    found = []
    for payload in genetlink.encode_set(NAME, DeviceChange(peers=(change,)), limit=60):
        read = read_by_pyroute2(payload)
        found += [peer.get_attr("WGPEER_A_FLAGS") or 0 for peer in read.get_attr("WGDEVICE_A_PEERS")]
    return found


def test_flags() -> None:
    key = PublicKey(bytes(32))
    many = frozenset(ip_network(f"10.0.0.{n}/32") for n in range(3))
    assert flags(PeerChange(key)) == [0]
    assert flags(PeerChange(key, remove=True, allowed_ips=many, keepalive=1)) == [1]
    assert flags(PeerChange(key, update_only=True)) == [4]
    # What is continued must not drop what went before.
    assert flags(PeerChange(key, allowed_ips=many, replace_allowed_ips=True)) == [2, 4, 4]


def test_the_text_that_sets() -> None:
    key = PublicKey(bytes(32))
    full = PeerChange(
        key,
        UdpEndpoint(ip_address("fd00::1"), 1),
        frozenset({ip_network("10.0.0.0/8")}),
        replace_allowed_ips=True,
        keepalive=0,
        update_only=True,
    )
    text = uapi.encode_set(DeviceChange(KEY, 51820, (full, PeerChange(key, remove=True)))).decode()
    assert text.splitlines() == [
        "set=1",
        f"private_key={KEY.raw.hex()}",
        "listen_port=51820",
        f"public_key={'00' * 32}",
        "update_only=true",
        "endpoint=[fd00::1]:1",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        f"public_key={'00' * 32}",
        "remove=true",
        "",
    ]
    assert uapi.encode_set(DeviceChange()) == b"set=1\n\n"


@given(changes)
def test_wireguard_gos_own_text_is_parsed(change: DeviceChange) -> None:
    text = uapi.encode_set(change).decode().removeprefix("set=1\n").rstrip("\n")
    device = uapi.Decoder().decode(NAME, text)
    assert device.peers == expected(change)
    assert device.public_key == (change.private_key.public if change.private_key else None)


PEER_LINE = f"public_key={'00' * 32}\n"


def decoded_preshared(text: str) -> PresharedKey | None:
    (peer,) = uapi.Decoder().decode(NAME, text).peers.values()
    return peer.preshared_key


def test_an_answer_of_wireguard_go() -> None:
    text = (
        f"private_key={KEY.raw.hex()}\nlisten_port=41001\nfwmark=1\n{PEER_LINE}"
        f"preshared_key={'00' * 32}\nprotocol_version=1\nendpoint=[fe80::1%eth0]:7\nlast_handshake_time_sec=5\n"
        "last_handshake_time_nsec=500000000\ntx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.1/32\nallowed_ip=fd00::/64\n"
    )
    device = uapi.Decoder().decode(NAME, text)
    key = PublicKey(bytes(32))
    allowed = frozenset({ip_network("10.0.0.1/32"), ip_network("fd00::/64")})
    assert device.peers == {key: Peer(key, UdpEndpoint(ip_address("fe80::1"), 7), allowed, None, 25, 5.5, 2, 1)}
    shared = decoded_preshared(text.replace(f"preshared_key={'00' * 32}", f"preshared_key={'0a' * 32}"))
    assert shared == PresharedKey(bytes([10] * 32))
    assert (device.public_key, device.listen_port) == (KEY.public, 41001)


@pytest.mark.parametrize(
    "text",
    [
        "colour=blue",
        "rx_bytes=1",
        f"{PEER_LINE}rx_bytes=many",
        f"{PEER_LINE}endpoint=nowhere:1",
        f"{PEER_LINE}endpoint=10.0.0.1",
        f"{PEER_LINE}allowed_ip=10.0.0.300/32",
        f"{PEER_LINE}colour=blue",
        "public_key=12",
        "private_key=zz",
        f"private_key={KEY.raw.hex()}00",
        "listen_port=",
    ],
)
def test_foreign_protocol_text_is_refused_unquoted(text: str) -> None:
    with pytest.raises(Terminal, match="is not understood") as caught:
        uapi.Decoder().decode(NAME, text)
    assert KEY.raw.hex() not in str(caught.value)
