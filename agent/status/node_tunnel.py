"""Figures of this node's devices of node encryption, read from them: of each peer, and of all of them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agent.linux import interfaces
from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NAMES
from agent.node_encryption.overlays import VXLAN_BYTES
from agent.wireguard.backend import Backend
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import PeerFigures, TunnelFigures
from mesh.model.keyspace import ENCRYPTION
from mesh.model.snapshot import Snapshot
from mesh.topology.wgtypes import Peer


class TunnelReader:
    """Reader of one node's devices. Safe for several threads.

    Args:
        home: the node's own namespace.
        backend: of its devices.
        verified: returns the records that the node acts on.
        names: of the devices.
    """

    def __init__(
        self, home: TaskNetns, backend: Backend, verified: Callable[[], Snapshot], names: Sequence[str] = NAMES
    ) -> None:
        self._home = home
        self._backend = backend
        self._verified = verified
        self._names = names

    def peers(self) -> tuple[PeerFigures, ...]:
        """Read each other node that the records know, by its id; none where there is no device.

        While keys rotate a node is a peer of both devices: the bytes are those of both, the handshake the later one.
        """
        verified, now = self._verified(), time.time()
        if verified.get(ENCRYPTION, NodeEncryption) is None:
            return ()
        places = {key.public_key: place.node for place in verified.all(Underlay) for key in place.keys}
        found: dict[str, list[Peer]] = {}
        for name in self._names:
            for key, peer in self._read(name).items():
                if key in places:
                    found.setdefault(places[key], []).append(peer)
        return tuple(_figures(node, peers, now) for node, peers in sorted(found.items()))

    def _read(self, name: str) -> Mapping[PublicKey, Peer]:
        try:
            return self._backend.read(self._home, name).peers
        except LinkwireError:  # there is none, or the keeper of the devices names what is wrong
            return {}

    def fits(self) -> int | None:
        """Return the MTU of an overlay whose packets fit into the devices, bytes; None where there is none."""
        try:
            states = [interfaces.observe(self._home, name) for name in self._names]
        except LinkwireError:
            return None
        places = self._verified().all(Underlay)
        version = max((place.endpoint.host.version for place in places), default=4)
        return min((state.mtu - VXLAN_BYTES[version] for state in states if state is not None), default=None)

    def figures(self) -> TunnelFigures | None:
        """Read all of them together; None where there is none."""
        peers = self.peers()
        if not peers:
            return None
        ages = [peer.handshake_age for peer in peers]
        oldest = None if None in ages else max(age for age in ages if age is not None)
        return TunnelFigures(sum(peer.received for peer in peers), sum(peer.sent for peer in peers), oldest)


def _figures(node: str, peers: Sequence[Peer], now: float) -> PeerFigures:
    handshake = max(peer.last_handshake or 0.0 for peer in peers)
    age = round(max(0.0, now - handshake), 1) if handshake else None
    return PeerFigures(node, age, sum(peer.rx_bytes for peer in peers), sum(peer.tx_bytes for peer in peers))
