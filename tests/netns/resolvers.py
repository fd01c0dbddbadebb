"""Name servers for a test: an upstream that answers everything, as Docker's resolver does it or beyond a wire.

    task netns [lo 127.0.0.11 -> a port that nft translates to, as Docker does] -- veth -- outside [10.98.0.53:53]

The upstream's answers name the question and the server, so two runs of the same questions can be compared.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from agent.linux.netns import TaskNetns
from tests.netns.world import World, ip

Address = IPv4Address | IPv6Address

DOCKERS = IPv4Address("127.0.0.11")
OUTSIDE = IPv4Address("10.98.0.53")
OUTSIDE6 = IPv6Address("fd98::53")
SERVERS: tuple[Address, ...] = (DOCKERS, OUTSIDE, OUTSIDE6)
_DOCKERS_PORT = 34567
# What Docker puts into a task's namespace (libnetwork, resolver_unix.go), by iptables-nft.
_DOCKERS_RULES = f"""
table ip nat {{
    chain DOCKER_OUTPUT {{
        ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{_DOCKERS_PORT}
        ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:{_DOCKERS_PORT}
    }}
    chain DOCKER_POSTROUTING {{
        ip saddr 127.0.0.11 udp sport {_DOCKERS_PORT} snat to :53
        ip saddr 127.0.0.11 tcp sport {_DOCKERS_PORT} snat to :53
    }}
    chain OUTPUT {{
        type nat hook output priority -100; policy accept;
        ip daddr 127.0.0.11 jump DOCKER_OUTPUT
    }}
    chain POSTROUTING {{
        type nat hook postrouting priority 100; policy accept;
        ip daddr 127.0.0.11 jump DOCKER_POSTROUTING
    }}
}}
"""


def question(name: str, kind: int = 1, *, identifier: int = 7, edns: int | None = None, flags: int = 0x100) -> bytes:
    """A query as programs send it; `edns` is the version."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label)
    extra = b"" if edns is None else b"\0" + struct.pack(">HHBBHH", 41, 4096, 0, edns, 0, 0)
    header = struct.pack(">6H", identifier, flags, 1, 0, 0, 1 if extra else 0)
    return header + labels + b"\0" + struct.pack(">HH", kind, 1) + extra


def addresses(answer: bytes) -> list[str]:
    """The addresses in an answer to `question`, in order."""
    (count,) = struct.unpack_from(">H", answer, 6)
    at = 12
    while answer[at]:
        at += 1 + answer[at]
    at += 5
    found = []
    for _ in range(count):
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at + 2)
        data = answer[at + 12 : at + 12 + length]
        found.append(str(IPv4Address(data) if kind == 1 else IPv6Address(data)))
        at += 12 + length
    return found


def rcode(answer: bytes) -> int:
    return answer[3] & 0xF


@dataclass
class Upstream:
    """A task's other resolvers. `asked` holds every message that reached one."""

    task: TaskNetns
    asked: list[bytes] = field(default_factory=list)
    reply: Callable[[bytes, int], bytes] = lambda message, number: b"answered by " + bytes((number,)) + message
    """What a message gets of the resolver of this number (of SERVERS)."""
    _sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def beside(cls, world: World) -> Self:
        """A namespace of a task, with Docker's resolver in it and another beyond a wire."""
        task, outside = world.netns(), world.netns()
        names = [Path(netns.path).name for netns in (task, outside)]
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, own, own6 in zip(names, ("10.98.0.2", str(OUTSIDE)), ("fd98::2", str(OUTSIDE6)), strict=True):
            ip("-n", name, "address", "add", f"{own}/24", "dev", "eth0")
            ip("-n", name, "-6", "address", "add", f"{own6}/64", "dev", "eth0", "nodad")
            ip("-n", name, "link", "set", "eth0", "up")
        made = cls(task)
        task.run(lambda: subprocess.run(["nft", "-f", "-"], input=_DOCKERS_RULES, text=True, check=True))
        made._sockets = [made._listening(task, DOCKERS, _DOCKERS_PORT)]
        made._sockets += [made._listening(outside, server, 53) for server in (OUTSIDE, OUTSIDE6)]
        threading.Thread(target=made._serve, daemon=True).start()
        return made

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()

    def ask(self, message: bytes, server: Address = DOCKERS, seconds: float = 2.0) -> bytes | None:
        """The answer, None for none in time. It must come from whom was asked."""
        with self.client(server, seconds) as client:
            return asked(client, message, server)

    def client(self, server: Address, seconds: float = 2.0) -> socket.socket:
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        made = self.task.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        made.settimeout(seconds)
        return made

    @staticmethod
    def _listening(netns: TaskNetns, address: Address, port: int) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        made = netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        made.bind((str(address), port))
        return made

    def _serve(self) -> None:
        selector = selectors.DefaultSelector()
        for number, opened in enumerate(self._sockets):
            selector.register(opened, selectors.EVENT_READ, number)
        try:
            while True:
                for key, _ in selector.select():
                    message, source = self._sockets[key.data].recvfrom(4096)
                    self.asked.append(message)
                    self._sockets[key.data].sendto(self.reply(message, key.data), source)
        except (OSError, ValueError):
            return  # closed


def asked(client: socket.socket, message: bytes, server: Address) -> bytes | None:
    client.sendto(message, (str(server), 53))
    try:
        answer, source = client.recvfrom(4096)
    except OSError:
        return None
    assert source[:2] == (str(server), 53)
    return answer


def other_questions(names: tuple[str, ...], count: int, seed: int) -> list[bytes]:
    """Questions that are nearly, but not, such as the responder answers."""
    chance = random.Random(seed)  # noqa: S311 - names for a test
    near: list[bytes] = []
    for name in names:
        others = (f"{name}x", name[:-1], f"x{name}", f"{name}.x", f"x.{name}", f"{name}-", f"{name}.example.org")
        near += map(question, others)
        plain = question(name)
        near += [
            plain[:2] + struct.pack(">HH", 0x8180, 1) + plain[6:],  # an answer
            plain[:2] + struct.pack(">HH", 0x2800, 1) + plain[6:],  # an update (RFC 2136)
            plain[:4] + struct.pack(">H", 2) + plain[6:] + plain[12:],  # two questions
            plain[:4] + struct.pack(">H", 0) + plain[6:],
            plain[:14],
            plain[:-5],
            b"",
        ]
        odd = bytearray(plain)
        odd[12] += 1
        near.append(bytes(odd))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_"
    while len(near) < count:
        labels = ["".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(chance.randint(1, 5))]
        near.append(
            question(".".join(labels), chance.choice((1, 28, 15, 33, 65, 255)), edns=chance.choice((None, 0)))
        )
    return near
