"""The node's own sealing key: a file that only root reads, made once."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from mesh.errors import Terminal
from mesh.hybrid import NodeKey

FILE = "node.key"


def load_or_make(folder: Path) -> NodeKey:
    """Read the node's sealing key; on the first run make it.

    The file appears whole or not at all, so a crash between any two lines leaves either no key or a good one; and of
    two agents that start at once (start-first) both get the key of the first.

    Raises:
        Terminal: the folder cannot be written, or the file is not a key of ours.
    """
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        raw = path.read_bytes()
    except OSError as error:
        raise Terminal(f"the node's sealing key {path}: {error.strerror}") from error
    try:
        return NodeKey.from_file(raw)
    except Terminal:
        raise Terminal(
            f"{path} is not a sealing key of this version; remove it: the node gets a new one, and its tasks new keys"
        ) from None


def _make(path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{FILE}.") as file:  # mode 0600
        file.write(NodeKey.generate().to_file())
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
