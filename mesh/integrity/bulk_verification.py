"""Bulk verification: many values of a store checked at once, through the signed manifest or by several threads.

The signer of a manifest has checked or made the signature of every record in the set. So where the manifest's own
signature holds and its digest is that of the set in the store, a record that names the manifest's signer was signed
by that key: to replace it takes that key, or two sets of one digest (mesh.crypto.multiset_hash). A record that names
another key is checked by itself. Where anything in the set differs, nothing is vouched for and every record is
checked. Whether the whole is an old state is decided by `mesh.integrity.verification.verify_snapshot`, in any case.

Threads gain because libsodium works while Python's lock is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.crypto.multiset_hash import Entry, MultisetHash
from mesh.crypto.signed_envelope import Keyring, SigningKey, peek, unwrap
from mesh.errors import InvalidRecordError
from mesh.model import codec, keyspace
from mesh.model.records import ManifestRecord

LEAST = 500
"""Values below which threads are not worth their start."""
MOST = 4
"""Threads; any more only wait for Python's lock."""

Signed = tuple[str, bytes]
"""A key and the value under it."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """Result of a bulk verification, used when the values are opened one by one.

    Attributes:
        signer: id of the key that signed the manifest and every record of the set that names it.
        entries: the whole set by key; empty where it is not the signed one.
        total: the product of all entries.
        valid: keys of other values whose own signatures hold.
    """

    signer: bytes = b""
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    total: MultisetHash = field(default_factory=MultisetHash)
    valid: frozenset[str] = frozenset()

    def signed(self, key: str, signer: bytes) -> bool:
        """Return whether the value under `key` is known to be signed by the signer that it names; else check it."""
        return key in self.valid or (signer == self.signer and key in self.entries)


NOTHING = Vouched()
"""Every value has to be checked by itself."""


def vouched_for(keyring: Keyring, values: Mapping[str, bytes]) -> Vouched:
    """Return what the manifest among all values of a store vouches for.

    Args:
        keyring: the keys that may sign.
        values: by key; values that the manifest does not cover are ignored.
    """
    value = values.get(keyspace.MANIFEST)
    if value is None:
        return NOTHING
    try:
        manifest = unwrap(keyring, keyspace.MANIFEST, value)
        record = codec.decode(keyspace.MANIFEST, manifest.body)
    except InvalidRecordError:
        return NOTHING
    entries = _entries(values)
    if not isinstance(record, ManifestRecord) or record.count != len(entries):
        return NOTHING  # before the product, which takes long
    total = MultisetHash.of(entries.values())
    if total.digest() != record.digest:
        return NOTHING
    return Vouched(manifest.signer.id, entries, total)


def valid_keys(keyring: Keyring, values: Sequence[Signed], own: SigningKey | None = None) -> frozenset[str]:
    """Return the keys of values whose signatures hold, checked by threads; none where threads would gain nothing.

    Why another value is not among them, `mesh.crypto.signed_envelope.unwrap` says.

    Args:
        keyring: the keys that may sign.
        values: any.
        own: as in `mesh.crypto.signed_envelope.unwrap`.
    """
    threads = min(MOST, len(os.sched_getaffinity(0)))
    if threads < 2 or len(values) < LEAST:  # noqa: PLR2004 - a single one is no gain
        return frozenset()
    try:
        with ThreadPoolExecutor(threads, "signatures") as pool:
            parts = [pool.submit(_valid_keys, keyring, values[n::threads], own) for n in range(threads)]
            return frozenset().union(*(part.result() for part in parts))
    except RuntimeError:  # no more threads: this process is about to end, or may have no more
        return frozenset()


def _valid_keys(keyring: Keyring, values: Iterable[Signed], own: SigningKey | None) -> frozenset[str]:
    valid = set()
    for key, value in values:
        try:
            unwrap(keyring, key, value, own)
        except InvalidRecordError:
            continue
        valid.add(key)
    return frozenset(valid)


def _entries(values: Mapping[str, bytes]) -> dict[str, Entry]:
    """Return the entries of the covered values; one that is no envelope was never signed and has none."""
    entries = {}
    for key, value in values.items():
        if not keyspace.covered(key):
            continue
        try:
            entries[key] = Entry.of(key, peek(key, value).generation, value)
        except InvalidRecordError:
            continue
    return entries
