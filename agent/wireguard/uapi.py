"""Client and codec of wireguard-go's control socket (https://www.wireguard.com/xplatform/).

One connection an exchange. A socket file without a process behind it counts as no device.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

from agent.holder import sockets
from agent.holder.sockets import ANSWER_SECONDS, SOCKETS
from agent.linux.netlink_socket import explained
from agent.wireguard.peer_decoder import PeerDecoder, Split
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.errors import DeviceNotFoundError, Retryable, Terminal
from mesh.model.net import UdpEndpoint
from mesh.topology.wgtypes import Device, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.model.net import IPNetwork
    from mesh.topology.wgtypes import DeviceChange, PeerChange

_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)(?:%\w+)?\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_PEER_BEGINS = "\npublic_key="
_KEY_DIGITS = 64
_COUNTERS = re.compile(
    r"\nlast_handshake_time_sec=([0-9]+)\nlast_handshake_time_nsec=([0-9]+)\ntx_bytes=([0-9]+)\nrx_bytes=([0-9]+)(?=\n)"
)
"""As they follow one another in a peer's lines (wireguard-go, device/uapi.go, IpcGetOperation)."""


def get(name: str, decoder: Decoder | None = None, folder: Path = SOCKETS) -> Device:
    """Read a device, with what its decoder knows from before. Raises DeviceNotFoundError, Retryable, Terminal."""
    with explained(f"read {name}"):
        return (decoder or Decoder()).decode(name, _exchange(name, b"get=1\n\n", folder))


def set_device(name: str, change: DeviceChange, folder: Path = SOCKETS) -> None:
    """Change a device. Raises PortTakenError, DeviceNotFoundError, Retryable, Terminal."""
    with explained(f"set {name}"):
        _exchange(name, encode_set(change), folder)


def encode_set(change: DeviceChange) -> bytes:
    """Encode a change as text. Peers are upserted; nothing that is not named is touched."""
    lines = ["set=1"]
    if change.private_key is not None:
        lines.append(f"private_key={change.private_key.raw.hex()}")
    if change.listen_port is not None:
        lines.append(f"listen_port={change.listen_port}")
    for peer in change.peers:
        lines.extend(_peer_lines(peer))
    return "\n".join([*lines, "", ""]).encode()


def _peer_lines(change: PeerChange) -> Iterator[str]:
    yield f"public_key={change.public_key.raw.hex()}"
    if change.remove:
        yield "remove=true"
        return
    if change.update_only:
        yield "update_only=true"
    if change.preshared_key is not None:
        yield f"preshared_key={change.preshared_key.raw.hex()}"
    if change.endpoint is not None:
        yield f"endpoint={change.endpoint}"
    if change.keepalive is not None:
        yield f"persistent_keepalive_interval={change.keepalive}"
    if change.replace_allowed_ips:
        yield "replace_allowed_ips=true"
    for network in sorted(change.allowed_ips or (), key=lambda n: (n.version, n)):
        yield f"allowed_ip={network}"


class Decoder:
    """Decoder of one device's answers to get=1, one after another."""

    def __init__(self) -> None:
        self._peers: PeerDecoder[str] = PeerDecoder(lambda lines: lines[:_KEY_DIGITS], _split, _decode_peer)

    def decode(self, name: str, text: str) -> Device:
        """Decode an answer without its errno.

        Raises:
            Terminal: a line that is not of the protocol. Its value is not quoted: it may be a key.
        """
        own, *texts = f"\n{text}".split(_PEER_BEGINS)
        try:
            public_key, listen_port = _decode_own(own)
            peers = self._peers.decode(texts)
        except ValueError as error:
            raise Terminal(f"wireguard-go's answer about {name} is not understood: {error}") from error
        return Device(name, public_key, listen_port, {peer.public_key: peer for peer in peers})


class Decoders(dict[str, Decoder]):
    """The decoders of a namespace's devices, by name."""

    def __missing__(self, name: str) -> Decoder:
        """Make a device's decoder at first use."""
        made = self[name] = Decoder()
        return made


def _split(lines: str) -> Split[str] | None:
    counters = _COUNTERS.search(lines)
    if counters is None:
        return None
    seconds, nanoseconds, tx_bytes, rx_bytes = map(int, counters.groups())
    lasting = lines[: counters.start()] + lines[counters.end() :]
    return Split(lasting, seconds + nanoseconds / 1e9 or None, rx_bytes, tx_bytes)


@dataclass(slots=True)
class _Partial:
    """A peer while its lines come in."""

    public_key: PublicKey
    endpoint: UdpEndpoint | None = None
    preshared_key: PresharedKey | None = None
    keepalive: int = 0
    seconds: int = 0
    nanoseconds: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    allowed_ips: set[IPNetwork] = field(default_factory=set)

    def peer(self) -> Peer:
        handshake = self.seconds + self.nanoseconds / 1e9
        return Peer(
            public_key=self.public_key,
            endpoint=self.endpoint,
            allowed_ips=frozenset(self.allowed_ips),
            preshared_key=self.preshared_key,
            keepalive=self.keepalive,
            last_handshake=handshake or None,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
        )


def _decode_own(lines: str) -> tuple[PublicKey | None, int]:
    """Read the device's own key and port, in the lines before its first peer. Raises ValueError."""
    public_key, listen_port = None, 0
    for line in filter(None, lines.splitlines()):
        key, _, value = line.partition("=")
        if key not in {"private_key", "listen_port", "fwmark"}:
            raise ValueError(repr(key))
        try:
            if key == "private_key":
                public_key = PrivateKey(bytes.fromhex(value)).public
            elif key == "listen_port":
                listen_port = int(value)
        except (ValueError, Terminal) as error:
            raise ValueError(repr(key)) from error
    return public_key, listen_port


def _decode_peer(lines: str) -> Peer:
    """Decode a peer's lines, of which its key is the first. Raises ValueError."""
    own, _, others = lines.partition("\n")
    key = "public_key"
    try:
        partial = _Partial(PublicKey(bytes.fromhex(own)))
        for line in others.splitlines():
            key, _, value = line.partition("=")
            _peer_line(partial, key, value)
    except (ValueError, Terminal) as error:
        raise ValueError(repr(key)) from error
    return partial.peer()


def _peer_line(partial: _Partial, key: str, value: str) -> None:
    match key:
        case "endpoint":
            partial.endpoint = _endpoint(value)
        case "persistent_keepalive_interval":
            partial.keepalive = int(value)
        case "last_handshake_time_sec":
            partial.seconds = int(value)
        case "last_handshake_time_nsec":
            partial.nanoseconds = int(value)
        case "rx_bytes":
            partial.rx_bytes = int(value)
        case "tx_bytes":
            partial.tx_bytes = int(value)
        case "allowed_ip":
            partial.allowed_ips.add(_network(value))
        case "preshared_key":
            partial.preshared_key = PresharedKey(bytes.fromhex(value)) if value.strip("0") else None
        case "protocol_version":
            pass
        case _:
            raise ValueError(key)


def _network(value: str) -> IPNetwork:
    # ip_network() tries one after the other.
    return IPv6Network(value, strict=False) if ":" in value else IPv4Network(value, strict=False)


def _endpoint(value: str) -> UdpEndpoint:
    match = _ENDPOINT.fullmatch(value)
    if match is None:
        raise ValueError("not an endpoint")
    host = IPv6Address(match["v6"]) if match["v6"] else IPv4Address(match["v4"])
    return UdpEndpoint(host, int(match["port"]))


def _exchange(name: str, request: bytes, folder: Path) -> str:
    """Return the answer's lines before the errno. Raises OSError with that errno, DeviceNotFoundError, Retryable."""
    answer = bytearray()
    with sockets.connect(name, folder) as connection:
        try:
            connection.sendall(request)
            while not answer.endswith(b"\n\n"):
                part = connection.recv(1 << 18)
                if not part:
                    raise DeviceNotFoundError(f"the wireguard-go of {name} ended while it was asked")
                answer += part
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DeviceNotFoundError(f"the wireguard-go of {name} ended while it was asked") from error
        except TimeoutError as error:
            raise Retryable(f"no answer from the wireguard-go of {name} within {ANSWER_SECONDS:.0f} s") from error
    text, separator, code = answer[:-2].decode("ascii", errors="replace").rpartition("errno=")
    if not separator or not re.fullmatch(r"-?[0-9]+", code):
        raise Terminal(f"wireguard-go's answer about {name} has no errno")
    if number := abs(int(code)):
        raise OSError(number, os.strerror(number))
    return text
