"""A program in nft's place, with all that nft has: the namespaces, files and memory that it reaches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from agent.firewall import nft, nft_confinement
from agent.linux import interfaces, privileges
from agent.linux.netns import TaskNetns, in_scratch_netns
from mesh.errors import Terminal
from tests.netns.world import World, wait_for
from tests.support.attacks import Attempts

SUID_DUMPABLE = Path("/proc/sys/fs/suid_dumpable")
SPOOFED = "lwspoofed"


@pytest.fixture
def everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """The defence off: nft sees all files of the node."""

    @contextmanager
    def off() -> Iterator[None]:
        for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
            folder.chmod(folder.stat().st_mode | 0o011)
        tmp_path.chmod(0o777)
        with monkeypatch.context() as patch:
            patch.setattr(nft_confinement, "enter", lambda _: tmp_path)
            yield

    return off


def taken_over(netns: TaskNetns, *command: str) -> str:
    """Run a program just as nft is run; return its output, or how it failed."""

    def run() -> str:
        with nft._memory() as output, nft._memory() as errors:
            done = nft._ended(command, b"", output, errors)
            return nft._content(output) if done == 0 else f"failed: {nft._content(errors)}"

    return netns.run(run)


def shell(netns: TaskNetns, script: str) -> str:
    return taken_over(netns, "sh", "-c", script)


def plants_a_device(attacker: TaskNetns, victim: TaskNetns) -> bool:
    """Whether it gets a device of its own into another task's namespace, by the namespace's file."""
    name = Path(victim.path).name
    shell(attacker, f"ip link add evil0 type veth peer name {SPOOFED} netns {name}")
    planted = interfaces.kind(victim, SPOOFED) is not None
    if planted:
        interfaces.delete(victim, SPOOFED)
    return planted


def joins_by_a_process(attacker: TaskNetns, victim: TaskNetns) -> bool:
    """Whether it does so by the process of another nft, which has the same user and the same rights."""
    beside = threading.Thread(target=taken_over, args=(victim, "sh", "-c", "exec sleep 3"))
    beside.start()
    script = (
        "own=$(readlink /proc/self/ns/net); for one in /proc/[0-9]*/ns/net; do "
        'seen=$(readlink $one 2>/dev/null) && [ "$seen" != "$own" ] && exec 3<$one && '
        f"ip link add evil0 type veth peer name {SPOOFED} netns $one; done"
    )

    def planted() -> bool:
        shell(attacker, script)
        return interfaces.kind(victim, SPOOFED) is not None

    try:
        try:
            wait_for(planted, 1.0)
        except AssertionError:
            return False
        interfaces.delete(victim, SPOOFED)
        return True
    finally:
        beside.join()


@pytest.mark.parametrize("way", [plants_a_device, joins_by_a_process])
def test_nft_taken_over_reaches_no_other_namespace(
    world: World,
    everywhere: Callable[[], AbstractContextManager[None]],
    attempt: Attempts,
    way: Callable[[TaskNetns, TaskNetns], bool],
) -> None:
    attacker, victim = world.netns(), world.netns()
    tried = attempt("nft, taken over by a task's table, puts a device into another task's namespace")
    with everywhere():
        tried.works(way(attacker, victim))
    tried.stopped(not way(attacker, victim))


def test_nft_sees_no_file_of_the_node(world: World) -> None:
    netns = world.netns()
    assert shell(netns, "find /proc /dev /sys /run/netns -mindepth 1 ! -empty") == ""


def test_a_command_is_read_by_nobody_else(world: World) -> None:
    netns = world.netns()
    shell(netns, "true")
    folder = nft_confinement._made[0].folder
    with nft_confinement.pipe(folder):
        assert len(list(folder.iterdir())) == 1
        assert shell(netns, f"ls {folder}").startswith("failed: ")
    assert list(folder.iterdir()) == []


KILLED = """
import os, signal, sys
from agent.firewall import nft, nft_confinement
from agent.linux.netns import TaskNetns

def opened(path, by, seconds):
    print(by.pid, path.parent, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

nft_confinement.opened = opened
nft.listed(TaskNetns(sys.argv[1]))
"""


def test_next_agent_ends_a_killed_ones_nft(world: World) -> None:
    """It waits at its pipe; that of an agent that lives is left alone."""
    netns = world.netns()
    shell(netns, "true")
    own = nft_confinement._made[0].folder
    done = subprocess.run([sys.executable, "-c", KILLED, netns.path], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    process = Path("/proc", pid)
    assert process.exists()
    nft_confinement._drop_left()
    wait_for(lambda: not process.exists() or "State:\tZ" in (process / "status").read_text(), 30.0)
    assert not Path(folder).exists()
    assert own.exists()


def test_only_what_is_needed_stays_mounted() -> None:
    needed = ("/usr", "/etc/ld.so.cache", "/srv/a/pipes")
    kept = ["/", "/usr/lib/x", "/srv", "/srv/a", "/srv/a/pipes/in", "/etc"]
    surplus = ["/etc/hosts", "/proc", "/srv/b", "/usrother"]
    assert list(nft_confinement._surplus([*kept, *surplus], needed)) == surplus


def test_without_the_right_to_it_it_is_said(world: World) -> None:
    netns = world.netns()
    shell(netns, "true")

    def entered() -> None:
        privileges.give_up(privileges.NET_ADMIN)
        nft_confinement.enter(nft.PROGRAM)

    with pytest.raises(Terminal, match=r"apart from other files: Operation not permitted .*SYS_CHROOT"):
        netns.run(entered)


def test_thread_without_rights_starts_no_memory_reader(monkeypatch: pytest.MonkeyPatch, attempt: Attempts) -> None:
    """Its memory is that of the thread that started it. The kernel may give it away: fs.suid_dumpable says so."""

    def reads() -> bool:
        def tried() -> bytes:
            privileges.give_up(privileges.NET_ADMIN)
            environment = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/environ"
            return subprocess.run(["cat", environment], check=False, capture_output=True).stdout

        return in_scratch_netns(tried) != b""

    tried = attempt("a program without rights reads the memory of the agent that started it")
    prctl, before = privileges._prctl, SUID_DUMPABLE.read_text()
    SUID_DUMPABLE.write_text("1")
    try:
        with monkeypatch.context() as patch:
            skipped = privileges._PR_SET_DUMPABLE
            patch.setattr(privileges, "_prctl", lambda what, *to: None if what == skipped else prctl(what, *to))
            tried.works(reads())
        tried.stopped(not reads())
    finally:
        SUID_DUMPABLE.write_text(before)
