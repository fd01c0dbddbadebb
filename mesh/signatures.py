"""Which values were found to be signed by which key: none is checked twice, no older one is taken. No I/O here.

For records of agents, which are read unchecked (mesh.seal) since only who knows the node's key can check them.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from mesh.envelope import Keyring, VerifyKey, unwrap
from mesh.errors import InvalidRecord
from mesh.records import Record, Versioned


@dataclass(frozen=True, slots=True)
class _Checked:
    """What came of checking a value with a key."""

    found: Versioned[Record]
    signer: VerifyKey
    problem: str | None


class Signatures:
    """Checks values of one cluster, and remembers what it found and the latest generation that was believed."""

    def __init__(self, cluster: str) -> None:
        """Know nothing; `cluster` is Swarm's id of it, which every signature is bound to."""
        self.cluster = cluster
        self._checked: dict[str, _Checked] = {}
        self._highest: dict[str, tuple[VerifyKey, int]] = {}

    def problem(self, key: str, found: Versioned[Record], signer: VerifyKey) -> str | None:
        """Why a value is not to be believed to be of a signer.

        Args:
            key: relative to the root, where it lies.
            found: as it was read; its `raw` is what is checked.
            signer: whose it should be.

        Returns:
            None where its signature holds and nothing newer of that signer was believed under this key before.
        """
        last = self._checked.get(key)
        if last is None or last.signer != signer or (last.found is not found and last.found.raw != found.raw):
            last = self._checked[key] = _Checked(found, signer, self._check(key, found, signer))
        elif last.found is not found:  # read again, after the connection was lost
            self._checked[key] = replace(last, found=found)
        return last.problem

    def believe(self, key: str, found: Versioned[Record], signer: VerifyKey) -> None:
        """From now on nothing older of that signer counts under this key.

        Not of every signature that holds: what one has signed who is not the right one must make nobody forget what
        was seen of the right one.
        """
        self._highest[key] = signer, found.generation

    def keep(self, present: Container[str], living: Container[str]) -> None:
        """Forget the values of keys that are not `present`, and the generations of those that are not `living`."""
        self._checked = {key: checked for key, checked in self._checked.items() if key in present}
        self._highest = {key: highest for key, highest in self._highest.items() if key in living}

    def _check(self, key: str, found: Versioned[Record], signer: VerifyKey) -> str | None:
        if found.raw is None:
            return f"{key}: there is no signature to check"
        try:
            generation = unwrap(Keyring(self.cluster, (signer,)), key, found.raw).generation
        except InvalidRecord as error:
            return str(error)
        of, highest = self._highest.get(key, (signer, 0))
        if of == signer and generation < highest:
            return f"{key}: an earlier value, of generation {generation}, where {highest} was seen"
        return None
