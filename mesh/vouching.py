"""What a signed manifest says of a whole store at once, so that not every signature in it has to be checked. No I/O.

Who signs a manifest has checked the signature of every record in the set, or has made it. So where a manifest's own
signature holds, and the set that lies there is the one that it was made over, each record that names the manifest's
signer as its own is that key's work: to put another one in its place takes that key, or two sets of one digest
(mesh.manifest). A record that names another key is checked by itself. Where anything in the set differs nothing is
vouched for, and every record is. That the whole may be an old one is for `mesh.verdict.judge` to say, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh import codec, keyspace
from mesh.envelope import Keyring, peek, unwrap
from mesh.errors import InvalidRecord
from mesh.manifest import Entry, Manifest
from mesh.records import ManifestRecord


@dataclass(frozen=True, slots=True)
class Vouched:
    """What is known of the values of a store before they are opened one by one.

    Attributes:
        signer: id of the key that signed the manifest: the records of the set that name it are signed by it.
        entries: all of the set, by key; empty where it is not the one that was signed.
        total: all of them as one product.
        holding: keys of other values whose own signatures were found to hold.
    """

    signer: bytes = b""
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    total: Manifest = field(default_factory=Manifest)
    holding: frozenset[str] = frozenset()

    def signed(self, key: str, signer: bytes) -> bool:
        """Whether the value under a key, which names a signer, is that one's for sure. Else it has to be checked."""
        return key in self.holding or (signer == self.signer and key in self.entries)


NOTHING = Vouched()
"""Every value has to be checked by itself."""


def vouched_for(keyring: Keyring, values: Mapping[str, bytes]) -> Vouched:
    """What the manifest among all values of a store vouches for.

    Args:
        keyring: who may sign.
        values: by key; those that the manifest is not over are passed over.
    """
    value = values.get(keyspace.MANIFEST)
    if value is None:
        return NOTHING
    try:
        manifest = unwrap(keyring, keyspace.MANIFEST, value)
        record = codec.decode(keyspace.MANIFEST, manifest.body)
    except InvalidRecord:
        return NOTHING
    entries = _entries(values)
    if not isinstance(record, ManifestRecord) or record.count != len(entries):
        return NOTHING  # before the product, which takes long
    total = Manifest.of(entries.values())
    if total.digest() != record.digest:
        return NOTHING
    return Vouched(manifest.signer.id, entries, total)


def _entries(values: Mapping[str, bytes]) -> dict[str, Entry]:
    """What may belong to the set: values that are no envelopes were never signed by anybody."""
    entries = {}
    for key, value in values.items():
        if not keyspace.covered(key):
            continue
        try:
            entries[key] = Entry.of(key, peek(key, value).generation, value)
        except InvalidRecord:
            continue
    return entries
