"""Record signing: a record's bytes signed by its writer into the value under its key, and checked by readers. No I/O.

Keys are of three kinds, by their writer (`keyspace.writer`). The controller's values are signed with the mesh's
signing key; one whose signature does not hold is never opened. An agent's values are signed with its node's own key,
which only the controller's members know: they are opened unchecked, and their bytes are kept for whoever checks them.
`leader` is unsigned: it decides only which controller plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey, peek, unwrap, wrap
from mesh.errors import Terminal
from mesh.integrity.bulk_verification import NOTHING, Vouched, valid_keys, vouched_for
from mesh.model import keyspace
from mesh.model.records import Writer


@dataclass(frozen=True, slots=True)
class OpenedValue:
    """An opened value of the store.

    Attributes:
        body: the record's own bytes.
        generation: the signed one; 0 for an unsigned value.
        signer: id of the key that signed it; empty for an unsigned value.
        checked: whether that signature holds, by its own check or by the manifest's
            (mesh.integrity.bulk_verification).
    """

    body: bytes
    generation: int
    signer: bytes
    checked: bool


@dataclass(frozen=True, slots=True)
class RecordSigner:
    """Turns records' bytes into values and back: reads all kinds, and writes those that it has a signer for.

    Attributes:
        keyring: the keys that may sign the controller's records, and the cluster that all signatures are bound to.
        signers: by writer; `leader` needs none.
    """

    keyring: Keyring
    signers: Mapping[Writer, Signer] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def reader(cls, keyring: Keyring) -> RecordSigner:
        """Return one that writes nothing."""
        return cls(keyring)

    @classmethod
    def controller(cls, keyring: Keyring, key: SigningKey) -> RecordSigner:
        """Return a controller's.

        Raises:
            Terminal: the keyring lacks this key's public half, so no reader would believe its signatures.
        """
        if keyring.find(key.verify_key.id) is None:
            raise Terminal(
                f"the signing seed's public key {key.verify_key} is not among the verify keys, so no agent would "
                "believe this controller: add it to the verify keys first"
            )
        return cls(keyring, MappingProxyType({"controller": Signer(keyring.cluster, key)}))

    @classmethod
    def agent(cls, keyring: Keyring, key: SigningKey) -> RecordSigner:
        """Return an agent's, with its node's own key."""
        return cls(keyring, MappingProxyType({"agent": Signer(keyring.cluster, key)}))

    @property
    def _own(self) -> SigningKey | None:
        """The key that signs the controller's records, in the controller itself."""
        signer = self.signers.get("controller")
        return signer.key if signer is not None else None

    def sign(self, key: str, generation: int, body: bytes) -> bytes:
        """Return the value to write under a key.

        Raises:
            Terminal: this side does not write that kind, or the body is too long.
        """
        writer = keyspace.writer(key)
        if writer == "anybody":
            return body
        signer = self.signers.get(writer)
        if signer is None:
            raise Terminal(f"{key}: not written by this side")
        try:
            return wrap(signer, key, generation, body)
        except ValueError as error:
            raise Terminal(str(error)) from None

    def open(self, key: str, value: bytes, vouched: Vouched = NOTHING) -> OpenedValue:
        """Open a value.

        Args:
            key: relative to the root.
            value: as it is in the store.
            vouched: the result of `vouch` for a set that the value is part of.

        Raises:
            InvalidRecordError: the value is not to be believed.
        """
        writer = keyspace.writer(key)
        if writer == "anybody":
            return OpenedValue(value, 0, b"", checked=False)
        if writer == "agent" or vouched is not NOTHING:
            claim = peek(key, value)
            if writer == "agent" or vouched.signed(key, claim.signer_id):
                return OpenedValue(claim.body, claim.generation, claim.signer_id, checked=writer != "agent")
        opened = unwrap(self.keyring, key, value, self._own)
        return OpenedValue(opened.body, opened.generation, opened.signer.id, checked=True)

    def vouch(self, values: Mapping[str, bytes]) -> Vouched:
        """Check all values of a store at once, as far as that is possible."""
        vouched = vouched_for(self.keyring, values)
        others = [
            (key, value)
            for key, value in values.items()
            if key not in vouched.entries and keyspace.writer(key) == "controller"
        ]
        return replace(vouched, valid=valid_keys(self.keyring, others, self._own))
