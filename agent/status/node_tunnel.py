"""Figures of this node's device of node encryption, read from it: of each peer, and of all of them together."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NAME
from agent.wireguard.backend import Backend
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import PeerFigures, TunnelFigures
from mesh.model.keyspace import ENCRYPTION
from mesh.model.snapshot import Snapshot
from mesh.topology.wgtypes import Peer


class TunnelReader:
    """Reader of one node's device. Safe for several threads.

    Args:
        home: the node's own namespace.
        backend: of its device.
        verified: returns the records that the node acts on.
        name: of the device.
    """

    def __init__(self, home: TaskNetns, backend: Backend, verified: Callable[[], Snapshot], name: str = NAME) -> None:
        self._home = home
        self._backend = backend
        self._verified = verified
        self._name = name

    def peers(self) -> tuple[PeerFigures, ...]:
        """Read each peer that the records know, by its node's id; none where there is no device."""
        verified, now = self._verified(), time.time()
        if verified.get(ENCRYPTION, NodeEncryption) is None:
            return ()
        places = {place.public_key: place.node for place in verified.all(Underlay)}
        try:
            read = self._backend.read(self._home, self._name).peers
        except LinkwireError:  # the keeper of the device names it
            return ()
        known = {key: peer for key, peer in read.items() if key in places}
        return tuple(sorted((_figures(places, key, peer, now) for key, peer in known.items()), key=_by_node))

    def figures(self) -> TunnelFigures | None:
        """Read all of them together; None where there is none."""
        peers = self.peers()
        if not peers:
            return None
        ages = [peer.handshake_age for peer in peers]
        oldest = None if None in ages else max(age for age in ages if age is not None)
        return TunnelFigures(sum(peer.received for peer in peers), sum(peer.sent for peer in peers), oldest)


def _figures(places: dict[PublicKey, str], key: PublicKey, peer: Peer, now: float) -> PeerFigures:
    age = round(max(0.0, now - peer.last_handshake), 1) if peer.last_handshake else None
    return PeerFigures(places[key], age, peer.rx_bytes, peer.tx_bytes)


def _by_node(figures: PeerFigures) -> str:
    return figures.node
