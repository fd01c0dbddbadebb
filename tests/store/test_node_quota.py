"""A node that fills etcd under its own keys: it is barred, its records go, and everybody else writes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from controller.etcd import node_quota
from controller.etcd.node_quota import NodeQuota
from controller.etcd.upkeep import Upkeep
from mesh.model import keyspace
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.store.secured import ROOT, Secured, write
from tests.store.test_etcd_users import A, B, certificate, said, trusted
from tests.store.waiting import until
from tests.support.attacks import Attempts

QUOTA = 24 * 1024**2
LARGE = b"x" * 1_400_000
AT_ONCE = 6
SPACE = "database space exceeded"
OF_CONTROLLER = ROOT + b"services/x"


def own(node: str, number: int) -> bytes:
    return ROOT + b"tasks/%s/%d" % (node.encode(), number)


def fill(line: ChannelPool, node: str = A, first: int = 0) -> str:
    """Write large values, several at a time, until there is no more room; what etcd said last.

    A write that is late is no full etcd. Those that come at once are all taken: etcd counts what it has on the disk.
    """
    said = ""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(first, first + 60, AT_ONCE):
            for said in pool.map(lambda number: write(line, own(node, number), LARGE), range(start, start + AT_ONCE)):
                if SPACE in said:
                    return said
    return said


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    one = Secured.made(tmp_path)
    one.settings["LINKWIRE_ETCD_QUOTA"] = str(QUOTA)
    one.start()
    trusted(one)
    said(one, [A, B])
    yield one
    one.stop()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[ChannelPool]:
    with (
        EtcdServer(tmp_path, arguments=(f"--quota-backend-bytes={QUOTA}",)) as server,
        closing(ChannelPool([server.target], 5.0)) as line,
    ):
        yield line


def test_node_that_fills_etcd_loses_its_records(
    line: ChannelPool, attempt: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence off: upkeep as it was, which makes room of history alone."""
    tried = attempt("a node fills etcd under its own keys, until nobody can write")
    assert write(line, own(B, 1), b"b") == "written"
    assert SPACE in fill(line)
    with monkeypatch.context() as off:
        off.setattr(NodeQuota, "measure", lambda *_: False)
        for turn in range(5):  # pages that etcd no longer uses give a little room, which the node fills too
            Upkeep(QUOTA).look(line, 1000.0)
            if is_full := SPACE in write(line, OF_CONTROLLER):
                break
            fill(line, first=100 * (turn + 1))
        tried.works(is_full)
    kept = Upkeep(QUOTA)
    kept.look(line, 2000.0)
    assert kept.barred(2000.0) == {A}
    kept.look(line, 2001.0)
    tried.stopped(write(line, OF_CONTROLLER) == "written")
    with line.use() as link:
        left = [kv.key for kv in link.page(ROOT + b"tasks/", ROOT + b"tasks0", 0).kvs]
    assert left == [own(B, 1)]
    assert kept.barred(2000.0 + node_quota.BAR_S) == frozenset()


def test_full_etcd_starts_without_the_nodes_records(line: ChannelPool) -> None:
    """Else it could not set its users, and would not start."""
    assert SPACE in fill(line)
    starting = Upkeep(QUOTA)
    starting.mend(line)
    assert write(line, OF_CONTROLLER) == "written"
    assert starting.barred(time.monotonic()) == {A}


def test_many_small_records_count_too(line: ChannelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_quota, "NODE_KEYS", 300)
    for start in range(0, 400, 100):
        with line.use() as link:
            link.commit([], [(own(A, start + n), b"x", 0) for n in range(100)], [])
    for number in range(250):
        assert write(line, own(B, number), b"x") == "written"
    kept = Upkeep(QUOTA)
    kept.look(line, 1000.0)
    assert kept.barred(1000.0) == {A}
    kept.look(line, 1001.0)
    with line.use() as link:
        assert link.count(ROOT + b"tasks/", ROOT + b"tasks0") == 250


def test_an_honest_store_costs_one_count(line: ChannelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bool:
        raise AssertionError("nodes were measured")

    monkeypatch.setattr(NodeQuota, "measure", never)
    monkeypatch.setattr(NodeQuota, "listen", never)
    for number in range(100):
        assert write(line, own(A, number), b"x" * 2000) == "written"
    Upkeep(QUOTA).look(line, 1000.0)


def barred_in_the_end(
    secured: Secured, worker: ChannelPool, controller: ChannelPool, attack: Callable[[], object]
) -> float:
    """Attack until the worker is refused; seconds from the first refusal of the controller to its last."""
    refused: list[float] = []
    end = time.monotonic() + 120
    while "PERMISSION_DENIED" not in (told := write(worker, own(A, 0), b"x")) and "user name" not in told:
        assert time.monotonic() < end, secured.logged()[-3000:]
        attack()
        if SPACE in write(controller, OF_CONTROLLER):
            refused.append(time.monotonic())
    until(lambda: write(controller, OF_CONTROLLER) == "written", 30)
    return time.monotonic() - refused[0] if refused else 0.0


def test_barred_node_is_no_user_and_others_write(
    secured: Secured, attempt: Attempts, figure: Callable[[str], None]
) -> None:
    tried = attempt("a node fills etcd with large values, with its own certificate")
    other = certificate(secured, B)
    with (
        closing(secured.line(certificate(secured, A))) as worker,
        closing(secured.line(other)) as neighbour,
        closing(secured.line(secured.tls("controller"))) as controller,
    ):
        until(lambda: write(worker, own(A, 0), b"x") == "written", 30)
        assert SPACE in fill(worker)
        tried.works(SPACE in write(controller, OF_CONTROLLER))
        took = barred_in_the_end(secured, worker, controller, lambda: time.sleep(0.2))
        tried.stopped(write(controller, OF_CONTROLLER) == "written")
        assert write(neighbour, own(B, 1), b"x") == "written"
        key = ROOT + keyspace.SPACE.encode()

        def told() -> object:
            with controller.use() as link:
                (space,) = link.page(key, key + b"\0", 0).kvs
            return json.loads(space.value).get("barred")

        until(lambda: told() == [A], 30)
        figure(f"an etcd filled by one node's records takes writes again in {took:.1f} s")


def test_node_that_writes_without_pause_is_barred(
    secured: Secured, attempt: Attempts, figure: Callable[[str], None]
) -> None:
    """One key, written again and again: what fills etcd is its history."""
    tried = attempt("a node writes one key again and again, until its history fills etcd")
    with (
        closing(secured.line(certificate(secured, A))) as worker,
        closing(secured.line(secured.tls("controller"))) as controller,
    ):
        until(lambda: write(worker, own(A, 0), b"x") == "written", 30)
        seen: list[str] = []

        def attack() -> None:
            write(worker, own(A, 1), LARGE)
            seen.append(write(controller, OF_CONTROLLER))

        took = barred_in_the_end(secured, worker, controller, attack)
        tried.works(any(SPACE in told for told in seen), "it fills it, before that is noticed")
        tried.stopped(write(controller, OF_CONTROLLER) == "written")
        figure(f"an etcd filled by one node's writes takes writes again in {took:.1f} s")
