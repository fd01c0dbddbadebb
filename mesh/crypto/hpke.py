"""Hybrid public-key encryption to a node, secure as long as either X25519 or ML-KEM-768 is. No I/O here.

HPKE (RFC 9180) in base mode, single-shot, of the `cryptography` package, with the suite
    KEM   MLKEM768-X25519, 0x647a, which is X-Wing: draft-connolly-cfrg-xwing-kem, draft-ietf-hpke-pq
    KDF   HKDF-SHA256, 0x0001
    AEAD  ChaCha20-Poly1305, 0x0003
X-Wing's shared secret is SHA3-256 of both halves' secrets, the X25519 ciphertext and public key and a label, so who
has one half's private key, or a way to break it, has one of two inputs. A secret's purpose goes into HPKE's `info`
(RFC 9180, section 8.1: for single-shot callers' data that is authenticated and not sent).

    box = 1 byte format, 1 | 1088 ML-KEM ciphertext | 32 X25519 ephemeral key | secret, encrypted | 16 tag

A libsodium sealed box (X25519 only) is not accepted. A box does not authenticate its maker: the signature of its
record does.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from mesh.crypto.framing import framed
from mesh.crypto.keys import EncodedKey
from mesh.crypto.secret import Secret
from mesh.errors import InvalidRecordError, Terminal

FORMAT = 1
PUBLIC_KEY_BYTES = 1216
MAX_SECRET = 4096  # bytes; our secrets have 32

_DOMAIN = "linkwire sealed box 1"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_MLKEM_PUBLIC_BYTES = 1184  # FIPS 203, table 3
_MLKEM_SEED_BYTES = 64
_OVERHEAD = 1 + 1088 + 32 + 16
_FILE = b"linkwire node key 1\n"


class MalformedCiphertextError(InvalidRecordError):
    """The value is not a sealed box, or has a format that this version does not read."""


class DecryptionError(InvalidRecordError):
    """The box was sealed to another key or for another purpose, or was changed."""


@functools.lru_cache(maxsize=4096)
def _fingerprint(raw: bytes) -> str:
    """Return a public key's fingerprint. Cached: a plan reads it for every box sealed to that key."""
    return hashlib.sha256(framed("linkwire node key", raw)).hexdigest()


class NodePublicKey(EncodedKey):
    """A node's public sealing key: an ML-KEM-768 public key, then an X25519 one. Written in base64."""

    __slots__ = ()

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise Terminal(f"a node's sealing key is {PUBLIC_KEY_BYTES} bytes")
        try:
            self._halves()
            # With a point of low order every shared secret is zero (RFC 7748, section 6.1): half of a hybrid.
            X25519PrivateKey.from_private_bytes(bytes(32)).exchange(
                X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC_BYTES:])
            )
        except ValueError:
            raise Terminal("a node's sealing key is not a valid public key") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64. Raises Terminal."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise Terminal(f"a node's sealing key is {PUBLIC_KEY_BYTES} bytes in base64") from None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over it, in hexadecimal: identifies the key of a box for records and people."""
        return _fingerprint(self.raw)

    def __repr__(self) -> str:
        return f"NodePublicKey({self.fingerprint})"

    def _halves(self) -> MLKEM768X25519PublicKey:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC_BYTES:]),
        )


class NodeKey(Secret):
    """A node's private sealing key: X-Wing's 32-byte seed, expanded to both halves by SHAKE256."""

    __slots__ = ("_halves", "_public")

    WHAT = "node key's seed"

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        expanded = hashlib.shake_256(self._raw).digest(_MLKEM_SEED_BYTES + 32)  # the draft's expandDecapsulationKey
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
        self._halves = MLKEM768X25519PrivateKey(mlkem, x25519)
        self._public = NodePublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())

    @property
    def public(self) -> NodePublicKey:
        """Its public key."""
        return self._public

    def to_file(self) -> bytes:
        """Return the content of a file of mode 0600."""
        return _FILE + self._raw

    @classmethod
    def from_file(cls, content: bytes) -> NodeKey:
        """Read the content that `to_file` made. Raises Terminal, which quotes nothing, for any other."""
        if not content.startswith(_FILE) or len(content) != len(_FILE) + cls.SIZE:
            raise Terminal("not a node's sealing key in a format that this version reads")
        return cls(content[len(_FILE) :])


def seal(secret: bytes, to: NodePublicKey, context: bytes) -> bytes:
    """Encrypt a secret so that only the holder of `to`'s private key opens it, and only for the same purpose.

    Args:
        secret: up to MAX_SECRET bytes.
        to: the node's key.
        context: the secret's purpose, such as `framed(key path, node id, epoch)`; not sent along.

    Raises:
        ValueError: the secret is too long.
    """
    if len(secret) > MAX_SECRET:
        raise ValueError(f"a secret to seal has at most {MAX_SECRET} bytes, not {len(secret)}")
    return bytes([FORMAT]) + _SUITE.encrypt(secret, to._halves(), info=_info(context))  # noqa: SLF001 - of this module


def unseal(box: bytes, key: NodeKey, context: bytes) -> bytes:
    """Open a box that `seal` made for the same context.

    Raises:
        MalformedCiphertextError: it is no box, or has another format.
        DecryptionError: sealed to another key or for another context, or changed.
    """
    if box[:1] != bytes([FORMAT]) or not _OVERHEAD <= len(box) <= _OVERHEAD + MAX_SECRET:
        raise MalformedCiphertextError(f"not a sealed box of format {FORMAT}")
    try:
        return _SUITE.decrypt(box[1:], key._halves, info=_info(context))  # noqa: SLF001 - of this module
    except (InvalidTag, ValueError):
        raise DecryptionError("the box was sealed to another key or for another purpose, or was changed") from None


def _info(context: bytes) -> bytes:
    return framed(_DOMAIN, context)
