"""Sealed stream: bytes of any length, encrypted to one public key, chunk by chunk. No I/O here.

The key of a stream is fresh, and sealed to the recipient by `mesh.crypto.hpke` (X25519 with ML-KEM-768). The chunks
are libsodium's secretstream (XChaCha20-Poly1305, doc.libsodium.org/secret-key_cryptography/secretstream): none can be
changed, left out, repeated or moved, and the last one is marked, so a stream that was cut short is noticed.

    25 bytes   "linkwire sealed stream 1", and a line end
    32         the recipient's fingerprint, for an error that names it
    1169       the stream's key, sealed
    24         secretstream's header
    4, n       each chunk: its length, big-endian, and so many bytes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import nacl.bindings
import nacl.exceptions

from mesh.crypto.framing import framed
from mesh.crypto.hpke import DecryptionError, MalformedCiphertextError, NodeKey, NodePublicKey, seal, unseal
from mesh.crypto.secret import Secret
from mesh.errors import LinkwireError

CHUNK = 65_536
"""Bytes of a chunk before it is encrypted; the last one may have fewer."""
_NAME = b"linkwire sealed stream "
_MAGIC = _NAME + b"1\n"
_FINGERPRINT_BYTES = 32
_BOX_BYTES = 1 + 1088 + 32 + 32 + 16
_HEADER_BYTES = nacl.bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_OVERHEAD = nacl.bindings.crypto_secretstream_xchacha20poly1305_ABYTES
_LENGTH_BYTES = 4
_LAST = nacl.bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MORE = nacl.bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_DOMAIN = "linkwire sealed stream 1"
_State = nacl.bindings.crypto_secretstream_xchacha20poly1305_state


class SealedStreamError(LinkwireError):
    """The bytes are no sealed stream of this version, were changed or cut short, or the key is another one."""


class _StreamKey(Secret):
    """Key of one stream."""

    __slots__ = ()

    WHAT = "stream key"


def sealed(parts: Iterable[bytes], to: NodePublicKey, purpose: str) -> Iterator[bytes]:
    """Encrypt bytes as they come.

    Args:
        parts: the bytes, in parts of any length.
        to: the recipient's key.
        purpose: the stream opens for the same one alone; not sent along.
    """
    key = _StreamKey.generate()
    state = _State()
    header = nacl.bindings.crypto_secretstream_xchacha20poly1305_init_push(state, key.raw)
    fingerprint = bytes.fromhex(to.fingerprint)
    head = _MAGIC + fingerprint + seal(key.raw, to, framed(_DOMAIN, purpose, fingerprint)) + header
    yield head
    rest = b""
    for part in parts:
        rest += part
        while len(rest) > CHUNK:  # what is left is never nothing: it may be the last chunk
            yield _pushed(state, rest[:CHUNK], head, _MORE)
            rest = rest[CHUNK:]
    yield _pushed(state, rest, head, _LAST)


def _pushed(state: _State, plain: bytes, head: bytes, tag: int) -> bytes:
    chunk = nacl.bindings.crypto_secretstream_xchacha20poly1305_push(state, plain, head, tag)
    return len(chunk).to_bytes(_LENGTH_BYTES, "big") + chunk


def opened(data: bytes, key: NodeKey, purpose: str) -> bytes:
    """Decrypt a whole stream: nothing is returned of one that is not whole.

    Args:
        data: all bytes of it.
        key: the recipient's.
        purpose: as in `sealed`.

    Raises:
        SealedStreamError: it does not open, and why.
    """
    at = _check_magic(data)
    head = data[: at + _FINGERPRINT_BYTES + _BOX_BYTES + _HEADER_BYTES]
    if len(head) < at + _FINGERPRINT_BYTES + _BOX_BYTES + _HEADER_BYTES:
        raise SealedStreamError("it is cut short: not even its beginning is whole")
    fingerprint = head[at : at + _FINGERPRINT_BYTES]
    if fingerprint.hex() != key.public.fingerprint:
        raise SealedStreamError(
            f"it is sealed to the key {fingerprint.hex()[:16]}, and this one is {key.public.fingerprint[:16]}"
        )
    box, header = head[at + _FINGERPRINT_BYTES : -_HEADER_BYTES], head[-_HEADER_BYTES:]
    try:
        secret = unseal(box, key, framed(_DOMAIN, purpose, fingerprint))
    except (MalformedCiphertextError, DecryptionError):
        raise SealedStreamError("its beginning was changed, or it was made for another purpose") from None
    state = _State()
    nacl.bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, header, secret)
    return b"".join(_chunks(data, len(head), state, head))


def recipient(data: bytes) -> str:
    """Return the fingerprint of the key that a stream says it is sealed to. Raises SealedStreamError."""
    at = _check_magic(data)
    return data[at : at + _FINGERPRINT_BYTES].hex()


def _check_magic(data: bytes) -> int:
    if data.startswith(_MAGIC):
        return len(_MAGIC)
    version, end, _ = data[len(_NAME) : len(_NAME) + 8].partition(b"\n")
    if data.startswith(_NAME) and version.isdigit() and end:
        raise SealedStreamError(f"it has format {version.decode()}, and this version reads format 1: upgrade it")
    if _MAGIC.startswith(data):
        raise SealedStreamError(f"it is cut short after {len(data)} bytes")
    raise SealedStreamError("it is no sealed file of Linkwire")


def _chunks(data: bytes, at: int, state: _State, head: bytes) -> Iterator[bytes]:
    number, tag = 0, _MORE
    while tag != _LAST:
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES
        fits = _OVERHEAD <= length <= CHUNK + _OVERHEAD
        if len(data) < at or (fits and len(data) < at + length):
            raise SealedStreamError(f"it is cut short after {len(data)} bytes")
        number += 1
        pulled = _pulled(state, data[at : at + length], head) if fits else None
        if pulled is None:
            raise SealedStreamError(f"it was changed: chunk {number} does not open")
        plain, tag = pulled
        yield plain
        at += length
    if at != len(data):
        raise SealedStreamError(f"{len(data) - at} bytes follow its end")


def _pulled(state: _State, chunk: bytes, head: bytes) -> tuple[bytes, int] | None:
    """Decrypt the next chunk; None for another one."""
    try:
        return nacl.bindings.crypto_secretstream_xchacha20poly1305_pull(state, chunk, head)
    except (nacl.exceptions.CryptoError, RuntimeError):
        return None
