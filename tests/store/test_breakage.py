"""Followed snapshots while etcd, or the way to it, breaks: what is complete is true, and it comes back."""

import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import structlog

from mesh.errors import Retryable
from mesh.model import codec
from mesh.model.records import Leader, Port
from mesh.model.snapshot import Delete, Put, Snapshot
from mesh.store import etcd_channel as adapter
from mesh.store import watch_stream
from mesh.store.client import Follower, Store
from mesh.store.follower import Batch
from mesh.store.watch_stream import Ranges
from tests.store.etcd_server import EtcdServer, free_port
from tests.store.proxy import Proxy
from tests.store.waiting import until
from tests.support.signing import RECORD_SIGNER


class Witness:
    """Notes each change of `complete` that the callback shows."""

    def __init__(self) -> None:
        self.states: list[bool] = []
        self._ready = threading.Event()
        self._follower: Follower | None = None

    def follow(self, store: Store, prefixes: list[str]) -> Follower:
        self._follower = store.follow(prefixes, self._note)
        self._ready.set()
        until(lambda: self.states)
        return self._follower

    def _note(self) -> None:
        self._ready.wait()
        assert self._follower is not None
        complete = self._follower.snapshot.complete
        if not self.states or self.states[-1] != complete:
            self.states.append(complete)


def truth(etcd: EtcdServer, root: str) -> dict[str, object]:
    """What etcdctl says lies under the root."""
    found = {key.removeprefix(root): value for key, value in etcd.keys(root).items()}
    return {key: codec.decode(key, RECORD_SIGNER.open(key, value).body) for key, value in found.items()}


def records(snapshot: Snapshot) -> dict[str, object]:
    return {key: versioned.record for key, versioned in snapshot.records.items()}


def test_etcd_is_killed_three_times_while_four_write(store: Store, etcd: EtcdServer, root: str) -> None:
    witness = Witness()
    follower = witness.follow(store, ["ports/"])
    over = threading.Event()
    acknowledged: list[int] = []

    def write(first: int) -> None:
        number = first
        while not over.is_set():
            try:
                if store.commit([Put(Port("n", number, "t"), 0), Delete(f"ports/n/{number - 400}", None)]):
                    acknowledged.append(number)
            except Retryable:
                time.sleep(0.02)
            else:
                number += 4

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for _ in range(3):
        before = len(acknowledged)
        until(lambda least=before + 100: len(acknowledged) >= least)  # type: ignore[misc]
        etcd.restart()
    before = len(acknowledged)
    until(lambda: len(acknowledged) >= before + 100)
    over.set()
    for writer in writers:
        writer.join()
    expected = truth(etcd, root)
    until(lambda: follower.snapshot.complete and records(follower.snapshot) == expected)
    assert set(acknowledged[-300:]) - {r.port for r in follower.snapshot.all(Port)} <= {
        n for n in acknowledged if n + 400 in acknowledged
    }
    until(
        lambda: witness.states == [True, False, True, False, True, False, True]
    )  # the callback comes after the snapshot


def test_records_stay_but_incomplete_while_etcd_is_away(store: Store, etcd: EtcdServer) -> None:
    store.commit([Put(Leader("a"), 0)])
    witness = Witness()
    follower = witness.follow(store, ["leader"])
    etcd.kill9()
    until(lambda: not follower.snapshot.complete, 2)
    assert follower.snapshot.get("leader", Leader) == Leader("a")
    etcd.start()
    until(lambda: follower.snapshot.complete, 4)
    assert follower.snapshot.get("leader", Leader) == Leader("a")
    until(lambda: witness.states == [True, False, True])  # the callback comes after the snapshot


def test_orderly_stop_is_like_any_other_end(store: Store, etcd: EtcdServer) -> None:
    witness = Witness()
    follower = witness.follow(store, ["leader"])
    etcd.stop()
    until(lambda: not follower.snapshot.complete, 2)
    etcd.start()
    store.commit([Put(Leader("b"), None)])
    until(lambda: follower.snapshot.get("leader", Leader) == Leader("b") and follower.snapshot.complete, 4)


def test_history_is_compacted_while_cut_off(store: Store, etcd: EtcdServer, proxy: Proxy, root: str) -> None:
    far = Store([proxy.endpoint], RECORD_SIGNER, root=root)
    store.commit([Put(Port("n", n, "t"), 0) for n in range(5)])
    follower = Witness().follow(far, ["ports/"])
    proxy.cut()
    until(lambda: not follower.snapshot.complete, 3)
    store.commit([Delete("ports/n/1", None), Put(Port("n", 2, "u"), None), Put(Port("n", 7, "t"), 0)])
    etcd.compact()
    proxy.heal()
    until(lambda: follower.snapshot.complete, 4)
    assert follower.snapshot == store.load(["ports/"])
    store.commit([Delete("ports/n/2", None)])
    until(lambda: follower.snapshot == store.load(["ports/"]), 2)
    far.close()


def test_history_is_compacted_between_list_and_watch(
    store: Store, etcd: EtcdServer, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([Put(Port("n", n, "t"), 0) for n in range(5)])

    def read_then_compact(link: adapter.Channel, ranges: Ranges) -> Batch:
        batch = read(link, ranges)
        store.commit([Delete("ports/n/1", None), Put(Port("n", 2, "u"), None), Put(Port("n", 7, "t"), None)])
        etcd.compact()
        return batch

    read = watch_stream.read
    monkeypatch.setattr(watch_stream, "read", read_then_compact)
    follower = Witness().follow(store, ["ports/"])
    assert follower.snapshot.complete
    assert records(follower.snapshot) == truth(etcd, root)


def test_changes_between_list_and_watch_are_not_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([Put(Port("n", 1, "t"), 0)])

    def read_between_writes(link: adapter.Channel, ranges: Ranges) -> Batch:
        store.commit([Put(Port("n", 2, "before"), None)])
        batch = read(link, ranges)
        store.commit([Put(Port("n", 2, "after"), None), Delete("ports/n/1", None)])
        return batch

    read = watch_stream.read
    monkeypatch.setattr(watch_stream, "read", read_between_writes)
    follower = Witness().follow(store, ["ports/"])
    until(lambda: records(follower.snapshot) == {"ports/n/2": Port("n", 2, "after")})
    monkeypatch.undo()
    assert follower.snapshot == store.load(["ports/"])


def test_a_wiped_etcd_is_seen_as_empty(store: Store, etcd: EtcdServer) -> None:
    for n in range(50):
        store.commit([Put(Port("n", n, "t"), 0)])
    with structlog.testing.capture_logs() as logs:
        witness = Witness()
        follower = witness.follow(store, ["ports/"])
        before = follower.snapshot.revision
        etcd.wipe()
        until(lambda: follower.snapshot.complete and follower.snapshot.revision < before, 4)
        assert not follower.snapshot.records
        until(lambda: witness.states == [True, False, True])  # the callback comes after the snapshot
        store.commit([Put(Port("n", 3, "new"), 0)])
        until(lambda: follower.snapshot == store.load(["ports/"]))
        follower.stop()
    assert [e["previous"] for e in logs if e["event"] == "store revision went back"] == [before]


def test_wipe_between_list_and_watch_leaves_no_phantom(
    store: Store, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd.wipe()
    store.commit([Put(Port("n", 1, "phantom"), 0)])
    listed, wiped = threading.Event(), threading.Event()

    def read_then_wait(link: adapter.Channel, ranges: Ranges) -> Batch:
        batch = read(link, ranges)
        listed.set()
        wiped.wait()
        return batch

    read = watch_stream.read
    monkeypatch.setattr(watch_stream, "read", read_then_wait)
    seen: list[Snapshot] = []
    ready = threading.Event()

    def note() -> None:
        ready.wait()
        seen.append(follower.snapshot)

    follower = store.follow(["ports/"], note)
    ready.set()
    assert listed.wait(5)
    etcd.wipe()
    for n in range(20):  # so that the new etcd's revision is beyond the old one's
        etcd.put(f"/other/{n}", "x")
    wiped.set()
    until(lambda: follower.snapshot.complete)
    assert [records(snapshot) for snapshot in seen] == [{}]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a watch probed and given up sooner."""
    monkeypatch.setattr(adapter, "PROBE", 0.3)
    monkeypatch.setattr(adapter, "SILENCE", 1.0)


@pytest.mark.parametrize("how", ["freeze_old", "freeze"])
def test_a_way_that_goes_silent_is_noticed(store: Store, proxy: Proxy, root: str, how: str) -> None:
    far = Store([proxy.endpoint], RECORD_SIGNER, root=root)
    far.load(["cluster"])  # and keeps a connection that a new one must not end up sharing
    witness = Witness()
    follower = witness.follow(far, ["leader"])
    getattr(proxy, how)()
    began = time.monotonic()
    store.commit([Put(Leader("b"), None)])
    until(lambda: not follower.snapshot.complete, adapter.SILENCE + adapter.PROBE + 1)
    proxy.thaw()
    until(lambda: follower.snapshot.complete, 5)
    print(f"complete again {time.monotonic() - began:.1f} s after the silence began")
    assert follower.snapshot.get("leader", Leader) == Leader("b")
    until(lambda: witness.states == [True, False, True])  # the callback comes after the snapshot
    far.close()


@pytest.mark.usefixtures("impatient")
def test_quiet_connection_is_not_taken_for_dead(store: Store, proxy: Proxy, root: str) -> None:
    far = Store([proxy.endpoint], RECORD_SIGNER, root=root)
    witness = Witness()
    follower = witness.follow(far, ["leader"])
    time.sleep(adapter.SILENCE + adapter.PROBE + 1)
    assert witness.states == [True]
    store.commit([Put(Leader("b"), None)])
    until(lambda: follower.snapshot.get("leader", Leader) == Leader("b"), 1)
    assert proxy.accepted == 1
    far.close()


@pytest.mark.usefixtures("impatient")
def test_slow_callback_is_not_taken_for_silent_etcd(store: Store) -> None:
    slow = [adapter.SILENCE + adapter.PROBE + 1]
    seen: list[bool] = []
    ready = threading.Event()

    def sleep() -> None:
        ready.wait()
        seen.append(follower.snapshot.complete)
        time.sleep(slow.pop() if slow else 0)

    follower = store.follow(["leader"], sleep)
    ready.set()
    until(lambda: seen)
    revision = store.commit([Put(Leader("b"), None)])
    assert revision is not None
    until(lambda: follower.snapshot.revision >= revision)
    until(lambda: len(seen) > 1)
    assert seen == [True, True]


def test_a_follower_finds_the_next_endpoint(etcd: EtcdServer, proxy: Proxy, root: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    store = Store([dead, proxy.endpoint, etcd.endpoint], RECORD_SIGNER, root=root)
    witness = Witness()
    follower = witness.follow(store, ["leader"])
    assert proxy.accepted == 1
    proxy.cut()
    until(lambda: witness.states == [True, False, True], 4)
    store.commit([Put(Leader("b"), None)])
    until(lambda: follower.snapshot.get("leader", Leader) == Leader("b"))
    store.close()


def test_an_etcd_that_is_not_there_yet(tmp_path_factory: pytest.TempPathFactory, root: str) -> None:
    server = EtcdServer(tmp_path_factory.mktemp("late"))
    with structlog.testing.capture_logs() as logs:
        store = Store([server.endpoint], RECORD_SIGNER, root=root)
        follower = store.follow(["leader"], lambda: None)
        time.sleep(1)
        assert follower.snapshot == Snapshot()
        with server:
            until(lambda: follower.snapshot.complete, 4)
            store.close()
    assert [e["event"] for e in logs] == ["store connection lost", "store listed"], (
        "one line each, however often tried"
    )


def test_our_own_mistakes_do_not_end_the_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True, True]

    def batches(feed: watch_stream.WatchStream) -> Generator[Batch]:
        if broken:
            broken.pop()
            raise ZeroDivisionError
        return original(feed)

    original = watch_stream.WatchStream.batches
    monkeypatch.setattr(watch_stream.WatchStream, "batches", batches)
    follower = store.follow(["leader"], lambda: None)
    until(lambda: follower.snapshot.complete)
    assert not broken


def test_nothing_is_left_open(etcd: EtcdServer, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "PROBE", 60)  # nothing may hang on until the next probe

    def use() -> None:
        store = Store([etcd.endpoint], RECORD_SIGNER, root=root)
        followers = [store.follow(["leader"], lambda: None) for _ in range(3)]
        until(lambda: all(f.snapshot.complete for f in followers))
        store.renew_lease(store.grant(5))
        followers[0].stop()
        store.close()

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(2):
        use()  # gRPC keeps a pool of threads for the process
    time.sleep(1)
    before = threads(), files(), threading.active_count()
    for _ in range(5):
        use()
    until(lambda: threads() <= before[0] and files() <= before[1] and threading.active_count() <= before[2], 5)
