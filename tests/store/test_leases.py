"""Leases of others in the hands of a worker's root: etcd lets anybody keep any of them alive, and so none decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from etcd3 import etcdrpc

from controller.election import SILENCE_S, Election
from mesh.errors import LinkwireError, Retryable
from mesh.integrity.record_signing import RecordSigner
from mesh.model.records import Leader
from mesh.model.snapshot import Put
from mesh.store.client import Store
from mesh.store.etcd_channel import ChannelPool
from tests.store.secured import ROOT, Secured, write
from tests.store.test_etcd_users import A, B, certificate, said, trusted, until
from tests.support.attacks import Attempts
from tests.support.signing import KEYRING, SIGNING_KEY

LEASE_S = 2
END = ROOT[:-1] + b"0"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    one = Secured.made(tmp_path_factory.mktemp("leases"))
    one.start()
    trusted(one)
    said(one, [A, B])
    yield one
    one.stop()


@pytest.fixture
def controller(secured: Secured) -> Iterator[Store]:
    signer = RecordSigner.controller(KEYRING, SIGNING_KEY)
    store = Store([f"https://127.0.0.1:{secured.port}"], signer, tls=secured.tls("controller"))
    yield store
    store.close()


@pytest.fixture
def worker(secured: Secured) -> Iterator[ChannelPool]:
    """Root on node A: it has the node's certificate, and nothing else."""
    with closing(secured.line(certificate(secured, A))) as line:
        until(lambda: "PERMISSION_DENIED" in write(line, ROOT + b"leader"))
        yield line


def leases(line: ChannelPool) -> set[int]:
    """All leases of keys that it can read, those of all others' too."""
    with line.use() as link:
        keys = link._kv.Range(etcdrpc.RangeRequest(key=ROOT, range_end=END), timeout=5).kvs
    return {kv.lease for kv in keys if kv.lease}


@contextmanager
def kept_alive(line: ChannelPool) -> Iterator[None]:
    """Have the worker renew whatever lease there is, again and again."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.3):
            with suppress(Retryable):
                for lease in leases(line):
                    with suppress(LinkwireError), line.use() as link:
                        link.renew_lease(lease)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_dead_leaders_lease_kept_decides_nothing(
    controller: Store, worker: ChannelPool, attempt: Attempts, figure: Callable[[str], None]
) -> None:
    """The defence off: an election in which the record's lease says whether its writer lives."""
    tried = attempt("a worker keeps a dead leader's lease alive")
    controller.commit((Put(Leader("dead"), 0, controller.grant(LEASE_S)),))
    with kept_alive(worker):
        time.sleep(4 * LEASE_S)
        tried.works(controller.commit((Put(Leader("standby"), 0, controller.grant(LEASE_S)),)) is None)
        began = time.monotonic()
        standby = Election(controller, "standby", lambda: None)
        until(lambda: standby.token is not None, SILENCE_S + 6)
        tried.stopped(standby.token, "the standby does not lead")
        figure(f"a leader whose lease is kept alive is replaced in {time.monotonic() - began:.1f} s")
        standby.stop()


def test_a_silent_leader_is_replaced_in_time(
    controller: Store, worker: ChannelPool, figure: Callable[[str], None]
) -> None:
    first = Election(controller, "first", lambda: None)
    until(lambda: first.token is not None)
    second = Election(controller, "second", lambda: None)
    with kept_alive(worker):
        time.sleep(2 * SILENCE_S)
        assert first.token is not None
        assert second.token is None, "the leader lives"
        old = first.token
        first._stopped.set()
        first._thread.join()  # as by SIGKILL: nothing is given up
        died = time.monotonic()
        until(lambda: second.token is not None, SILENCE_S + 4)
        took = time.monotonic() - died
    assert controller.commit((old, Put(Leader("late", "x"), None))) is None, "the dead one's writes are fenced off"
    figure(f"a leader that dies is replaced in {took:.1f} s")
    second.stop()
    third = Election(controller, "third", lambda: None)
    until(lambda: third.token is not None, 2)
    third.stop()


def test_worker_ends_no_lease_of_others(controller: Store, worker: ChannelPool) -> None:
    """etcd checks who may write a lease's keys when it is revoked; not when it is renewed, or bound to in a Txn."""
    lease = controller.grant(60)
    controller.commit((Put(Leader("me"), None, lease),))
    with pytest.raises(LinkwireError, match="permission denied"), worker.use() as link:
        link.revoke(lease)
    with worker.use() as link:
        assert link.renew_lease(lease) > 0
        link.commit([], [(ROOT + b"tasks/" + A.encode() + b"/t", b"x", lease)], [])
    controller.revoke(lease)
    assert not controller.load(("leader",)).revision_of("leader")
