"""Secrets on their way to a node, tasks' private keys and link keys: sealed here, and opened. Pure."""

from __future__ import annotations

from mesh import keyspace
from mesh.framing import framed
from mesh.hybrid import NodeKey, NodePublicKey, seal, unseal
from mesh.keys import PrivateKey
from mesh.linkkeys import LinkKey
from mesh.records import SealedKey, SealedLinkKey


def sealed_key(key: PrivateKey, to: NodePublicKey, node: str, task: str, epoch: int) -> SealedKey:
    """The record of a task's private key. The box opens for this task, node and epoch alone: moved, it is refused."""
    context = _context(keyspace.sealed_key(node, task), node, epoch)
    return SealedKey(task, node, epoch, to.fingerprint, seal(key.raw, to, context))


def open_key(sealed: SealedKey, key: NodeKey) -> PrivateKey:
    """The private key that a record holds.

    Raises:
        NotABox, NotOpened: it was not sealed to this node's key for this task and epoch, or was changed.
        Terminal: what was sealed is no key.
    """
    return PrivateKey(unseal(sealed.sealed, key, _context_of(sealed)))


def sealed_link_key(secret: LinkKey, to: NodePublicKey, node: str, key: str, epoch: int) -> SealedLinkKey:
    """The record of a link key for a node. The box opens for this key, node and epoch alone: moved, it is refused."""
    context = _context(keyspace.link_key(node, key), node, epoch)
    return SealedLinkKey(key, node, epoch, to.fingerprint, seal(secret.raw, to, context))


def open_link_key(sealed: SealedLinkKey, key: NodeKey) -> LinkKey:
    """The link key's secret that a record holds. Raises as `open_key`."""
    return LinkKey(unseal(sealed.sealed, key, _context_of(sealed)))


def _context(path: str, node: str, epoch: int) -> bytes:
    return framed(path, node, epoch)


def _context_of(sealed: SealedKey | SealedLinkKey) -> bytes:
    return _context(keyspace.key_of(sealed), sealed.node, sealed.epoch)
