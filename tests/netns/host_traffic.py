"""What nodes send one another themselves: servers, connections that stay, datagrams that are counted; a bridge."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Self

from agent.linux.netns import TaskNetns
from tests.netns.overlay_nodes import OverlayNode, batch, short
from tests.netns.world import World
from tests.support.patience import slowness

PATIENCE_S = 2.0
_SIZE = 3000
"""Bytes of an exchange: more than one packet."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


class Servers:
    """Servers in a namespace that send back what they are sent, while the block runs."""

    def __init__(self, netns: TaskNetns, address: str, tcp: tuple[int, ...] = (), udp: tuple[int, ...] = ()) -> None:
        family = _family(address)
        self._sockets: list[socket.socket] = []
        for port in tcp:
            listener = netns.run(lambda port=port: socket.create_server((address, port), family=family))  # type: ignore[misc]
            self._serve(listener, self._accept)
        for port in udp:
            receiver = netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((address, port))
            self._serve(receiver, _return)

    def _serve(self, one: socket.socket, work: Callable[[socket.socket], None]) -> None:
        one.settimeout(60)
        self._sockets.append(one)
        threading.Thread(target=work, args=(one,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._serve(connection, _send_back)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _send_back(connection: socket.socket) -> None:
    with suppress(OSError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def _return(receiver: socket.socket) -> None:
    with suppress(OSError):
        while True:
            data, sender = receiver.recvfrom(1 << 16)
            if not data:
                return
            receiver.sendto(data, sender)


class Connection:
    """A TCP connection that stays open."""

    def __init__(self, source: TaskNetns, address: str, port: int) -> None:
        self.socket = source.run(lambda: socket.create_connection((address, port), PATIENCE_S * slowness()))

    def exchange(self) -> None:
        """Send something, and have it sent back. Raises OSError."""
        self.socket.sendall(b"x" * _SIZE)
        left = _SIZE
        while left:
            part = self.socket.recv(left)
            if not part:
                raise OSError("the connection ended")
            left -= len(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def answers_tcp(source: TaskNetns, address: str, port: int) -> bool:
    """Make a connection and exchange something."""
    try:
        with Connection(source, address, port) as connection:
            connection.exchange()
    except OSError:
        return False
    return True


def answers_udp(source: TaskNetns, address: str, port: int, own_port: int = 0) -> bool:
    """Exchange a datagram, from a socket that is bound to no address."""
    with source.run(lambda: socket.socket(_family(address), socket.SOCK_DGRAM)) as sender:
        sender.settimeout(PATIENCE_S * slowness())
        if own_port:
            sender.bind(("", own_port))
        sender.sendto(b"x", (address, port))
        try:
            return sender.recv(9) == b"x"
        except OSError:
            return False


class Beats:
    """A datagram every 5 ms, each of which has to come back, while the block runs."""

    def __init__(self, source: TaskNetns, address: str, port: int) -> None:
        self._to = (address, port)
        self._socket = source.run(lambda: socket.socket(_family(address), socket.SOCK_DGRAM))
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._hear)]
        self.sent, self.came = 0, set[bytes]()

    @property
    def lost(self) -> int:
        return self.sent - len(self.came)

    def _send(self) -> None:
        while not self._stopped.wait(0.005):
            self._socket.sendto(str(self.sent).encode(), self._to)
            self.sent += 1

    def _hear(self) -> None:
        self._socket.settimeout(0.5 * slowness())
        while True:
            try:
                self.came.add(self._socket.recv(99))
            except TimeoutError:
                if self._stopped.is_set():
                    return

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()


class Bridged:
    """A container on a bridge of a node, as Docker makes one: masqueraded, with a published port."""

    inside, port, published = "172.30.0.2", 80, 8080

    def __init__(self, world: World, node: OverlayNode) -> None:
        self.netns = world.netns()
        batch(
            node.netns,
            "link add docker0 type bridge",
            "address add 172.30.0.1/24 dev docker0",
            f"link add vethb type veth peer name eth0 netns {short(self.netns)}",
            "link set vethb master docker0 up",
            "link set docker0 up",
        )
        batch(
            self.netns,
            f"address add {self.inside}/24 dev eth0",
            "link set eth0 up",
            "route add default via 172.30.0.1",
        )
        rules = (
            "add table ip d; add chain ip d pre { type nat hook prerouting priority -100; }",
            f"add rule ip d pre fib daddr type local tcp dport {self.published} dnat to {self.inside}:{self.port}",
            "add chain ip d post { type nat hook postrouting priority 100; }",
            'add rule ip d post ip saddr 172.30.0.0/24 oifname != "docker0" masquerade',
        )
        node.do(f"sysctl -qw net.ipv4.ip_forward=1; nft '{'; '.join(rules)}'")


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for something; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began
