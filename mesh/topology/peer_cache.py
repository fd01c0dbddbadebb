"""Cache of one interface's peers: a peer that is derived again with the same result is the same object. Pure.

A change concerns one of thousands of peers, and a diff of two interfaces then compares that one only.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network

from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import IPNetwork
from mesh.model.records import Endpoint
from mesh.topology.ipam import twin
from mesh.topology.wgtypes import PeerConfig

KEEPALIVE = 25
"""Seconds. With it a device that was created again is heard of at once and not after 15 s of silence, and a
handshake is never older than its 180 s (WireGuard paper, section 6.5; REJECT_AFTER_TIME) while both ends live."""


class PeerCache:
    """Peers of one interface, by the identity of the objects that each was derived from."""

    def __init__(self) -> None:
        self._configs: dict[str, tuple[Endpoint, IPv6Network, PresharedKey | None, PeerConfig]] = {}

    def of(self, peer: Endpoint, prefix: IPv6Network, preshared_key: PresharedKey | None) -> PeerConfig:
        """Return a task's entry among another's peers.

        Args:
            peer: the task's endpoint.
            prefix: the mesh's IPv6 prefix.
            preshared_key: of the two tasks; None while it is not known.
        """
        cached = self._configs.get(peer.task)
        if cached is not None and cached[0] is peer and cached[1] is prefix and cached[2] is preshared_key:
            return cached[3]
        config = _config(peer, prefix, preshared_key)
        if cached is not None and cached[3] == config:  # such as when only readiness changed
            config = cached[3]
        self._configs[peer.task] = (peer, prefix, preshared_key, config)
        return config

    def drop_stale(self, tasks: Collection[str]) -> None:
        """Forget the peers of all tasks but these."""
        if len(self._configs) > len(tasks):
            present = set(tasks)
            self._configs = {task: cached for task, cached in self._configs.items() if task in present}


def _config(peer: Endpoint, prefix: IPv6Network, preshared_key: PresharedKey | None) -> PeerConfig:
    # As numbers: the constructors would write an address as text and read that again, which takes four times as long.
    v4 = IPv4Network((int(peer.address), 32))
    v6 = IPv6Network((int(twin(prefix, peer.address)), 128))
    allowed_ips: frozenset[IPNetwork] = frozenset({v4, v6})
    return PeerConfig(peer.public_key, peer.underlay, allowed_ips, preshared_key, KEEPALIVE)
