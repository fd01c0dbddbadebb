from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from agent.linux.netlink_socket import NETLINK_GENERIC, NETLINK_ROUTE, explained
from agent.linux.netns import OWN_NETNS, TaskNetns, in_scratch_netns
from mesh.errors import NetnsGoneError, Retryable
from tests.netns.world import World, delete_netns, ip


def own_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_function_runs_in_namespace_and_caller_stays(world: World) -> None:
    before = own_inode()
    netns = world.netns()
    assert netns.run(own_inode) == os.fstat(netns.fileno()).st_ino != before
    assert own_inode() == before


def test_what_the_function_raises_arrives_at_the_caller(world: World) -> None:
    def fail() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        world.netns().run(fail)


def test_a_scratch_namespace_is_new() -> None:
    assert in_scratch_netns(own_inode) != own_inode()


def test_sockets_are_shared_by_threads_and_closed_together(world: World) -> None:
    path = world.netns().path
    held = open_files()
    netns = TaskNetns(path)
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(netns.socket(NETLINK_ROUTE))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 20
    assert len(set(map(id, got))) == 1
    assert netns.socket(NETLINK_GENERIC) is not netns.socket(NETLINK_ROUTE)
    assert open_files() == held + 3
    netns.close()
    netns.close()
    assert open_files() == held


def test_missing_file_is_a_vanished_namespace() -> None:
    with pytest.raises(NetnsGoneError, match="/nowhere/netns"):
        TaskNetns("/nowhere/netns")


def test_file_not_yet_mounted_is_retried(tmp_path: Path) -> None:
    file = tmp_path / "netns"
    file.touch()
    before = open_files()
    with pytest.raises(Retryable, match="not a network namespace"):
        TaskNetns(str(file))
    assert open_files() == before


def test_a_namespace_of_another_kind_is_none() -> None:
    with pytest.raises(Retryable, match="not a network namespace"):
        TaskNetns("/proc/self/ns/uts")


def test_every_use_notices_that_the_namespace_has_ended(world: World) -> None:
    netns = world.netns()
    netns.socket(NETLINK_ROUTE)
    delete_netns(netns)
    for use in (netns.check, netns.fileno, lambda: netns.socket(NETLINK_ROUTE), lambda: netns.run(own_inode)):
        with pytest.raises(NetnsGoneError, match="has ended"):
            use()


def test_other_namespace_of_same_name_is_rejected(world: World) -> None:
    netns = world.netns()
    delete_netns(netns)
    ip("netns", "add", Path(netns.path).name)
    with pytest.raises(NetnsGoneError, match="another's"):
        netns.check()


def test_a_closed_namespace_is_gone(world: World) -> None:
    netns = world.netns()
    netns.close()
    with pytest.raises(NetnsGoneError, match="closed"):
        netns.socket(NETLINK_ROUTE)


def test_socket_closed_by_other_thread_means_vanished_namespace(world: World) -> None:
    netns = world.netns()
    kept = netns.socket(NETLINK_ROUTE)
    netns.close()
    with pytest.raises(NetnsGoneError):
        kept.dump(18, bytes(16))


def test_the_own_namespace_is_one_like_any_other() -> None:
    with TaskNetns(OWN_NETNS) as netns:
        assert os.fstat(netns.fileno()).st_ino == own_inode()


def test_shortage_of_descriptors_or_threads_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wired task keeps its links: nothing is taken down but for an error that stays."""
    netns = world.netns()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(Retryable, match="Too many open files"):
            TaskNetns(netns.path)
        with pytest.raises(Retryable, match="Too many open files"), explained("list"):
            netns.socket(NETLINK_GENERIC)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(Retryable, match="can't start new thread"):
            netns.run(own_inode)
    assert netns.run(own_inode)
