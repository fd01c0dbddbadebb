"""Small programs inside namespaces: servers that say who they are, and clients that say what came of asking."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from agent.linux.netns import TaskNetns
from mesh.model.labels.ports import Protocol

REFUSED, SILENCE = "refused", "silence"
"""What comes of asking, where it is no server's name."""
EMULATED = "QEMU TCG" in Path("/proc/cpuinfo").read_text()
AT_ONCE = 3.0 if EMULATED else 0.5
"""Seconds. An emulated processor, on a busy machine, takes longer over everything."""
PATIENCE = 4.0 if EMULATED else 1.5
"""Seconds until silence is called that."""

Address = IPv4Address | IPv6Address

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - in namespaces of the test


class Servers:
    """Servers in any number of namespaces, one thread for all of them. They answer each message with their name."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._names: dict[socket.socket, bytes] = {woken: b""}
        self._open: list[socket.socket] = [woken]
        self._selector.register(woken, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self.heard: list[tuple[str, str]] = []
        """Each datagram's server and sender."""
        self._thread = threading.Thread(target=self._serve, name="servers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for one in self._open:
            one.close()
        self._selector.close()

    def add(self, name: str, netns: TaskNetns, *ports: int, protocol: Protocol = "tcp") -> None:
        """Listen on every address of the namespace, of both families."""
        for port in ports:
            for family, anywhere in _ANY.items():
                listener = netns.run(partial(socket.socket, family, _KINDS[protocol]))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((anywhere, port))
                if protocol == "tcp":
                    listener.listen(512)
                self._watch(listener, name.encode())

    def _watch(self, one: socket.socket, name: bytes) -> None:
        one.setblocking(False)
        with self._lock:
            self._names[one] = name
            self._open.append(one)
            self._selector.register(one, selectors.EVENT_READ)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(timeout=0.05):  # a select does not see what another thread adds
                one = key.fileobj
                assert isinstance(one, socket.socket)
                name = self._names[one]
                if not name:
                    return
                with contextlib.suppress(OSError):
                    self._answer(one, name)

    def _answer(self, one: socket.socket, name: bytes) -> None:
        if one.type == socket.SOCK_DGRAM:
            _, sender = one.recvfrom(1 << 16)
            self.heard.append((name.decode(), sender[0]))
            one.sendto(name, sender)
        elif one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._watch(one.accept()[0], name)
        else:
            message = b""
            try:
                message = one.recv(1 << 16)
                one.send(name)
            finally:
                if not message:
                    self._selector.unregister(one)
                    one.close()


def connect(netns: TaskNetns, where: Address, port: int, protocol: Protocol = "tcp") -> socket.socket:
    """A connected socket; raises OSError."""
    family = socket.AF_INET if where.version == 4 else socket.AF_INET6
    made = netns.run(lambda: socket.socket(family, _KINDS[protocol]))
    try:
        made.settimeout(PATIENCE)
        made.connect((str(where), port))
    except OSError:
        made.close()
        raise
    return made


def say(connection: socket.socket, message: bytes = b"who?") -> str:
    """Send a message and give the answer, or how there was none."""
    try:
        connection.send(message)
        return connection.recv(1 << 16).decode() or REFUSED
    except OSError as error:
        return _outcome(error)


def ask(
    netns: TaskNetns,
    where: Address,
    port: int,
    protocol: Protocol = "tcp",
    *,
    message: bytes = b"who?",
    is_early: bool = False,
) -> str:
    """Who answers there, or REFUSED, or SILENCE.

    Refused is at once, or this fails; a TCP connection that is early is refused a second later, at its second packet.
    """
    began = time.monotonic()
    try:
        with connect(netns, where, port, protocol) as connection:
            outcome = say(connection, message)
    except OSError as error:
        outcome = _outcome(error)
    took = time.monotonic() - began
    put_off = 1.0 if is_early and protocol == "tcp" else 0.0
    assert outcome != REFUSED or put_off * 0.9 < took < put_off + AT_ONCE, f"refused after {took:.2f} s"
    return outcome


def echo(netns: TaskNetns, where: Address) -> bool:
    """Whether it answers an ICMP echo request."""
    command = ["ping", "-n", "-c", "1", "-W", "1", str(where)]
    return netns.run(lambda: subprocess.run(command, capture_output=True, check=False)).returncode == 0


def _outcome(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return SILENCE
    # EPERM is for a datagram that the sender's own rules refuse.
    if error.errno in {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPERM}:
        return REFUSED
    raise error


@contextlib.contextmanager
def capture(netns: TaskNetns, device: str) -> Iterator[list[bytes]]:
    """What passes a device of a namespace, either way, as Ethernet frames (or packets, where it has no frames)."""
    frames: list[bytes] = []
    tap = netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))  # ETH_P_ALL
    tap.bind((device, 0))
    tap.settimeout(0.2)
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                frames.append(tap.recv(1 << 16))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield frames
        time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
        tap.close()
