"""The controllers' own records about link keys, as frozen data. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.crypto.hpke import NodePublicKey
from mesh.model.records import OPTIONAL, Record


@dataclass(frozen=True, slots=True)
class EpochHistory(Record, key="vaults/{0.key}"):
    """The controllers' note of who may know the current epoch of a link key. No agent reads it.

    Where it is missing, or of another epoch, every node may know the epoch's secret.
    """

    key: str
    epoch: int
    revoked: tuple[str, ...]
    """Revocations of nodes that held when the epoch began, sorted: none of these nodes was given its secret."""
    forgotten: bool = field(default=False, metadata=OPTIONAL)
    """Whether a box with the secret has been deleted since: its node is not known by name."""
    vault: str = field(default="", metadata=OPTIONAL)
    """Id of the vault that the epoch's fresh secret is kept under; empty where there is none."""
    kept: bytes = field(default=b"", metadata=OPTIONAL)
    """The epoch's fresh secret, encrypted (mesh.crypto.link_key_vault)."""


@dataclass(frozen=True, slots=True)
class ControllerKey(Record, key="controllers/{0.node}"):
    """A controller's own sealing key. The signing seed, which controllers alone have, signs it."""

    node: str
    sealing_key: NodePublicKey


@dataclass(frozen=True, slots=True)
class VaultBox:
    """The vault's secret, sealed to one controller."""

    node: str
    sealed_to: str
    """Fingerprint of the controller's sealing key."""
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Vault(Record, key="vault"):
    """The secret that epochs' fresh secrets are kept under. Where no controller opens it, another one begins."""

    id: str
    seed: str
    """Name of the link seed that goes with it (`mesh.crypto.link_key_vault.seed_id`)."""
    first: bool
    """Whether there was none before: the epochs of an earlier version then follow from the same link seed."""
    boxes: tuple[VaultBox, ...]
