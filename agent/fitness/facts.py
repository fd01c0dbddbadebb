"""Facts of a node, gathered for `docker linkwire install`: ports, routes, networks, MTU, packet filters, clock.

They are judged there, beside those of all other nodes. What cannot be read is told as such, and is no fault.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from agent.containers.docker_api import Docker
from agent.firewall import nft
from agent.fitness import node_encryption, taken_ports
from agent.fitness.packet_filter import Packet, dropping
from agent.linux import interfaces
from agent.linux.netns import OWN_NETNS, TaskNetns
from mesh.errors import LinkwireError

ASKED = "LINKWIRE_FITNESS"
"""Environment variable with the question: JSON with `ports`, `tcp`, `subnet`, `nodes`, and where node encryption is
wanted `encryption`."""
MOST_NAMED = 20
"""Routes, networks and runs of ports that are told: Docker cuts a line of its log at 16 KiB."""
_T = TypeVar("_T")
_TIMEOUT_S = 30.0
_LEGACY = Path("/proc/self/net/ip_tables_names")


def gather(question: str, docker: str) -> dict[str, Any]:
    """Gather the facts.

    Args:
        question: the value of ASKED.
        docker: URL of the node's Docker.
    """
    asked = json.loads(question)
    first, last = asked["ports"]
    subnet = IPv4Network(asked["subnet"])
    home = TaskNetns(OWN_NETNS)
    unread: list[str] = []
    networks = _told(unread, lambda: _networks(docker, subnet)) or {}
    routes = _told(unread, lambda: interfaces.ways_to(home, (subnet,))) or ()
    own = tuple(networks.values())
    filters = _told(unread, lambda: _filters(home, asked))
    return {
        "time": time.time(),
        "udp": taken_ports.spans(port for port in taken_ports.taken("udp") if first <= port <= last)[:MOST_NAMED],
        "tcp": sorted(taken_ports.taken("tcp") & set(asked["tcp"])),
        "routes": [route for route in routes if not route.startswith(tuple(f"{one} " for one in own))][:MOST_NAMED],
        "networks": [f"{name} ({network})" for name, network in sorted(networks.items())][:MOST_NAMED],
        "mtu": _told(unread, lambda: _mtus(home, asked["nodes"])) or {},
        "filters": filters or {},
        "legacy": _legacy(),
        "unread": unread,
        "encryption": _told(unread, lambda: node_encryption.gather(home, asked)) if "encryption" in asked else None,
    }


def _told(unread: list[str], read: Callable[[], _T]) -> _T | None:
    """Read something; where that fails, note why and return None."""
    try:
        return read()
    except LinkwireError as error:
        unread.append(str(error))
        return None


def _networks(docker: str, subnet: IPv4Network) -> dict[str, str]:
    """Return this Docker's networks that overlap with the mesh's, by name."""
    with Docker(docker, _TIMEOUT_S).asked_to("list networks") as client:
        listed = client.networks()
    found = {}
    for network in listed:
        for config in (network.get("IPAM") or {}).get("Config") or ():
            with suppress(ValueError):
                theirs = ipaddress.ip_network(str(config.get("Subnet")))
                if theirs.version == subnet.version and theirs.overlaps(subnet):
                    found[str(network.get("Name"))] = str(theirs)
    return found


def _mtus(home: TaskNetns, nodes: list[str]) -> dict[str, int]:
    """Return the largest packet on the way to each node's address."""
    return {node: interfaces.route_mtu(home, (ipaddress.ip_address(node),)) for node in nodes}


def _filters(home: TaskNetns, asked: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the chains that drop packets to a port, by the port: the range's ends, and those of TCP."""
    ruleset = json.loads(nft.listed(home))["nftables"]
    packets = [Packet("udp", port) for port in asked["ports"]] + [Packet("tcp", port) for port in asked["tcp"]]
    found = {f"{packet.protocol}/{packet.port}": list(dropping(ruleset, packet)) for packet in packets}
    return {port: chains for port, chains in found.items() if chains}


def _legacy() -> bool:
    """Tell whether the node has rules of the old iptables, which nft does not show."""
    with suppress(OSError):
        return "filter" in _LEGACY.read_text().split()
    return False
