"""Packets through real devices: two tasks on two nodes that are joined by an underlay."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Self

import pytest

from agent.linux.netns import TaskNetns
from mesh.crypto.keys import PrivateKey
from mesh.topology.wgtypes import DeviceChange, PeerChange
from tests.netns.world import MESH, Task, World, host, wait_for
from tests.support.attacks import Attempts

SECONDS_TO_COME_UP = 10.0
PORT = 7000


@pytest.fixture
def pair(world: World) -> tuple[Task, Task]:
    """Two tasks that know each other and have had a handshake."""
    left, right = (world.task(node) for node in world.nodes())
    left.wire(right)
    right.wire(left)
    await_first_packet(left, right)
    return left, right


def udp(netns: TaskNetns) -> socket.socket:
    return netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def receiver(task: Task) -> socket.socket:
    made = udp(task.netns)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.bind((str(task.address.ip), PORT))
    made.settimeout(0.1)
    return made


def await_first_packet(source: Task, target: Task) -> float:
    """Returns the seconds it took."""
    begin = time.monotonic()
    with receiver(target) as inbound, udp(source.netns) as outbound:
        while time.monotonic() < begin + SECONDS_TO_COME_UP:
            outbound.sendto(b"first", (str(target.address.ip), PORT))
            with contextlib.suppress(TimeoutError):
                inbound.recv(100)
                return time.monotonic() - begin
    raise AssertionError(f"no packet came through in {SECONDS_TO_COME_UP:.0f} s")


class Flood:
    """Numbered datagrams from one task to another, and which of them arrived."""

    def __init__(self, source: Task, target: Task, per_second: float = 250.0) -> None:
        self._inbound, self._outbound = receiver(target), udp(source.netns)
        self._outbound.connect((str(target.address.ip), PORT))
        self._pause = 1 / per_second
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        self.sent = 0
        self.arrived: set[int] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._inbound.close()
        self._outbound.close()

    @property
    def lost(self) -> list[int]:
        return sorted(set(range(self.sent)) - self.arrived)

    def _send(self) -> None:
        while not self._stop.wait(self._pause):
            self._outbound.send(self.sent.to_bytes(8, "big"))
            self.sent += 1

    def _receive(self) -> None:
        quiet = 0
        while not self._stop.is_set() or quiet < 5:
            try:
                self.arrived.add(int.from_bytes(self._inbound.recv(100), "big"))
                quiet = 0
            except TimeoutError:
                quiet += 1


def test_ping(pair: tuple[Task, Task]) -> None:
    left, right = pair
    assert " 0% packet loss" in left.command("ping", "-c", "5", "-i", "0.05", "-W", "5", str(right.address.ip))


def test_tcp_carries_a_megabyte(pair: tuple[Task, Task]) -> None:
    left, right = pair
    sent = bytes(range(256)) * 4096
    server = right.netns.run(lambda: socket.create_server((str(right.address.ip), PORT)))
    server.settimeout(20)
    received = bytearray()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while part := connection.recv(1 << 16):
                received.extend(part)

    thread = threading.Thread(target=serve)
    thread.start()
    with left.netns.run(lambda: socket.create_connection((str(right.address.ip), PORT), timeout=20)) as client:
        client.sendall(sent)
    thread.join()
    server.close()
    assert bytes(received) == sent


def test_encrypted_packets_leave_from_node_task_has_none(pair: tuple[Task, Task]) -> None:
    left, right = pair
    seen = right.node.backend.read(right.netns, right.name).peers[left.key.public]
    assert seen.endpoint == host(str(left.node.address.ip), left.port)
    assert seen.last_handshake is not None
    assert abs(seen.last_handshake - time.time()) < 60
    assert seen.rx_bytes > 0
    assert left.command("ip", "-o", "link").count("\n") == 2  # lo, and ours


@contextlib.contextmanager
def repeated(action: Iterator[object]) -> Iterator[None]:
    """Draw from an iterator all the while."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def body() -> None:
        try:
            while not stop.wait(0.02):
                next(action)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_peer_upserts_lose_no_packet(pair: tuple[Task, Task]) -> None:
    left, right = pair
    strangers = [PeerChange(PrivateKey.generate().public, host("192.0.2.2", 1 + n)) for n in range(50)]
    enough = threading.Event()

    def upserts() -> Iterator[int]:
        for number in itertools.count():
            # Some come and go; the one in use is upserted each time, and so is the device.
            others = [PeerChange(p.public_key, remove=True) for p in strangers] if number % 2 else strangers
            change = DeviceChange(left.key, left.port, (*others, right.as_peer()))
            left.node.backend.apply(left.netns, left.name, change)
            change = DeviceChange(listen_port=right.port, peers=(left.as_peer(), *others))
            right.node.backend.apply(right.netns, right.name, change)
            if number == 10:
                enough.set()
            yield number

    with Flood(left, right) as there, Flood(right, left) as back, repeated(upserts()):
        time.sleep(2)
        wait_for(enough.is_set, seconds=60)  # a slow machine takes longer over them
    assert (there.lost, back.lost) == ([], [])
    assert min(there.sent, back.sent) > 50


def test_moved_allowed_ip_takes_its_traffic_along(world: World) -> None:
    here, there = world.nodes()
    source, old, new = world.task(here), world.task(there), world.task(there)
    new.address = old.address  # the same address, once with each
    source.wire(old)
    old.wire(source)
    new.wire(source)
    await_first_packet(source, old)
    source.node.backend.apply(source.netns, source.name, DeviceChange(peers=(new.as_peer(),)))
    await_first_packet(source, new)
    peers = source.node.backend.read(source.netns, source.name).peers
    assert peers[old.key.public].allowed_ips == frozenset()


def test_tasks_of_one_node_connect_by_its_address(world: World) -> None:
    node, _ = world.nodes()
    one, other = world.task(node), world.task(node)
    one.wire(other)
    other.wire(one)
    await_first_packet(one, other)
    await_first_packet(other, one)


def test_packets_from_foreign_source_addresses_are_dropped(pair: tuple[Task, Task], attempt: Attempts) -> None:
    """Whatever its node's root does to it: the other end lets in what is from that peer's allowed IPs."""
    tried = attempt("a node's root: another task's address is taken")
    left, right = pair
    taken = MESH[4711]
    left.command("ip", "address", "add", f"{taken}/32", "dev", left.name)

    def heard() -> bool:
        with receiver(right) as inbound, udp(left.netns) as outbound:
            outbound.bind((str(taken), 0))
            outbound.sendto(b"in another's name", (str(right.address.ip), PORT))
            with contextlib.suppress(TimeoutError):
                return bool(inbound.recvfrom(100)[1][0] == str(taken))
        return False

    tried.stopped(not any(heard() for _ in range(5)))
    own = left.as_peer()
    both = frozenset({*(own.allowed_ips or ()), IPv4Network(taken)})
    right.node.backend.apply(right.netns, right.name, DeviceChange(peers=(replace(own, allowed_ips=both),)))
    wait_for(heard)  # so it was those that kept it out
    tried.works(True, "with wider allowed IPs")


def test_task_cannot_read_its_devices_key(pair: tuple[Task, Task]) -> None:
    """The kernel tells it to who has NET_ADMIN, which Swarm gives on request only; wireguard-go not even there."""
    task, _ = pair
    key = base64.b64encode(task.key.raw).decode()
    show = ["wg", "show", task.name, "private-key"]
    assert task.command(*show).strip() == key  # an agent's way, with the node's own files
    # As a task is: it sees no socket of the node's, and has no NET_ADMIN.
    script = 'mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec "$@"'
    plain = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
    inside = ["unshare", "--mount", "sh", "-c", script, "sh", *plain, *show]
    done = task.netns.run(lambda: subprocess.run(inside, capture_output=True, text=True, check=False))
    assert done.returncode != 0
    assert "Unable to access interface" in done.stderr
    assert not done.stdout
