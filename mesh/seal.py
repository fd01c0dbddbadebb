"""What a record's bytes become in the store, and back: signed by who writes that kind, checked by who reads. No I/O.

Three kinds of keys, by who writes them (`keyspace.writer`). The controller's are signed with the mesh's signing key,
and what is not is never opened. An agent's are signed with its node's own key, which only the controller's members
know: they are read unchecked, and kept as they lie in the store for whoever has to check them. `leader` is unsigned:
it decides nothing but who plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from mesh import keyspace
from mesh.checking import holding
from mesh.envelope import Keyring, Signer, SigningKey, peek, unwrap, wrap
from mesh.errors import Terminal
from mesh.records import Writer
from mesh.vouching import NOTHING, Vouched, vouched_for


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A value of the store, opened.

    Attributes:
        body: the record's own bytes.
        generation: the one that was signed with it, 0 for what is unsigned.
        signer: id of the key that signed it, empty for what is unsigned.
        checked: whether that signature was found to hold, or follows from the manifest's (mesh.vouching).
    """

    body: bytes
    generation: int
    signer: bytes
    checked: bool


class Seal(Protocol):
    """Turns a record's bytes into the value under its key, and back."""

    def close(self, key: str, generation: int, body: bytes) -> bytes:
        """The value to write. Raises Terminal where this side does not write that kind, or the body is too long."""

    def open(self, key: str, value: bytes, vouched: Vouched = NOTHING, /) -> Unsealed:
        """The body in a value. Raises InvalidRecord where it is not to be believed.

        Args:
            key: relative to the root, where the value lies.
            value: as it lies there.
            vouched: what `vouch` said of a whole that the value is part of.
        """

    def vouch(self, values: Mapping[str, bytes], /) -> Vouched:
        """Which of all values of a store are as they were signed, as far as that can be told of many at once."""


@dataclass(frozen=True, slots=True)
class Sealer:
    """Reads all kinds, and writes those that it has a signer for.

    Attributes:
        keyring: who may sign the controller's records, and the cluster that all signatures are bound to.
        signers: by writer; `leader` needs none.
    """

    keyring: Keyring
    signers: Mapping[Writer, Signer] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def reader(cls, keyring: Keyring) -> Sealer:
        """One that writes nothing."""
        return cls(keyring)

    @classmethod
    def controller(cls, keyring: Keyring, key: SigningKey) -> Sealer:
        """The controller's.

        Raises:
            Terminal: nobody would believe what this key signs.
        """
        if keyring.find(key.verify_key.id) is None:
            raise Terminal(
                f"the signing seed's public key {key.verify_key} is not among the verify keys, "
                "so no agent would believe what it signs: add it there first"
            )
        return cls(keyring, MappingProxyType({"controller": Signer(keyring.cluster, key)}))

    @classmethod
    def agent(cls, keyring: Keyring, key: SigningKey) -> Sealer:
        """An agent's, with its node's own key."""
        return cls(keyring, MappingProxyType({"agent": Signer(keyring.cluster, key)}))

    @property
    def _own(self) -> SigningKey | None:
        """What the controller's records are signed with, for the controller itself."""
        signer = self.signers.get("controller")
        return signer.key if signer is not None else None

    def close(self, key: str, generation: int, body: bytes) -> bytes:
        """See `Seal`."""
        writer = keyspace.writer(key)
        if writer == "anybody":
            return body
        signer = self.signers.get(writer)
        if signer is None:
            raise Terminal(f"{key}: not this side's to write")
        try:
            return wrap(signer, key, generation, body)
        except ValueError as error:
            raise Terminal(str(error)) from None

    def open(self, key: str, value: bytes, vouched: Vouched = NOTHING) -> Unsealed:
        """See `Seal`."""
        writer = keyspace.writer(key)
        if writer == "anybody":
            return Unsealed(value, 0, b"", checked=False)
        if writer == "agent":
            claim = peek(key, value)
            return Unsealed(claim.body, claim.generation, claim.signer_id, checked=False)
        if vouched is not NOTHING:
            claim = peek(key, value)
            if vouched.signed(key, claim.signer_id):
                return Unsealed(claim.body, claim.generation, claim.signer_id, checked=True)
        opened = unwrap(self.keyring, key, value, self._own)
        return Unsealed(opened.body, opened.generation, opened.signer.id, checked=True)

    def vouch(self, values: Mapping[str, bytes]) -> Vouched:
        """See `Seal`."""
        vouched = vouched_for(self.keyring, values)
        others = [
            (key, value)
            for key, value in values.items()
            if key not in vouched.entries and keyspace.writer(key) == "controller"
        ]
        return replace(vouched, holding=holding(self.keyring, others, self._own))
