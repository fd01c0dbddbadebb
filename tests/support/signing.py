"""Keys for tests: a mesh's signing key, a node's, and a seal that writes every kind of record."""

from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.records import Record
from mesh.model.snapshot import SignedSet

CLUSTER = "cluster"
# Always the same: some are in tests' ids, which have to be equal in all processes that share a run.
SIGNING_KEY, NODE_KEY, STRANGER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
KEYRING = Keyring(CLUSTER, (SIGNING_KEY.verify_key,))
RECORD_SIGNER = RecordSigner(
    KEYRING, {"controller": Signer(CLUSTER, SIGNING_KEY), "agent": Signer(CLUSTER, NODE_KEY)}
)


def value(record: Record, generation: int = 1) -> bytes:
    """A record as it lies in the store, signed by who writes its kind."""
    return RECORD_SIGNER.sign(keyspace.key_of(record), generation, codec.encode(record))


def holding(*records: Record, generation: int = 1) -> SignedSet:
    """What a store with these records has to have signed as a set."""
    entries = (Entry.of(keyspace.key_of(record), generation, value(record, generation)) for record in records)
    return SignedSet().after(entries, ())
