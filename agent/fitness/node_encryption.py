"""Facts of a node for node encryption: its ports, filters, addresses of overlays; and filters as they come.

A packet filter may know interfaces: one that lets VXLAN in by the node's own, and by no other, drops what comes out
of the devices of node encryption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from agent.firewall import nf_tables_netlink, nft
from agent.fitness import taken_ports
from agent.fitness.packet_filter import Packet, dropping
from agent.linux import interfaces, sysctl
from agent.linux.netns import TaskNetns
from agent.node_encryption import overlays
from agent.node_encryption.device import NAMES
from mesh.errors import LinkwireError
from mesh.model.encryption.status import LETTING_ALL, MODES, letting
from mesh.topology.underlay import ports_beside

MOST_NAMED = 20
_MOST_PORTS, _MOST_CHAINS = 64, 5
LOOK_S = 30.0
"""Seconds between two looks at filters that others change again and again."""


def gather(home: TaskNetns, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the facts.

    Args:
        home: the node's own namespace.
        asked: `ports` of the node's tasks, `nodes`, the addresses by which nodes are known, and in `encryption`
            `data_path_port`, UDP.
    """
    ports, vxlan = ports_beside(*asked["ports"]), int(asked["encryption"]["data_path_port"])
    # The port of a device that is there is its own.
    foreign = {port for port, name in zip(ports, NAMES, strict=True) if interfaces.kind(home, name) is None}
    found: dict[str, Any] = {
        "modes": MODES,
        "ports": [port for port in ports if port],
        "taken": sorted(foreign & taken_ports.taken("udp")),
        "strict_filter": home.run(sysctl.is_strict_everywhere),
        "holds": [node for node in asked["nodes"] if interfaces.holders(home, ip_address(node))],
        "sends_to": sorted(map(str, overlays.destinations()))[:MOST_NAMED],
        "tables": "",
        "wire_filters": {},
        "overlay_filters": [],
        "host_filters": [],
    }
    try:
        ruleset = json.loads(nft.listed(home))["nftables"]
    except LinkwireError as error:
        return {**found, "tables": str(error)}
    wire = {port: dropping(ruleset, Packet("udp", port)) for port in found["ports"]}
    found["wire_filters"] = {port: list(chains)[:MOST_NAMED] for port, chains in wire.items() if chains}
    found["overlay_filters"] = list(dropping_in(ruleset, vxlan, NAMES))[:MOST_NAMED]
    if asked["encryption"].get("mode") == "all":
        found["host_filters"] = list(dropping_own(ruleset, NAMES, open_ports()))[:MOST_NAMED]
    return found


def dropping_in(ruleset: Sequence[Mapping[str, Any]], port: int, devices: Iterable[str]) -> tuple[str, ...]:
    """Name the chains that drop overlay packets in any of a node's devices.

    Args:
        ruleset: of nftables, as `dropping` takes it.
        port: UDP, of the Swarm's VXLAN.
        devices: their names.
    """
    found = (dropping(ruleset, Packet("udp", port, device)) for device in devices)
    return tuple(dict.fromkeys(chain for chains in found for chain in chains))


def open_ports() -> dict[str, list[int]]:
    """Read the ports that the node's programs have open, by protocol."""
    return {protocol: sorted(taken_ports.taken(protocol))[:_MOST_PORTS] for protocol in ("tcp", "udp")}


def dropping_own(
    ruleset: Sequence[Mapping[str, Any]], devices: Iterable[str], opened: Mapping[str, Iterable[int]]
) -> tuple[str, ...]:
    """Name the chains that drop packets to ports of the node's programs in its devices, and not in every device.

    Args:
        ruleset: of nftables, as `dropping` takes it.
        devices: their names.
        opened: the ports, by protocol.
    """
    names, found = tuple(devices), dict[str, None]()
    for protocol, ports in opened.items():
        for port in ports:
            everywhere = dropping(ruleset, Packet(protocol, port))
            here = (chain for name in names for chain in dropping(ruleset, Packet(protocol, port, name)))
            found |= {f"{chain}, {protocol.upper()} {port}": None for chain in here if chain not in everywhere}
    return tuple(found)


class DeviceFilters:
    """Packet filters of a node that drop what comes out of its devices: looked at again when nftables changed.

    Args:
        home: the node's own namespace.
        devices: their names, of all that it may have: keys rotate from one to the other.
    """

    def __init__(self, home: TaskNetns, devices: Sequence[str] = NAMES) -> None:
        self._home = home
        self._devices = devices
        self._seen: tuple[int, int, bool] | None = None
        self._next = 0.0
        self._problem = ""

    def problem(self, port: int, own: bool = False) -> str:
        """Name the chains that drop overlay packets in the devices; empty for none, or where nobody can say.

        Args:
            port: UDP, of the Swarm's VXLAN.
            own: whether also those that drop packets to ports of the node's programs there.
        """
        now = time.monotonic()
        if now < self._next:
            return self._problem
        self._next = now + LOOK_S
        with suppress(LinkwireError):
            seen = (nf_tables_netlink.generation(self._home), port, own)
            if seen != self._seen:
                ruleset = json.loads(nft.listed(self._home))["nftables"]
                named = [_named(port, dropping_in(ruleset, port, self._devices))]
                named += [_named_own(dropping_own(ruleset, self._devices, open_ports()))] if own else []
                self._problem = "; ".join(filter(None, named))
                self._seen = seen
        return self._problem


def _named(port: int, chains: tuple[str, ...]) -> str:
    if not chains:
        return ""
    return (
        f"a firewall of this node drops overlay packets in its devices: nftables chain {', '.join(chains)}: "
        f"let them pass there, with nft: {letting(port)}"
    )


def _named_own(chains: tuple[str, ...]) -> str:
    if not chains:
        return ""
    named = "; ".join(chains[:_MOST_CHAINS])
    return (
        f"a firewall of this node drops in its devices what it lets pass elsewhere: nftables chain {named}: "
        f"let other nodes' packets pass there, with nft: {LETTING_ALL}"
    )
