"""Acknowledgements: how far nodes are with node encryption, each by its own signature. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.integrity.signature_cache import SignatureCache
from mesh.model.encryption.status import EncryptionStatus, KeyStatus
from mesh.model.records import Member, Status
from mesh.model.snapshot import Snapshot


class Acknowledgements:
    """Reads the nodes' accounts of node encryption. Not safe for several threads."""

    def __init__(self, cluster: str) -> None:
        """Start without any; `cluster` is Swarm's id, which every signature is bound to."""
        self._signatures = SignatureCache(cluster)

    def read(self, stored: Snapshot, accepted: Mapping[str, Member]) -> dict[str, EncryptionStatus]:
        """Return the account of each node that gives one.

        Args:
            stored: the whole store.
            accepted: the statements that were accepted of nodes. What another key has signed counts for nothing, and
                neither does an older status than one that was read before.
        """
        return {node: state for node, (state, _) in self.read_all(stored, accepted).items()}

    def read_all(
        self, stored: Snapshot, accepted: Mapping[str, Member]
    ) -> dict[str, tuple[EncryptionStatus, KeyStatus | None]]:
        """Return the same with each node's account of its keys."""
        accounts: dict[str, tuple[EncryptionStatus, KeyStatus | None]] = {}
        for key, versioned in stored.keys_of(Status):
            status, member = versioned.record, accepted.get(versioned.record.node)
            if status.encryption is None or member is None:
                continue
            if self._signatures.problem(key, versioned, member.report_key) is None:
                self._signatures.raise_floor(key, versioned, member.report_key)
                accounts[status.node] = status.encryption, status.node_keys
        return accounts
