"""Desired tunnel of this node, derived from the records. Pure.

The node has a device, and while the nodes' keys rotate two of them. Devices of two nodes are peers where their keys
are of the same epoch, so that both can be used at once. Packets are sent by the newest one by which the other node
answers.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from ipaddress import ip_network

from agent.node_encryption.key import HeldKey
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import EpochKey
from mesh.model.net import IPAddress, UdpEndpoint
from mesh.topology.peer_cache import KEEPALIVE
from mesh.topology.wgtypes import PeerConfig


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """A WireGuard device of one node, as it is meant to be."""

    epoch: int
    """Of its key, and of those of its peers."""
    slot: int
    private_key: PrivateKey
    listen_port: int
    peers: tuple[PeerConfig, ...]
    """By public key. The one address in `allowed_ips` is the node's."""


@dataclass(frozen=True, slots=True)
class NodeTunnel:
    """The part of one node in node encryption, as it is meant to be."""

    encryption: NodeEncryption
    host: IPAddress | None
    """The node's own; None where the records give it no place, and then no other node knows its devices."""
    devices: tuple[TunnelDevice, ...]
    """By epoch; none without a place."""
    names: tuple[tuple[IPAddress, str], ...]
    """The address of each other node that has a place, and its id."""
    problem: str
    """In words; empty for none."""

    @property
    def peers(self) -> tuple[PeerConfig, ...]:
        """Those of all devices."""
        return tuple(peer for device in self.devices for peer in device.peers)

    @property
    def others(self) -> frozenset[IPAddress]:
        """The addresses of the nodes that are peers."""
        return frozenset[IPAddress]().union(*map(addresses, self.peers))

    @property
    def has_hosts(self) -> bool:
        """Whether what the node sends to other nodes itself is to go through a device too."""
        encryption = self.encryption
        return self.host is not None and encryption.mode == "all" and encryption.step != "accept"

    def routed(self, ready: AbstractSet[PublicKey], *, every: bool = True) -> dict[IPAddress, int]:
        """Return the nodes to which overlay packets are to go through a device, and its slot.

        That is the newest one by which the node answers. With `enforce` plain packets are refused: then some device
        takes all, and holds them until it has a session.

        Args:
            ready: the peers that answer.
            every: whether with `enforce` nodes that do not answer are among them.
        """
        routed: dict[IPAddress, int] = {}
        step = self.encryption.step
        if self.host is None or step == "accept":
            return routed
        for device in self.devices:
            for peer in device.peers:
                for address in addresses(peer):
                    if address.version != self.host.version:
                        continue
                    if peer.public_key in ready:
                        routed[address] = device.slot
                    elif every and step == "enforce" and peer.preshared_key is not None:
                        routed.setdefault(address, device.slot)
        return routed


def addresses(peer: PeerConfig) -> frozenset[IPAddress]:
    """Return the addresses of a peer's node."""
    return frozenset(network.network_address for network in peer.allowed_ips)


def desired(
    encryption: NodeEncryption,
    underlays: Iterable[Underlay],
    node: str,
    keys: Iterable[HeldKey],
    preshared_key: Callable[[PublicKey, PublicKey], PresharedKey | None],
) -> NodeTunnel:
    """Derive the tunnel of a node.

    Args:
        encryption: the record of that kind.
        underlays: of all nodes.
        node: this node's id.
        keys: this node's.
        preshared_key: returns that of the pair of a key of this node and another node's; None while it is not known.
    """
    every = {underlay.node: underlay for underlay in underlays}
    own = every.pop(node, None)
    problems: list[str] = []
    devices: list[TunnelDevice] = []
    if own is None:
        problems.append("this node has no place in node encryption yet")
    else:
        by_public = {key.private_key.public: key for key in keys}
        others, shared = _distinct(own, every.values())
        problems += [f"node {name} has the key or the address {host} of another" for name, host in shared]
        for placed in own.keys:
            key = by_public.get(placed.public_key)
            if key is None:
                problems.append("the records have another key for this node: overlay traffic of it is not encrypted")
                continue
            peers = _peers(others, placed.epoch, key.private_key.public, preshared_key)
            devices.append(TunnelDevice(placed.epoch, key.slot, key.private_key, placed.port, peers))
    if any(peer.preshared_key is None for device in devices for peer in device.peers):
        problems.append("this node has not got the link key of all nodes yet")
    host = own.endpoint.host if own is not None and devices else None
    names = tuple((other.endpoint.host, other.node) for other in sorted(every.values(), key=lambda each: each.node))
    return NodeTunnel(encryption, host, tuple(devices), names, "; ".join(problems))


class Places:
    """Keys and addresses of all nodes' places: one that comes is compared with all others by a look-up.

    Args:
        underlays: of all nodes.
    """

    def __init__(self, underlays: Iterable[Underlay] = ()) -> None:
        self._keys: set[PublicKey] = set()
        self._hosts: set[IPAddress] = set()
        for underlay in underlays:
            self._add(underlay)

    def _add(self, underlay: Underlay) -> None:
        self._keys.update(key.public_key for key in underlay.keys)
        self._hosts.add(underlay.endpoint.host)

    def take(self, before: Underlay | None, after: Underlay) -> tuple[EpochKey, ...] | None:
        """Add a place that has come, or that has one key more.

        Args:
            before: the node's place among these; None for none.
            after: its place now.

        Returns:
            The keys that have come; None where more than that changed, or another node has the key or the address.
            Then these places are of no use any more.
        """
        had, host = before.keys if before is not None else (), after.endpoint.host
        come = after.keys[len(had) :]
        stays = before.endpoint.host == host if before is not None else host not in self._hosts
        public = {key.public_key for key in come}
        if not stays or after.keys[: len(had)] != had or public & self._keys or len(public) < len(come):
            return None
        self._add(after)
        return come


def joined(
    tunnel: NodeTunnel,
    place: Underlay,
    come: Iterable[EpochKey],
    preshared_key: Callable[[PublicKey, PublicKey], PresharedKey | None],
) -> NodeTunnel | None:
    """Derive the tunnel again after another node has got its place, or one key more.

    That is the one that `desired` derives, in which all other peers are the same objects.

    Args:
        tunnel: before.
        place: the other node's, now.
        come: keys of it that are new (`Places.take`).
        preshared_key: as of `desired`.

    Returns:
        None where that does not tell: the tunnel has a problem, or the preshared key is not known.
    """
    if tunnel.problem or not tunnel.devices:
        return None
    devices: list[TunnelDevice] = []
    for device in tunnel.devices:
        peers = list(device.peers)
        for key in come:
            if key.epoch == device.epoch:
                peer = _peer(place, key, device.private_key.public, preshared_key)
                if peer.preshared_key is None:
                    return None
                insort(peers, peer, key=_by_key)
        devices.append(device if len(peers) == len(device.peers) else replace(device, peers=tuple(peers)))
    names = list(tunnel.names)
    if (name := (place.endpoint.host, place.node)) not in names:
        insort(names, name, key=lambda each: each[1])
    return replace(tunnel, devices=tuple(devices), names=tuple(names))


def _distinct(own: Underlay, others: Iterable[Underlay]) -> tuple[list[Underlay], list[tuple[str, IPAddress]]]:
    """Return the other nodes that share no key or address with another, and those that do.

    One address must never be two peers': the device would give it to the one that was set last.
    """
    others = sorted(others, key=lambda each: each.node)
    keys = Counter(key.public_key for underlay in (own, *others) for key in underlay.keys)
    hosts = Counter(underlay.endpoint.host for underlay in (own, *others))
    distinct: list[Underlay] = []
    shared: list[tuple[str, IPAddress]] = []
    for other in others:
        host = other.endpoint.host
        if hosts[host] > 1 or any(keys[key.public_key] > 1 for key in other.keys):
            shared.append((other.node, host))
        else:
            distinct.append(other)
    return distinct, shared


def _peers(
    others: Iterable[Underlay],
    epoch: int,
    own: PublicKey,
    preshared_key: Callable[[PublicKey, PublicKey], PresharedKey | None],
) -> tuple[PeerConfig, ...]:
    peers = (_peer(other, key, own, preshared_key) for other in others for key in other.keys if key.epoch == epoch)
    return tuple(sorted(peers, key=_by_key))


def _peer(
    other: Underlay,
    key: EpochKey,
    own: PublicKey,
    preshared_key: Callable[[PublicKey, PublicKey], PresharedKey | None],
) -> PeerConfig:
    host, psk = other.endpoint.host, preshared_key(own, key.public_key)
    only = frozenset({ip_network(host)})
    return PeerConfig(key.public_key, UdpEndpoint(host, key.port), only, psk, KEEPALIVE)


def _by_key(peer: PeerConfig) -> PublicKey:
    return peer.public_key
