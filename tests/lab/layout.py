"""What a lab is called and where its things lie: names, folders, addresses. Pure, no I/O."""

from __future__ import annotations

import ipaddress
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

STATE = Path("/var/lib/linkwire-lab")
DEFAULT_NAME = "lw"
ETCD_PORT = 2379
REGISTRY_PORT = 5000
MAX_NODES = 200


class LabError(Exception):
    """The lab could not do what was asked; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one lab. Everything derives from `name`, so labs of different names can coexist."""

    name: str
    nodes: int
    managers: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise LabError(f"lab name {self.name!r}: up to 8 lower-case letters and digits, a letter first")
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes: a lab has between 1 and {MAX_NODES}")
        if not 1 <= self.managers <= self.nodes:
            raise LabError(f"{self.managers} managers: between 1 and the number of nodes, {self.nodes}")

    @property
    def root(self) -> Path:
        """Sockets, logs and data. Short, because a unix socket's path may have 107 bytes (unix(7))."""
        return STATE / self.name

    @property
    def gate(self) -> Path:
        """The mark of a lab whose nodes start every container by deploy/linkwire-runc."""
        return self.root / "gate"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """10.77.0.0/24 for the default lab, another third octet for each other name."""
        third = 0 if self.name == DEFAULT_NAME else 1 + zlib.crc32(self.name.encode()) % 254
        return ipaddress.IPv4Network(f"10.77.{third}.0/24")

    @property
    def subnet6(self) -> ipaddress.IPv6Network:
        """The same wires' IPv6 prefix, of unique local addresses (RFC 4193)."""
        return ipaddress.IPv6Network(f"fd4c:7700:{self.subnet.network_address.packed[2]:x}::/64")

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    def node_address(self, node: str) -> str:
        """The node's own IPv4 address on the lab's bridge."""
        return str(self.subnet[int(node.removeprefix("n"))])

    def node_address6(self, node: str) -> str:
        """The node's own IPv6 address on the lab's bridge."""
        return str(self.subnet6[int(node.removeprefix("n"))])

    @property
    def hub_address6(self) -> str:
        """The bridge's own IPv6 address."""
        return str(self.subnet6[254])

    @property
    def hub_address(self) -> str:
        """The bridge's own address: etcd and the registry answer here."""
        return str(self.subnet[254])

    @property
    def host_address(self) -> str:
        """The machine's address on the lab's bridge."""
        return str(self.subnet[253])

    @property
    def hub_netns(self) -> str:
        return f"{self.name}-hub"

    def node_netns(self, node: str) -> str:
        return f"{self.name}-{node}"

    @property
    def host_device(self) -> str:
        """The machine's end of the wire to the bridge; at most 15 bytes (IFNAMSIZ, linux/if.h)."""
        return f"{self.name}-host"

    @property
    def etcd_endpoint(self) -> str:
        return f"{self.hub_address}:{ETCD_PORT}"

    @property
    def registry(self) -> str:
        return f"{self.hub_address}:{REGISTRY_PORT}"
