"""Codec of the kernel's WireGuard messages: linux/wireguard.h. No I/O.

A general netlink library takes one message a peer, and 20 times as long; packed, one message holds some 500 peers.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from agent.linux.netlink_socket import NLA_F_NESTED, attribute, attributes, number, text_attribute
from agent.wireguard.peer_decoder import PeerDecoder, Split
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.errors import Terminal
from mesh.model.net import UdpEndpoint
from mesh.topology.wgtypes import Device, Peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.model.net import IPNetwork
    from mesh.topology.wgtypes import DeviceChange, PeerChange

FAMILY_NAME = "wireguard"
GENL_ID_CTRL = 16  # linux/genetlink.h
CTRL_CMD_GETFAMILY = 3
WG_CMD_GET_DEVICE, WG_CMD_SET_DEVICE = 0, 1

_HEADER = struct.Struct("=BBH")  # struct genlmsghdr
_VERSION = 1
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_DEVICE_IFNAME, _DEVICE_PRIVATE_KEY, _DEVICE_PUBLIC_KEY, _DEVICE_LISTEN_PORT, _DEVICE_PEERS = 2, 3, 4, 6, 8
_PEER_PUBLIC_KEY, _PEER_PRESHARED_KEY, _PEER_FLAGS, _PEER_ENDPOINT = 1, 2, 3, 4
_PEER_KEEPALIVE, _PEER_HANDSHAKE = 5, 6
_PEER_RX_BYTES, _PEER_TX_BYTES, _PEER_ALLOWED_IPS = 7, 8, 9
_ALLOWED_IP_FAMILY, _ALLOWED_IP_ADDRESS, _ALLOWED_IP_CIDR = 1, 2, 3
_REMOVE_ME, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}

# How a peer begins in a dump (get_peer in drivers/net/wireguard/netlink.c): key, preshared key, handshake, keepalive,
# bytes sent and received, version of the protocol; then come endpoint and allowed IPs. Where it begins otherwise (a
# processor that needs its 64-bit numbers aligned, a peer that goes on from the message before) it is read attribute
# by attribute.
_HEAD = struct.Struct("=HH32x HH32x HHqq HHHxx HHQ HHQ HHI")
_HEAD_OF = (36, 1, 36, 2, 20, 6, 6, 5, 12, 8, 12, 7, 8, 10)
"""Length and type of each attribute of the head, in order."""
_KEYS_END, _KEEPALIVE, _COUNTERS, _VERSION_AT = 72, 92, 100, 124
"""Where in the head the keys end, and what follows the handshake, the keepalive and the counters begins."""

# Of what is packed for each of thousands of peers the lengths are known: attributes, their headers with them.
_KEY_HEADER, _SHARED_HEADER = (struct.pack("=HH", 36, kind) for kind in (_PEER_PUBLIC_KEY, _PEER_PRESHARED_KEY))
_KEEPALIVE_ATTRIBUTE = struct.Struct("=HHHxx")
# struct sockaddr_in and sockaddr_in6 (linux/in.h, linux/in6.h), the port in network order.
_ENDPOINT = {4: struct.Struct("=HHH2s4s8x"), 6: struct.Struct("=HHH2s4x16s4x")}
# A nest of family, address and length of the prefix.
_ALLOWED_IP = {4: struct.Struct("=HHHHHxxHH4sHHBxxx"), 6: struct.Struct("=HHHHHxxHH16sHHBxxx")}

_IPV4_BYTES = 4

MESSAGE_BYTES = 60_000
"""Of peers in one message: a netlink attribute counts its length in 16 bits, and every peer lies in one."""


def message(command: int, payload: bytes = b"") -> bytes:
    """Encode a generic netlink command with its attributes."""
    return _HEADER.pack(command, _VERSION, 0) + payload


def encode_family_request() -> bytes:
    """Ask the controller family (GENL_ID_CTRL) which number WireGuard's family has."""
    return message(CTRL_CMD_GETFAMILY, text_attribute(_CTRL_ATTR_FAMILY_NAME, FAMILY_NAME))


def decode_family(payload: memoryview) -> int:
    """Read the family's number from the answer. Raises Terminal."""
    for kind, value in attributes(payload[_HEADER.size :]):
        if kind == _CTRL_ATTR_FAMILY_ID:
            return int(struct.unpack("=H", value)[0])
    raise Terminal("the kernel has no number for its WireGuard family")


def encode_get(name: str) -> bytes:
    """Ask for a device, as a dump."""
    return message(WG_CMD_GET_DEVICE, text_attribute(_DEVICE_IFNAME, name))


def encode_set(name: str, change: DeviceChange, limit: int = MESSAGE_BYTES) -> list[bytes]:
    """Encode a change as messages, in the order they must be sent; none when it changes nothing.

    Args:
        name: the device.
        change: what to do. Peers are upserted; nothing that is not named is touched.
        limit: bytes of peers in one message.
    """
    device = b""
    if change.private_key is not None:
        device += attribute(_DEVICE_PRIVATE_KEY, change.private_key.raw)
    if change.listen_port is not None:
        device += attribute(_DEVICE_LISTEN_PORT, struct.pack("=H", change.listen_port))
    batches = list(_batched((piece for peer in change.peers for piece in _peer_pieces(peer, limit)), limit))
    if device and not batches:
        return [message(WG_CMD_SET_DEVICE, text_attribute(_DEVICE_IFNAME, name) + device)]
    messages = []
    for batch in batches:
        peers = attribute(_DEVICE_PEERS | NLA_F_NESTED, batch)
        messages.append(message(WG_CMD_SET_DEVICE, text_attribute(_DEVICE_IFNAME, name) + device + peers))
        device = b""  # in the first message only
    return messages


class Decoder:
    """Decoder of one device's dumps, one after another."""

    def __init__(self) -> None:
        self._peers: PeerDecoder[bytes] = PeerDecoder(lambda raw: raw[4:36], _split, _decode_peer)

    def decode(self, name: str, payloads: Iterable[memoryview]) -> Device:
        """Decode a dump: a peer may begin in one message and go on in the next. Raises Terminal."""
        public_key: PublicKey | None = None
        listen_port = 0
        raws: list[bytes] = []
        for payload in payloads:
            for kind, value in attributes(payload[_HEADER.size :]):
                if kind == _DEVICE_PUBLIC_KEY:
                    public_key = PublicKey(bytes(value))
                elif kind == _DEVICE_LISTEN_PORT:
                    listen_port = struct.unpack("=H", value)[0]
                elif kind == _DEVICE_PEERS:
                    raws += map(bytes, _nests(value))
        peers: dict[PublicKey, Peer] = {}
        for peer in self._peers.decode(raws):
            began = peers.get(peer.public_key)
            if began is not None:  # it goes on from the message before
                peer = replace(began, allowed_ips=began.allowed_ips | peer.allowed_ips)  # noqa: PLW2901
            peers[peer.public_key] = peer
        return Device(name, public_key, listen_port, peers)


class Decoders(dict[str, Decoder]):
    """The decoders of a namespace's devices, by name."""

    def __missing__(self, name: str) -> Decoder:
        """Make a device's decoder at first use."""
        made = self[name] = Decoder()
        return made


def _split(raw: bytes) -> Split[bytes] | None:
    """Take apart a peer that begins with the head."""
    if len(raw) < _HEAD.size:
        return None
    head = _HEAD.unpack_from(raw)
    if (*head[:6], *head[8:10], *head[11:13], *head[14:16], *head[17:19]) != _HEAD_OF:
        return None
    lasting = raw[:_KEYS_END] + raw[_KEEPALIVE:_COUNTERS] + raw[_VERSION_AT:]
    return Split(lasting, _seconds(head[6], head[7]), rx_bytes=head[16], tx_bytes=head[13])


def _batched(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    batch = bytearray()
    for piece in pieces:
        if batch and len(batch) + len(piece) > limit:
            yield bytes(batch)
            batch.clear()
        batch += piece
    if batch:
        yield bytes(batch)


def _peer_pieces(change: PeerChange, limit: int) -> Iterator[bytes]:
    """Encode a peer, nested; as several when its allowed IPs do not fit into one message."""
    key = _KEY_HEADER + change.public_key.raw
    if change.remove:
        yield _nested(key + attribute(_PEER_FLAGS, struct.pack("=I", _REMOVE_ME)))
        return
    head = key
    flags = _REPLACE_ALLOWED_IPS * change.replace_allowed_ips | _UPDATE_ONLY * change.update_only
    if flags:
        head += attribute(_PEER_FLAGS, struct.pack("=I", flags))
    if change.preshared_key is not None:
        head += _SHARED_HEADER + change.preshared_key.raw
    if change.endpoint is not None:
        head += _endpoint_attribute(change.endpoint)
    if change.keepalive is not None:
        head += _KEEPALIVE_ATTRIBUTE.pack(6, _PEER_KEEPALIVE, change.keepalive)
    allowed = sorted(map(_allowed_ip, change.allowed_ips or ()))
    joined = b"".join(allowed)
    if len(joined) <= limit // 2:
        yield _nested(head + _allowed_ips(joined))
        return
    for chunk in _batched(allowed, limit // 2):
        yield _nested(head + _allowed_ips(chunk))
        # What follows adds to a peer that is there by now, or that update_only kept from being made.
        head = key + attribute(_PEER_FLAGS, struct.pack("=I", _UPDATE_ONLY))


def _nested(payload: bytes) -> bytes:
    return attribute(NLA_F_NESTED, payload)


def _allowed_ips(chunk: bytes) -> bytes:
    return attribute(_PEER_ALLOWED_IPS | NLA_F_NESTED, chunk) if chunk else b""


def _allowed_ip(network: IPNetwork) -> bytes:
    """Encode an allowed IP. Sorted by bytes, IPv4 comes first, then lower addresses, then shorter prefixes."""
    version, address = network.version, network.network_address.packed
    form = _ALLOWED_IP[version]
    family = (6, _ALLOWED_IP_FAMILY, _AF[version])
    length = (5, _ALLOWED_IP_CIDR, network.prefixlen)
    return form.pack(form.size, NLA_F_NESTED, *family, len(address) + 4, _ALLOWED_IP_ADDRESS, address, *length)


def _endpoint_attribute(endpoint: UdpEndpoint) -> bytes:
    version = endpoint.host.version
    form = _ENDPOINT[version]
    port = endpoint.port.to_bytes(2, "big")
    return form.pack(form.size, _PEER_ENDPOINT, _AF[version], port, endpoint.host.packed)


def _decode_peer(raw: bytes) -> Peer:
    """Decode a peer, or a piece of one: what is not in it is as if it were not set."""
    values = dict(attributes(memoryview(raw)))
    shared = bytes(values.get(_PEER_PRESHARED_KEY, b""))
    handshake = values.get(_PEER_HANDSHAKE)
    return Peer(
        public_key=PublicKey(bytes(values[_PEER_PUBLIC_KEY])),
        endpoint=_endpoint(bytes(values[_PEER_ENDPOINT])) if _PEER_ENDPOINT in values else None,
        allowed_ips=frozenset(map(_network, _nests(values.get(_PEER_ALLOWED_IPS)))),
        preshared_key=PresharedKey(shared) if any(shared) else None,  # zeros for none
        keepalive=number(values.get(_PEER_KEEPALIVE)),
        # struct __kernel_timespec
        last_handshake=_seconds(*struct.unpack("=qq", handshake)) if handshake is not None else None,
        rx_bytes=number(values.get(_PEER_RX_BYTES)),
        tx_bytes=number(values.get(_PEER_TX_BYTES)),
    )


def _nests(of: memoryview | None) -> Iterator[memoryview]:
    return (nested for _, nested in attributes(of)) if of is not None else iter(())


def _seconds(seconds: int, nanoseconds: int) -> float | None:
    return seconds + nanoseconds / 1e9 if seconds or nanoseconds else None


def _network(nested: memoryview) -> IPNetwork:
    values = dict(attributes(nested))
    address, length = bytes(values[_ALLOWED_IP_ADDRESS]), values[_ALLOWED_IP_CIDR][0]
    # ip_network() tries one after the other, which takes three times as long.
    kind = IPv4Network if len(address) == _IPV4_BYTES else IPv6Network
    return kind((address, length), strict=False)


def _endpoint(sockaddr: bytes) -> UdpEndpoint | None:
    (family,) = struct.unpack_from("=H", sockaddr)
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    if family == socket.AF_INET:
        return UdpEndpoint(IPv4Address(sockaddr[4:8]), port)
    if family == socket.AF_INET6:
        return UdpEndpoint(IPv6Address(sockaddr[8:24]), port)
    return None
