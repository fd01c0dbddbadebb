"""The node's own sealing key: a file that only root reads, made once."""

from __future__ import annotations

from pathlib import Path

from agent import keyfile
from mesh.errors import Terminal
from mesh.hybrid import NodeKey

FILE = "node.key"


def load_or_make(folder: Path) -> NodeKey:
    """Read the node's sealing key; on the first run make it.

    Raises:
        Terminal: the folder cannot be written, others may read the file, or it is not a key of ours.
    """
    path = folder / FILE
    raw = keyfile.load_or_make(path, lambda: NodeKey.generate().to_file(), "the node's sealing key")
    try:
        return NodeKey.from_file(raw)
    except Terminal:
        raise Terminal(
            f"{path} is not a sealing key of this version; remove it: the node gets a new one, and its tasks new keys"
        ) from None
