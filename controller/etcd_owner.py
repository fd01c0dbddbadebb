"""The binding of etcd's data to one installation of Linkwire: data of another one is set aside, never served.

A volume that an uninstall could not reach holds records that nobody may sign any more, and a controller rightly
touches none of them. Whose data it is stands in etcd itself, in a key that root alone may write, so that a restored
backup brings its owner with it. Data from before there was such a key belongs to whose signing key signed it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from mesh import keyspace
from mesh.envelope import peek
from mesh.errors import InvalidRecord, Retryable
from mesh.etcd import Line, Link

log = structlog.get_logger(__name__)

KEY = b"/linkwire/installation"
"""Outside of what controllers and agents may read or write."""
ASIDE = "earlier-installation"
MEMBER = "member"
"""etcd's own name for all that it writes below its data folder."""
_MANIFEST = (keyspace.ROOT + keyspace.MANIFEST).encode()


def claim(line: Line, installation: str) -> str:
    """Make data that belongs to nobody this installation's.

    Args:
        line: as root.
        installation: the id; empty where nobody says, then nothing is done.

    Returns:
        The owner where that is another installation; else nothing.

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
    """Move another installation's data out of the way, which is kept until there is other data to set aside.

    Args:
        data: etcd's folder, with no etcd running on it.
        owner: id of the installation that the data is of.

    Raises:
        OSError: it cannot be moved.
    """
    aside = data / ASIDE
    if aside.exists():
        shutil.rmtree(aside)
    (data / MEMBER).replace(aside)
    log.warning("data of another installation set aside, etcd starts empty", owner=owner, folder=str(aside))


def _value(link: Link, key: bytes) -> bytes:
    return next((found.value for found in link.page(key, key + b"\0", 0).kvs), b"")


def _signer(link: Link) -> str:
    value = _value(link, _MANIFEST)
    try:
        return peek(keyspace.MANIFEST, value).signer_id.hex() if value else ""
    except InvalidRecord:  # meddled with: that is the controller's to mend
        return ""
