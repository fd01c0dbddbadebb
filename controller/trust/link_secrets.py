"""Secrets of link keys: from the link seed and, for each epoch, fresh randomness that controllers alone can open.

The randomness of an epoch is kept in its note, encrypted under the vault's secret; that secret is sealed to each
controller's own key, which never leaves its node's volume. A leader that cannot open the vault, or has another link
seed, begins another one; then every link key begins a new epoch, as in any rotation. Pure, but for randomness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.steps import FRESH, OpenVault, PlanStep, Step
from controller.swarm.model import Swarm
from mesh.crypto.framing import framed
from mesh.crypto.hpke import NodeKey, NodePublicKey, seal, unseal
from mesh.crypto.link_key_vault import EpochSecret, VaultSecret, fresh_link_key, keep, new_vault_id, seed_id, take_out
from mesh.crypto.preshared_keys import LinkKey, LinkSeed, link_key
from mesh.errors import LinkwireError, Terminal
from mesh.model import keyspace
from mesh.model.records import LinkKeyEpoch
from mesh.model.snapshot import Put, Snapshot
from mesh.model.vault.records import ControllerKey, EpochHistory, Vault, VaultBox


@dataclass(frozen=True, slots=True)
class ControllerIdentity:
    """A controller's node and its own sealing key."""

    node: str
    key: NodeKey


class LinkSecrets:
    """Secrets of link keys, kept in line with the store. Not safe for several threads."""

    def __init__(self, seed: LinkSeed, cluster: str, own: ControllerIdentity | None) -> None:
        """Prepare.

        Args:
            seed: the link seed.
            cluster: Swarm's id.
            own: this controller; None where every secret follows from the link seed alone.
        """
        self._seed = seed
        self._seed_id = seed_id(seed)
        self._cluster = cluster
        self._own = own
        self._stored = Snapshot()
        self._record: Vault | None = None
        self._secret: VaultSecret | None = None
        self._last: tuple[Vault, VaultSecret] | None = None  # the last one that was open
        self._begun: dict[tuple[str, int], EpochSecret] = {}
        self._notes: dict[str, EpochHistory] = {}  # those that were seen last, also when they are gone
        self._may_lack_notes = False

    @property
    def opened(self) -> OpenVault | None:
        """Return the store's vault; None where none is in use."""
        if self._own is None:
            return None
        if self._record is None or self._secret is None or self._record.seed != self._seed_id:
            return OpenVault()
        return OpenVault(self._record.id, self._record.first)

    def observe(self, stored: Snapshot) -> None:
        """Look at the whole store, also while another controller leads: it may lose the vault."""
        self._remember_notes(stored.changed_since(self._stored), stored)
        self._stored = stored
        record = stored.get(keyspace.VAULT, Vault)
        if record is not self._record:
            self._record, self._secret = record, self._unsealed(record) if record is not None else None
            if record is not None and self._secret is not None:
                self._last = record, self._secret

    def _remember_notes(self, changed: frozenset[str] | None, stored: Snapshot) -> None:
        if changed is None:
            changed = frozenset(key for key, _ in stored.keys_of(EpochHistory))
        elif not any(key.startswith((keyspace.VAULTS, keyspace.EPOCHS)) for key in changed):
            return
        notes = (stored.get(key, EpochHistory) for key in changed if key.startswith(keyspace.VAULTS))
        self._notes.update({note.key: note for note in notes if note is not None})
        self._may_lack_notes = True

    def lost_notes(self, stored: Snapshot) -> list[Step]:
        """Write the notes again that the store has lost while this controller knew them: their epochs go on.

        Args:
            stored: the whole store, whose signed records are all there.
        """
        if self._own is None or not self._may_lack_notes:
            return []
        vault = self.opened
        epochs = {record.key: record.epoch for record in stored.all(LinkKeyEpoch)}
        self._notes = {key: note for key, note in self._notes.items() if epochs.get(key) == note.epoch}
        current = [n for _, n in sorted(self._notes.items()) if vault and vault.id and n.vault == vault.id]
        paths = {note.key: keyspace.history(note.key) for note in current}
        lost = [n for n in current if paths[n.key] not in stored.records and paths[n.key] not in stored.invalid]
        self._may_lack_notes = bool(lost)
        return [
            PlanStep((Put(note, 0),), f"link key {note.key}: note of epoch {note.epoch} lost, written again")
            for note in lost
        ]

    def announcement(self, stored: Snapshot) -> Put | None:
        """Return the record of this controller's key; None where the store has it, or is not in use yet."""
        if self._own is None or keyspace.CLUSTER not in stored.records:
            return None
        record = ControllerKey(self._own.node, self._own.key.public)
        path = keyspace.controller(self._own.node)
        return None if stored.get(path, ControllerKey) == record else Put(record, stored.revision_of(path))

    def steps(self, stored: Snapshot, swarm: Swarm) -> Iterator[Step]:
        """Begin a vault where none can be opened, and seal it to every controller."""
        if self._own is None:
            return
        vault, secret, reason = self._wanted(stored)
        keys = {record.node: record.sealing_key for record in stored.all(ControllerKey)}
        keys[self._own.node] = self._own.key.public
        managers = {node.id for node in swarm.nodes.values() if node.manager and node.revoked is None}
        had = {box.node: box for box in vault.boxes}
        boxes = []
        for node in sorted((keys.keys() | had.keys()) & (managers | {self._own.node})):
            box, key = had.get(node), keys.get(node)
            if key is not None and (box is None or box.sealed_to != key.fingerprint):
                box = VaultBox(node, key.fingerprint, self._sealed(vault.id, node, key, secret))
                reason = reason or f"sealed to the controller of {node}"
            if box is not None:
                boxes.append(box)
        record = Vault(vault.id, vault.seed, vault.first, tuple(boxes))
        if record != stored.get(keyspace.VAULT, Vault):
            text = f"vault of link keys: {reason or 'no longer sealed to a controller that is gone'}"
            yield PlanStep((Put(record, stored.revision_of(keyspace.VAULT)),), text)

    def _wanted(self, stored: Snapshot) -> tuple[Vault, VaultSecret, str]:
        """Return the vault to use, its secret, and why it is another one than the store's."""
        record = stored.get(keyspace.VAULT, Vault)
        if (
            record is not None
            and record is self._record
            and self._secret is not None
            and record.seed == self._seed_id
        ):
            return record, self._secret, ""
        absent = record is None and keyspace.VAULT not in stored.invalid
        if absent and self._last is not None and self._last[0].seed == self._seed_id:
            return *self._last, "lost, written again"
        new = Vault(new_vault_id(), self._seed_id, absent, ())
        why = "begun" if absent else "begun anew: the last one is of another link seed, or no key here opens it"
        return new, VaultSecret.generate(), why

    # --- secrets

    def __call__(self, key: str, epoch: int, /) -> LinkKey:
        """Return the secret of a link key in an epoch. Raises Terminal where it is not known."""
        if epoch < FRESH:
            return link_key(self._seed, self._cluster, key, epoch)
        note = self._stored.get(keyspace.history(key), EpochHistory)
        if note is not None and note.epoch == epoch and note.kept:
            self._begun.pop((key, epoch), None)
            fresh = self._taken_out(note)
        else:
            fresh = self._begun.get((key, epoch))
        if fresh is None:
            raise Terminal(f"nobody knows the secret of epoch {epoch} of {key}")
        return fresh_link_key(self._seed, fresh, self._cluster, key, epoch)

    def noted(self, history: EpochHistory, /) -> EpochHistory:
        """Make the secret of an epoch that begins, and return its note with it."""
        vault = self.opened
        if vault is None or self._secret is None:
            return history
        fresh = self._begun.setdefault((history.key, history.epoch), EpochSecret.generate())
        kept = keep(fresh, self._secret, self._context(vault.id, history))
        return EpochHistory(history.key, history.epoch, history.revoked, history.forgotten, vault.id, kept)

    def _taken_out(self, note: EpochHistory) -> EpochSecret | None:
        vault = self.opened
        if vault is None or self._secret is None or note.vault != vault.id:
            return None
        try:
            return take_out(note.kept, self._secret, self._context(vault.id, note))
        except LinkwireError:
            return None

    def _context(self, vault: str, note: EpochHistory) -> bytes:
        return framed("linkwire epoch secret 1", self._cluster, vault, note.key, note.epoch)

    # --- the vault's boxes

    def _sealed(self, vault: str, node: str, key: NodePublicKey, secret: VaultSecret) -> bytes:
        return seal(secret.raw, key, self._box_context(vault, node))

    def _unsealed(self, record: Vault) -> VaultSecret | None:
        own = self._own
        for box in record.boxes:
            if own is not None and (box.node, box.sealed_to) == (own.node, own.key.public.fingerprint):
                try:
                    return VaultSecret(unseal(box.sealed, own.key, self._box_context(record.id, box.node)))
                except LinkwireError:
                    return None
        return None

    def _box_context(self, vault: str, node: str) -> bytes:
        return framed("linkwire vault 1", self._cluster, vault, node)
