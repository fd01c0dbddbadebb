"""The holder of a node's wireguard-go processes, in a PID namespace of its own as a container is.

The agents here are in PID namespaces too: what they have started ends with them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from agent.holder import sockets
from agent.holder.client import OTHER_VERSION, HeldProcesses
from agent.holder.processes import Processes
from agent.holder.server import SOCKET
from agent.interface import reconcile
from agent.linux import interfaces
from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NAMES
from agent.wireguard import uapi, userspace
from mesh.errors import DeviceNotFoundError, Retryable, Terminal
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.test_traffic import Flood, await_first_packet
from tests.netns.test_userspace import with_wireguard_go
from tests.netns.world import Node, Task, World, wait_for
from tests.support import stage

ROUNDS = 3
SECONDS = 60.0
PROGRAM = "import sys; from agent.holder.server import main; main()"
HURRIED = (
    "from agent.holder.processes import OwnProcesses; from agent.holder.server import Holder;"
    "Holder(OwnProcesses(), alone=0.4, left=1.5).serve()"
)
FORK = multiprocessing.get_context("fork")  # as in test_takeover
_CLONE_NEWNS, _CLONE_NEWPID, _PR_SET_PDEATHSIG = 0x20000, 0x20000000, 1


class Holder:
    """A holder's container: a program in namespaces of its own, on a node's network."""

    def __init__(self, node: Node, folder: Path, program: str = PROGRAM) -> None:
        self.folder, self._node, self._program = folder, node, program
        self._running: list[subprocess.Popen[bytes]] = []
        self.is_latest = True

    def make(self) -> bool:
        if self._running and not self.ended():
            return False
        inside = f'mount --bind {self.folder} /run/wireguard && exec {sys.executable} -c "{self._program}"'
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._running.append(self._node.netns.run(lambda: subprocess.Popen(command)))
        return True

    def is_current(self) -> bool:
        return self.is_latest

    @property
    def made(self) -> int:
        return len(self._running)

    def kill(self) -> None:
        for one in self._running:
            one.kill()
            one.wait()

    def ended(self) -> bool:
        return self._running[-1].poll() is not None

    def processes(self) -> HeldProcesses:
        return HeldProcesses(self.folder, self)

    def ask(self, line: str) -> str:
        with sockets.connect(SOCKET, self.folder) as connection, connection.makefile("rb") as lines:
            connection.sendall(f"{line}\n".encode())
            return lines.readline().decode().strip()


@contextmanager
def holder_of(node: Node, folder: Path, program: str = PROGRAM) -> Iterator[Holder]:
    sockets.SOCKETS.mkdir(exist_ok=True)
    made = Holder(node, folder / "sockets", program)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def holder(world: World, tmp_path: Path) -> Iterator[Holder]:
    """With a node's backend that uses it."""
    node = world.node()
    with holder_of(node, tmp_path) as made:
        node.backend.close()
        node.backend = userspace.UserspaceBackend(node.netns.path, made.processes())
        yield made
    node.backend.close()
    with_wireguard_go(node)


@pytest.fixture
def task(world: World, holder: Holder) -> Task:
    return world.task(holder._node)


class AgentContainer:
    """A process in namespaces of its own that wires a task when it is told to, and what it has started with it."""

    def __init__(self, task: Task, config: InterfaceConfig, hosts: str, held: Processes | None) -> None:
        self._here, there = FORK.Pipe()
        self._process = FORK.Process(target=self._enter, args=(there, task, config, hosts, held))
        self._process.start()

    def wire(self) -> tuple[str, ...]:
        """What it had to change."""
        self._here.send(None)
        assert self._here.poll(SECONDS)
        changed: tuple[str, ...] = self._here.recv()
        return changed

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    @staticmethod
    def _enter(told: Connection, task: Task, config: InterfaceConfig, hosts: str, held: Processes | None) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID) == 0
        if os.fork():
            signal.pause()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
        told.recv()
        backend = userspace.UserspaceBackend(task.node.netns.path, held)
        changes, _ = reconcile.reconcile(backend, TaskNetns(task.netns.path), hosts, config, None, complete=True)
        told.send(tuple(changes.reasons))
        signal.pause()


@contextmanager
def agents(
    task: Task, other: Task, folder: Path, held: Callable[[], Processes] | None
) -> Iterator[list[AgentContainer]]:
    hosts = stage.hosts_file(folder, task.name)
    config = stage.interface(task.name, task, (stage.peer_of(other),))
    made = [AgentContainer(task, config, hosts, held() if held else None) for _ in range(1 + ROUNDS)]
    try:
        yield made
    finally:
        for one in made:
            one.kill()


def test_replaced_containers_with_holder_lose_no_packet(
    world: World, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    left, right = (world.task(with_wireguard_go(node)) for node in world.nodes())
    there = stage.interface(right.name, right, (stage.peer_of(left),))
    with (
        holder_of(left.node, tmp_path) as holder,
        agents(left, right, tmp_path, holder.processes) as (first, *others),
    ):
        holder.processes().ready()
        hosts = stage.hosts_file(tmp_path, right.name)
        reconcile.reconcile(right.node.backend, right.netns, hosts, there, None, complete=True)
        assert first.wire()
        await_first_packet(left, right)
        with Flood(left, right, 100) as going, Flood(right, left, 100) as coming:
            time.sleep(0.5)
            first.kill()
            for one in others:
                time.sleep(0.5)  # of traffic with no agent
                assert one.wire() == ()
                one.kill()
    lost, sent = len(going.lost) + len(coming.lost), going.sent + coming.sent
    figure(f"wireguard-go with a holder: agent's container replaced {ROUNDS} times, {lost} of {sent} packets lost")
    assert (going.lost, coming.lost) == ([], [])
    assert min(going.sent, coming.sent) > 100


def test_devices_end_with_container_without_holder(world: World, tmp_path: Path) -> None:
    left, right = (world.task(with_wireguard_go(node)) for node in world.nodes())
    with agents(left, right, tmp_path, None) as (first, *_):
        assert first.wire()
        assert interfaces.kind(left.netns, left.name) == "tun"
        first.kill()
        wait_for(lambda: interfaces.kind(left.netns, left.name) is None)
    left.node.backend.discard(left.name)  # the file of its socket is left


def test_killed_process_is_remade_by_same_holder(holder: Holder, task: Task) -> None:
    task.wire()
    (pid,) = wireguard_go(task)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: task.node.backend.found(task.netns) == ())
    with pytest.raises(DeviceNotFoundError):
        task.node.backend.read(task.netns, task.name)
    task.wire()
    assert task.node.backend.read(task.netns, task.name).listen_port == task.port
    assert holder.made == 1
    task.node.backend.delete(task.netns, task.name)
    assert (wireguard_go(task), sockets.served(holder.folder)) == ([], ())


def wireguard_go(task: Task) -> list[int]:
    found = subprocess.run(["pgrep", "-fx", f"wireguard-go -f {task.name}"], check=False, capture_output=True)
    return [int(pid) for pid in found.stdout.split()]


def test_killed_holder_is_made_again(holder: Holder, task: Task) -> None:
    task.wire()
    holder.kill()
    wait_for(lambda: interfaces.kind(task.netns, task.name) is None)
    assert task.node.backend.found(task.netns) == ()
    task.node.backend.discard(task.name)
    task.wire()
    assert task.node.backend.found(task.netns) == (task.name,)
    assert holder.made == 2


def test_taken_port_and_lost_socket_are_seen(holder: Holder, task: Task) -> None:
    task.wire()
    processes = holder.processes()
    wait_for(lambda: processes.hears(task.name, task.port))
    assert not processes.hears(task.name, task.port + 1)
    assert not processes.hears(f"{task.name}x", task.port)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "2 start lw1",
            "1 start eth0",
            "1 start lw/../x",
            "1 start lw1 lw2",
            "1 start",
            "1 hears lw1",
            "1 kill lw1",
        ),
        *("1 start lw12345678901234", "start lw1", "", "1 leave lw1", "1 end lw1;true"),
    ],
)
def test_what_holder_does_not_know_is_refused(holder: Holder, line: str) -> None:
    holder.processes().ready()
    assert re.fullmatch("failed .* another version.*", holder.ask(line))
    assert sockets.served(holder.folder) == ()


def test_only_root_is_answered(holder: Holder, task: Task, tmp_path: Path) -> None:
    task.wire()
    socket_ = sockets.socket_path(SOCKET, holder.folder)
    assert (socket_.stat().st_mode & 0o777, holder.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    for path in (socket_, holder.folder, *tmp_path.parents, tmp_path):
        path.chmod(0o777)  # and were it open to all
    ask = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(socket_)!r});"
    ask += f"s.sendall(b'1 end {task.name}\\n'); print(s.recv(9))"
    done = subprocess.run(["/usr/bin/python3", "-c", ask], check=False, capture_output=True, text=True, user=65534)
    assert "BrokenPipe" in done.stderr or "ConnectionReset" in done.stderr or done.stdout == "b''\n"
    assert task.node.backend.found(task.netns) == (task.name,)


def test_holder_of_other_image_leaves_without_devices(holder: Holder, task: Task) -> None:
    holder.processes().ready()
    wait_for(lambda: not holder.ended())
    holder.is_latest = False
    task.node.backend.prepare(task.name)
    assert holder.made == 2
    before = wireguard_go(task)
    holder.processes().ready()
    assert (holder.made, wireguard_go(task)) == (2, before)
    task.node.backend.discard(task.name)


def test_missing_holder_is_made_without_a_device(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    held, making = holder.processes(), ["no space left on the node"]
    plain = holder.make

    def make() -> bool:
        if making:
            raise Terminal(making[0])
        return plain()

    held.ready()
    holder.kill()
    wait_for(holder.ended)
    monkeypatch.setattr(holder, "make", make)
    held.look()
    assert held.problem == "", "it may have just ended"
    held.look()
    held.look()
    assert held.problem == "no space left on the node"
    making.clear()
    held.look()
    assert (held.problem, holder.made) == ("", 2)
    held.close()


def test_older_holder_is_told_until_it_leaves(holder: Holder, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    task.wire()
    held, holder.is_latest = holder.processes(), False
    held.ready()
    held.look()
    assert held.problem == "", "an upgrade may be under way"
    monkeypatch.setattr("agent.holder.client.UPGRADE_S", 0.0)
    held.look()
    assert (held.problem, holder.made) == (OTHER_VERSION, 1)
    task.node.backend.delete(task.netns, task.name)
    held.look()
    assert (held.problem, holder.made) == ("", 2)
    held.close()


def test_holder_nobody_needs_ends(world: World, tmp_path: Path) -> None:
    node = world.node()
    with holder_of(node, tmp_path, HURRIED) as holder:
        processes, kept = holder.processes(), world.task(node)
        processes.ready()
        time.sleep(1.0)
        assert not holder.ended()  # an agent is there
        processes.start(kept.name)
        processes.close()
        time.sleep(2.5)
        assert not holder.ended()  # a task's device is there
        others = holder.processes()
        others.end(kept.name)
        others.ready()
        others.start(NAMES[0])
        others.close()
        time.sleep(1.0)
        assert not holder.ended()
        wait_for(holder.ended)
        assert interfaces.kind(node.netns, NAMES[0]) is None


def test_holder_that_cannot_be_made_is_named(world: World, tmp_path: Path) -> None:
    class Broken(Holder):
        def make(self) -> bool:
            raise Terminal("no holder of wireguard-go can be made")

    node = world.node()
    backend = userspace.UserspaceBackend(node.netns.path, Broken(node, tmp_path / "none").processes())
    with pytest.raises(Terminal, match="no holder"):
        backend.prepare(world.task(node).name)
    assert backend.served() == ()
    backend.close()


def test_hung_holder_is_asked_again(holder: Holder, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    task.wire()
    monkeypatch.setattr("agent.holder.client._ANSWER_S", 0.2)
    pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if is_holder(path, holder)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Retryable, match="no answer from the holder"):
            task.node.backend.read(task.netns, task.name)
        assert uapi.get(task.name, folder=holder.folder).listen_port == task.port
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert task.node.backend.read(task.netns, task.name).listen_port == task.port


def is_holder(path: Path, holder: Holder) -> bool:
    try:
        started = path.read_text().startswith(sys.executable) and "agent.holder.server" in path.read_text()
        inside = Path(f"{path.parent}/mountinfo").read_text()
    except OSError:
        return False
    return started and str(holder.folder) in inside


def test_names_are_those_of_devices() -> None:
    assert sockets.PREFIX == interfaces.DEVICE_PREFIX
    assert {*NAMES} == sockets.NODE_DEVICES
    with socket.socket(socket.AF_UNIX) as nobody, pytest.raises(FileNotFoundError):
        nobody.connect(str(sockets.socket_path("none")))
