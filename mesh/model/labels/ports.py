"""Port ranges of links and services: `5432/tcp`, `8000-8010/udp`, `5432` (tcp). No I/O here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

Protocol = Literal["tcp", "udp"]

_PORT_RANGE = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?(?:/([A-Za-z]+))?")
_WITHOUT_PORTS = frozenset({"icmp", "icmpv6", "ip", "all", "any"})
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """The ports `first` to `last`, both included, of one protocol.

    Raises:
        ValueError: the range is empty, leaves 1 to 65535, or the protocol has no ports.
    """

    protocol: Protocol
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp"):
            raise ValueError(f"the protocol must be tcp or udp, not {self.protocol!r}")
        if not 1 <= self.first <= MAX_PORT or not 1 <= self.last <= MAX_PORT:
            raise ValueError(f"a port is a number from 1 to {MAX_PORT}")
        if self.first > self.last:
            raise ValueError(f"the range runs backwards: write {self.last}-{self.first}")

    def __str__(self) -> str:
        span = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{span}/{self.protocol}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `PORT`, `PORT-PORT`, `PORT/tcp` or `PORT-PORT/udp`; without a protocol it is tcp.

        Raises:
            ValueError: it is not such a text; the message says why and quotes nothing.
        """
        match = _PORT_RANGE.fullmatch(text.strip())
        protocol = match.group(3) if match else text.strip()
        protocol = (protocol or "tcp").lower()
        if protocol in _WITHOUT_PORTS:
            raise ValueError(f"{protocol} has no ports: only tcp and udp do")
        if match is None:
            raise ValueError("not a port: write it as 5432/tcp, 8000-8010/udp or 5432")
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if protocol == "tcp":
            return cls("tcp", first, last)
        if protocol == "udp":
            return cls("udp", first, last)
        raise ValueError("the protocol must be tcp or udp")


def merge(ports: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """Return the same ports as sorted ranges that neither overlap nor touch.

    So two lists of the same ports become equal, and nftables, which refuses overlapping intervals, accepts them.
    """
    merged: list[PortRange] = []
    for port in sorted(ports):
        last = merged[-1] if merged else None
        if last and last.protocol == port.protocol and port.first <= last.last + 1:
            merged[-1] = PortRange(last.protocol, last.first, max(last.last, port.last))
        else:
            merged.append(port)
    return tuple(merged)
