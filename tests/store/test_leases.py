"""Leases of others in the hands of a worker's root: etcd lets anybody keep any of them alive, and so none decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from etcd3 import etcdrpc

from controller.election import SILENCE_S, Election
from controller.recovery.resting_addresses import RestingAddresses
from controller.trust import presence
from mesh.errors import LinkwireError, Retryable
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.records import Address, Endpoint, Leader, Status, TaskReport
from mesh.model.snapshot import Put
from mesh.store.client import Store
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.store.secured import ROOT, Secured, write
from tests.store.small_mesh import SmallMesh, keys, settled
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


def test_a_dead_nodes_lease_kept_is_silence(
    etcd: EtcdServer, root: str, tmp_path: Path, attempt: Attempts, figure: Callable[[str], None]
) -> None:
    """Its record stays, as it does while somebody renews its lease; the readers write theirs without one."""
    tried = attempt("a dead node's lease is kept alive, so that its tasks count as used")
    mesh = SmallMesh(etcd.endpoint, root, tmp_path)
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller() as controller:
        settled(one, two)
        endpoint = next(e for e in one.believed.all(Endpoint) if e.node == "n2")
        two.store.commit((Put(running(endpoint), None),), time.monotonic_ns())

        def seen() -> tuple[bool, bool]:
            now = one.look().get(keyspace.endpoint(endpoint.service, endpoint.task), Endpoint)
            assert now is not None
            return now.ready, now.suspect

        until(lambda: seen() == (True, False))
        known = controller._decider._presence
        heard, known.silent = known.silent, frozenset  # type: ignore[method-assign] # the defence off
        two.hush()
        time.sleep(1.5 * presence.SILENCE_S)
        tried.works(seen() == (True, False))
        known.silent = heard  # type: ignore[method-assign]
        until(lambda: seen() == (True, True))
        two.speaks = True
        until(lambda: seen() == (True, False))
        two.hush()
        died = time.monotonic()
        until(lambda: seen() == (True, True), presence.SILENCE_S + 4)
        figure(f"a node that dies while its lease is kept alive is silent in {time.monotonic() - died:.1f} s")
        tried.stopped()


def running(endpoint: Endpoint) -> TaskReport:
    return TaskReport(endpoint.task, endpoint.service, endpoint.node, "running", True, None, None, ())


def test_replayed_vitals_are_no_sign_of_life(etcd: EtcdServer, root: str, tmp_path: Path, attempt: Attempts) -> None:
    """Who writes for a dead node, by the user that several nodes share, has only what it has signed."""
    tried = attempt("a dead node's vitals are written again, or forged")
    mesh = SmallMesh(etcd.endpoint, root, tmp_path)
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller() as controller:
        settled(one, two)
        two.hush()
        key = keyspace.status("n2")
        status = Status("n2", 0.0, ())
        forger = Store([etcd.endpoint], RecordSigner.agent(KEYRING, keys("n1")[1]), root=root)
        old = etcd.keys(root + key)[root + key]
        began, seen, changed_at = time.monotonic(), 0, 0.0
        while time.monotonic() - began < 1.5 * presence.SILENCE_S:
            etcd.put_bytes((root + key).encode(), old)
            time.sleep(0.4)
            forger.commit((Put(status, None),), time.monotonic_ns())
            time.sleep(0.4)
            if (revision := one.store.load((key,)).revision_of(key)) != seen:
                seen, changed_at = revision, time.monotonic()
        forger.close()
        tried.works(time.monotonic() - changed_at < presence.SILENCE_S, "for whom any change is a sign of life")
        tried.stopped(controller._decider.silent == {"n2"})


def test_an_address_rests_no_longer_than_it_should(controller: Store, worker: ChannelPool, attempt: Attempts) -> None:
    rest_s = 3.0
    tried = attempt("a worker keeps released addresses resting, until the mesh has none left")
    leased, rests = (Address(IPv4Address(f"100.96.0.{n}"), None) for n in (7, 8))
    with kept_alive(worker):
        controller.commit((Put(leased, 0, controller.grant(int(rest_s))), Put(rests, 0)))
        resting = RestingAddresses(rest_s)
        began = time.monotonic()
        while time.monotonic() - began < 3 * rest_s:
            stored = controller.load((keyspace.ADDRESSES,))
            resting.observe(stored, time.monotonic())
            over = [op for step in resting.over(time.monotonic()) for op in step.ops]
            freed = [op for op in over if op.key == keyspace.key_of(rests)]
            assert not freed or time.monotonic() - began >= rest_s, "it did not rest to its end"
            controller.commit(freed)
            time.sleep(0.2)
        left = {address.address for address in controller.load((keyspace.ADDRESSES,)).all(Address)}
        tried.works(leased.address in left)
        tried.stopped(rests.address not in left)
        assert keyspace.key_of(leased) in {op.key for op in over}, "an older version's is freed too"


def test_released_address_is_free_after_its_rest(etcd: EtcdServer, root: str, tmp_path: Path) -> None:
    rest_s = 3
    mesh = SmallMesh(etcd.endpoint, root, tmp_path)
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(rest_s=rest_s):
        settled(one, two)
        ended = max(mesh.swarm.tasks_now)
        (address,) = (e.address for e in one.believed.all(Endpoint) if e.task == ended)
        key = keyspace.address(address)
        mesh.swarm.end(ended)
        mesh.wake()
        until(lambda: one.store.load((key,)).get(key, Address) == Address(address, None, "small"), 10)
        began = time.monotonic()
        until(lambda: not one.store.load((key,)).revision_of(key), rest_s + 5)
        assert time.monotonic() - began > rest_s - 1
        settled(one, two, tasks=5)
