"""Network namespaces for a test: nodes joined by an underlay, tasks on them; named after the process that made them.

task netns [wg device]        task netns [wg device]
     \\ socket at                   / socket at
node netns [veth 192.0.2.1] -- node netns [veth 192.0.2.2]
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from pathlib import Path

from agent.holder import processes, sockets
from agent.linux import interfaces
from agent.linux.netns import TaskNetns
from agent.wireguard import kernel, userspace
from agent.wireguard.backend import Backend, probe
from mesh.crypto.keys import PrivateKey
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.ipam import twin
from mesh.topology.wgtypes import DeviceChange, PeerChange, Route
from tests.support.patience import slowness

NETNS_FOLDER = Path("/run/netns")
MESH = IPv4Network("10.99.0.0/16")
MESH6 = IPv6Network("fd99::/96")
FIRST_PORT = 41000
_PREFIX = "lwtest-"
_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_numbers = itertools.count(1)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def enough_instances(devices: int) -> Iterator[None]:
    """Give room to so many wireguard-go: each takes one instance of inotify, of which a user has 128 by default."""
    before = _INSTANCES.read_text()
    if int(before) < devices + 200:
        _INSTANCES.write_text(f"{devices + 200}")
    try:
        yield
    finally:
        _INSTANCES.write_text(before)


def make_backend(home: str) -> Backend:
    """The backend under test: LINKWIRE_TEST_BACKEND, else what this machine's agent would take."""
    match os.environ.get("LINKWIRE_TEST_BACKEND"):
        case "kernel":
            return kernel.KernelBackend(home)
        case "userspace":
            return userspace.UserspaceBackend(home)
        case None:
            return probe(home)
        case other:
            raise ValueError(f"LINKWIRE_TEST_BACKEND={other} is neither kernel nor userspace")


def device_name() -> str:
    """14 bytes, as the agent's are; whose it is can be told from it."""
    return f"lw{os.getpid():07d}{next(_numbers):05d}"


def is_own(device: str) -> bool:
    """Whether this process has named it."""
    return device.startswith(f"lw{os.getpid():07d}")


@dataclass
class Node:
    netns: TaskNetns
    backend: Backend
    address: IPv4Interface


@dataclass
class Task:
    """A task's namespace and what the test puts there."""

    node: Node
    netns: TaskNetns
    address: IPv4Interface
    port: int
    name: str = field(default_factory=device_name)
    key: PrivateKey = field(default_factory=PrivateKey.generate)

    @property
    def address6(self) -> IPv6Address:
        return twin(MESH6, self.address.ip)

    def wire(self, *peers: Task, port: int | None = None) -> None:
        """All that the agent does for a task, in its order."""
        backend = self.node.backend
        backend.create(self.netns, self.name)
        listen_port = self.port if port is None else port
        backend.apply(self.netns, self.name, DeviceChange(self.key, listen_port, tuple(p.as_peer() for p in peers)))
        interfaces.enable_ipv6(self.netns, self.name)
        interfaces.add_address(self.netns, self.name, self.address)
        interfaces.add_address(self.netns, self.name, IPv6Interface(self.address6))
        interfaces.set_mtu(self.netns, self.name, 1420)
        interfaces.set_up(self.netns, self.name)
        for network in (MESH, MESH6):
            interfaces.add_route(self.netns, self.name, Route(network))

    def as_peer(self) -> PeerChange:
        host = UdpEndpoint(self.node.address.ip, self.port)
        allowed_ips: frozenset[IPNetwork] = frozenset({IPv4Network(self.address.ip), IPv6Network(self.address6)})
        return PeerChange(self.key.public, host, allowed_ips, keepalive=25)

    def command(self, *arguments: str) -> str:
        """Run a program in the task."""
        done = self.netns.run(lambda: subprocess.run(arguments, capture_output=True, text=True, check=False))
        assert done.returncode == 0, f"{arguments[0]}: {done.stderr}{done.stdout}"
        return done.stdout


class World:
    """Makes nodes and tasks, and ends them all."""

    def __init__(self) -> None:
        self._opened: list[TaskNetns] = []
        self._nodes: list[Node] = []
        self._tasks: list[Task] = []

    def netns(self) -> TaskNetns:
        name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        ip("netns", "add", name)
        opened = TaskNetns(str(NETNS_FOLDER / name))
        interfaces.set_up(opened, "lo")
        self._opened.append(opened)
        return opened

    def nodes(self) -> tuple[Node, Node]:
        """Two nodes on one wire."""
        left, right = self.netns(), self.netns()
        names = [Path(netns.path).name for netns in (left, right)]
        ip("link", "add", "under", "netns", names[0], "type", "veth", "peer", "name", "under", "netns", names[1])
        made = []
        for netns, name, host in zip((left, right), names, ("192.0.2.1", "192.0.2.2"), strict=True):
            ip("-n", name, "address", "add", f"{host}/24", "dev", "under")
            ip("-n", name, "link", "set", "under", "up")
            made.append(Node(netns, make_backend(netns.path), IPv4Interface(f"{host}/24")))
        self._nodes += made
        return made[0], made[1]

    def node(self) -> Node:
        """One node, with nothing around it."""
        netns = self.netns()
        self._nodes.append(Node(netns, make_backend(netns.path), IPv4Interface("127.0.0.1/8")))
        return self._nodes[-1]

    def node_in(self, netns: TaskNetns, address: IPv4Interface) -> Node:
        """One node in a namespace that is there."""
        self._nodes.append(Node(netns, make_backend(netns.path), address))
        return self._nodes[-1]

    def task(self, node: Node) -> Task:
        number = len(self._tasks) + 1
        address = IPv4Interface((MESH[number], 32))
        self._tasks.append(Task(node, self.netns(), address, FIRST_PORT + number))
        return self._tasks[-1]

    def close(self) -> None:
        for task in self._tasks:
            if not is_gone(task.netns):
                task.node.backend.delete(task.netns, task.name)
        for node in self._nodes:
            node.backend.close()
        for netns in self._opened:
            netns.close()
            if Path(netns.path).exists():
                delete_netns(netns)


def is_gone(netns: TaskNetns) -> bool:
    return netns._fd < 0 or not Path(netns.path).exists()


def delete_netns(netns: TaskNetns) -> None:
    """As Docker does when a container ends: the file goes, whatever is still open."""
    ip("netns", "delete", Path(netns.path).name)


def owner_is_alive(text: str) -> bool:
    return Path(f"/proc/{int(text)}").exists()


def sweep() -> None:
    """Remove what test processes that were killed have left."""
    for path in NETNS_FOLDER.glob(f"{_PREFIX}*"):
        if not owner_is_alive(path.name.removeprefix(_PREFIX).split("-")[0]):
            ip("netns", "delete", path.name)
    for path in sockets.SOCKETS.glob("lw[0-9]*.sock"):
        pid = sockets.process(path.stem)
        if not owner_is_alive(path.stem[2:9]):
            if pid:
                os.kill(pid, signal.SIGTERM)
            path.unlink(missing_ok=True)


def own_leftovers() -> list[str]:
    """Namespaces, control sockets and wireguard-go processes that this process made and that are still there."""
    ours = f"lw{os.getpid():07d}"
    left = [str(path) for path in NETNS_FOLDER.glob(f"{_PREFIX}{os.getpid()}-*")]
    left += [str(path) for path in sockets.SOCKETS.glob(f"{ours}*.sock")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_text(errors="replace")
        except OSError:
            continue
        if ours in arguments and processes.PROGRAM in arguments:
            left.append(arguments.replace("\0", " "))
    return left


def wait_until_nothing_is_left(seconds: float = 5.0) -> list[str]:
    """wireguard-go ends a moment after its namespace does."""
    deadline = time.monotonic() + seconds
    while (left := own_leftovers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def host(text: str, port: int) -> UdpEndpoint:
    return UdpEndpoint(ip_address(text), port)


class occupied:  # noqa: N801 - reads as a with statement
    """A UDP port of a namespace that a stranger holds."""

    def __init__(self, netns: TaskNetns, port: int) -> None:
        self._socket = netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("0.0.0.0", port))  # noqa: S104 - in a namespace of the test

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def is_free(netns: TaskNetns, port: int) -> bool:
    try:
        with occupied(netns, port):
            return True
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds * slowness(), "did not come to pass in time"
        time.sleep(0.05)
