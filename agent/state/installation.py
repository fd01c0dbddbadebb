"""Binding of a node's remembered state to one installation of Linkwire.

The volume of an agent outlives `docker linkwire uninstall` on a node that was down then. Its state was signed by
keys that no later installation has: an agent that held to it would act on nothing for ever. The installation's id
comes from the service's own settings, so from Swarm's managers; nothing that lies in etcd can change it.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from agent.state import atomic_file, verified_state
from mesh.crypto.signed_envelope import Keyring, peek
from mesh.errors import InvalidRecordError, Terminal
from mesh.model import keyspace

log = structlog.get_logger(__name__)

FILE = "installation"
ASIDE = "earlier"
"""Folder with the state of the installation before this one; of the last such only."""


def bind(folder: Path, installation: str, keyring: Keyring) -> bool:
    """Set aside the state of another installation, and write down which one the folder belongs to.

    Args:
        folder: the node's own, with the files of `agent.state.verified_state`.
        installation: id of the one that this agent is part of; empty where nobody says, then nothing is done.
        keyring: who may sign. It counts only for state that was kept before installations had an id.

    Returns:
        Whether state was set aside.

    Raises:
        Terminal: the folder cannot be read or written.
    """
    if not installation:
        return False
    path = folder / FILE
    try:
        owner = path.read_text("ascii").strip() if path.exists() else _signer(folder, installation, keyring)
        if owner == installation and path.exists():
            return False
        moved = _set_aside(folder) if owner not in ("", installation) else []
        atomic_file.write(path, f"{installation}\n".encode())
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal(f"the installation that this node's state belongs to, {path}: {error}") from None
    if moved:
        log.warning(
            "state of another installation set aside",
            count=len(moved),
            file=str(folder / ASIDE),
            installation=installation,
            previous=owner,
        )
    return bool(moved)


def _signer(folder: Path, installation: str, keyring: Keyring) -> str:
    """Return the owner of state without an id: this installation where one of its keys signed the manifest."""
    try:
        value = verified_state.remembered(folder)
        signer = peek(keyspace.MANIFEST, value).signer_id if value else b""
    except (Terminal, InvalidRecordError):  # agent.state.verified_state says what to do about it
        return ""
    return installation if signer and keyring.find(signer) else signer.hex()


def _set_aside(folder: Path) -> list[str]:
    """Move the files of `agent.state.verified_state` out of its way; returns the names of those that there were."""
    aside = folder / ASIDE
    aside.mkdir(mode=0o700, exist_ok=True)
    moved = [name for name in (verified_state.FILE, verified_state.STATE_FILE) if (folder / name).exists()]
    for name in moved:
        (folder / name).replace(aside / name)
    return moved
