"""What lies in the store under a key when it is signed: a body, its generation, and whose signature holds for both.

The signature (Ed25519, RFC 8032) covers the format, the signer, the cluster, the key path relative to the root, the
generation and the body's exact bytes. So a value cannot be changed, put under another key, brought to another
cluster or given another generation. What it cannot say is whether a newer one was held back: who reads remembers
the highest generation of a key (replay), and `mesh.manifest` tells when a key is missing. No I/O here.

The layout, numbers with the highest byte first; there is one way only to write an envelope:

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
from dataclasses import dataclass, field

import nacl.bindings
import nacl.exceptions
import nacl.signing

from mesh.errors import InvalidRecord, Terminal
from mesh.framing import framed
from mesh.secret import Secret

FORMAT = 1
MAX_BODY = 1_000_000  # bytes; etcd refuses requests over 1.5 MiB (--max-request-bytes)
MAX_GENERATION = 2**63 - 1

_DOMAIN = "linkwire signed record 1"
_MAGIC = b"LWS" + bytes([FORMAT])
_HEADER = struct.Struct(">4s16sQI")
_ID_BYTES = 16
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class Unsigned(InvalidRecord):
    """The value is not a signed one, or of a format that this version does not read."""


class Malformed(InvalidRecord):
    """The value begins like a signed one but was cut short, is too long, or has no generation."""


class UnknownSigner(InvalidRecord):
    """The value says that a key signed it which may not sign here, or not any more."""


class Forged(InvalidRecord):
    """The signature does not hold: the value was changed, or was signed for another key or cluster."""


@dataclass(frozen=True, slots=True, order=True)
class VerifyKey:
    """An Ed25519 public key, written in base64."""

    raw: bytes
    id: bytes = field(init=False, repr=False, compare=False)
    """The first 16 bytes of a SHA-256 over it: what an envelope names its signer by."""

    def __post_init__(self) -> None:
        # libsodium's: a point of the prime-order group in its one encoding (RFC 8032, section 5.1.3). With another,
        # one signature could hold for two messages.
        if len(self.raw) != _KEY_BYTES or not nacl.bindings.crypto_core_ed25519_is_valid_point(self.raw):
            raise Terminal("a verify key is 32 bytes that encode an Ed25519 public key")
        digest = hashlib.sha256(framed("linkwire verify key", self.raw)).digest()
        object.__setattr__(self, "id", digest[:_ID_BYTES])

    @classmethod
    def parse(cls, text: str) -> VerifyKey:
        """Read base64. Raises Terminal."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise Terminal("a verify key is 32 bytes in base64") from None

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key's owner signed the message."""
        if len(signature) != _SIGNATURE_BYTES:  # else the rest would be taken for a part of the message
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + message, self.raw)
        except nacl.exceptions.BadSignatureError:
            return False
        return True

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

    def __repr__(self) -> str:
        return f"VerifyKey({self})"


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
        """The public key that belongs to it."""
        return self._verify_key

    def sign(self, message: bytes) -> bytes:
        """Return 64 bytes for `VerifyKey.verifies`. One message has one signature (RFC 8032, section 5.1.6)."""
        return self._key.sign(message).signature

    def did_sign(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature is the one that `sign` gives: to find out takes a third of `VerifyKey.verifies`.

        In constant time: who could measure how many bytes are right would find the right ones one after the other.
        """
        return hmac.compare_digest(self.sign(message), signature)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs, and for which cluster: a test cluster with the same key signs nothing for another."""

    cluster: str
    """Swarm's cluster id."""
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Keyring:
    """Who may sign. While the signing key changes, two: the new one is known everywhere before it is used."""

    cluster: str
    """Swarm's cluster id."""
    keys: tuple[VerifyKey, ...]

    def find(self, key_id: bytes) -> VerifyKey | None:
        """The key of that id."""
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose signature holds."""

    body: bytes
    generation: int
    signer: VerifyKey


@dataclass(frozen=True, slots=True)
class Unverified:
    """What an envelope claims. Nothing follows from it, but which keyring to call `unwrap` with."""

    body: bytes
    generation: int
    signer_id: bytes


def wrap(signer: Signer, key: str, generation: int, body: bytes) -> bytes:
    """Sign a body for one key path.

    Args:
        signer: for whom.
        key: relative to the root, as `mesh.keyspace` gives it.
        generation: from 1; higher than that of whatever was signed for this key before.
        body: any bytes.

    Raises:
        ValueError: the generation or the body's length is out of bounds.
    """
    if not 1 <= generation <= MAX_GENERATION:
        raise ValueError(f"{key}: a generation is a number from 1 to {MAX_GENERATION}, not {generation}")
    if len(body) > MAX_BODY:
        raise ValueError(f"{key}: {len(body)} bytes is more than any record of ours")
    header = _HEADER.pack(_MAGIC, signer.key.verify_key.id, generation, len(body))
    return header + body + signer.key.sign(_signed(signer.cluster, key, header, body))


def unwrap(keyring: Keyring, key: str, value: bytes, own: SigningKey | None = None) -> Opened:
    """Check a value and open it.

    Args:
        keyring: who may sign under this key.
        key: relative to the root, where the value lies.
        value: as it lies there.
        own: the key of who asks. It changes nothing but how soon what it has signed is known to be that.

    Raises:
        Unsigned, Malformed, UnknownSigner, Forged: all of them InvalidRecord, in words that quote nothing of the
            value.
    """
    header, claim = _parse(key, value)
    signer = keyring.find(claim.signer_id)
    if signer is None:
        raise UnknownSigner(f"{key}: signed by a key that may not sign this ({claim.signer_id.hex()})")
    signature, message = value[-_SIGNATURE_BYTES:], _signed(keyring.cluster, key, header, claim.body)
    made = own is not None and own.verify_key == signer and own.did_sign(signature, message)
    if not made and not signer.verifies(signature, message):
        raise Forged(f"{key}: the signature does not hold: changed, or signed for another key or another cluster")
    return Opened(claim.body, claim.generation, signer)


def peek(key: str, value: bytes) -> Unverified:
    """Read an envelope without checking its signature.

    For a record that brings its own signer's proof, which has to be read before anybody can tell the keyring.

    Raises:
        Unsigned, Malformed: as `unwrap`.
    """
    return _parse(key, value)[1]


def _parse(key: str, value: bytes) -> tuple[bytes, Unverified]:
    if not value.startswith(_MAGIC):
        raise Unsigned(f"{key}: not signed, or not in format {FORMAT}")
    if len(value) < _HEADER.size + _SIGNATURE_BYTES:
        raise Malformed(f"{key}: cut short")
    header = value[: _HEADER.size]
    _, signer_id, generation, length = _HEADER.unpack(header)
    if length > MAX_BODY:
        raise Malformed(f"{key}: {length} bytes is more than any record of ours")
    if len(value) != _HEADER.size + length + _SIGNATURE_BYTES:
        raise Malformed(f"{key}: {len(value)} bytes, where its own header makes it another length")
    if not 1 <= generation <= MAX_GENERATION:
        raise Malformed(f"{key}: without a generation")
    return header, Unverified(value[_HEADER.size : -_SIGNATURE_BYTES], generation, signer_id)


def _signed(cluster: str, key: str, header: bytes, body: bytes) -> bytes:
    return framed(_DOMAIN, cluster, key, header, body)
