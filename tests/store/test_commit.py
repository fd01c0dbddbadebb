"""Transactions, leases and reads, against a real etcd."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from mesh.errors import Retryable, Terminal
from mesh.model.records import Leader, Port, Record, TaskReport
from mesh.model.snapshot import Delete, Holds, Op, Put
from mesh.store import etcd_channel as adapter
from mesh.store import watch_stream
from mesh.store.client import MAX_OPS, LeaseLostError, Store
from tests.store.etcd_server import EtcdServer, free_port
from tests.store.proxy import Proxy
from tests.store.waiting import until
from tests.support.signing import RECORD_SIGNER


def port(number: int, task: str = "t") -> Port:
    return Port("n", number, task)


def long_report(task: str, length: int) -> TaskReport:
    return TaskReport(task, "s", "n", "running", wired=False, error="x" * length, port_taken=None, elsewhere=())


def read(store: Store, key: str) -> Record | None:
    found = store.load([key]).records.get(key)
    return found.record if found else None


def test_one_of_eight_concurrent_creators_wins(store: Store) -> None:
    keys = range(1, 101)
    won: list[tuple[int, str]] = []
    start = threading.Barrier(8)

    def race(me: str, order: Iterator[int]) -> None:
        start.wait()
        won.extend((n, me) for n in order if store.commit([Put(port(n, me), 0)]) is not None)

    threads = [
        threading.Thread(target=race, args=(f"task{i}", iter(keys if i % 2 else reversed(keys)))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(n for n, _ in won) == dict.fromkeys(keys, 1)
    held = {(r.port, r.task) for r in store.load(["ports/"]).all(Port)}
    assert held == set(won)


def test_commit_returns_the_revision_of_what_it_put(store: Store) -> None:
    revision = store.commit([Put(port(1), 0), Put(port(2), 0)])
    snapshot = store.load(["ports/"])
    assert revision is not None
    assert snapshot.revision >= revision
    assert {key: v.revision for key, v in snapshot.records.items()} == {"ports/n/1": revision, "ports/n/2": revision}
    assert snapshot.complete


@pytest.mark.parametrize("bad", ["absent", "present", "older", "newer"])
def test_one_condition_that_fails_stops_all(store: Store, bad: str) -> None:
    first = store.commit([Put(port(1), 0)])
    second = store.commit([Put(port(1, "u"), first)])
    assert first is not None
    assert second is not None
    condition = {
        "absent": Holds("ports/n/9", second),
        "present": Holds("ports/n/1", 0),
        "older": Holds("ports/n/1", first),
        "newer": Holds("ports/n/1", second + 1),
    }[bad]
    before = store.load([""])
    assert store.commit([Put(port(2), 0), Delete("ports/n/1", second), condition]) is None
    assert store.load([""]) == before


def test_conditions_that_hold(store: Store) -> None:
    first = store.commit([Put(port(1), 0), Put(port(3), 0)])
    assert first is not None
    second = store.commit([Holds("ports/n/1", first), Holds("ports/n/9", 0), Put(port(2), None)])
    assert second is not None
    assert store.commit([Put(port(1, "u"), first), Delete("ports/n/2", second), Delete("ports/n/3", None)])
    assert {k: v.record for k, v in store.load(["ports/"]).records.items()} == {"ports/n/1": port(1, "u")}


def test_delete_of_what_is_not_there(store: Store) -> None:
    assert store.commit([Delete("ports/n/1", None)]) is not None
    assert store.commit([Delete("ports/n/1", 1)]) is None
    assert store.commit([Delete("ports/n/1", 0)]) is not None


def test_no_operation_is_a_question_for_the_revision(store: Store) -> None:
    revision = store.commit([Put(port(1), 0)])
    assert store.commit([]) == revision


def test_a_transaction_has_128_operations(store: Store) -> None:
    ops: list[Op] = [Put(port(n), 0) for n in range(1, MAX_OPS + 1)]
    assert store.commit(ops) is not None
    with pytest.raises(ValueError, match=r"129 operations in one transaction: etcd takes 128"):
        store.commit([*ops, Delete("leader", None)])


def test_what_etcd_refuses_is_terminal(store: Store) -> None:
    with pytest.raises(Terminal, match="duplicate key"):
        store.commit([Put(port(1), None), Put(port(1, "u"), None)])
    with pytest.raises(Terminal, match="too large"):
        store.commit([Put(long_report(str(n), 900_000), 0) for n in range(2)])
    with pytest.raises(Terminal, match="larger than max"):
        store.commit([Put(long_report(str(n), 900_000), 0) for n in range(3)])
    with pytest.raises(Terminal, match="a record has at most"):
        store.commit([Put(long_report("t", 1_000_001), 0)])
    assert not store.load([""]).records


def test_load_reads_prefixes_and_single_keys(store: Store, etcd: EtcdServer, root: str) -> None:
    store.commit([Put(port(1), 0), Put(Leader("me"), 0), Put(Port("n2", 1, "t"), 0)])
    etcd.put(root + "leaders", "x")
    assert set(store.load(["leader"]).records) == {"leader"}
    assert not store.load(["leader"]).invalid
    assert set(store.load(["ports/n/", "leader"]).records) == {"leader", "ports/n/1"}
    assert set(store.load([""]).records) == {"leader", "ports/n/1", "ports/n2/1"}
    assert set(store.load([""]).invalid) == {"leaders"}
    with pytest.raises(ValueError, match="at least one prefix"):
        store.load([])


def test_load_is_of_one_revision_though_others_write(
    store: Store, etcd: EtcdServer, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([Put(port(n), 0) for n in range(10)])
    store.commit([Put(Leader("old"), 0)])
    monkeypatch.setattr(watch_stream, "FIRST_PAGE", 3)
    page = adapter.Channel.page

    def page_then_write(link: adapter.Channel, first: bytes, end: bytes, revision: int, limit: int) -> object:
        answer = page(link, first, end, revision, limit)
        etcd.put(f"{root}leader", '{"v":1,"holder":"new"}')
        etcd.delete(f"{root}ports/n/9")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(adapter.Channel, "page", page_then_write)
        snapshot = store.load(["ports/", "leader"])
    assert snapshot.get("leader", Leader) == Leader("old")
    assert len(list(snapshot.all(Port))) == 10
    assert store.load(["leader"]).get("leader", Leader) == Leader("new")


def test_load_begins_again_when_its_revision_is_compacted(
    store: Store, etcd: EtcdServer, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([Put(port(n), 0) for n in range(10)])
    monkeypatch.setattr(watch_stream, "FIRST_PAGE", 3)
    page = adapter.Channel.page
    left = [1]

    def page_then_compact(link: adapter.Channel, first: bytes, end: bytes, revision: int, limit: int) -> object:
        answer = page(link, first, end, revision, limit)
        if left:
            left.pop()
            etcd.delete(f"{root}ports/n/0")
            etcd.compact()
        return answer

    monkeypatch.setattr(adapter.Channel, "page", page_then_compact)
    assert {r.port for r in store.load(["ports/"]).all(Port)} == set(range(1, 10))


def test_renewed_lease_lives_and_abandoned_one_ends(store: Store) -> None:
    kept, forgotten = store.grant(2), store.grant(2)
    store.commit([Put(port(1), 0, lease=kept), Put(port(2), 0, lease=forgotten)])

    def only_the_kept_is_left() -> bool:
        assert 0 < store.renew_lease(kept) <= 2
        return read(store, "ports/n/2") is None

    until(only_the_kept_is_left)
    assert read(store, "ports/n/1") == port(1)
    with pytest.raises(LeaseLostError):
        store.renew_lease(forgotten)


def test_revoke_takes_the_keys_along(store: Store) -> None:
    lease = store.grant(60)
    store.commit([Put(port(1), 0, lease=lease)])
    store.revoke(lease)
    assert read(store, "ports/n/1") is None
    store.revoke(lease)
    with pytest.raises(LeaseLostError):
        store.renew_lease(lease)
    with pytest.raises(LeaseLostError):
        store.commit([Put(port(2), 0), Put(port(1), 0, lease=lease)])
    assert read(store, "ports/n/2") is None


def test_put_without_lease_detaches_the_key(store: Store) -> None:
    lease = store.grant(60)
    store.commit([Put(port(1), 0, lease=lease)])
    store.commit([Put(port(1, "u"), None)])
    store.revoke(lease)
    assert read(store, "ports/n/1") == port(1, "u")


@pytest.mark.parametrize(
    ("endpoints", "reason"),
    [
        ([], "name at least one etcd endpoint"),
        (["https://etcd:2379"], "'https://etcd:2379' must begin with http://"),
        (["etcd"], "'etcd' must be host:port"),
        (["http://etcd"], "'http://etcd' must be host:port"),
        (["etcd:0"], "must be host:port"),
        (["etcd:65536"], "must be host:port"),
        (["etcd:2379/v3"], "must be host:port"),
        ([":2379"], "must be host:port"),
    ],
)
def test_endpoints_that_are_none(endpoints: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Store(endpoints, RECORD_SIGNER)


def test_a_root_ends_with_a_slash() -> None:
    with pytest.raises(ValueError, match="must end with a slash"):
        Store(["etcd:2379"], RECORD_SIGNER, root="/x")


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "http://127.0.0.1:{}/", "127.0.0.1:{}", "localhost:{}"])
def test_forms_of_an_endpoint(etcd: EtcdServer, form: str) -> None:
    store = Store([form.format(etcd.port)], RECORD_SIGNER)
    store.load(["cluster"])
    store.close()


def test_nobody_answers(root: str) -> None:
    first, second = free_port(), free_port()
    store = Store([f"127.0.0.1:{first}", f"127.0.0.1:{second}"], RECORD_SIGNER, root=root)
    for call in (lambda: store.load([""]), lambda: store.commit([]), lambda: store.grant(5)):
        with pytest.raises(Retryable, match=rf"127.0.0.1:{first}.*; etcd at 127.0.0.1:{second}"):
            call()
    store.close()


def test_a_dead_endpoint_is_passed_over(etcd: EtcdServer, root: str) -> None:
    store = Store([f"127.0.0.1:{free_port()}", etcd.endpoint], RECORD_SIGNER, root=root)
    assert store.commit([Put(port(1), 0)]) is not None
    store.close()


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_an_endpoint_that_dies_is_left(etcd: EtcdServer, proxy: Proxy, root: str, how: str) -> None:
    store = Store([proxy.endpoint, etcd.endpoint], RECORD_SIGNER, root=root, timeout=1.0)
    assert store.commit([Put(port(1), 0)]) is not None
    getattr(proxy, how)()
    with pytest.raises(Retryable):
        store.commit([Put(port(2), 0)])
    began = time.monotonic()
    assert store.commit([Put(port(3), 0)]) is not None
    assert time.monotonic() - began < 0.8, "it asked the silent endpoint first"
    assert {r.port for r in store.load(["ports/"]).all(Port)} in ({1, 3}, {1, 2, 3})
    store.close()


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_reads_find_the_next_endpoint_by_themselves(etcd: EtcdServer, proxy: Proxy, root: str, how: str) -> None:
    store = Store([proxy.endpoint, etcd.endpoint], RECORD_SIGNER, root=root, timeout=1.0)
    lease = store.grant(30)
    getattr(proxy, how)()
    assert store.renew_lease(lease) == 30
    store.close()


def test_the_store_comes_back_with_etcd(store: Store, etcd: EtcdServer) -> None:
    store.commit([Put(port(1), 0)])
    etcd.kill9()
    with pytest.raises(Retryable):
        store.load(["cluster"])
    etcd.start()
    assert read(store, "ports/n/1") == port(1)


def test_a_closed_store_says_so(etcd: EtcdServer, root: str) -> None:
    store = Store([etcd.endpoint], RECORD_SIGNER, root=root)
    store.load(["cluster"])
    store.close()
    store.close()
    for call in (lambda: store.load([""]), lambda: store.commit([])):
        with pytest.raises(Terminal, match="the store is closed"):
            call()


def test_who_waits_for_a_silent_etcd_waits_once(proxy: Proxy, root: str) -> None:
    proxy.freeze()
    store = Store([proxy.endpoint], RECORD_SIGNER, root=root, timeout=1.0)
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(Retryable) as caught:
            store.commit([])
        told.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4)
        assert not thread.is_alive()
    assert len(told) == 8
    store.close()
