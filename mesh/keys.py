"""Key types that cannot be mixed up, and whose secret ones do not print."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import NoReturn

import nacl.exceptions
import nacl.public

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


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """A Curve25519 public key: 32 bytes, written in base64 as `wg` writes it."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise Terminal("a public key is 32 bytes")

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read base64. Raises Terminal."""
        return cls(_decode(text))

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

    def __repr__(self) -> str:
        return f"PublicKey({self})"


class _Secret:
    """32 secret bytes: not printed, not pickled, compared by value."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise Terminal("a secret key is 32 bytes")
        self._raw = raw

    @property
    def raw(self) -> bytes:
        """The 32 bytes, for the kernel or wireguard-go, and for nothing that is written down."""
        return self._raw

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Secret) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled")


class PrivateKey(_Secret):
    """A Curve25519 private key, clamped, since the kernel clamps what it is given.

    An unclamped key would read back changed and a diff over it would never come to rest
    (RFC 7748, section 5; drivers/net/wireguard/noise.c, wg_noise_set_static_identity_private_key).
    """

    __slots__ = ()

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._raw = bytes([raw[0] & 248, *raw[1:31], (raw[31] & 127) | 64])

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from the operating system's random source."""
        return cls(bytes(nacl.public.PrivateKey.generate()))

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""
        return PublicKey(bytes(nacl.public.PrivateKey(self._raw).public_key))


def seal(secret: PrivateKey, to: PublicKey) -> bytes:
    """Encrypt a private key so that only the holder of `to`'s private key opens it (libsodium sealed box).

    Raises:
        Terminal: `to` is a point of low order, with which nothing can be sealed.
    """
    try:
        return nacl.public.SealedBox(nacl.public.PublicKey(to.raw)).encrypt(secret.raw)
    except (nacl.exceptions.CryptoError, nacl.exceptions.RuntimeError) as error:
        raise Terminal(f"{to} is not a key that anything can be sealed to") from error


def unseal(sealed: bytes, key: PrivateKey) -> PrivateKey:
    """Open what `seal` made. Raises Terminal when it was sealed to another key or changed on the way."""
    try:
        return PrivateKey(nacl.public.SealedBox(nacl.public.PrivateKey(key.raw)).decrypt(sealed))
    except nacl.exceptions.CryptoError as error:
        raise Terminal("the sealed key was not made for this node, or was changed") from error
