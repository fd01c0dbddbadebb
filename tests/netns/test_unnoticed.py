"""Three defences that were once taken away without a test that noticed: memory of the agent, wrong namespaces."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers.netns_discovery import NetnsDiscovery
from agent.interface.task import TaskState
from agent.linux.netns import TaskNetns
from tests.netns.world import World, wait_for
from tests.unit.agent.test_task import task as task_state

MEMORY = """
import ctypes
from agent.linux import privileges
from agent.linux.netns import in_scratch_netns
from mesh.process import hardening

GET_DUMPABLE, SET_DUMPABLE = 3, 4  # linux/prctl.h
libc = ctypes.CDLL(None)
real = privileges._libc.syscall


def syscall(*arguments):
    # As commit_creds in kernel/cred.c where fs.suid_dumpable is 1: that is the machine's, so it is played here.
    result = real(*arguments)
    libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)
    return result


hardening.protect()
privileges._libc.syscall = syscall
in_scratch_netns(lambda: privileges.give_up(privileges.NET_ADMIN))
print(libc.prctl(GET_DUMPABLE, 0, 0, 0, 0))
"""


def test_giving_up_rights_opens_no_memory() -> None:
    """The thread that runs nft changes its user, by which the kernel may make the whole agent dumpable again."""
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    assert done.stdout == "0\n"


def test_device_in_a_wrong_namespace_is_removed(world: World) -> None:
    """Docker names another namespace than the one that was guessed: the device, and its key, must not stay there."""
    node = world.node()
    guessed, right = world.task(node), world.task(node)
    guessed.wire(right)
    assert guessed.name in node.backend.found(guessed.netns)
    state: TaskState = task_state()
    state.local = replace(state.local, netns=right.netns.path)
    state.interface.open(guessed.netns.path)
    state._open(node.backend, right.netns.path)
    try:
        assert guessed.name not in node.backend.found(guessed.netns)
        assert state.interface.netns is not None
        assert state.interface.netns.path == right.netns.path
    finally:
        state.close()


@pytest.fixture
def beginning(tmp_path: Path) -> Iterator[TaskNetns]:
    """A namespace as of a container that starts, in a folder like Docker's, with one device."""
    path = tmp_path / "0123456789ab"
    path.touch()
    device = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]
    try:
        subprocess.run(["unshare", f"--net={path}", *device], check=True)
        with TaskNetns(str(path)) as netns:
            yield netns
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_of_two_candidates_neither_gets_the_namespace(tmp_path: Path, beginning: TaskNetns) -> None:
    """Two containers that wear one MAC address: nobody knows which of them the namespace belongs to."""
    aside = tmp_path / "aside"
    aside.mkdir()
    found: list[tuple[str, str]] = []
    search = NetnsDiscovery(lambda container, path: found.append((container, path)), aside)
    mac = next(line.split()[1] for line in beginning_links(beginning) if "link/ether" in line)
    search.expect("one", mac)
    search.expect("two", mac.upper())
    search._folder = tmp_path  # where it appears only now
    time.sleep(0.5)
    assert found == []
    search.forget("two")
    wait_for(lambda: bool(found), 4)  # while it is young
    assert found == [("one", beginning.path)]
    search.forget("one")
    wait_for(lambda: not search._open)


def beginning_links(netns: TaskNetns) -> list[str]:
    command = ["ip", "link", "show", "eth0"]
    shown = netns.run(lambda: subprocess.run(command, check=True, capture_output=True, text=True))
    return [line.strip() for line in shown.stdout.splitlines()]
