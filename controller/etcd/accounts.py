"""Users and roles of etcd, set from the controller's access record over a connection as etcd's root.

The record's signature is not checked: etcd lets only the controller write it, and an attacker who writes it into
etcd's data owns etcd, its users included. Only names that a node can have, and roots that Swarm can make, are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from controller.etcd.access_record import made_by_swarm
from controller.etcd.roles import Grant, establish, grants, keep_established
from mesh.crypto.signed_envelope import peek
from mesh.errors import InvalidRecordError, Retryable
from mesh.model import codec, keyspace
from mesh.model.records import Access, Record
from mesh.store.etcd_channel import Channel, ChannelPool

log = structlog.get_logger(__name__)

_KEY = (keyspace.ROOT + keyspace.ACCESS).encode()


@dataclass(frozen=True, slots=True)
class Trust:
    """Trust that holds from etcd's start on: only another start changes it.

    Attributes:
        roots: Swarm's, in PEM.
        revoked: revocations of nodes that no connection has outlived.
    """

    roots: tuple[str, ...] = ()
    revoked: frozenset[str] = frozenset()


class Accounts:
    """Users and roles that were set last, so that a check costs one read."""

    def __init__(self) -> None:
        """Start without users."""
        self._grants: Mapping[str, tuple[Grant, ...]] = {}
        self._access: Access | None = None

    def update(self, line: ChannelPool, barred: Collection[str] = ()) -> Trust | None:
        """Set users and roles as the access record says now.

        Args:
            line: as root.
            barred: nodes that are no users for now.

        Returns:
            Trust that etcd should have; None without an access record, or where it was never read.

        Raises:
            LinkwireError: etcd does not answer or refuses.
        """
        with line.use() as link:
            try:
                access = self._access = _read(link)
            except InvalidRecordError as error:
                log.warning("access record rejected", error=str(error))
                access = self._access
                if access is None and keep_established(link):
                    return None  # users and roles stay as they are: the controller writes the record again
                access = access or Access((), (), ())
            wanted = grants(access, barred=barred)
            if wanted != self._grants:
                before, self._grants = self._grants, {}  # unknown if this is interrupted
                establish(link, wanted, before)
                self._grants = wanted
                shared = "all" if access is None else len(access.shared)
                log.info("etcd users and roles set", count=len(access.nodes) if access else 0, shared=shared)
        return _trust(access)

    def read(self, line: ChannelPool, *, first: bool = False) -> Trust | None:
        """Return what `update` does, and set nothing: another member of etcd leads, and its supervisor sets them.

        Args:
            line: as root.
            first: nobody has been let in yet: make sure that authentication is on.

        Raises:
            LinkwireError: etcd does not answer, or its users and roles were never all set.
        """
        self._grants = {}  # another one changes them from now on
        with line.use() as link:
            if first and not keep_established(link):
                raise Retryable("the leading member of etcd has not set users and roles yet")
            try:
                self._access = _read(link)
            except InvalidRecordError as error:
                log.warning("access record rejected", error=str(error))
        return _trust(self._access)


def _trust(access: Access | None) -> Trust | None:
    if access is None:
        return None
    return Trust(tuple(made_by_swarm([root.encode() for root in access.roots])), frozenset(access.revoked))


def _read(link: Channel) -> Access | None:
    """Read the access record; None where there is none. Raises InvalidRecordError where nobody can say what it is."""
    for entry in link.page(_KEY, _KEY + b"\0", 0).kvs:
        record: Record = codec.decode(keyspace.ACCESS, peek(keyspace.ACCESS, entry.value).body)
        if not isinstance(record, Access):
            raise InvalidRecordError(f"{keyspace.ACCESS} holds another kind of record")
        return record
    return None
