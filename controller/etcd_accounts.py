"""etcd's users and roles, kept as the controller says in the store, over a connection of etcd's root.

What it says is read as it lies there, and its signature is not checked: etcd lets nobody but the controller write
it, and who writes it in etcd's data owns etcd, users and all. Names are held to what a node's can be, roots to what
Swarm makes, and nothing else is taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from controller.access import made_by_swarm
from mesh import codec, keyspace
from mesh.envelope import peek
from mesh.errors import InvalidRecord
from mesh.etcd import Line, Link
from mesh.etcd_roles import Grant, establish, grants
from mesh.records import Access, Record

log = structlog.get_logger(__name__)

_KEY = (keyspace.ROOT + keyspace.ACCESS).encode()


class Accounts:
    """Remembers what it has set, so that looking again costs one read."""

    def __init__(self) -> None:
        self._known: Mapping[str, tuple[Grant, ...]] = {}

    def keep(self, line: Line) -> tuple[str, ...] | None:
        """Make users and roles what they should be now.

        Args:
            line: as root.

        Returns:
            The roots of Swarm's that etcd should trust, in PEM; None while no controller has said.

        Raises:
            LinkwireError: etcd does not answer, or does not do it.
        """
        with line.use() as link:
            access = _read(link)
            wanted = grants(access)
            if wanted != self._known:
                before, self._known = self._known, {}  # not known, if it is broken off
                establish(link, wanted, before)
                self._known = wanted
                shared = "all" if access is None else len(access.shared)
                log.info("etcd's users and roles are set", nodes=len(access.nodes) if access else 0, shared=shared)
        return tuple(made_by_swarm([root.encode() for root in access.roots])) if access else None


def _read(link: Link) -> Access | None:
    """What the controller says, None where it has said nothing that this version reads."""
    for found in link.page(_KEY, _KEY + b"\0", 0).kvs:
        try:
            record: Record = codec.decode(keyspace.ACCESS, peek(keyspace.ACCESS, found.value).body)
        except InvalidRecord as error:
            log.warning("what the controller says of etcd's users is not understood", error=str(error))
        else:
            return record if isinstance(record, Access) else None
    return None
