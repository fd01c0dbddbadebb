"""The query `backup`: the controllers' signed records at one revision, sealed to the recipient of who asks.

No open record leaves this process, so neither Docker's log nor who runs `docker` sees it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Protocol

from agent.queries.answers import text
from agent.queries.server import BadQueryError, Document
from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.sealed_stream import sealed
from mesh.errors import Retryable, Terminal
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.backup.contents import PREFIXES, PURPOSE, Backup, encoded
from mesh.model.snapshot import Snapshot

TRIES = 20
WAIT_S = 0.5
"""Seconds between two readings of a store that is not what was signed: the leading controller mends it within one."""


class Loader(Protocol):
    """Reader of the store (`Store.load`)."""

    def __call__(self, prefixes: tuple[str, ...], /, *, with_raw: bool) -> Snapshot:
        """Read some prefixes at one revision."""


class Backups:
    """Backups by one agent.

    Args:
        load: reads the store.
        cluster: Swarm's id.
        program: version of this program.
    """

    def __init__(self, load: Loader, cluster: str, program: str) -> None:
        self._load = load
        self._cluster = cluster
        self._program = program

    def backup(self, query: Document) -> Iterator[Document]:
        """Send the sealed backup in parts, and at last what it is of.

        Raises:
            BadQueryError: there is no recipient.
            Retryable: the store is not what was signed.
        """
        try:
            recipient = NodePublicKey.parse(text(query, "recipient") or "")
        except Terminal as error:
            raise BadQueryError(f"recipient: {error}") from None
        snapshot = self._whole()
        values = {key: versioned.raw or b"" for key, versioned in snapshot.records.items()}
        generation = snapshot.records[keyspace.MANIFEST].generation
        made = Backup(self._cluster, snapshot.revision, generation, time.time(), self._program, values)
        for part in sealed(encoded(made), recipient, PURPOSE):
            yield {"part": base64.b64encode(part).decode()}
        yield {"backup": made.described(), "left_out": sorted(snapshot.invalid.values())}

    def _whole(self) -> Snapshot:
        """Read the store when it is what was signed. Raises Retryable, with the reason, when it stays another."""
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(WAIT_S)
            snapshot = self._load(PREFIXES, with_raw=True)
            problem = verify_snapshot(snapshot).problem
            if not problem:
                return snapshot
        raise Retryable(f"etcd does not hold what was signed, so there is nothing to back up: {problem}")
