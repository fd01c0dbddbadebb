"""Datagrams of chosen sizes from one namespace to another: what becomes of each, by what its sender allows."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Literal, Self

from agent.linux.netns import TaskNetns
from tests.support.patience import slowness

Fate = Literal["arrived", "refused", "lost"]
Discovery = Literal["dont", "want", "do"]
"""IP_MTU_DISCOVER: fragments freely, as sockets do by default, never (the bit DF)."""

HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP."""
_PORT = 7778
_LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
_MTU_DISCOVER = {4: 10, 6: 23}  # linux/in.h, linux/in6.h; socket has no names for them
_MTU = {4: 14, 6: 24}
_VALUES: dict[Discovery, int] = {"dont": 0, "want": 1, "do": 2}
_TRIES = 4
"""A sender learns the MTU of a way by losing a packet; of a way in two parts by losing two."""
_PATIENCE_S = 0.5


class Datagrams:
    """A sender and a receiver, while the block runs."""

    def __init__(self, source: TaskNetns, target: TaskNetns, address: str, discovery: Discovery) -> None:
        self.version = ip_address(address).version
        self._never_in_fragments = discovery == "do"
        family = socket.AF_INET6 if self.version == 6 else socket.AF_INET
        self._receiver = target.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._receiver.bind((address, _PORT))
        self._receiver.settimeout(_PATIENCE_S * slowness())
        self._sender = source.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._sender.setsockopt(_LEVEL[self.version], _MTU_DISCOVER[self.version], _VALUES[discovery])
        self._sender.connect((address, _PORT))
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._receiver.close()

    @property
    def mtu(self) -> int:
        """What the sender's kernel takes for the MTU of the way."""
        return self._sender.getsockopt(_LEVEL[self.version], _MTU[self.version])

    def send(self, size: int, tries: int = _TRIES) -> Fate:
        """Send a datagram that is `size` bytes with its headers, again until it arrives or is refused."""
        for _ in range(tries):
            self._sent += 1
            data = self._sent.to_bytes(4, "big").ljust(size - HEADERS[self.version], b".")
            try:
                self._sender.send(data)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                # It is said of this datagram or, later, of one before.
                self._sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if self._never_in_fragments and size > self.mtu:
                    return "refused"
                continue
            if self._arrives(data):
                return "arrived"
        return "lost"

    def _arrives(self, data: bytes) -> bool:
        try:
            while self._receiver.recv(1 << 16) != data:
                pass  # an earlier one, late
        except TimeoutError:
            return False
        return True
