"""Types of WireGuard devices: observed ones, and desired ones. No I/O.

Observed: `Device`, `Peer`. Desired: `DeviceConfig`, `PeerConfig`, and `InterfaceConfig` for all that one
task's network namespace holds of ours. Both sides are normal forms (networks masked, tuples sorted), so
that equal means equal. Modelled on the split of wgctrl's wgtypes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Protocol

from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import IPAddress, IPInterface, IPNetwork, UdpEndpoint
from mesh.topology.policy import Policy


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as read back from a device."""

    public_key: PublicKey
    endpoint: UdpEndpoint | None
    """Where it was last heard from, or where it was told to be; it roams."""
    allowed_ips: frozenset[IPNetwork]
    preshared_key: PresharedKey | None
    """None for none, which is all zeros on the wire."""
    keepalive: int
    """Seconds, 0 for off."""
    last_handshake: float | None
    """Seconds since the epoch of this machine's clock, None for never."""
    rx_bytes: int
    tx_bytes: int

    def counted(self, last_handshake: float | None, rx_bytes: int, tx_bytes: int) -> Peer:
        """The same peer later on. `dataclasses.replace` takes several times as long, and there are thousands."""
        return Peer(
            self.public_key,
            self.endpoint,
            self.allowed_ips,
            self.preshared_key,
            self.keepalive,
            last_handshake,
            rx_bytes,
            tx_bytes,
        )


@dataclass(frozen=True, slots=True)
class Device:
    """A WireGuard device as read back."""

    name: str
    public_key: PublicKey | None
    """None while it has no private key."""
    listen_port: int
    peers: dict[PublicKey, Peer]


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer as it is meant to be."""

    public_key: PublicKey
    endpoint: UdpEndpoint
    allowed_ips: frozenset[IPNetwork]
    preshared_key: PresharedKey | None
    """None while it is not known: then no such peer is made, and one that is there keeps the one that it has."""
    keepalive: int
    """Seconds, 0 for off."""


class DeviceConfig(Protocol):
    """A device as it is meant to be: a part of an InterfaceConfig, or the node's own."""

    @property
    def private_key(self) -> PrivateKey:
        """The device's."""

    @property
    def listen_port(self) -> int:
        """UDP, on the node."""

    @property
    def peers(self) -> tuple[PeerConfig, ...]:
        """Each with a key of its own."""


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One upsert of a peer; None means "leave as it is".

    Attributes:
        allowed_ips: the networks to add. They move here from any peer of the device that held them.
        replace_allowed_ips: drop the peer's networks that are not in `allowed_ips`. Never set by default, since it
            is not needed to add one.
        preshared_key: the next handshake uses it; a session that runs, runs on.
        remove: take the peer away; all else is then ignored.
        update_only: do nothing if the peer is not there.
    """

    public_key: PublicKey
    endpoint: UdpEndpoint | None = None
    allowed_ips: frozenset[IPNetwork] | None = None
    replace_allowed_ips: bool = False
    preshared_key: PresharedKey | None = None
    keepalive: int | None = None
    remove: bool = False
    update_only: bool = False


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """One change of a device; None and an empty tuple mean "leave as it is"."""

    private_key: PrivateKey | None = None
    listen_port: int | None = None
    peers: tuple[PeerChange, ...] = ()


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One line of the hosts block: an address and the names that resolve to it."""

    address: IPAddress
    names: tuple[str, ...]


def without_ipv6(entries: Iterable[HostEntry]) -> tuple[HostEntry, ...]:
    """For a node whose kernel has no IPv6."""
    return tuple(entry for entry in entries if isinstance(entry.address, IPv4Address))


def resolved(entries: Iterable[HostEntry] | None) -> frozenset[tuple[str, IPAddress]]:
    """Every name with every address that it leads to: two lists of entries with the same ones mean the same."""
    return frozenset((name, entry.address) for entry in entries or () for name in entry.names)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of the node to a program that asks DNS itself for a link's name.

    Attributes:
        name: in lower case.
        addresses: of both families; none for a name that there is and that leads nowhere.
        rotates: whether each answer begins with another address than the one before.
    """

    name: str
    addresses: tuple[IPAddress, ...]
    rotates: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A network that is reached through the device."""

    network: IPNetwork
    mtu: int | None = None
    """Bytes, where the way takes less than the device does (RTAX_MTU, linux/rtnetlink.h); None for the device's."""


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """All that one task's network namespace is meant to hold of ours."""

    name: str
    """The device's name: unique on the node, at most 15 bytes (IFNAMSIZ, linux/if.h)."""
    private_key: PrivateKey
    listen_port: int
    """UDP, on the node."""
    addresses: tuple[IPInterface, ...]
    routes: tuple[Route, ...]
    mtu: int
    peers: tuple[PeerConfig, ...]
    hosts: tuple[HostEntry, ...]
    policy: Policy
    answers: tuple[Answer, ...] = ()
    """By DNS, for the same names as `hosts`, by name."""

    def without_ipv6(self) -> InterfaceConfig:
        """The same for a node whose kernel has no IPv6. What peers may send is theirs to say, and stays."""
        return replace(
            self,
            addresses=tuple(address for address in self.addresses if isinstance(address, IPv4Interface)),
            routes=tuple(route for route in self.routes if isinstance(route.network, IPv4Network)),
            hosts=without_ipv6(self.hosts),
            answers=tuple(
                replace(answer, addresses=tuple(one for one in answer.addresses if isinstance(one, IPv4Address)))
                for answer in self.answers
            ),
        )


@dataclass(frozen=True, slots=True)
class Interface:
    """All that one task's network namespace is seen to hold of ours."""

    device: Device
    up: bool
    mtu: int
    addresses: frozenset[IPInterface]
    routes: frozenset[Route]
