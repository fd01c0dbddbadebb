"""Manifests that nodes have acted on, each proven by its own signature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from mesh.errors import InvalidRecordError
from mesh.model import keyspace
from mesh.model.records import Status
from mesh.store.client import Store

log = structlog.get_logger(__name__)

_SPARE = 8  # verified manifests that are remembered beyond those that nodes show


@dataclass(frozen=True, slots=True)
class Witness:
    """A node that has proven which state it has seen; without a name no node has."""

    node: str = ""
    generation: int = 0
    manifest: bytes = b""
    """As it was signed."""


class Witnesses:
    """The newest manifest that each node has shown. Not safe for several threads."""

    def __init__(self, store: Store) -> None:
        """Start with no node; `store` verifies signatures."""
        self._store = store
        self._claims: dict[str, bytes] = {}
        self._seen: dict[str, Witness] = {}
        self._opened: dict[bytes, int] = {}  # manifest -> its generation, whichever node shows it

    def hear(self, status: Status) -> Witness | None:
        """Verify the manifest of a node's status; None where it is not new or not signed."""
        if not status.manifest or self._claims.get(status.node) == status.manifest:
            return None
        self._claims[status.node] = status.manifest
        try:
            generation = self._generation(status.manifest)
        except InvalidRecordError as error:
            log.warning("manifest of node rejected", node=status.node, error=str(error))
            return None
        witness = self._seen[status.node] = Witness(status.node, generation, status.manifest)
        return witness

    def newest(self, nodes: Iterable[str]) -> Witness:
        """Return which of some nodes has seen the highest generation."""
        seen = [self._seen[node] for node in nodes if node in self._seen]
        return max(seen, key=lambda witness: (witness.generation, witness.node), default=Witness())

    def agree(self, generation: int, manifest: bytes | None) -> bool:
        """Tell whether no node has seen more than this manifest, or another one of its generation."""
        return not any(
            shown > generation or (shown == generation and raw != manifest) for raw, shown in self._opened.items()
        )

    def _generation(self, manifest: bytes) -> int:
        """Return the generation of a signed manifest, verifying each once. Raises InvalidRecordError."""
        generation = self._opened.get(manifest)
        if generation is None:
            generation = self._store.open(keyspace.MANIFEST, manifest).generation
            if len(self._opened) > len(self._seen) + _SPARE:
                shown = {witness.manifest for witness in self._seen.values()}
                self._opened = {raw: number for raw, number in self._opened.items() if raw in shown}
            self._opened[manifest] = generation
        return generation
