"""The controllers' own records about link keys, as frozen data. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field

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
