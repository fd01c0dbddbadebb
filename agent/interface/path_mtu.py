"""Path MTU: the largest packet that fits on the way to other nodes, by the node's routes."""

from __future__ import annotations

import time

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
    """Cache of the MTU of the ways to other nodes. `home`: the node's own namespace."""

    def __init__(self, home: str = OWN_NETNS) -> None:
        self._home = TaskNetns(home)
        self._mtus: dict[IPAddress, tuple[float, int]] = {}

    def least(self, hosts: tuple[IPAddress, ...]) -> int:
        """Return the largest packet inside WireGuard that fits on the way to every one of the nodes, bytes."""
        now = time.monotonic()
        mtus: list[int] = []
        for host in hosts:
            at, mtu = self._mtus.get(host, (0.0, 0))
            if not mtu or now >= at:
                try:
                    mtu = interfaces.route_mtu(self._home, (host,))
                except LinkwireError as error:
                    log.warning("route to node not found", address=str(host), error=str(error))
                    mtu = mtu or DEFAULT_MTU + OVERHEAD[6]
                    self._mtus[host] = (now + RETRY_S, mtu)
                else:
                    self._mtus[host] = (now + ROUTES_S, mtu)
            mtus.append(mtu - OVERHEAD[host.version])
        return max(MIN_MTU, min(mtus, default=DEFAULT_MTU))
