"""WireGuard's handshake as a program of ours does it: the initiator of Noise_IKpsk2 (WireGuard paper, section 5.4).

It takes the private keys as they are, so what it derives from a recorded session is what somebody derives who has
all of them, stolen or computed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INITIATION, RESPONSE, DATA = 1, 2, 4
_CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_RESPONSE = struct.Struct("<B3xII32s16s16s16s")


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _kdf(number: int, key: bytes, material: bytes) -> list[bytes]:
    secret = hmac.digest(key, material, "blake2s")
    outputs = [b""]
    for n in range(1, number + 1):
        outputs.append(hmac.digest(secret, outputs[-1] + bytes([n]), "blake2s"))
    return outputs[1:]


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


@dataclass(frozen=True)
class Secrets:
    """All private keys that the initiator has, and so all that a session rests on but the preshared key."""

    static: X25519PrivateKey
    ephemeral: X25519PrivateKey
    responder: X25519PublicKey


@dataclass(frozen=True)
class Opened:
    """What follows from a handshake: the key of what the initiator sends, and the responder's name for it."""

    key: bytes
    session: int

    def data(self, counter: int, packet: bytes) -> bytes:
        """A data message."""
        padded = packet + bytes(-len(packet) % 16)
        sealed = ChaCha20Poly1305(self.key).encrypt(_nonce(counter), padded, b"")
        return struct.pack("<B3xIQ", DATA, self.session, counter) + sealed

    def read(self, message: bytes) -> bytes | None:
        """What is in a data message; None where this is not its key."""
        counter = int.from_bytes(message[8:16], "little")
        try:
            return ChaCha20Poly1305(self.key).decrypt(_nonce(counter), message[16:], b"")
        except InvalidTag:
            return None


def initiation(secrets: Secrets) -> tuple[bytes, bytes, bytes]:
    """The first message, and the chaining key and hash after it."""
    responder = secrets.responder.public_bytes_raw()
    chain = _hash(_CONSTRUCTION)
    digest = _hash(_hash(chain, _IDENTIFIER), responder)
    ephemeral = secrets.ephemeral.public_key().public_bytes_raw()
    (chain,) = _kdf(1, chain, ephemeral)
    digest = _hash(digest, ephemeral)
    message = struct.pack("<B3xI", INITIATION, 7) + ephemeral
    now = time.time_ns()
    stamp = struct.pack(">QI", 2**62 + 10 + now // 10**9, now % 10**9)  # TAI64N
    static = secrets.static.public_key().public_bytes_raw()
    for private, plain in ((secrets.ephemeral, static), (secrets.static, stamp)):
        chain, key = _kdf(2, chain, private.exchange(secrets.responder))
        sealed = ChaCha20Poly1305(key).encrypt(_nonce(0), plain, digest)
        digest = _hash(digest, sealed)
        message += sealed
    mac = hashlib.blake2s(message, digest_size=16, key=_hash(b"mac1----", responder)).digest()
    return message + mac + bytes(16), chain, digest


def opened(secrets: Secrets, chain: bytes, digest: bytes, response: bytes, preshared: bytes) -> Opened | None:
    """What follows from the answer to an initiation with a preshared key; None where it does not fit."""
    _, session, _, raw, empty, _, _ = _RESPONSE.unpack(response)
    ephemeral = X25519PublicKey.from_public_bytes(raw)
    (chain,) = _kdf(1, chain, raw)
    digest = _hash(digest, raw)
    for private in (secrets.ephemeral, secrets.static):
        (chain,) = _kdf(1, chain, private.exchange(ephemeral))
    chain, mixed, key = _kdf(3, chain, preshared)
    try:
        ChaCha20Poly1305(key).decrypt(_nonce(0), empty, _hash(digest, mixed))
    except InvalidTag:
        return None
    return Opened(_kdf(2, chain, b"")[0], session)


def udp_packet(source: IPv4Address, target: IPv4Address, port: int, content: bytes) -> bytes:
    """An IPv4 packet with a datagram in it (RFC 791, RFC 768; no checksum of the datagram)."""
    datagram = struct.pack("!HHHH", port, port, 8 + len(content), 0) + content
    fields = (0x45, 0, 20 + len(datagram), 1, 0, 64, 17)
    head = struct.pack("!BBHHHBBH4s4s", *fields, 0, source.packed, target.packed)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHHBBH4s4s", *fields, check, source.packed, target.packed) + datagram
