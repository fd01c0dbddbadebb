"""Somebody who may write all of etcd, and what he tries on a mesh's signed records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from mesh.crypto.keys import PrivateKey
from mesh.crypto.signed_envelope import Signer, peek, wrap
from mesh.errors import InvalidRecordError
from mesh.integrity.bulk_verification import NOTHING, Vouched
from mesh.integrity.record_signing import OpenedValue, RecordSigner
from mesh.model import codec, keyspace
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.net import UdpEndpoint
from mesh.model.records import Endpoint, LinkKeyEpoch, ManifestRecord, Record, Service
from tests.store.etcd_server import EtcdServer
from tests.support.signing import CLUSTER, RECORD_SIGNER, STRANGER

MALLORY = UdpEndpoint(IPv4Address("203.0.113.66"), 6666)


class Gullible(RecordSigner):
    """Checks nothing: the defence off."""

    def __init__(self) -> None:
        super().__init__(RECORD_SIGNER.keyring, RECORD_SIGNER.signers)

    def open(self, key: str, value: bytes, vouched: Vouched = NOTHING) -> OpenedValue:
        del vouched
        try:
            claim = peek(key, value)
        except InvalidRecordError:
            return OpenedValue(value, 0, b"", checked=False)
        return OpenedValue(claim.body, claim.generation, claim.signer_id, checked=True)

    def vouch(self, values: Mapping[str, bytes]) -> Vouched:
        del values
        return NOTHING


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

    def read(self, key: str) -> Record:
        return codec.decode(key, peek(key, self.now()[key]).body)

    def sign(self, record: Record) -> None:
        """Put a record with a signature of his own."""
        key = keyspace.key_of(record)
        self.put(key, wrap(Signer(CLUSTER, STRANGER), key, 99, codec.encode(record)))

    def victim(self) -> tuple[str, Endpoint]:
        """The first endpoint."""
        key = min(k for k in self.now() if k.startswith("endpoints/"))
        record = self.read(key)
        assert isinstance(record, Endpoint)
        return key, record


def forge(attack: Attack) -> None:
    """An endpoint is forged: its packets would go to another address."""
    _, endpoint = attack.victim()
    attack.sign(replace(endpoint, underlay=MALLORY))


def invent(attack: Attack) -> None:
    """A peer is forged: a task that there is not, with his own key."""
    _, endpoint = attack.victim()
    mine = replace(endpoint, task="mallory", public_key=PrivateKey.generate().public, underlay=MALLORY)
    attack.sign(replace(mine, address=IPv4Address("10.1.66.66")))


def rekey(attack: Attack) -> None:
    """A peer's key is forged: who has that one answers in the task's place."""
    _, endpoint = attack.victim()
    attack.sign(replace(endpoint, public_key=PrivateKey.generate().public))


def link(attack: Attack) -> None:
    """A link is forged: a service that is linked to nothing would reach another."""
    service = attack.read("services/#db")
    assert isinstance(service, Service)
    attack.sign(replace(service, links=(LinkLabel("web", ("web",)),)))


def old_epoch(attack: Attack) -> None:
    """A link key's epoch is set back, to bring back a secret that he knows."""
    epoch = attack.read("epochs/web:db")
    assert isinstance(epoch, LinkKeyEpoch)
    attack.sign(replace(epoch, epoch=epoch.epoch - 1))


def unsigned(attack: Attack) -> None:
    """An endpoint is forged, with no signature."""
    key, endpoint = attack.victim()
    attack.put(key, codec.encode(replace(endpoint, underlay=MALLORY)))


def swap(attack: Attack) -> None:
    """A record is copied to another key: his own task's, to the victim's."""
    key, _ = attack.victim()
    attack.put(key, attack.now()[max(k for k in attack.now() if k.startswith("endpoints/"))])


def replay(attack: Attack) -> None:
    """An old record is put back."""
    key, _ = attack.victim()
    assert attack.now()[key] != attack.recorded[key]
    attack.put(key, attack.recorded[key])


def resurrect(attack: Attack) -> None:
    """A peer that is over is put back, as it was signed."""
    gone = [k for k in attack.recorded.keys() - attack.now().keys() if k.startswith("endpoints/")]
    attack.put(gone[0], attack.recorded[gone[0]])


def truncate(attack: Attack) -> None:
    """A record is cut short."""
    key, _ = attack.victim()
    attack.put(key, attack.now()[key][:-1])


def delete(attack: Attack) -> None:
    """An endpoint is deleted."""
    attack.delete(attack.victim()[0])


def delete_service(attack: Attack) -> None:
    """A service is deleted."""
    attack.delete("services/#db")


def delete_all(attack: Attack) -> None:
    """All that the controller wrote is deleted."""
    for key in attack.now():
        if keyspace.writer(key) == "controller":
            attack.delete(key)


def move_vip(attack: Attack) -> None:
    """A VIP is moved."""
    service = attack.read("services/#db")
    assert isinstance(service, Service)
    attack.sign(replace(service, vip=IPv4Address("10.1.99.99")))


def own_manifest(attack: Attack) -> None:
    """An endpoint is deleted, and a manifest of his own says that it is so."""
    delete(attack)
    entries = {k: v for k, v in attack.now().items() if keyspace.covered(k)}
    body = codec.encode(ManifestRecord(len(entries), bytes(32)))
    attack.put("manifest", wrap(Signer(CLUSTER, STRANGER), "manifest", 10**9, body))


ATTACKS = [
    forge,
    rekey,
    link,
    old_epoch,
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


def what(how: Callable[..., object]) -> str:
    """An attack in words."""
    return (how.__doc__ or how.__name__).splitlines()[0].rstrip(".")
