"""A task's private key on its way to its node: sealed by the controller, opened by the agent. No I/O here."""

from __future__ import annotations

from mesh import keyspace
from mesh.framing import framed
from mesh.hybrid import NodeKey, NodePublicKey, seal, unseal
from mesh.keys import PrivateKey
from mesh.records import SealedKey


def sealed_key(key: PrivateKey, to: NodePublicKey, node: str, task: str, epoch: int) -> SealedKey:
    """The record of a task's private key. The box opens for this task, node and epoch alone: moved, it is refused."""
    return SealedKey(task, node, epoch, to.fingerprint, seal(key.raw, to, _context(node, task, epoch)))


def open_key(sealed: SealedKey, key: NodeKey) -> PrivateKey:
    """The private key that a record holds.

    Raises:
        NotABox, NotOpened: it was not sealed to this node's key for this task and epoch, or was changed.
        Terminal: what was sealed is no key.
    """
    return PrivateKey(unseal(sealed.sealed, key, _context(sealed.node, sealed.task, sealed.epoch)))


def _context(node: str, task: str, epoch: int) -> bytes:
    return framed(keyspace.sealed_key(node, task), node, epoch)
