"""The node's own WireGuard key, and the UDP port of its device."""

from __future__ import annotations

from pathlib import Path

from agent.state import key_file
from mesh.crypto.keys import PrivateKey
from mesh.errors import Terminal

FILE = "encryption.key"
_HEADER = b"linkwire node encryption key 1\n"
_LOWEST_PORT = 1024
"""Those below are for a node's own services (mesh.topology.underlay)."""


def load_or_make(folder: Path) -> PrivateKey:
    """Read the key; on the first run make it. It never leaves the node.

    Raises:
        Terminal: as `key_file.load_or_make`, or the file holds no such key.
    """
    path = folder / FILE
    what = "the node's key of node encryption"
    raw = key_file.load_or_make(path, lambda: _HEADER + PrivateKey.generate().raw, what)
    header, secret = raw[: len(_HEADER)], raw[len(_HEADER) :]
    if header != _HEADER or len(secret) != PrivateKey.SIZE:
        raise Terminal(f"{path} is not a key of this version; remove it, and the node gets a new one")
    return PrivateKey(secret)


def port_beside(first: int, last: int) -> int:
    """Return the UDP port of the node's device, beside the range of its tasks' devices.

    Args:
        first: the first port of a task's device.
        last: the last one.
    """
    return first - 1 if first > _LOWEST_PORT else last + 1
