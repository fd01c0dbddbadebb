"""Somebody who owns etcd: he reads, writes and deletes the mesh's records past the code under test."""

from __future__ import annotations

import base64
import json
import os
import subprocess

from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import Signer, peek, wrap
from mesh.model import codec, keyspace
from mesh.model.records import Record
from mesh.model.snapshot import SignedSet
from tests.lab.lab import Lab

Dump = dict[str, bytes]


class EtcdOwner:
    """With all of the lab's etcd, whose keys he names without the root."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def dump(self) -> Dump:
        """Everything that the controller wrote."""
        found = json.loads(self._etcdctl("get", "--prefix", keyspace.ROOT, "-w", "json"))
        every = {
            base64.b64decode(kv["key"]).decode().removeprefix(keyspace.ROOT): base64.b64decode(kv.get("value", ""))
            for kv in found.get("kvs", ())
        }
        return {key: value for key, value in every.items() if keyspace.writer(key) == "controller"}

    def put(self, key: str, value: bytes) -> None:
        self._etcdctl("put", keyspace.ROOT + key, value=value)

    def delete(self, key: str) -> None:
        self._etcdctl("del", keyspace.ROOT + key)

    def restore(self, dump: Dump) -> None:
        """Make it what it was, as from a backup.

        But for the addresses, which no agent reads: a put would take their leases from those that rest, for ever.
        """
        now = self.dump()
        for key in now.keys() - dump.keys():
            if not key.startswith(keyspace.ADDRESSES):
                self.delete(key)
        for key, value in dump.items():
            if now.get(key) != value and not key.startswith(keyspace.ADDRESSES):
                self.put(key, value)

    def sign_all(self, signer: Signer) -> None:
        """Who has the mesh's own signing seed signs what is there now, as the controller would."""
        values = {key: value for key, value in self.dump().items() if keyspace.covered(key)}
        entries = [Entry.of(key, peek(key, value).generation, value) for key, value in values.items()]
        generation = peek(keyspace.MANIFEST, self.dump()[keyspace.MANIFEST]).generation + 1
        body = codec.encode(SignedSet().after(entries, ()).record())
        self.put(keyspace.MANIFEST, wrap(signer, keyspace.MANIFEST, generation, body))

    def _etcdctl(self, *words: str, value: bytes = b"") -> str:
        argv = ["etcdctl", "--endpoints", self._lab.etcd_endpoint, *words]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(argv, check=True, capture_output=True, input=value, env=environment).stdout.decode()


def read(dump: Dump, key: str) -> Record:
    """The record in a signed value, unchecked."""
    return codec.decode(key, peek(key, dump[key]).body)


def signed(signer: Signer, record: Record, generation: int) -> bytes:
    """A record as somebody signs it."""
    key = keyspace.key_of(record)
    return wrap(signer, key, generation, codec.encode(record))
