"""Sealed keys: tasks' private keys and link keys, encrypted to a node and opened by it. Pure."""

from __future__ import annotations

from mesh.crypto.framing import framed
from mesh.crypto.hpke import NodeKey, NodePublicKey, seal, unseal
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import LinkKey
from mesh.model import keyspace
from mesh.model.records import SealedKey, SealedLinkKey


def sealed_key(key: PrivateKey, to: NodePublicKey, node: str, task: str, epoch: int) -> SealedKey:
    """Seal a task's private key to a node. The box opens for this task, node and epoch only."""
    context = _context(keyspace.sealed_key(node, task), node, epoch)
    return SealedKey(task, node, epoch, to.fingerprint, seal(key.raw, to, context))


def open_key(sealed: SealedKey, key: NodeKey) -> PrivateKey:
    """Open a task's private key.

    Raises:
        MalformedCiphertextError, DecryptionError: it was not sealed to this node's key for this task and epoch, or
        was changed.
        Terminal: the sealed secret is no key.
    """
    return PrivateKey(unseal(sealed.sealed, key, _context_of(sealed)))


def sealed_link_key(secret: LinkKey, to: NodePublicKey, node: str, key: str, epoch: int) -> SealedLinkKey:
    """Seal a link key to a node. The box opens for this link key, node and epoch only."""
    context = _context(keyspace.link_key(node, key), node, epoch)
    return SealedLinkKey(key, node, epoch, to.fingerprint, seal(secret.raw, to, context))


def open_link_key(sealed: SealedLinkKey, key: NodeKey) -> LinkKey:
    """Open a link key. Raises as `open_key`."""
    return LinkKey(unseal(sealed.sealed, key, _context_of(sealed)))


def _context(path: str, node: str, epoch: int) -> bytes:
    return framed(path, node, epoch)


def _context_of(sealed: SealedKey | SealedLinkKey) -> bytes:
    return _context(keyspace.key_of(sealed), sealed.node, sealed.epoch)
