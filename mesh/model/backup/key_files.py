"""Files of the key pair that backups are sealed to: the identity, which its owner keeps, and the recipient. Pure.

Both are text, a line with their name and a line with the key. Errors quote nothing of a file.
"""

from __future__ import annotations

from mesh.crypto.hpke import NodeKey, NodePublicKey
from mesh.errors import Terminal

_IDENTITY = "linkwire backup identity 1"
_RECIPIENT = "linkwire backup recipient 1"


def identity_text(key: NodeKey) -> str:
    """Return the content of an identity file, which nobody but its owner may read."""
    return f"{_IDENTITY}\n{key.raw.hex()}\n"


def recipient_text(key: NodePublicKey) -> str:
    """Return the content of a recipient file, which anybody may read."""
    return f"{_RECIPIENT}\n{key}\n"


def read_identity(text: str) -> NodeKey:
    """Read an identity file. Raises Terminal."""
    lines = text.split()
    if _begins(lines, _RECIPIENT):
        raise Terminal("it is a recipient file, which opens nothing: name the identity file beside it")
    if not _begins(lines, _IDENTITY):
        raise Terminal("it is no identity file: `docker linkwire backup --keygen FILE` makes one")
    try:
        return NodeKey(bytes.fromhex(lines[-1]))
    except (ValueError, Terminal):
        raise Terminal("it is an identity file, and its key is damaged") from None


def read_recipient(text: str) -> NodePublicKey:
    """Read a recipient file. Raises Terminal."""
    lines = text.split()
    if _begins(lines, _IDENTITY):
        raise Terminal("it is an identity file, which opens backups: name the recipient file (.pub) beside it")
    if not _begins(lines, _RECIPIENT):
        raise Terminal("it is no recipient file: `docker linkwire backup --keygen FILE` makes FILE.pub")
    try:
        return NodePublicKey.parse(lines[-1])
    except Terminal:
        raise Terminal("it is a recipient file, and its key is damaged") from None


def _begins(lines: list[str], name: str) -> bool:
    words = name.split()
    return lines[: len(words)] == words and len(lines) == len(words) + 1
