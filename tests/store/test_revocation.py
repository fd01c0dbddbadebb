"""Revoked nodes on a real etcd: no request, no watch that goes on, no place, and no key of a later epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.etcd.server import HEARD_FIRST, LOOK_EVERY
from mesh.crypto.signed_envelope import Signer, wrap
from mesh.errors import LinkwireError, Retryable
from mesh.identity.tls import Tls
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.sealed_keys import open_key, open_link_key
from mesh.model import codec, keyspace
from mesh.model.records import Access, Address, Endpoint, LinkKeyEpoch, SealedKey, SealedLinkKey
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store
from tests.store import small_mesh
from tests.store.etcd_server import EtcdServer
from tests.store.secured import ROOT, Secured, write
from tests.store.small_mesh import SmallMesh, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY
from tests.support.swarm_ca import Authority, Leaf, key_file, pem

NOW = datetime.now(UTC)
A, B = "a" * 25, "b" * 25
SWARM = Authority.root(made=NOW - timedelta(days=1))
PATIENT = 60.0
"""Seconds for etcd to start again on a busy machine."""
SECRET = ROOT + b"services/x"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    one = Secured.made(tmp_path)
    one.start()
    yield one
    one.stop()


def certificate(secured: Secured, node: str) -> Tls:
    leaf = Leaf.of(node=node).but(begins=NOW - timedelta(hours=1), ends=NOW + timedelta(days=1))
    own = secured.issue(node, pem(leaf.signed_by(SWARM)))
    return Tls(secured.folder / "ca", own, secured.issue(f"{node}.key", key_file(leaf.key, manager=True)))


def allowed(secured: Secured, nodes: Sequence[str], revoked: Sequence[str] = ()) -> None:
    """Write what the controller writes."""
    record = Access(tuple(nodes), (), (SWARM.pem.decode(),), tuple(revoked))
    put(secured, ROOT + b"access", wrap(Signer(CLUSTER, SIGNING_KEY), keyspace.ACCESS, 1, codec.encode(record)))


def put(secured: Secured, key: bytes, value: bytes) -> None:
    def done() -> bool:
        with closing(secured.line(secured.tls("controller"))) as line:
            return write(line, key, value) == "written"

    until(done, PATIENT)


def may_write(secured: Secured, tls: Tls, node: str) -> bool:
    with closing(secured.line(tls)) as line:
        return write(line, ROOT + keyspace.node(node).encode()) == "written"


class Watch:
    """An open watch over everything, and all that it was told."""

    def __init__(self, secured: Secured, tls: Tls) -> None:
        self.heard: list[bytes] = []
        self.began, self.ended = threading.Event(), threading.Event()
        self._line = secured.line(tls)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            with suppress(LinkwireError), self._line.use() as link:
                for response in link.watch(ROOT, ROOT[:-1] + b"0"):
                    self.began.set()
                    self.heard += [event.kv.value for event in response.events]
        finally:
            self.ended.set()

    def close(self) -> None:
        self._line.close()


@contextmanager
def watching(secured: Secured, tls: Tls) -> Iterator[Watch]:
    watch = Watch(secured, tls)
    assert watch.began.wait(PATIENT)
    put(secured, SECRET, b"first")
    until(lambda: b"first" in watch.heard)
    try:
        yield watch
    finally:
        watch.close()


def test_open_watches_of_revoked_node_end(secured: Secured, attempt: Attempts) -> None:
    """The defence is off where only the node's user is deleted."""
    tried = attempt("a revoked node: it goes on reading everything over the watch that it has open")
    allowed(secured, [A, B])
    own, other = certificate(secured, A), certificate(secured, B)
    until(lambda: may_write(secured, own, A) and may_write(secured, other, B), PATIENT)
    with watching(secured, own) as watch:
        allowed(secured, [B])
        until(lambda: not may_write(secured, own, A), PATIENT)
        put(secured, SECRET, b"second")
        until(lambda: b"second" in watch.heard)
        tried.works(seen=not watch.ended.wait(HEARD_FIRST + 3 * LOOK_EVERY))
    allowed(secured, [A, B])
    until(lambda: may_write(secured, own, A), PATIENT)
    with watching(secured, own) as watch:
        began = time.monotonic()
        allowed(secured, [B], [f"{A}@1"])
        assert watch.ended.wait(30), secured.logged()[-2000:]
        ended = time.monotonic()
        put(secured, SECRET, b"third")
        back = time.monotonic()
        print(f"open watch ended after {ended - began:.2f} s, etcd answers again {back - ended:.2f} s later")
        assert not may_write(secured, own, A)
        assert may_write(secured, other, B)
        with closing(secured.line(own)) as line, pytest.raises(Retryable), line.use() as link:
            link.page(ROOT, ROOT[:-1] + b"0", 0)
        tried.stopped(b"third" not in watch.heard)
        assert ended - began < HEARD_FIRST + 5


def test_approved_node_is_user_again(secured: Secured) -> None:
    allowed(secured, [B], [f"{A}@1"])
    own, other = certificate(secured, A), certificate(secured, B)
    until(lambda: may_write(secured, other, B), PATIENT)
    assert not may_write(secured, own, A)
    with watching(secured, other) as watch:
        allowed(secured, [A, B])
        until(lambda: may_write(secured, own, A), PATIENT)
        assert not watch.ended.wait(HEARD_FIRST + 2 * LOOK_EVERY), "an approval ends no connection"


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


def opened(stored: Snapshot, node: str) -> set[tuple[str, int]]:
    """Return what a node's own key opens in the whole store: tasks, and link keys with their epochs."""
    key, _ = small_mesh.keys(node)
    found: set[tuple[str, int]] = set()
    for sealed in stored.all(SealedKey):
        with suppress(LinkwireError):
            open_key(sealed, key)
            found.add((sealed.task, sealed.epoch))
    for box in stored.all(SealedLinkKey):
        with suppress(LinkwireError):
            open_link_key(box, key)
            found.add((box.key, box.epoch))
    return found


def test_revoked_node_has_no_place_and_key(mesh: SmallMesh, attempt: Attempts) -> None:
    """The defence is off where its link keys are only renewed, as `docker linkwire rotate` does."""
    tried = attempt("a revoked node: its captured keys open a link key of a later epoch")
    with mesh.controller(), mesh.reader("n1") as peer, mesh.reader("n2") as lost:
        settled(peer, lost)
        store = Store([mesh.endpoint], RecordSigner.reader(KEYRING), root=mesh.root)
        with closing(store):

            def epochs() -> dict[str, int]:
                return {record.key: record.epoch for record in store.load(("",)).all(LinkKeyEpoch)}

            def places() -> set[str]:
                return {endpoint.node for endpoint in peer.believed.all(Endpoint)}

            first = epochs()
            mesh.swarm.renew("web")
            mesh.wake()
            until(lambda: epochs() != first, 20)
            second = epochs()
            until(lambda: second.items() <= opened(store.load(("",)), "n2"), 20)
            tried.works(seen=True)
            began = time.monotonic()
            mesh.swarm.revoked["n2"] = "noon"
            mesh.wake()
            until(lambda: places() == {"n1"} and peer.verified(), 20)
            print(f"revoked: peers are gone after {time.monotonic() - began:.2f} s")
            until(lambda: epochs().keys() == second.keys() and all(epochs()[key] > second[key] for key in second), 20)
            until(lambda: not opened(store.load(("",)), "n2"), 20)
            stored = store.load(("",))
            assert epochs().items() <= opened(stored, "n1"), "the others have the new epoch"
            assert len([address for address in stored.all(Address) if address.holder is None]) == 3, "they rest"
            mesh.swarm.start("db")
            mesh.swarm.start("web")
            mesh.wake()
            time.sleep(2)
            tried.stopped(not opened(store.load(("",)), "n2"))
            mesh.swarm.revoked.clear()
            mesh.wake()
            settled(peer, lost, tasks=len(mesh.swarm.tasks_now))
            assert epochs().items() <= opened(store.load(("",)), "n2")
