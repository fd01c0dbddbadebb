"""Followed snapshots while etcd is well: nothing missing, nothing half, nothing that ends the thread.

`make test-ranges` runs this with the oldest and newest protobuf that pyproject.toml allows (python-etcd3#2709).
"""

import gc
import json
import threading
from collections.abc import Callable

import pytest
import structlog

from mesh.crypto.signed_envelope import peek
from mesh.model import codec
from mesh.model.records import Leader, Port, Record, TaskReport
from mesh.model.snapshot import Delete, Op, Put, Snapshot
from mesh.store.client import Follower, Store
from mesh.store.follower import RecordChange
from mesh.store.watch_stream import Ranges, WatchStream
from tests.store.etcd_server import EtcdServer
from tests.store.waiting import until
from tests.support.signing import RECORD_SIGNER


def nothing() -> None:
    pass


def listed(follower: Follower) -> Callable[[], bool]:
    return lambda: follower.snapshot.complete


def at(follower: Follower, revision: int | None) -> Callable[[], bool]:
    assert revision is not None
    return lambda: follower.snapshot.revision >= revision


def test_what_was_there_and_what_comes(store: Store) -> None:
    store.commit([Put(Port("n", 1, "t"), 0), Put(Leader("a"), 0)])
    follower = store.follow(["ports/", "leader"], nothing)
    until(listed(follower))
    assert follower.snapshot == store.load(["ports/", "leader"])
    first = follower.snapshot
    for op in (Put(Port("n", 2, "t"), 0), Put(Leader("b"), None), Delete("ports/n/1", None)):
        until(at(follower, store.commit([op])))
        assert follower.snapshot == store.load(["ports/", "leader"])
    assert set(first.records) == {"ports/n/1", "leader"}, "a snapshot must not change once given"


def test_read_bytes_are_not_kept_beside_records(store: Store) -> None:
    """Of 10,000 tasks that would be 45 MiB, for as long as nothing changes."""
    store.commit([Put(Port("n", 4711, "t"), 0)])  # no other test's
    follower = store.follow(["ports/"], nothing)
    until(listed(follower))

    def is_kept() -> bool:
        gc.collect()  # what nobody refers to any more is not kept, whoever last held the search for it off
        return any(type(one) is RecordChange and one.key == b"ports/n/4711" for one in gc.get_objects())

    until(lambda: not is_kept(), 30)


def test_an_empty_store_is_complete(store: Store) -> None:
    told = threading.Event()
    follower = store.follow(["ports/"], told.set)
    assert told.wait(5)
    assert follower.snapshot == store.load(["ports/"])
    assert follower.snapshot.complete


def test_waiter_for_a_revision_continues_when_it_comes(store: Store) -> None:
    follower = store.follow(["ports/"], nothing)
    until(listed(follower))
    now = follower.snapshot.revision
    assert follower.wait(now, 0)
    assert not follower.wait(now + 1, 0.05)
    waiting = threading.Thread(target=follower.wait, args=(now + 1, 3600), daemon=True)
    waiting.start()
    revision = store.commit([Put(Port("n", 1, "t"), 0)])
    assert revision is not None
    waiting.join(30)
    assert not waiting.is_alive()
    assert follower.wait(revision, 30)
    assert follower.snapshot.revision >= revision


def test_every_change_comes_once_and_in_order(store: Store, etcd: EtcdServer, root: str) -> None:
    nodes = [f"n{i}" for i in range(4)]

    def write(node: str) -> None:
        for n in range(200):
            store.commit([Put(Port(node, 1, str(n)), None)])

    def write_all() -> None:
        writers = [threading.Thread(target=write, args=(node,)) for node in nodes]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        store.commit([Put(Leader("the end"), None)])

    feed = WatchStream([etcd.target], 5.0, Ranges.of(root.encode(), [b"ports/", b"leader"]), etcd.tls)
    writing = threading.Thread(target=write_all)
    writing.start()  # while the list and the beginning of the watch are under way
    seen: list[RecordChange] = []
    last = 0
    for batch in feed.batches():
        assert batch.whole is not bool(last)
        assert last < batch.revision
        if not batch.whole:
            assert all(last < change.revision <= batch.revision for change in batch.changes)
            assert [c.revision for c in batch.changes] == sorted(c.revision for c in batch.changes)
        last = batch.revision
        seen += batch.changes
        if any(change.key == b"leader" for change in batch.changes):
            break
    writing.join()
    feed.close()

    assert len({(change.key, change.revision) for change in seen}) == len(seen), "a change came twice"
    for node in nodes:
        values = [c.value for c in seen if c.key == f"ports/{node}/1".encode()]
        numbers = [
            int(json.loads(RECORD_SIGNER.open(f"ports/{node}/1", value or b"").body)["task"]) for value in values
        ]
        # What was overwritten before the list is not in it; from there on none is left out.
        assert numbers == list(range(numbers[0], 200))


def test_no_snapshot_is_half_a_transaction(store: Store) -> None:
    halves: list[Snapshot] = []
    ready = threading.Event()
    prefixes = ["leader", "ports/", "services/"]

    def check() -> None:
        ready.wait()
        snapshot = follower.snapshot
        ports = {r.task for r in snapshot.all(Port)}
        names = {r.holder for r in snapshot.all(Leader)}
        if snapshot.records and ports != names:
            halves.append(snapshot)

    follower = store.follow(prefixes, check)
    ready.set()
    for n in range(300):
        store.commit([Put(Leader(str(n)), None), Put(Port("a", 1, str(n)), None), Put(Port("z", 9, str(n)), None)])
    until(at(follower, store.load(["leader"]).revision_of("leader")))
    assert not halves


def test_what_lies_between_the_prefixes_is_passed_over(store: Store, etcd: EtcdServer, root: str) -> None:
    told: list[int] = []
    follower = store.follow(["cluster", "keys/n/", "ports/"], lambda: told.append(1))
    until(listed(follower))
    etcd.put(f"{root}leader", codec.encode(Leader("x")).decode())
    etcd.put(f"{root}keys/n2/x", "not ours, not followed")
    etcd.put(f"{root}clusters", "likewise")
    assert len(told) == 1
    until(at(follower, store.commit([Put(Port("n", 1, "t"), 0)])))
    assert set(follower.snapshot.records) == {"ports/n/1"}
    assert not follower.snapshot.invalid


def test_foreign_values_are_named_and_rest_continues(store: Store, etcd: EtcdServer, root: str) -> None:
    good = codec.encode(Leader("a")).decode()
    with structlog.testing.capture_logs() as logs:
        etcd.put(f"{root}ports/n/1", "s3cret \x1b[31m")
        follower = store.follow([""], nothing)
        until(listed(follower))
        assert set(follower.snapshot.invalid) == {"ports/n/1"}
        etcd.put(f"{root}ports/n/1", "s3cret again")
        etcd.put(f"{root}leader", good)
        etcd.put(f"{root}nodes/x\ny", good)
        etcd.put(f"{root}whatever/" + "k" * 1000, good)
        until(at(follower, store.commit([Put(Port("n", 2, "t"), 0)])))
        snapshot = follower.snapshot
        assert {k for k in snapshot.records if k != "ports/n/2"} == {"leader"}
        assert snapshot == store.load([""])
        assert set(snapshot.invalid) == {"ports/n/1", "nodes/x\ny", "whatever/" + "k" * 1000}
        assert all(len(reason) < 210 and reason.isprintable() for reason in snapshot.invalid.values())
        etcd.put_bytes(
            f"{root}ports/n/1".encode(), RECORD_SIGNER.sign("ports/n/1", 1, codec.encode(Port("n", 1, "t")))
        )
        etcd.delete(f"{root}whatever/" + "k" * 1000)
        until(lambda: follower.snapshot.get("ports/n/1", Port))
        until(lambda: set(follower.snapshot.invalid) == {"nodes/x\ny"})
        # A good record that turns bad is unknown and not what it was.
        etcd.put(f"{root}leader", "{}")
        until(lambda: "leader" in follower.snapshot.invalid)
        assert "leader" not in follower.snapshot.records
        follower.stop()
    named = [entry["key"] for entry in logs if entry["event"] == "value ignored" and entry["key"] == "ports/n/1"]
    # By the follower when it listed, and by the one load; not again for the same reason.
    assert named == ["ports/n/1", "ports/n/1"]
    assert "s3cret" not in repr(logs)


def test_value_breaking_the_codec_affects_only_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(key: str, value: bytes) -> Record:
        if key == "ports/n/1":
            raise OverflowError("s3cret")
        return original(key, value)

    original = codec.decode
    monkeypatch.setattr(codec, "decode", decode)
    follower = store.follow(["ports/"], nothing)
    until(at(follower, store.commit([Put(Port("n", 1, "t"), 0), Put(Port("n", 2, "t"), 0)])))
    assert follower.snapshot.complete
    assert dict(follower.snapshot.invalid) == {"ports/n/1": "OverflowError"}
    assert set(follower.snapshot.records) == {"ports/n/2"}


def test_a_key_that_is_no_text(store: Store, etcd: EtcdServer, root: str) -> None:
    etcd.put_bytes(root.encode() + b"nodes/\xff", b"x")
    follower = store.follow(["nodes/"], nothing)
    until(listed(follower))
    assert list(follower.snapshot.invalid) == [r"b'nodes/\xff'"]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_the_callback_cannot_end_the_thread(store: Store, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with structlog.testing.capture_logs() as logs:
        follower = store.follow(["leader"], fail)
        until(listed(follower))
        for n in range(3):
            until(at(follower, store.commit([Put(Leader(str(n)), None)])))
            assert follower.snapshot.get("leader", Leader) == Leader(str(n))
        follower.stop()
    assert "change callback failed" in [entry["event"] for entry in logs]


def test_stop_from_the_callback(store: Store) -> None:
    done = threading.Event()
    ready = threading.Event()

    def stop() -> None:
        ready.wait()
        follower.stop()
        done.set()

    follower = store.follow(["leader"], stop)
    ready.set()
    assert done.wait(5)
    until(lambda: not follower.snapshot.complete)
    follower.stop()


def test_stopped_means_incomplete_but_readable(store: Store) -> None:
    store.commit([Put(Leader("a"), 0)])
    follower = store.follow(["leader"], nothing)
    until(listed(follower))
    follower.stop()
    store.commit([Put(Leader("b"), None)])
    assert not follower.snapshot.complete
    assert follower.snapshot.get("leader", Leader) == Leader("a")


def test_leased_keys_go_with_their_lease(store: Store) -> None:
    follower = store.follow(["ports/"], nothing)
    lease = store.grant(1)
    until(at(follower, store.commit([Put(Port("n", 1, "t"), 0, lease=lease)])))
    assert follower.snapshot.records
    until(lambda: not follower.snapshot.records)
    assert follower.snapshot.complete


def test_a_burst_is_followed_to_its_end(store: Store) -> None:
    follower = store.follow(["ports/"], nothing)
    until(listed(follower))
    revision = None
    for base in range(0, 5120, 128):
        ops: list[Op] = [Put(Port("n", base + n, "t"), 0) for n in range(128)]
        revision = store.commit(ops)
    until(at(follower, revision))
    assert len(follower.snapshot.records) == 5120
    assert follower.snapshot == store.load(["ports/"])


def test_slow_reader_catches_up_in_whole_revisions(store: Store, etcd: EtcdServer, root: str) -> None:
    feed = WatchStream([etcd.target], 5.0, Ranges.of(root.encode(), [b"tasks/"]), etcd.tls)
    batches = feed.batches()
    last = next(batches).revision
    numbers: list[int] = []
    # More than the connection and etcd's own queue (1024 answers) hold, so that etcd puts the watch aside.
    for n in range(2000):
        store.commit(
            [
                Put(
                    TaskReport(
                        "t", str(n), "n", "running", wired=True, error="x" * 5000, port_taken=None, elsewhere=()
                    ),
                    None,
                )
            ]
        )
    while len(numbers) < 2000:
        batch = next(batches)
        assert last < batch.revision
        assert all(last < change.revision <= batch.revision for change in batch.changes)
        last = batch.revision
        numbers += [
            int(json.loads(peek("tasks/n/t", change.value or b"").body)["service"]) for change in batch.changes
        ]
    assert numbers == list(range(2000))
    feed.close()
