"""Path MTU: the largest packet that fits on the way to other nodes, by the node's routes."""

from __future__ import annotations

import time
from collections.abc import Collection

import structlog

from agent.linux import interfaces
from agent.linux.netns import OWN_NETNS, TaskNetns
from mesh.errors import LinkwireError
from mesh.model.net import IPAddress

log = structlog.get_logger(__name__)

ROUTES_S = 30.0
RETRY_S = 1.0
OVERHEAD = {4: 60, 6: 80}
"""Bytes that WireGuard adds to a packet: IP 20 or 40, UDP 8, its own 32 (WireGuard paper, section 5.4.6)."""
DEFAULT_MTU = 1420
MIN_MTU = 576  # RFC 791: what every IPv4 host must take


class PathMtu:
    """Cache of the MTU of the ways to other nodes.

    Args:
        home: the node's own namespace.
        learned: versions of IP by which an MTU counts that was learned from the path, and not configured.
    """

    def __init__(self, home: TaskNetns | None = None, learned: Collection[int] = (4, 6)) -> None:
        self._home = home or TaskNetns(OWN_NETNS)
        self._learned = learned
        self._mtus: dict[IPAddress, tuple[float, int]] = {}

    def least(self, hosts: tuple[IPAddress, ...]) -> int:
        """Return the largest packet inside WireGuard that fits on the way to every one of the nodes, bytes."""
        ways = (self.of(host) - OVERHEAD[host.version] for host in hosts)
        return max(MIN_MTU, min(ways, default=DEFAULT_MTU))

    def of(self, host: IPAddress) -> int:
        """Return the MTU of the way to a node, bytes."""
        now = time.monotonic()
        at, mtu = self._mtus.get(host, (0.0, 0))
        if not mtu or now >= at:
            try:
                mtu = interfaces.route_mtu(self._home, (host,), learned=host.version in self._learned)
            except LinkwireError as error:
                log.warning("route to node not found", address=str(host), error=str(error))
                mtu = mtu or DEFAULT_MTU + OVERHEAD[6]
                self._mtus[host] = (now + RETRY_S, mtu)
            else:
                self._mtus[host] = (now + ROUTES_S, mtu)
        return mtu
