"""Facts of a node for node encryption: its port, filters, addresses of overlays; and filters as they come.

A packet filter may know interfaces: one that lets VXLAN in by the node's own, and by no other, drops what comes out
of the device of node encryption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from agent.firewall import nf_tables_netlink, nft
from agent.fitness import sockets
from agent.fitness.packet_filter import Packet, dropping
from agent.linux import interfaces, sysctl
from agent.linux.netns import TaskNetns
from agent.node_encryption import overlays
from agent.node_encryption.device import NAME
from agent.node_encryption.key import port_beside
from mesh.errors import LinkwireError

MOST_NAMED = 20
LOOK_S = 30.0
"""Seconds between two looks at filters that others change again and again."""


def gather(home: TaskNetns, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the facts.

    Args:
        home: the node's own namespace.
        asked: `ports` of the node's tasks, `nodes`, the addresses by which nodes are known, and in `encryption`
            `data_path_port`, UDP.
    """
    port, vxlan = port_beside(*asked["ports"]), int(asked["encryption"]["data_path_port"])
    has_device = interfaces.kind(home, NAME) is not None
    found: dict[str, Any] = {
        "port": port,
        # The port of a device that is there is its own.
        "taken": not has_device and port in sockets.taken("udp"),
        "strict_filter": home.run(sysctl.is_strict_everywhere),
        "holds": [node for node in asked["nodes"] if interfaces.holders(home, ip_address(node))],
        "sends_to": sorted(map(str, overlays.destinations()))[:MOST_NAMED],
        "tables": "",
        "wire_filters": [],
        "overlay_filters": [],
    }
    try:
        ruleset = json.loads(nft.listed(home))["nftables"]
    except LinkwireError as error:
        return {**found, "tables": str(error)}
    found["wire_filters"] = list(dropping(ruleset, Packet("udp", port)))[:MOST_NAMED]
    found["overlay_filters"] = list(dropping(ruleset, Packet("udp", vxlan, NAME)))[:MOST_NAMED]
    return found


class DeviceFilters:
    """Packet filters of a node that drop what comes out of its device: looked at again when nftables changed.

    Args:
        home: the node's own namespace.
        device: its name.
    """

    def __init__(self, home: TaskNetns, device: str = NAME) -> None:
        self._home = home
        self._device = device
        self._seen: tuple[int, int] | None = None
        self._next = 0.0
        self._problem = ""

    def problem(self, port: int) -> str:
        """Name the chains that drop overlay packets in the device; empty for none, or where nobody can say.

        Args:
            port: UDP, of the Swarm's VXLAN.
        """
        now = time.monotonic()
        if now < self._next:
            return self._problem
        self._next = now + LOOK_S
        with suppress(LinkwireError):
            seen = (nf_tables_netlink.generation(self._home), port)
            if seen != self._seen:
                ruleset = json.loads(nft.listed(self._home))["nftables"]
                self._problem = _named(self._device, port, dropping(ruleset, Packet("udp", port, self._device)))
                self._seen = seen
        return self._problem


def _named(device: str, port: int, chains: tuple[str, ...]) -> str:
    if not chains:
        return ""
    return (
        f"a firewall of this node drops overlay packets in its device {device}: nftables chain {', '.join(chains)}: "
        f'let them pass there, with nft: iifname "{device}" udp dport {port} accept'
    )
