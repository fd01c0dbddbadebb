"""Cases of the connectivity test: one try each, from a task to an address."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agent.connectivity.servers import CLOSED, DEVICE, PORT

TIMEOUT_S = 5.0
"""Two SYNs lost in a row take 3 s (RFC 6298, 2.1 and 5.5): a busy node is slow, and its links are not broken."""
_FORBIDDEN_S = 1.0
LARGE = 1 << 20
"""Bytes that a large transfer has: some hundred packets of full size."""
_DATAGRAM_TRIES = 3
"""UDP may be lost at any time, on any network."""
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of the IP and UDP headers."""
_SIOCGIFMTU, _IFREQ = 0x8921, "16si20x"
"""Of linux/sockios.h and linux/if.h: a device's name, and its MTU."""
FRAGMENTED = 4000
"""Bytes of a datagram that is larger than any MTU but jumbo frames."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one try.

    Attributes:
        case: its name.
        to: the other side's node, or its address where the node is not known.
        ok: whether it was as it should be.
        said: what was seen, in words, where it was not.
        ms: milliseconds that it took; None for a try that has to fail, or did.
    """

    case: str
    to: str
    ok: bool
    said: str = ""
    ms: float | None = None

    def as_record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def tried(case: str, to: str, attempt: Callable[[], object]) -> Result:
    """Make a try that has to succeed."""
    began = time.monotonic()
    try:
        attempt()
    except (OSError, ValueError) as error:
        return Result(case, to, ok=False, said=words(error))
    return Result(case, to, ok=True, ms=round((time.monotonic() - began) * 1000, 2))


def forbidden(case: str, to: str, address: str, port: int) -> Result:
    """Make a try that has to fail: a connection that nothing allows."""
    try:
        with socket.create_connection((address, port), _FORBIDDEN_S):
            return Result(case, to, ok=False, said=f"{address} port {port} answered, and no link allows it")
    except OSError:
        return Result(case, to, ok=True)


def words(error: Exception) -> str:
    """Return an error without Python's numbers."""
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_S:g} s"
    return str(getattr(error, "strerror", None) or error)


def request(address: str, size: int = 0, text: str = "", port: int = PORT) -> Any:  # noqa: ANN401 - the server's JSON
    """Send one request over TCP; return the answer's document.

    Args:
        address: the server's, or a name of it.
        size: bytes to ask for besides.
        text: the request, instead of `get`.
        port: of the server.

    Raises:
        OSError: no connection, or no answer in time.
        ValueError: another answer than the server's.
    """
    with socket.create_connection((address, port), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(f"{text or f'get {size}'}\n".encode())
        stream = connection.makefile("rb")
        line = stream.readline()
        if not line:
            raise ConnectionResetError("the connection was closed without an answer")
        got = len(stream.read()) if size else 0
    if got != size:
        raise ValueError(f"{got} of {size} bytes came")
    return json.loads(line)


def datagram(address: str, size: int) -> None:
    """Send a datagram of a size and wait for it to come back. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    payload = os.urandom(size)
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIMEOUT_S / _DATAGRAM_TRIES)
        sender.connect((address, PORT))
        for left in reversed(range(_DATAGRAM_TRIES)):
            sender.send(payload)
            try:
                if sender.recv(65_535) == payload:
                    return
            except TimeoutError:
                if not left:
                    raise


def full_size(address: str) -> int:
    """Return the bytes of the largest datagram that fits one packet of Linkwire's device. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    devices = [name for _, name in socket.if_nameindex() if name.startswith(DEVICE)]
    if not devices:
        raise OSError("this task has no device of Linkwire's")
    with socket.socket(family, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, struct.pack(_IFREQ, devices[0].encode(), 0))
    return int(struct.unpack(_IFREQ, answer)[1]) - _HEADERS[family]


def of_pair(to: str, address: str) -> list[Result]:
    """Try everything that a link promises with one task of the provider.

    Args:
        to: its node's name.
        address: its own on the link, of either family.
    """
    family = "IPv6" if ":" in address else "IPv4"
    cases: dict[str, Callable[[], object]] = {
        f"TCP, {family}": lambda: request(address),
        f"TCP, {family}, 1 MiB": lambda: request(address, LARGE),
        f"UDP, {family}": lambda: datagram(address, 64),
        f"UDP, {family}, a full packet": lambda: datagram(address, full_size(address)),
        f"UDP, {family}, {FRAGMENTED} bytes in fragments": lambda: datagram(address, FRAGMENTED),
    }
    results = [tried(case, to, attempt) for case, attempt in cases.items()]
    return [*results, forbidden(f"a port that the link does not allow, {family}", to, address, CLOSED)]
