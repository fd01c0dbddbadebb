"""Somebody who may write all of etcd, and what he tries on a mesh's signed records."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from mesh import codec, keyspace
from mesh.envelope import Signer, peek, wrap
from mesh.errors import InvalidRecord
from mesh.records import Endpoint, ManifestRecord, Service
from mesh.seal import Unsealed
from mesh.wgtypes import UdpEndpoint
from tests.signing import CLUSTER, SEAL, STRANGER
from tests.store.etcd_server import EtcdServer

MALLORY = UdpEndpoint(IPv4Address("203.0.113.66"), 6666)


class Gullible:
    """A seal that checks nothing: the defence off."""

    def close(self, key: str, generation: int, body: bytes) -> bytes:
        return SEAL.close(key, generation, body)

    def open(self, key: str, value: bytes) -> Unsealed:
        try:
            claim = peek(key, value)
        except InvalidRecord:
            return Unsealed(value, 0, b"", checked=False)
        return Unsealed(claim.body, claim.generation, claim.signer_id, checked=True)


class Attack:
    """Somebody with all of etcd: he has recorded every value that ever was, and one mesh's old states."""

    def __init__(self, etcd: EtcdServer, root: str) -> None:
        self._etcd, self.root = etcd, root
        self.recorded: dict[str, bytes] = {}

    def now(self) -> dict[str, bytes]:
        return {key.removeprefix(self.root): value for key, value in self._etcd.keys(self.root).items()}

    def record(self) -> None:
        self.recorded = self.now()

    def put(self, key: str, value: bytes) -> None:
        self._etcd.put_bytes(f"{self.root}{key}".encode(), value)

    def delete(self, key: str) -> None:
        self._etcd.delete(self.root + key)

    def restore(self) -> None:
        """Put the controller's whole state back as it was recorded."""
        ours = {k: v for k, v in self.now().items() if keyspace.writer(k) == "controller"}
        then = {k: v for k, v in self.recorded.items() if keyspace.writer(k) == "controller"}
        # The manifest first: nobody verifies a state that is half the one and half the other.
        for key, value in sorted(then.items(), key=lambda item: item[0] != keyspace.MANIFEST):
            if ours.get(key) != value:
                self.put(key, value)
        for key in ours.keys() - then.keys():
            self.delete(key)

    def victim(self) -> tuple[str, Endpoint]:
        """The first endpoint."""
        key = min(k for k in self.now() if k.startswith("endpoints/"))
        record = codec.decode(key, peek(key, self.now()[key]).body)
        assert isinstance(record, Endpoint)
        return key, record


def forge(attack: Attack) -> None:
    key, endpoint = attack.victim()
    body = codec.encode(replace(endpoint, underlay=MALLORY))
    attack.put(key, wrap(Signer(CLUSTER, STRANGER), key, 99, body))


def unsigned(attack: Attack) -> None:
    key, endpoint = attack.victim()
    attack.put(key, codec.encode(replace(endpoint, underlay=MALLORY)))


def swap(attack: Attack) -> None:
    """The value of another task's key: his own task's, in the place of the victim's."""
    key, _ = attack.victim()
    attack.put(key, attack.now()[max(k for k in attack.now() if k.startswith("endpoints/"))])


def replay(attack: Attack) -> None:
    key, _ = attack.victim()
    assert attack.now()[key] != attack.recorded[key]
    attack.put(key, attack.recorded[key])


def resurrect(attack: Attack) -> None:
    """A task that is over."""
    gone = [k for k in attack.recorded.keys() - attack.now().keys() if k.startswith("endpoints/")]
    attack.put(gone[0], attack.recorded[gone[0]])


def truncate(attack: Attack) -> None:
    key, _ = attack.victim()
    attack.put(key, attack.now()[key][:-1])


def delete(attack: Attack) -> None:
    attack.delete(attack.victim()[0])


def delete_service(attack: Attack) -> None:
    attack.delete("services/#db")


def delete_all(attack: Attack) -> None:
    for key in attack.now():
        if keyspace.writer(key) == "controller":
            attack.delete(key)


def move_vip(attack: Attack) -> None:
    service = codec.decode("services/#db", peek("services/#db", attack.now()["services/#db"]).body)
    assert isinstance(service, Service)
    body = codec.encode(replace(service, vip=IPv4Address("10.1.99.99")))
    attack.put("services/#db", wrap(Signer(CLUSTER, STRANGER), "services/#db", 99, body))


def own_manifest(attack: Attack) -> None:
    """With a manifest of his own to go with what he deleted."""
    delete(attack)
    entries = {k: v for k, v in attack.now().items() if keyspace.covered(k)}
    body = codec.encode(ManifestRecord(len(entries), bytes(32)))
    attack.put("manifest", wrap(Signer(CLUSTER, STRANGER), "manifest", 10**9, body))


def nothing(attack: Attack) -> None:
    """To show that what the tests see is the attack's doing."""


ATTACKS = [
    forge,
    unsigned,
    swap,
    replay,
    resurrect,
    truncate,
    delete,
    delete_service,
    delete_all,
    move_vip,
    own_manifest,
]
