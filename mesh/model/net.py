"""Address types: an address, network or interface of either family, and a UDP endpoint. No I/O here."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    IPAddress = IPv4Address | IPv6Address
else:

    class IPAddress(ABC):  # noqa: B024 - nothing derives from it
        """The two classes as one: msgspec, which reads records by their hints, takes no union of them."""

    IPAddress.register(IPv4Address)
    IPAddress.register(IPv6Address)

IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Return whether two networks, of either family, have an address in common."""
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one.overlaps(other)
    return False


@dataclass(frozen=True, slots=True, order=True)
class UdpEndpoint:
    """An address of the underlay and a UDP port, to which a peer's encrypted packets are sent."""

    host: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"  # noqa: PLR2004 - IP version
