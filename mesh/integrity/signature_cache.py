"""Signature cache with a replay floor: each value is checked once, and none older than a believed one counts. No I/O.

For the records of agents: they are read unchecked (mesh.integrity.record_signing), since only who knows the node's
key can check them.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from mesh.crypto.signed_envelope import Keyring, VerifyKey, unwrap
from mesh.errors import InvalidRecordError
from mesh.model.records import Record
from mesh.model.snapshot import Versioned


@dataclass(frozen=True, slots=True)
class _Checked:
    """Result of checking a value with a key."""

    value: Versioned[Record]
    signer: VerifyKey
    problem: str | None


class SignatureCache:
    """Checks the values of one cluster; remembers the results and, for each key, the latest believed generation."""

    def __init__(self, cluster: str) -> None:
        """Start empty; `cluster` is Swarm's cluster id, which every signature is bound to."""
        self.cluster = cluster
        self._checked: dict[str, _Checked] = {}
        self._floors: dict[str, tuple[VerifyKey, int]] = {}

    def problem(self, key: str, value: Versioned[Record], signer: VerifyKey) -> str | None:
        """Return why a value is not to be believed to be a signer's.

        Args:
            key: relative to the root.
            value: as it was read; its `raw` is checked.
            signer: the node's key that should have signed it.

        Returns:
            None where its signature holds and nothing newer of that signer was believed under this key before.
        """
        last = self._checked.get(key)
        if last is None or last.signer != signer or (last.value is not value and last.value.raw != value.raw):
            last = self._checked[key] = _Checked(value, signer, self._check(key, value, signer))
        elif last.value is not value:  # read again, after the connection was lost
            self._checked[key] = replace(last, value=value)
        return last.problem

    def raise_floor(self, key: str, value: Versioned[Record], signer: VerifyKey) -> None:
        """Refuse anything older of that signer under this key from now on.

        Call only after the signer was authorised: a valid signature by the wrong node must not replace the floor of
        the right one.
        """
        self._floors[key] = signer, value.generation

    def drop_stale(self, present: Container[str], living: Container[str]) -> None:
        """Forget the results of keys that are not `present`, and the floors of those that are not `living`."""
        self._checked = {key: checked for key, checked in self._checked.items() if key in present}
        self._floors = {key: floor for key, floor in self._floors.items() if key in living}

    def _check(self, key: str, value: Versioned[Record], signer: VerifyKey) -> str | None:
        if value.raw is None:
            return f"{key}: there is no signature to check"
        try:
            generation = unwrap(Keyring(self.cluster, (signer,)), key, value.raw).generation
        except InvalidRecordError as error:
            return str(error)
        of, floor = self._floors.get(key, (signer, 0))
        if of == signer and generation < floor:
            return f"{key}: generation {generation} after {floor} was seen"
        return None
