"""WireGuard key types: distinct, and the secret ones redacted when printed."""

from __future__ import annotations

import base64
import binascii
from typing import Self

import nacl.public

from mesh.crypto.secret import Secret
from mesh.errors import Terminal

KEY_BYTES = 32  # Curve25519, RFC 7748


def _decode(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise Terminal("a key is 32 bytes in base64")
    return raw


class EncodedKey:
    """The base of public keys: bytes, written in base64. A key equals keys of its own kind only.

    No dataclass: `mesh.model.codec` has to see a value with a text form, and not an object with fields.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @property
    def raw(self) -> bytes:
        """The bytes."""
        return self._raw

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64. Raises Terminal."""
        raise NotImplementedError

    def __str__(self) -> str:
        return base64.b64encode(self._raw).decode()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedKey) and type(other) is type(self) and self._raw == other._raw

    def __lt__(self, other: Self) -> bool:
        return self._raw < other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


class PublicKey(EncodedKey):
    """A Curve25519 public key: 32 bytes, written in base64 as `wg` writes it."""

    __slots__ = ()

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise Terminal("a public key is 32 bytes")
        super().__init__(raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64. Raises Terminal."""
        return cls(_decode(text))


class PrivateKey(Secret):
    """A Curve25519 private key, clamped as the kernel clamps it.

    An unclamped key would be read back changed, and a diff over it would never be empty
    (RFC 7748, section 5; drivers/net/wireguard/noise.c, wg_noise_set_static_identity_private_key).
    """

    __slots__ = ("_public",)

    WHAT = "secret key"

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._raw = bytes([raw[0] & 248, *raw[1:31], (raw[31] & 127) | 64])
        self._public: PublicKey | None = None

    @classmethod
    def generate(cls) -> PrivateKey:
        """Generate a key from the operating system's random source."""
        return cls(bytes(nacl.public.PrivateKey.generate()))

    @property
    def public(self) -> PublicKey:
        """Its public key."""
        if self._public is None:  # used for every derived interface, and costs a multiplication on the curve
            self._public = PublicKey(bytes(nacl.public.PrivateKey(self._raw).public_key))
        return self._public
