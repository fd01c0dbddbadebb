"""Signed envelope: the value under a key, with a body, its generation, its signer and the signature. No I/O here.

The signature (Ed25519, RFC 8032) covers the format, the signer, the cluster, the key path relative to the root, the
generation and the body's exact bytes. So a value cannot be changed, moved to another key or cluster, or given
another generation. An envelope does not show that a newer one was withheld: readers remember the highest generation
of a key (replay), and `mesh.crypto.multiset_hash` shows that a key is missing.

The layout, numbers big-endian; an envelope has one encoding only:

    4 bytes   "LWS" and the format, 1
    16        the signer's key id
    8         the generation, from 1
    4         the body's length
    n         the body
    64        the signature
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Self

import nacl.bindings
import nacl.exceptions
import nacl.signing

from mesh.crypto.framing import framed
from mesh.crypto.keys import EncodedKey
from mesh.crypto.secret import Secret
from mesh.errors import InvalidRecordError, Terminal

FORMAT = 1
MAX_BODY = 1_000_000  # bytes; etcd refuses requests over 1.5 MiB (--max-request-bytes)
MAX_GENERATION = 2**63 - 1

_DOMAIN = "linkwire signed record 1"
_MAGIC = b"LWS" + bytes([FORMAT])
_HEADER = struct.Struct(">4s16sQI")
_ID_BYTES = 16
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
OVERHEAD = _HEADER.size + _SIGNATURE_BYTES
"""Bytes of an envelope beside its body."""


class UnsignedError(InvalidRecordError):
    """The value is not an envelope, or has a format that this version does not read."""


class MalformedEnvelopeError(InvalidRecordError):
    """The value begins like an envelope but was cut short, is too long, or has no generation."""


class UnknownSignerError(InvalidRecordError):
    """The value names a signer that may not sign here, or no longer may."""


class InvalidSignatureError(InvalidRecordError):
    """The signature does not hold: the value was changed, or was signed for another key or cluster."""


class VerifyKey(EncodedKey):
    """An Ed25519 public key, written in base64."""

    __slots__ = ("_id",)

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        # libsodium's: a point of the prime-order group in its one encoding (RFC 8032, section 5.1.3). With another,
        # one signature could hold for two messages.
        if len(self.raw) != _KEY_BYTES or not nacl.bindings.crypto_core_ed25519_is_valid_point(self.raw):
            raise Terminal("a verify key is 32 bytes that encode an Ed25519 public key")
        digest = hashlib.sha256(framed("linkwire verify key", self.raw)).digest()
        self._id = digest[:_ID_BYTES]

    @property
    def id(self) -> bytes:
        """The first 16 bytes of a SHA-256 over it: an envelope names its signer by it."""
        return self._id

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64. Raises Terminal."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise Terminal("a verify key is 32 bytes in base64") from None

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key's owner signed the message."""
        if len(signature) != _SIGNATURE_BYTES:  # the rest would count as a part of the message
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + message, self.raw)
        except nacl.exceptions.BadSignatureError:
            return False
        return True


class SigningKey(Secret):
    """An Ed25519 private key, from its 32-byte seed (RFC 8032, section 5.1.5)."""

    __slots__ = ("_key", "_verify_key")

    WHAT = "signing key's seed"

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._key = nacl.signing.SigningKey(self._raw)
        self._verify_key = VerifyKey(bytes(self._key.verify_key))

    @property
    def verify_key(self) -> VerifyKey:
        """Its public key."""
        return self._verify_key

    def sign(self, message: bytes) -> bytes:
        """Return 64 bytes for `VerifyKey.verifies`. One message has one signature (RFC 8032, section 5.1.6)."""
        return self._key.sign(message).signature

    def did_sign(self, signature: bytes, message: bytes) -> bool:
        """Return whether a signature is the one that `sign` makes, in a third of the time of `VerifyKey.verifies`.

        In constant time: an attacker who could measure the number of right bytes would find them one by one.
        """
        return hmac.compare_digest(self.sign(message), signature)


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing key for one cluster; its signatures hold in no other, also where that has the same key."""

    cluster: str
    """Swarm's cluster id."""
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys that may sign. Two while the signing key is replaced: readers have the new one before it signs."""

    cluster: str
    """Swarm's cluster id."""
    keys: tuple[VerifyKey, ...]

    def find(self, key_id: bytes) -> VerifyKey | None:
        """Return the key of an id; None where it is not in the ring."""
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class Opened:
    """Content of an envelope whose signature holds."""

    body: bytes
    generation: int
    signer: VerifyKey


@dataclass(frozen=True, slots=True)
class Unverified:
    """Unverified content of an envelope, of use only to find the keyring for `unwrap`."""

    body: bytes
    generation: int
    signer_id: bytes


def wrap(signer: Signer, key: str, generation: int, body: bytes) -> bytes:
    """Sign a body for one key path.

    Args:
        signer: key and cluster.
        key: relative to the root, as in `mesh.model.keyspace`.
        generation: from 1; higher than any that was signed for this key before.
        body: any bytes.

    Raises:
        ValueError: the generation or the body's length is out of bounds.
    """
    if not 1 <= generation <= MAX_GENERATION:
        raise ValueError(f"{key}: a generation is a number from 1 to {MAX_GENERATION}, not {generation}")
    if len(body) > MAX_BODY:
        raise ValueError(f"{key}: {len(body)} bytes, a record has at most {MAX_BODY}")
    header = _HEADER.pack(_MAGIC, signer.key.verify_key.id, generation, len(body))
    return header + body + signer.key.sign(_signed(signer.cluster, key, header, body))


def unwrap(keyring: Keyring, key: str, value: bytes, own: SigningKey | None = None) -> Opened:
    """Verify a value and open it.

    Args:
        keyring: the keys that may sign under this key.
        key: relative to the root.
        value: as it is in the store.
        own: the caller's own key; its signatures are verified faster, with the same result.

    Raises:
        Unsigned, Malformed, UnknownSignerError, Forged: all of them InvalidRecordError; they quote nothing of the
        value.
    """
    header, claim = _parse(key, value)
    signer = keyring.find(claim.signer_id)
    if signer is None:
        raise UnknownSignerError(f"{key}: signed by a key that may not sign this ({claim.signer_id.hex()})")
    signature, message = value[-_SIGNATURE_BYTES:], _signed(keyring.cluster, key, header, claim.body)
    ours = own is not None and own.verify_key == signer and own.did_sign(signature, message)
    if not ours and not signer.verifies(signature, message):
        raise InvalidSignatureError(
            f"{key}: the signature does not hold: changed, or signed for another key or cluster"
        )
    return Opened(claim.body, claim.generation, signer)


def peek(key: str, value: bytes) -> Unverified:
    """Read an envelope without verifying it.

    For a record with its signer's own proof, which has to be read before the keyring is known.

    Raises:
        Unsigned, Malformed: as `unwrap`.
    """
    return _parse(key, value)[1]


def _parse(key: str, value: bytes) -> tuple[bytes, Unverified]:
    if not value.startswith(_MAGIC):
        raise UnsignedError(f"{key}: not signed, or not in format {FORMAT}")
    if len(value) < _HEADER.size + _SIGNATURE_BYTES:
        raise MalformedEnvelopeError(f"{key}: cut short")
    header = value[: _HEADER.size]
    _, signer_id, generation, length = _HEADER.unpack(header)
    if length > MAX_BODY:
        raise MalformedEnvelopeError(f"{key}: {length} bytes, a record has at most {MAX_BODY}")
    if len(value) != _HEADER.size + length + _SIGNATURE_BYTES:
        raise MalformedEnvelopeError(f"{key}: {len(value)} bytes, not the length that its header states")
    if not 1 <= generation <= MAX_GENERATION:
        raise MalformedEnvelopeError(f"{key}: has no valid generation")
    return header, Unverified(value[_HEADER.size : -_SIGNATURE_BYTES], generation, signer_id)


def _signed(cluster: str, key: str, header: bytes, body: bytes) -> bytes:
    return framed(_DOMAIN, cluster, key, header, body)
