"""Several members of the stack's etcd, under writes without pause: formed, grown, shrunk, replaced, wiped, full."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.etcd.cluster import member_note, peers
from controller.etcd.cluster.membership import members
from controller.etcd.cluster.plan import WAITING
from mesh.store.etcd_channel import ChannelPool
from tests.store.secured import ROOT, write
from tests.store.supervised import HOSTS, START_S, Supervised
from tests.store.three_members import Traffic, lost
from tests.store.waiting import until
from tests.support.effort import LONG
from tests.support.patience import slowness

THREE = ("a", "b", "c")
WITHIN = 20.0
"""Seconds in which writes and the watch go on, whatever becomes of one member, on a busy machine."""
QUOTA = 16 * 1024**2

pytestmark = pytest.mark.timeout(300)
long = pytest.mark.skipif(not LONG, reason="in make chaos: half a minute and more each")


@pytest.fixture
def etcds(tmp_path: Path) -> Iterator[Supervised]:
    with Supervised(tmp_path) as etcds:
        yield etcds


@pytest.fixture
def three(etcds: Supervised) -> Supervised:
    for name in THREE:
        etcds.deploy(name, THREE)
    etcds.wait_ready(*THREE)
    etcds.wait_members(*THREE)
    return etcds


def traffic(etcds: Supervised, *names: str) -> Traffic:
    return Traffic(etcds.targets(names), etcds.tls("controller"))


def require_nothing_lost(etcds: Supervised, written: Traffic, *names: str) -> None:
    assert len(written.acknowledged) > 10
    for name in names:
        with etcds.line(name) as line:
            assert lost(written, line) == set(), name


def require_going_on(etcds: Supervised, written: Traffic) -> None:
    assert written.go_on(WITHIN * slowness()), (written.errors[-3:], etcds.tail())


def test_three_form_one_cluster(three: Supervised) -> None:
    assert three.logged("etcd members form a new cluster") == 1
    assert three.leader(*THREE) == "a"
    set_by = [name for name in THREE if "etcd users and roles set" in three.members[name].logged()]
    assert set_by == ["a"], "the leader's supervisor alone"
    with three.line("c", user="agent") as line:
        assert "permission denied" in write(line, ROOT + b"services/x"), "nobody is let in without roles"


def test_grown_and_shrunk_back_under_writes(etcds: Supervised, figure: Callable[[str], None]) -> None:
    etcds.roll("a", ())
    with traffic(etcds, *THREE) as written:
        require_going_on(etcds, written)
        began = time.monotonic()
        etcds.deploy("b", THREE)
        etcds.deploy("c", THREE)
        etcds.roll("a", THREE)
        etcds.wait_ready(*THREE)
        etcds.wait_members(*THREE)
        grown = time.monotonic()
        require_going_on(etcds, written)
        etcds.kill("a", stays=True)
        require_going_on(etcds, written)
        etcds.roll("a", THREE)
        etcds.wait_members(*THREE)
        shrinks = time.monotonic()
        etcds.roll(("b", "c", "a"), ("a",))
        until(lambda: etcds.logged("etcd member is not one any more") == 2, START_S)
        for name in ("b", "c"):
            etcds.kill(name, stays=True)
        require_going_on(etcds, written)
        shrunk = time.monotonic()
        etcds.deploy("b", THREE)
        etcds.deploy("c", THREE)
        etcds.roll("a", THREE)
        etcds.wait_members(*THREE)
        pause = written.gap(written.acknowledged)
        figure(
            f"grown in {grown - began:.0f} s, shrunk in {shrunk - shrinks:.0f} s, writes paused {pause:.1f} s at most"
        )
        assert etcds.logged("data of a removed etcd member set aside") == 2
    require_nothing_lost(etcds, written, *THREE)
    assert etcds.logged("etcd members form a new cluster") == 0


@long
def test_wiped_member_is_replaced(three: Supervised, figure: Callable[[str], None]) -> None:
    lost_one = three.leader(*THREE)
    with traffic(three, *THREE) as written:
        require_going_on(three, written)
        began = time.monotonic()
        three.wipe(lost_one)
        require_going_on(three, written)
        three.wait_members(*THREE)
        took, pause = time.monotonic() - began, written.gap(written.acknowledged, began)
        figure(f"a wiped leader is a member again after {took:.0f} s; writes paused {pause:.1f} s")
    require_nothing_lost(three, written, *THREE)
    assert three.logged("etcd members form a new cluster") == 1


@long
def test_lost_member_gives_way_to_another(three: Supervised) -> None:
    others = ("a", "b", "d")
    with traffic(three, *THREE, "d") as written:
        require_going_on(three, written)
        three.kill("c", stays=True)
        three.deploy("d", others)
        three.roll("ab", others)
        three.wait_ready("d")
        three.wait_members(*others)
        three.kill("a", stays=True)
        require_going_on(three, written)
    require_nothing_lost(three, written, "b", "d")


@long
def test_full_disk_of_one_stops_nobody(etcds: Supervised) -> None:
    data = etcds.members["c"].data
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(data)], check=True)
    try:
        for name in THREE:
            etcds.deploy(name, THREE)
        etcds.wait_ready(*THREE)
        etcds.wait_members(*THREE)
        with traffic(etcds, *reversed(THREE)) as written:
            require_going_on(etcds, written)
            fill(data / "full")
            with etcds.line("a", "b") as line:
                for number in range(600):  # more than what is left of the log's last file
                    write(line, ROOT + b"services/%d" % (number % 10), b"x" * 200_000)
            until(lambda: "no space left on device" in etcds.members["c"].logged(), START_S)
            require_going_on(etcds, written)
            (data / "full").unlink()
            etcds.wait_members(*THREE)
        require_nothing_lost(etcds, written, *THREE)
    finally:
        etcds.kill("c", stays=True)
        subprocess.run(["umount", "-l", str(data)], check=True)


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            return


@long
def test_all_wiped_form_anew(three: Supervised) -> None:
    for name in THREE:
        three.kill(name, stays=True)
    for name in THREE:
        shutil.rmtree(three.members[name].data)
        three.deploy(name, THREE)
    three.wait_ready(*THREE)
    three.wait_members(*THREE)
    assert three.logged("etcd members form a new cluster") == 2
    with three.line("b", user="agent") as line:
        assert "permission denied" in write(line, ROOT + b"services/x")


@long
def test_without_the_others_nothing_is_formed(three: Supervised) -> None:
    """The first has lost its disk, and nobody says that there is nothing else: it waits."""
    for name in THREE:
        three.kill(name, stays=True)
    shutil.rmtree(three.members["a"].data)
    three.deploy("a", THREE)
    until(lambda: three.logged("etcd member waits for the others") > 2, START_S)
    three.deploy("b", THREE)
    time.sleep(5)
    assert three.logged("etcd members form a new cluster") == 1
    three.deploy("c", THREE)
    three.wait_members(*THREE)


@long
def test_quota_is_kept_on_every_member(tmp_path: Path) -> None:
    with Supervised(tmp_path, QUOTA) as etcds:
        for name in THREE:
            etcds.deploy(name, THREE)
        etcds.wait_ready(*THREE)
        etcds.wait_members(*THREE)
        with etcds.line(*THREE) as line:
            said = [write(line, ROOT + b"services/one", b"x" * 200_000) for _ in range(120)]
            assert any("database space exceeded" in one for one in said), "else there is nothing to mend"
            until(lambda: write(line, ROOT + b"services/one") == "written", START_S)
            until(lambda: all((one.size or QUOTA) < QUOTA / 2 for one in etcds.listed(*THREE)), START_S)


def test_peers_take_members_certificates_alone(three: Supervised) -> None:
    """An agent's certificate has the same authority: it would be a member otherwise."""
    url = f"https://{HOSTS['a']}:{three.peer_port}"
    ca, peer = three.folder / "ca", three.folder / "peer"
    answer = peers.ask([url], ca, peer)[url]
    assert answer is not None
    assert answer not in (None, WAITING)
    assert {one.peer for one in answer.members} == {f"https://{HOSTS[name]}:{three.peer_port}" for name in THREE}
    for user in ("agent", "controller"):
        assert peers.ask([url], ca, three.tls(user).cert)[url] is None
    with three.line("a") as line, line.use() as link:
        assert len(members(link)) == len(THREE)
    assert member_note.read(three.members["a"].data) is not None


def test_peers_certificate_is_no_user(three: Supervised) -> None:
    peer = three.folder / "peer"
    line = ChannelPool(three.targets("a"), 3.0, type(three.tls("agent"))(three.folder / "ca", peer, peer), ROOT)
    assert "written" not in write(line, ROOT + b"services/x")
    line.close()
