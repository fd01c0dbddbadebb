"""The controllers' vault: one secret under which the fresh secrets of link keys' epochs are kept. No I/O here.

ChaCha20-Poly1305 (RFC 8439) with a random nonce of 96 bits: far below 2^32 epochs are kept under one vault secret.

    kept = 1 byte format, 1 | 12 nonce | 32 secret, encrypted | 16 tag
"""

from __future__ import annotations

import nacl.utils
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.crypto.framing import framed
from mesh.crypto.preshared_keys import LinkKey, LinkSeed
from mesh.crypto.secret import Secret
from mesh.errors import InvalidRecordError

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_SALT = b"linkwire link key 2"
_SEED_ID_SALT = b"linkwire link seed id 1"
_ID_BYTES = 8


class VaultSecret(Secret):
    """Secret of the controllers, sealed to each of their keys and stored nowhere in clear."""

    __slots__ = ()

    WHAT = "vault secret"


class EpochSecret(Secret):
    """Fresh randomness of one epoch of a link key."""

    __slots__ = ()

    WHAT = "epoch secret"


def new_vault_id() -> str:
    """Return a random name for a vault."""
    return nacl.utils.random(_ID_BYTES).hex()


def seed_id(seed: LinkSeed) -> str:
    """Return a name for a link seed that reveals nothing about it."""
    return HKDF(SHA256(), _ID_BYTES, _SEED_ID_SALT, b"").derive(seed.raw).hex()


def fresh_link_key(seed: LinkSeed, fresh: EpochSecret, cluster: str, name: str, epoch: int) -> LinkKey:
    """Derive the secret of a link key in an epoch; neither the seed nor the epoch's randomness alone gives it.

    Args:
        seed: the cluster's.
        fresh: the epoch's.
        cluster: Swarm's cluster id.
        name: the link key's (`mesh.model.labels.link_labels.key_name`).
        epoch: the number of the secret.
    """
    info = framed("linkwire link key 2", cluster, name, epoch)
    return LinkKey(HKDF(SHA256(), LinkKey.SIZE, _SALT, info).derive(seed.raw + fresh.raw))


def keep(secret: EpochSecret, vault: VaultSecret, context: bytes) -> bytes:
    """Encrypt an epoch's secret; it comes back for the same context only."""
    nonce = nacl.utils.random(_NONCE_BYTES)
    return _FORMAT + nonce + ChaCha20Poly1305(vault.raw).encrypt(nonce, secret.raw, context)


def take_out(kept: bytes, vault: VaultSecret, context: bytes) -> EpochSecret:
    """Decrypt what `keep` returned. Raises InvalidRecordError for anything else, and for another context."""
    nonce, box = kept[1 : 1 + _NONCE_BYTES], kept[1 + _NONCE_BYTES :]
    if kept[:1] != _FORMAT or len(box) != EpochSecret.SIZE + 16:
        raise InvalidRecordError("not an epoch secret in a format that this version reads")
    try:
        return EpochSecret(ChaCha20Poly1305(vault.raw).decrypt(nonce, box, context))
    except InvalidTag:
        raise InvalidRecordError("the epoch secret is of another vault or epoch, or was changed") from None
