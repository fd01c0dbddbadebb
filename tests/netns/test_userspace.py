"""What only wireguard-go can do wrong: its processes and its sockets. It runs on every kernel with TUN."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import PortTakenError
from agent.holder import processes, sockets
from agent.interface import reconcile
from agent.linux import interfaces
from agent.linux.netns import OWN_NETNS
from agent.wireguard import uapi, userspace
from mesh.errors import DeviceNotFoundError, Retryable, Terminal
from mesh.topology.wgtypes import DeviceChange
from tests.netns.world import Node, Task, World, occupied, wait_for
from tests.support import stage

SILENT_S = float(os.environ.get("LINKWIRE_SILENT_PEERS_S") or 11)
"""Seconds for which peers do not answer; ten minutes with `make chaos`."""
SILENT_PEERS = 100
GROWTH_MIB = 4.0


@pytest.fixture
def task(world: World) -> Task:
    """A task of a node that has wireguard-go, whatever the other tests use."""
    return world.task(with_wireguard_go(world.node()))


def with_wireguard_go(node: Node) -> Node:
    node.backend.close()
    node.backend = userspace.UserspaceBackend(node.netns.path)
    return node


def served(task: Task) -> int:
    pid = sockets.process(task.name)
    assert pid
    return pid


def is_running(pid: int) -> bool:
    """A zombie is over too, but has not been reaped."""
    return Path(f"/proc/{pid}").exists()


def test_this_machine_can_run_it() -> None:
    userspace.require()


def test_missing_program_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Terminal, match="apt-get install wireguard-go"):
        userspace.require()


def test_each_device_has_own_session_process_without_keys(task: Task) -> None:
    task.wire()
    pid = served(task)
    assert os.getsid(pid) == pid
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert arguments == ["wireguard-go", "-f", task.name, ""]
    assert task.key.raw.hex() not in Path(f"/proc/{pid}/environ").read_text()
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == os.fstat(task.node.netns.fileno()).st_ino


def test_ended_processes_are_reaped(task: Task) -> None:
    for end in (signal.SIGKILL, signal.SIGTERM):
        task.node.backend.create(task.netns, task.name)
        pid = served(task)
        os.kill(pid, end)
        wait_for(lambda: task.node.backend.found(task.netns) == ())
        wait_for(lambda gone=pid: task.node.backend.found(task.netns) == () and not is_running(gone))  # type: ignore[misc]
    task.node.backend.create(task.netns, task.name)
    pid = served(task)
    task.node.backend.delete(task.netns, task.name)
    assert not is_running(pid)


def test_stubborn_process_is_killed(task: Task) -> None:
    task.node.backend.create(task.netns, task.name)
    pid = served(task)
    os.kill(pid, signal.SIGSTOP)
    task.node.backend.delete(task.netns, task.name)
    assert not is_running(pid)
    assert interfaces.observe(task.netns, task.name) is None
    assert not sockets.socket_path(task.name).exists()


def test_dead_processs_socket_is_no_device_nor_obstacle(task: Task) -> None:
    sockets.SOCKETS.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(sockets.socket_path(task.name)))
    assert sockets.process(task.name) is None
    task.wire()
    assert task.node.backend.read(task.netns, task.name).public_key == task.key.public


def test_process_started_but_not_moved_when_agent_died(task: Task) -> None:
    start_only(task.node, task.name)
    backend = task.node.backend
    assert interfaces.kind(task.node.netns, task.name) == "tun"
    with pytest.raises(DeviceNotFoundError):
        backend.read(task.netns, task.name)
    backend.create(task.netns, task.name)
    assert backend.found(task.netns) == (task.name,)
    assert interfaces.kind(task.node.netns, task.name) is None
    backend.delete(task.netns, task.name)

    start_only(task.node, task.name)
    pid = served(task)
    backend.delete(task.netns, task.name)
    assert not is_running(pid)


def test_serving_process_is_found_and_ended_anywhere(world: World, task: Task) -> None:
    other = world.task(task.node)
    task.wire()
    start_only(other.node, other.name)
    pids = served(task), served(other)
    assert {task.name, other.name} <= set(task.node.backend.served())
    for name in (task.name, other.name):
        task.node.backend.discard(name)
    assert not {task.name, other.name} & set(task.node.backend.served())
    assert not any(map(is_running, pids))
    assert task.node.backend.found(task.netns) == ()
    assert interfaces.kind(task.node.netns, other.name) is None


def start_only(node: Node, name: str) -> None:
    assert isinstance(node.backend, userspace.UserspaceBackend)
    node.backend.prepare(name)


def test_name_used_in_other_namespace_is_not_taken(world: World, task: Task) -> None:
    task.wire()
    other = world.task(task.node)
    with pytest.raises(Retryable, match="elsewhere"):
        task.node.backend.create(other.netns, task.name)
    task.node.backend.delete(other.netns, task.name)
    assert task.node.backend.found(task.netns) == (task.name,)


def test_a_program_that_does_not_start_is_reported(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "wireguard-go"
    broken.write_text("#!/bin/sh\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Terminal, match="ended at once with exit code 7"):
        task.node.backend.create(task.netns, task.name)


def test_process_without_socket_is_ended_and_remade(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userspace, "_DEAF_SECONDS", 1.5)
    backend = task.node.backend
    backend.create(task.netns, task.name)
    interfaces.set_up(task.netns, task.name)
    wait_for(lambda: processes.hears(served(task), uapi.get(task.name).listen_port))  # it is up when it knows it is
    with occupied(task.node.netns, task.port):
        with pytest.raises(PortTakenError):  # taken after the backend has looked and before wireguard-go opens it
            uapi.set_device(task.name, DeviceChange(listen_port=task.port))
        wait_for(lambda: not is_found(task))
    task.wire()
    wait_for(lambda: processes.hears(served(task), task.port))
    assert is_found(task)


def is_found(task: Task) -> bool:
    try:
        return bool(task.node.backend.read(task.netns, task.name))
    except DeviceNotFoundError:
        return False


def test_setting_same_port_again_keeps_it_open(task: Task) -> None:
    task.wire()
    pid = served(task)
    wait_for(lambda: processes.hears(pid, task.port))
    before = udp_inodes(pid, task.port)
    task.node.backend.apply(task.netns, task.name, DeviceChange(task.key, task.port))
    assert udp_inodes(pid, task.port) == before != set()


def udp_inodes(pid: int, port: int) -> set[str]:
    rows = (line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:])
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}")}


def test_the_agents_own_namespace_is_its_default_home(world: World, task: Task) -> None:
    netns = world.netns()
    backend = userspace.UserspaceBackend()
    backend.create(netns, task.name)
    assert Path(f"/proc/{served(task)}/ns/net").stat().st_ino == Path(OWN_NETNS).stat().st_ino
    backend.delete(netns, task.name)
    backend.close()
    assert subprocess.run(["pgrep", "-f", task.name], check=False, capture_output=True).stdout == b""


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EMFILE])
def test_busy_process_is_asked_again(task: Task, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Its queue of connections is full, or the agent has too many files open: no error without a name."""
    backend = task.node.backend
    backend.create(task.netns, task.name)
    pid = served(task)

    def connect(*_: object) -> socket.socket:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(sockets, "connect", connect)
        for ask in (
            lambda: backend.prepare(task.name),
            lambda: backend.found(task.netns),
            lambda: backend.read(task.netns, task.name),
            lambda: backend.discard(task.name),
        ):
            with pytest.raises(Retryable, match=os.strerror(code)):
                ask()
    assert served(task) == pid


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
def test_process_without_memory_is_started_later(task: Task, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def popen(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", popen)
        with pytest.raises(Retryable, match=f"start wireguard-go .*{os.strerror(code)}"):
            task.node.backend.create(task.netns, task.name)
    task.node.backend.create(task.netns, task.name)
    assert served(task)


def rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def test_silent_peers_cost_no_memory(world: World, tmp_path: Path, figure: Callable[[str], None]) -> None:
    """Handshakes are tried every 5 s with a hundred peers that never answer (tailscale#20183)."""
    task = world.task(with_wireguard_go(world.nodes()[0]))  # which has a network to send to
    peers = stage.strangers(SILENT_PEERS, keepalive=1)
    config, hosts = stage.interface(task.name, task, peers), stage.hosts_file(tmp_path, "hosts")
    reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)
    pid = served(task)
    time.sleep(SILENT_S / 3)  # the first attempts make their buffers
    before, sent = rss_mib(pid), tried(task)
    time.sleep(SILENT_S * 2 / 3)
    after, attempts = rss_mib(pid), (tried(task) - sent) / SILENT_PEERS
    figure(
        f"wireguard-go, {SILENT_PEERS} silent peers for {SILENT_S:.0f} s: {attempts:.1f} handshakes with each, "
        f"{before:.1f} MiB, then {after:.1f}"
    )
    assert attempts >= 1
    assert after - before < GROWTH_MIB


def tried(task: Task) -> int:
    """Return how many handshake initiations were sent, of 148 bytes each (WireGuard paper, section 5.4.2)."""
    peers = task.node.backend.read(task.netns, task.name).peers.values()
    return sum(peer.tx_bytes for peer in peers) // 148
