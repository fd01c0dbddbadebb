"""A backup and its keys, and the files that examples of `docker linkwire backup` and `restore` name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesh.crypto.hpke import NodeKey
from mesh.crypto.sealed_stream import sealed
from mesh.model.backup.contents import PURPOSE, Backup, encoded
from mesh.model.backup.key_files import identity_text, recipient_text

KEY = NodeKey(b"\5" * 32)
BACKUP = Backup("swarm", 12, 7, 1_764_000_000.0, "1.2.3", {"cluster": b"c" * 90, "services/s": b"s" * 70_000})


def prepare(folder: Path, words: Sequence[str]) -> None:
    """Have exactly the files in a folder that are there before a command line is run."""
    made = {"backup.key": identity_text(KEY).encode(), "backup.key.pub": recipient_text(KEY.public).encode()}
    made["linkwire.backup"] = b"".join(sealed(encoded(BACKUP), KEY.public, PURPOSE))
    for name, content in made.items():
        (folder / name).unlink(missing_ok=True)
        if "--keygen" not in words and (name != "linkwire.backup" or "restore" in words):
            (folder / name).write_bytes(content)
