"""Owner of etcd's data: one installation of Linkwire; data of another one is set aside, never served.

A volume that an uninstall could not reach holds records of a signing key that is gone, and a controller touches none
of them. The owner's id is a key in etcd itself that only root may write, so a restored backup has its owner with it.
Older data has no such key and belongs to the installation whose key signed its manifest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from mesh.crypto.signed_envelope import peek
from mesh.errors import InvalidRecordError, Retryable
from mesh.model import keyspace
from mesh.store.etcd_channel import Channel, ChannelPool

log = structlog.get_logger(__name__)

KEY = b"/linkwire/installation"
"""Controllers and agents may neither read nor write it."""
ASIDE = "earlier-installation"
MEMBER = "member"
"""Folder that etcd writes to, below its data folder."""
_MANIFEST = (keyspace.ROOT + keyspace.MANIFEST).encode()


def claim(line: ChannelPool, installation: str) -> str:
    """Claim data without an owner for this installation.

    Args:
        line: as root.
        installation: its id; if it is empty, nothing is done.

    Returns:
        The owner if that is another installation; else an empty text.

    Raises:
        LinkwireError: etcd does not answer.
    """
    if not installation:
        return ""
    with line.use() as link:
        written = _value(link, KEY).decode("ascii", "replace")
        owner = written or _signer(link)
        if owner and owner != installation:
            return owner
        if not written and link.commit([], [(KEY, installation.encode(), 0)], []) is None:
            raise Retryable("etcd does not take the installation's id")
    return ""


def set_aside(data: Path, owner: str) -> None:
    """Move another installation's data to a folder of its own; data that was set aside before is deleted.

    Args:
        data: etcd's folder, with no etcd running on it.
        owner: id of the installation that owns the data.

    Raises:
        OSError: the data cannot be moved.
    """
    aside = data / ASIDE
    if aside.exists():
        shutil.rmtree(aside)
    (data / MEMBER).replace(aside)
    log.warning("data of another installation set aside, etcd starts empty", installation=owner, path=str(aside))


def _value(link: Channel, key: bytes) -> bytes:
    return next((entry.value for entry in link.page(key, key + b"\0", 0).kvs), b"")


def _signer(link: Channel) -> str:
    value = _value(link, _MANIFEST)
    try:
        return peek(keyspace.MANIFEST, value).signer_id.hex() if value else ""
    except InvalidRecordError:  # forged: the controller mends it
        return ""
