"""Files with this node's keys: made once, whole or not at all, for root alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from agent.state import atomic_file
from mesh.crypto.hpke import NodeKey
from mesh.errors import Terminal

NODE_KEY_FILE = "node.key"
_OTHERS = 0o077


def load_or_make(path: Path, make: Callable[[], bytes], what: str) -> bytes:
    """Read a key's file; on the first run make it.

    The file appears whole or not at all, so a crash between any two lines leaves either no key or a good one; and of
    two agents that start at once (start-first) both get the key of the first.

    Args:
        path: of the file; its folder is made where it is missing.
        make: returns the content of a new file.
        what: names the key in errors.

    Raises:
        Terminal: the folder cannot be written, the file cannot be read, or others than its owner may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            atomic_file.write(path, make(), replace=False)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read()
    except OSError as error:
        raise Terminal(f"{what} {path}: {error.strerror}") from error
    if mode & _OTHERS:
        raise Terminal(
            f"{what} {path} may be read by others (mode {mode:04o}): remove it, and the node gets a new one; "
            "or, if nobody has read it, `chmod 600`"
        )
    return raw


def load_or_make_node_key(folder: Path) -> NodeKey:
    """Read the node's sealing key; on the first run make it.

    Raises:
        Terminal: as `load_or_make`, or the file holds no sealing key.
    """
    path = folder / NODE_KEY_FILE
    raw = load_or_make(path, lambda: NodeKey.generate().to_file(), "the node's sealing key")
    try:
        return NodeKey.from_file(raw)
    except Terminal:
        raise Terminal(
            f"{path} is not a sealing key of this version; remove it: the node gets a new one, and its tasks new keys"
        ) from None
