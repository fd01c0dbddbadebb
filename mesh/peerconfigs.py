"""The peers of one interface as they were worked out last: what comes out the same is the same object. Pure.

Of thousands of peers a change concerns one, and whoever compares two interfaces then looks at that one only.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network

from mesh.addresses import twin
from mesh.linkkeys import PresharedKey
from mesh.net import IPNetwork
from mesh.records import Endpoint
from mesh.wgtypes import PeerConfig

KEEPALIVE = 25
"""Seconds. With it a device that was made again is heard of at once and not after 15 s of silence, and a
handshake is never older than its 180 s (WireGuard paper, section 6.5; REJECT_AFTER_TIME) while both ends live."""


class PeerConfigs:
    """Of one interface. It goes by the very objects that a peer was worked out from."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Endpoint, IPv6Network, PresharedKey | None, PeerConfig]] = {}

    def of(self, peer: Endpoint, prefix: IPv6Network, preshared_key: PresharedKey | None) -> PeerConfig:
        """What a task is to another's interface.

        Args:
            peer: the task's endpoint.
            prefix: the mesh's, of IPv6.
            preshared_key: that the two use; None while it is not known.
        """
        kept = self._kept.get(peer.task)
        if kept is not None and kept[0] is peer and kept[1] is prefix and kept[2] is preshared_key:
            return kept[3]
        config = _config(peer, prefix, preshared_key)
        if kept is not None and kept[3] == config:  # whether it is ready, say, is nothing to WireGuard
            config = kept[3]
        self._kept[peer.task] = (peer, prefix, preshared_key, config)
        return config

    def keep_only(self, tasks: Collection[str]) -> None:
        """Forget the peers that are not meant any more."""
        if len(self._kept) > len(tasks):
            there = set(tasks)
            self._kept = {task: kept for task, kept in self._kept.items() if task in there}


def _config(peer: Endpoint, prefix: IPv6Network, preshared_key: PresharedKey | None) -> PeerConfig:
    # As numbers: the constructors would write an address as text and read that again, which takes four times as long.
    v4 = IPv4Network((int(peer.address), 32))
    v6 = IPv6Network((int(twin(prefix, peer.address)), 128))
    allowed_ips: frozenset[IPNetwork] = frozenset({v4, v6})
    return PeerConfig(peer.public_key, peer.underlay, allowed_ips, preshared_key, KEEPALIVE)
