"""Desired tunnel of this node, derived from the records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import ip_network

from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.net import IPAddress, UdpEndpoint
from mesh.topology.peer_cache import KEEPALIVE
from mesh.topology.wgtypes import PeerConfig


@dataclass(frozen=True, slots=True)
class NodeTunnel:
    """The part of one node in node encryption, as it is meant to be."""

    encryption: NodeEncryption
    private_key: PrivateKey
    place: UdpEndpoint | None
    """The node's own; None where the records give it none, and then no other node knows its device."""
    peers: tuple[PeerConfig, ...]
    """By public key. The one address in `allowed_ips` is the node's."""
    problem: str
    """In words; empty for none."""

    @property
    def listen_port(self) -> int:
        """UDP port of the device; 0 where it has no place."""
        return self.place.port if self.place is not None else 0

    def routed(self, ready: AbstractSet[PublicKey]) -> frozenset[IPAddress]:
        """Return the nodes to which overlay packets are to go through the device, by their addresses.

        With `enforce` plain packets are refused: then the device takes all, and holds them until it has a session.

        Args:
            ready: the peers that answer.
        """
        step = self.encryption.step
        if self.place is None or step == "accept":
            return frozenset()
        version = self.place.host.version
        return frozenset(
            address
            for peer in self.peers
            if peer.public_key in ready or (step == "enforce" and peer.preshared_key is not None)
            for address in addresses(peer)
            if address.version == version
        )


def addresses(peer: PeerConfig) -> frozenset[IPAddress]:
    """Return the addresses of a peer's node."""
    return frozenset(network.network_address for network in peer.allowed_ips)


def desired(
    encryption: NodeEncryption,
    underlays: Iterable[Underlay],
    node: str,
    key: PrivateKey,
    preshared_key: Callable[[PublicKey], PresharedKey | None],
) -> NodeTunnel:
    """Derive the tunnel of a node.

    Args:
        encryption: the record of that kind.
        underlays: of all nodes.
        node: this node's id.
        key: this node's.
        preshared_key: returns that of the pair of this node and the one with that key; None while it is not known.
    """
    every = {underlay.node: underlay for underlay in underlays}
    own = every.pop(node, None)
    problems: list[str] = []
    if own is None:
        problems.append("this node has no place in node encryption yet")
    elif own.public_key != key.public:
        problems.append("the records have another key for this node: overlay traffic of it is not encrypted")
        own = None
    peers: list[PeerConfig] = []
    if own is not None:
        # One address must never be two peers': the device would give it to the one that was set last.
        keys = Counter(underlay.public_key for underlay in (own, *every.values()))
        hosts = Counter(underlay.endpoint.host for underlay in (own, *every.values()))
        for underlay in sorted(every.values(), key=lambda each: each.node):
            if keys[underlay.public_key] > 1 or hosts[underlay.endpoint.host] > 1:
                problems.append(
                    f"node {underlay.node} has the key or the address {underlay.endpoint.host} of another"
                )
                continue
            peers.append(_peer(underlay, preshared_key(underlay.public_key)))
    if any(peer.preshared_key is None for peer in peers):
        problems.append("this node has not got the link key of all nodes yet")
    place = own.endpoint if own is not None else None
    peers.sort(key=lambda peer: peer.public_key)
    return NodeTunnel(encryption, key, place, tuple(peers), "; ".join(problems))


def _peer(underlay: Underlay, preshared_key: PresharedKey | None) -> PeerConfig:
    only = frozenset({ip_network(underlay.endpoint.host)})
    return PeerConfig(underlay.public_key, underlay.endpoint, only, preshared_key, KEEPALIVE)
