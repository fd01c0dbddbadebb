"""The lab's wires: a bridge in a namespace of its own, one namespace for each node, one wire to the machine.

The bridge is in no namespace where a dockerd runs: dockerd sets the FORWARD policy to DROP, and with
bridge-nf-call-iptables that would hold for what a bridge there forwards.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.layout import LabError, Layout
from tests.lab.process import answer

NETNS = Path("/run/netns")
BRIDGE = "br0"
NODE_DEVICE = "eth0"
ORDINARY_MTU = 1500  # bytes
LEAST_MTU = 1280  # below it the kernel takes IPv6 off a device (RFC 8200, 5)
MOST_MTU = 65535


@dataclass(frozen=True, slots=True)
class Network:
    """Makes, mends and removes the wires of one lab."""

    layout: Layout

    def ensure_hub(self) -> None:
        """Make the bridge and the machine's wire to it, as far as they are missing."""
        hub, host = self.layout.hub_netns, self.layout.host_device
        if self._hub_is_whole():
            return
        self._need_free_subnet()
        self.remove_netns(hub)
        answer(["ip", "link", "del", host], check=False)  # its other end may still be dying with the namespace
        width, mac = self.layout.subnet.prefixlen, _mac(self.layout.hub_address)
        answer(["ip", "netns", "add", hub])
        _batch(
            hub,
            "link set lo up",
            f"link add {BRIDGE} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"addr add {self.layout.hub_address}/{width} dev {BRIDGE}",
            # Nobody else can have it: no need to be silent for a second and ask (RFC 4862, 5.4).
            f"addr add {self.layout.hub_address6}/{self.layout.subnet6.prefixlen} dev {BRIDGE} nodad",
            # Said, or it would follow the least of its ports (linux net/bridge/br_if.c).
            f"link set {BRIDGE} mtu {ORDINARY_MTU} up",
        )
        mac = _mac(self.layout.host_address)
        answer(["ip", "link", "add", host, "address", mac, "type", "veth", "peer", "name", "host", "netns", hub])
        _batch(hub, f"link set host master {BRIDGE} up")
        answer(["ip", "addr", "add", f"{self.layout.host_address}/{width}", "dev", host])
        answer(["ip", "link", "set", host, "up"])

    def _need_free_subnet(self) -> None:
        found = answer(["ip", "-json", "route", "show", "root", str(self.layout.subnet)]).stdout
        routes: list[dict[str, Any]] = json.loads(found or "[]")
        for route in routes:
            if route.get("dev") != self.layout.host_device:
                raise LabError(
                    f"this machine has a route to {route['dst']} by {route.get('dev', 'none')}, which the lab would"
                    " need for itself; a lab of another name (LINKWIRE_LAB) takes another subnet"
                )

    def _hub_is_whole(self) -> bool:
        if not netns_exists(self.layout.hub_netns):
            return False
        inside = _links(self.layout.hub_netns)
        return _is_up(inside, BRIDGE) and _is_up(inside, "host") and _is_up(_links(), self.layout.host_device)

    def node_is_wired(self, node: str) -> bool:
        """Whether the node's namespace is there and its wire reaches the bridge (cut or not)."""
        netns = self.layout.node_netns(node)
        return netns_exists(netns) and node in _links(self.layout.hub_netns) and _is_up(_links(netns), NODE_DEVICE)

    def make_node(self, node: str) -> None:
        """Make the node's namespace and wire afresh: an old one would hold what a dead dockerd left in it."""
        netns, mac = self.layout.node_netns(node), _mac(self.layout.node_address(node))
        self.remove_node(node)
        mtu = self.mtu()
        answer(["ip", "netns", "add", netns])
        # A new namespace has what this machine's has; Docker closes a node against what others route to it only where
        # it has turned forwarding on itself.
        still = ("net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        answer(["ip", "netns", "exec", netns, "sysctl", "-qw", *still])
        _batch(
            self.layout.hub_netns,
            f"link add {node} mtu {mtu} type veth peer name {NODE_DEVICE} address {mac} mtu {mtu} netns {netns}",
            f"link set {node} master {BRIDGE} up",
        )
        _batch(
            netns,
            "link set lo up",
            f"addr add {self.layout.node_address(node)}/{self.layout.subnet.prefixlen} dev {NODE_DEVICE}",
            f"addr add {self.layout.node_address6(node)}/{self.layout.subnet6.prefixlen} dev {NODE_DEVICE} nodad",
            f"link set {NODE_DEVICE} up",
        )

    def remove_node(self, node: str) -> None:
        """Remove the node's namespace and wire, if they are there."""
        if netns_exists(self.layout.hub_netns):
            answer(["ip", "-n", self.layout.hub_netns, "link", "del", node], check=False)
        self.remove_netns(self.layout.node_netns(node))

    def is_cut(self, node: str) -> bool:
        """Whether the node's port on the bridge was taken down."""
        return not _is_up(_links(self.layout.hub_netns), node)

    def set_port(self, node: str, *, up: bool) -> None:
        """Take the node's port on the bridge up or down."""
        _batch(self.layout.hub_netns, f"link set {node} {'up' if up else 'down'}")

    def mtu(self) -> int:
        """The largest packet, in bytes, that the bridge passes; a node that is made anew has it too."""
        answered = answer(["ip", "-n", self.layout.hub_netns, "-json", "link", "show", BRIDGE]).stdout
        found: int = json.loads(answered)[0]["mtu"]
        return found

    def set_mtu(self, mtu: int) -> None:
        """Make the bridge and every wire, at both its ends, take packets of at most `mtu` bytes.

        Raises:
            LabError: no IPv6 node could live with it, or no veth has it.
        """
        if not LEAST_MTU <= mtu <= MOST_MTU:
            raise LabError(f"an MTU of {mtu}: between {LEAST_MTU} and {MOST_MTU}")
        nodes = [node for node in self.layout.node_names if netns_exists(self.layout.node_netns(node))]
        for node in nodes:
            _batch(self.layout.node_netns(node), f"link set {NODE_DEVICE} mtu {mtu}")
        ports = [device for device in (*nodes, "host") if device in _links(self.layout.hub_netns)]
        _batch(self.layout.hub_netns, *(f"link set {device} mtu {mtu}" for device in (*ports, BRIDGE)))
        answer(["ip", "link", "set", self.layout.host_device, "mtu", str(mtu)])

    def remove_netns(self, netns: str) -> None:
        """Remove a named namespace, also one that a crash left half made."""
        if netns_exists(netns):
            answer(["ip", "netns", "del", netns])
        else:
            (NETNS / netns).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove every namespace and device that has this lab's name."""
        names = {entry.name for entry in NETNS.iterdir()} if NETNS.is_dir() else set()
        for netns in sorted(names):
            if netns.startswith(f"{self.layout.name}-"):
                self.remove_netns(netns)
        answer(["ip", "link", "del", self.layout.host_device], check=False)


def netns_exists(netns: str) -> bool:
    """Whether the name leads to a network namespace, and not to the empty file of a half-made one."""
    with contextlib.suppress(FileNotFoundError):
        return (NETNS / netns).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    return False


def same_netns(pid: int, netns: str) -> bool:
    """Whether process `pid` lives in the named namespace: a thread of it, since dockerd's enter containers' too."""
    try:
        named = (NETNS / netns).stat()
        return any(os.path.samestat(one.stat(), named) for one in Path(f"/proc/{pid}/task").glob("*/ns/net"))
    except FileNotFoundError:
        return False


def _mac(address: str) -> str:
    """A locally administered MAC address that belongs to an IPv4 address for good.

    A node that comes back has the one it had, as a real machine does, and the bridge keeps its own (else it takes the
    lowest of its ports'). Whoever has asked for it (ARP) would send into nothing for 30 s otherwise.
    """
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x4C, *ipaddress.IPv4Address(address).packed))


def _batch(netns: str, *commands: str) -> None:
    answer(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _links(netns: str | None = None) -> dict[str, list[str]]:
    """The devices of a namespace (none: of the machine's own) with their flags."""
    where = ["-n", netns] if netns else []
    done = answer(["ip", *where, "-json", "link", "show"], check=False)
    if done.returncode != 0:
        if netns and not netns_exists(netns):
            return {}
        raise LabError(f"cannot list the devices of {netns or 'this machine'}: {done.stderr.strip()}")
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return {link["ifname"]: link["flags"] for link in found if "ifname" in link}


def _is_up(links: dict[str, list[str]], device: str) -> bool:
    return "UP" in links.get(device, [])
