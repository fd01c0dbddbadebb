"""A thread that gives up its rights: what it has left, and that all others have what they had."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import threading
from pathlib import Path

import pytest

from agent.linux import privileges
from agent.linux.netns import in_scratch_netns
from mesh.errors import Terminal


def credentials() -> dict[int, list[str]]:
    """Of each thread of this process, what is not the same in all of them by nature."""
    asked = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs")
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = (task / "status").read_text().splitlines()
            found[int(task.name)] = [line for line in lines if line.startswith(asked)]
    return found


def test_only_this_thread_drops_its_capabilities() -> None:
    enough = threading.Event()
    beside = threading.Thread(target=enough.wait)
    beside.start()
    before = credentials()

    def give_up() -> tuple[int, dict[int, list[str]]]:
        privileges.give_up(privileges.NET_ADMIN)
        return threading.get_native_id(), credentials()

    try:
        own, during = in_scratch_netns(give_up)
    finally:
        enough.set()
        beside.join()
    left = during.pop(own)
    assert during.keys() >= {os.getpid(), beside.native_id}
    both = during.keys() & before.keys()
    assert {thread: during[thread] for thread in both} == {thread: before[thread] for thread in both}
    capabilities = [line.split()[1] for line in left if line.startswith("Cap")]
    assert capabilities == [f"{1 << privileges.NET_ADMIN:016x}"] * 5
    assert left[0].split()[1:] == left[1].split()[1:] == [str(privileges.USER)] * 4


def test_it_leaves_its_groups() -> None:
    def left() -> list[int]:
        set_groups, _, _ = privileges._numbers()
        groups = (ctypes.c_uint32 * 1)(4)
        assert privileges._libc.syscall(set_groups, 1, ctypes.addressof(groups), 0) == 0
        assert os.getgroups() == [4]
        privileges.give_up(privileges.NET_ADMIN)
        return os.getgroups()

    assert in_scratch_netns(left) == []


def test_what_it_starts_can_signal_nobody() -> None:
    def reached() -> int:
        privileges.give_up(privileges.NET_ADMIN)
        thread, process = threading.get_native_id(), os.getpid()
        script = f"kill -0 {thread} || kill -0 {process}"
        return subprocess.run(["sh", "-c", script], check=False, capture_output=True).returncode

    assert in_scratch_netns(reached) != 0


def test_it_takes_nothing_back() -> None:
    def tried() -> None:
        privileges.give_up(privileges.NET_ADMIN)
        with pytest.raises(PermissionError):
            os.chroot("/")
        privileges.give_up(privileges.NET_ADMIN)

    with pytest.raises(Terminal, match=r"privileges: Operation not permitted \(the agent needs SYS_ADMIN, SETUID"):
        in_scratch_netns(tried)


def test_the_first_thread_keeps_its_rights() -> None:
    before = credentials()[os.getpid()]
    with pytest.raises(Terminal, match="first thread"):
        privileges.give_up(privileges.NET_ADMIN)
    assert credentials()[os.getpid()] == before


def test_processor_with_unknown_system_calls_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    with pytest.raises(Terminal, match="cannot set a thread's user on this processor: m68k"):
        in_scratch_netns(lambda: privileges.give_up(privileges.NET_ADMIN))
