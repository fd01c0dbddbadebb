"""The kernel's WireGuard messages, packed and unpacked: linux/wireguard.h, no I/O.

A general netlink library takes one message a peer, and 20 times as long; packed, one message holds some 500 peers.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from agent.netlink import NLA_F_NESTED, attribute, attributes
from mesh.errors import Terminal
from mesh.keys import PublicKey
from mesh.linkkeys import PresharedKey
from mesh.wgtypes import Device, Peer, UdpEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.wgtypes import DeviceChange, IPNetwork, PeerChange

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

MESSAGE_BYTES = 60_000
"""Of peers in one message: a netlink attribute counts its length in 16 bits, and every peer lies in one."""


def message(command: int, payload: bytes = b"") -> bytes:
    """A generic netlink command with its attributes."""
    return _HEADER.pack(command, _VERSION, 0) + payload


def encode_family_request() -> bytes:
    """Ask the controller family (GENL_ID_CTRL) which number WireGuard's family has."""
    return message(CTRL_CMD_GETFAMILY, attribute(_CTRL_ATTR_FAMILY_NAME, FAMILY_NAME.encode() + b"\0"))


def decode_family(payload: memoryview) -> int:
    """The family's number, from the answer. Raises Terminal."""
    for kind, value in attributes(payload[_HEADER.size :]):
        if kind == _CTRL_ATTR_FAMILY_ID:
            return int(struct.unpack("=H", value)[0])
    raise Terminal("the kernel named no number for its WireGuard family")


def encode_get(name: str) -> bytes:
    """Ask for a device, as a dump."""
    return message(WG_CMD_GET_DEVICE, _ifname(name))


def encode_set(name: str, change: DeviceChange, limit: int = MESSAGE_BYTES) -> list[bytes]:
    """The messages that make a change, in the order they must be sent; none when it changes nothing.

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
        return [message(WG_CMD_SET_DEVICE, _ifname(name) + device)]
    messages = []
    for batch in batches:
        peers = attribute(_DEVICE_PEERS | NLA_F_NESTED, batch)
        messages.append(message(WG_CMD_SET_DEVICE, _ifname(name) + device + peers))
        device = b""  # in the first message only
    return messages


def decode_device(name: str, payloads: Iterable[memoryview]) -> Device:
    """Put a device together from the messages of a dump: a peer may begin in one and go on in the next."""
    public_key: PublicKey | None = None
    listen_port = 0
    peers: dict[PublicKey, _Partial] = {}
    for payload in payloads:
        for kind, value in attributes(payload[_HEADER.size :]):
            if kind == _DEVICE_PUBLIC_KEY:
                public_key = PublicKey(bytes(value))
            elif kind == _DEVICE_LISTEN_PORT:
                listen_port = struct.unpack("=H", value)[0]
            elif kind == _DEVICE_PEERS:
                for _, nested in attributes(value):
                    _decode_peer(nested, peers)
    return Device(name, public_key, listen_port, {key: partial.peer(key) for key, partial in peers.items()})


def _ifname(name: str) -> bytes:
    return attribute(_DEVICE_IFNAME, name.encode() + b"\0")


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
    """A peer, nested; as several when its allowed IPs do not fit into one message."""
    key = attribute(_PEER_PUBLIC_KEY, change.public_key.raw)
    if change.remove:
        yield _nested(key + attribute(_PEER_FLAGS, struct.pack("=I", _REMOVE_ME)))
        return
    head = key
    flags = _REPLACE_ALLOWED_IPS * change.replace_allowed_ips | _UPDATE_ONLY * change.update_only
    if flags:
        head += attribute(_PEER_FLAGS, struct.pack("=I", flags))
    if change.preshared_key is not None:
        head += attribute(_PEER_PRESHARED_KEY, change.preshared_key.raw)
    if change.endpoint is not None:
        head += attribute(_PEER_ENDPOINT, _sockaddr(change.endpoint))
    if change.keepalive is not None:
        head += attribute(_PEER_KEEPALIVE, struct.pack("=H", change.keepalive))
    networks = sorted(change.allowed_ips or (), key=lambda n: (n.version, n.network_address.packed, n.prefixlen))
    chunks = _batched((_allowed_ip(network) for network in networks), limit // 2)
    yield _nested(head + _allowed_ips(next(chunks, b"")))
    # What follows adds to a peer that is there by now, or that update_only kept from being made.
    rest = key + attribute(_PEER_FLAGS, struct.pack("=I", _UPDATE_ONLY))
    for chunk in chunks:
        yield _nested(rest + _allowed_ips(chunk))


def _nested(payload: bytes) -> bytes:
    return attribute(NLA_F_NESTED, payload)


def _allowed_ips(chunk: bytes) -> bytes:
    return attribute(_PEER_ALLOWED_IPS | NLA_F_NESTED, chunk) if chunk else b""


def _allowed_ip(network: IPNetwork) -> bytes:
    return _nested(
        attribute(_ALLOWED_IP_FAMILY, struct.pack("=H", _AF[network.version]))
        + attribute(_ALLOWED_IP_ADDRESS, network.network_address.packed)
        + attribute(_ALLOWED_IP_CIDR, bytes([network.prefixlen]))
    )


def _sockaddr(endpoint: UdpEndpoint) -> bytes:
    """A struct sockaddr_in or sockaddr_in6 (linux/in.h, linux/in6.h)."""
    family = struct.pack("=H", _AF[endpoint.host.version])
    if endpoint.host.version == 4:  # noqa: PLR2004 - IP version
        return family + struct.pack("!H4s8x", endpoint.port, endpoint.host.packed)
    return family + struct.pack("!HI16sI", endpoint.port, 0, endpoint.host.packed, 0)


@dataclass(slots=True)
class _Partial:
    endpoint: UdpEndpoint | None = None
    preshared_key: PresharedKey | None = None
    keepalive: int = 0
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    allowed_ips: set[IPNetwork] = field(default_factory=set)

    def peer(self, key: PublicKey) -> Peer:
        return Peer(
            public_key=key,
            endpoint=self.endpoint,
            allowed_ips=frozenset(self.allowed_ips),
            preshared_key=self.preshared_key,
            keepalive=self.keepalive,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
        )


def _decode_peer(nested: memoryview, peers: dict[PublicKey, _Partial]) -> None:
    found = dict(attributes(nested))
    partial = peers.setdefault(PublicKey(bytes(found[_PEER_PUBLIC_KEY])), _Partial())
    if _PEER_ENDPOINT in found:
        partial.endpoint = _endpoint(found[_PEER_ENDPOINT])
    if _PEER_PRESHARED_KEY in found and any(found[_PEER_PRESHARED_KEY]):  # zeros for none
        partial.preshared_key = PresharedKey(bytes(found[_PEER_PRESHARED_KEY]))
    if _PEER_KEEPALIVE in found:
        partial.keepalive = struct.unpack("=H", found[_PEER_KEEPALIVE])[0]
    if _PEER_HANDSHAKE in found:
        seconds, nanoseconds = struct.unpack("=qq", found[_PEER_HANDSHAKE])  # struct __kernel_timespec
        partial.last_handshake = seconds + nanoseconds / 1e9 if seconds or nanoseconds else None
    if _PEER_RX_BYTES in found:
        partial.rx_bytes = struct.unpack("=Q", found[_PEER_RX_BYTES])[0]
    if _PEER_TX_BYTES in found:
        partial.tx_bytes = struct.unpack("=Q", found[_PEER_TX_BYTES])[0]
    for _, allowed in attributes(found.get(_PEER_ALLOWED_IPS, memoryview(b""))):
        network = dict(attributes(allowed))
        address = ip_address(bytes(network[_ALLOWED_IP_ADDRESS]))
        partial.allowed_ips.add(ip_network((address, network[_ALLOWED_IP_CIDR][0]), strict=False))


def _endpoint(sockaddr: memoryview) -> UdpEndpoint | None:
    (family,) = struct.unpack_from("=H", sockaddr)
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    if family == socket.AF_INET:
        return UdpEndpoint(ip_address(bytes(sockaddr[4:8])), port)
    if family == socket.AF_INET6:
        return UdpEndpoint(ip_address(bytes(sockaddr[8:24])), port)
    return None
