"""Command `linkwire-controller clear`: deletes all records in an external etcd, for `docker linkwire uninstall`."""

from __future__ import annotations

from mesh.crypto.signed_envelope import Keyring, peek
from mesh.errors import InvalidRecordError, Terminal
from mesh.model import keyspace
from mesh.store.etcd_channel import ChannelPool

BATCH = 100
"""Keys deleted in one transaction; etcd takes 128 operations (--max-txn-ops)."""
_ROOT = keyspace.ROOT.encode()
_END = _ROOT[:-1] + bytes([_ROOT[-1] + 1])
_MANIFEST = (keyspace.ROOT + keyspace.MANIFEST).encode()


def clear(line: ChannelPool, keyring: Keyring) -> int:
    """Delete every key below Linkwire's root; return their number.

    Args:
        line: as a user who may write all keys.
        keyring: the keys that signed the records.

    Raises:
        Terminal: another installation signed the records; nothing was deleted.
        LinkwireError: etcd does not answer or refuses; some keys may be deleted.
    """
    with line.use() as link:
        for entry in link.page(_MANIFEST, _MANIFEST + b"\0", 0).kvs:
            try:
                signer = peek(keyspace.MANIFEST, entry.value).signer_id
            except InvalidRecordError:  # forged: no installation's
                continue
            if keyring.find(signer) is None:
                raise Terminal("another installation's key signed the records in this etcd: nothing was deleted")
    deleted = 0
    while True:
        with line.use() as link:
            keys = [entry.key for entry in link.page(_ROOT, _END, 0).kvs]
            if not keys:
                return deleted
            for start in range(0, len(keys), BATCH):
                link.commit([], [], keys[start : start + BATCH])
        deleted += len(keys)
