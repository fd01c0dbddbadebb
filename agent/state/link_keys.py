"""Link keys that this node was given: opened once each, and remembered as long as their records are there."""

from __future__ import annotations

import structlog

from mesh.crypto.hpke import NodeKey
from mesh.crypto.preshared_keys import LinkKey, LinkKeys
from mesh.errors import LinkwireError
from mesh.integrity.sealed_keys import open_link_key
from mesh.model import keyspace
from mesh.model.records import LinkKeyEpoch, SealedLinkKey
from mesh.model.snapshot import Snapshot

log = structlog.get_logger(__name__)


class HeldLinkKeys:
    """Opened link keys, kept in line with the store.

    Attributes:
        held: the link keys that could be opened.
    """

    def __init__(self, node: str, key: NodeKey) -> None:
        """Hold nothing yet.

        Args:
            node: this node's id.
            key: its sealing key.
        """
        self._node = node
        self._key = key
        self._opened: dict[SealedLinkKey, LinkKey | None] = {}
        self.held = LinkKeys()
        self._learned = Snapshot()

    def learn(self, snapshot: Snapshot) -> None:
        """Take over this node's link keys. One that cannot be opened counts as missing, and is logged once.

        A box that cannot be read takes nothing away: what the node held under that key it goes on with. Nor does one
        of another epoch than the one that counts, which was put back or is still to be replaced; nor one that is
        missing while its epoch counts. Boxes are not signed as a set, epochs are.
        """
        changed = snapshot.changed_since(self._learned)
        if changed is None or any(key.startswith((keyspace.EPOCHS, keyspace.LINK_KEYS)) for key in changed):
            self._update(snapshot)
        self._learned = snapshot

    def _update(self, snapshot: Snapshot) -> None:
        epochs = {record.key: record.epoch for record in snapshot.all(LinkKeyEpoch)}
        opened: dict[SealedLinkKey, LinkKey | None] = {}
        for sealed in snapshot.all(SealedLinkKey):
            if sealed.node == self._node and epochs.get(sealed.key, sealed.epoch) == sealed.epoch:
                opened[sealed] = self._opened[sealed] if sealed in self._opened else self._open(sealed)
        new = {sealed.key for sealed in opened}
        for old, secret in self._opened.items():
            unread = keyspace.key_of(old) in snapshot.invalid
            if old.key not in new and (unread or old.key in epochs):
                opened[old] = secret
        if opened != self._opened:
            self._opened = opened
            self.held = self.held.with_secrets({s.key: secret for s, secret in opened.items() if secret is not None})

    def _open(self, sealed: SealedLinkKey) -> LinkKey | None:
        try:
            return open_link_key(sealed, self._key)
        except LinkwireError as error:
            log.warning("link key not opened", key=sealed.key, epoch=sealed.epoch, error=str(error))
            return None
