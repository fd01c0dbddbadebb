"""A link against what it takes the place of: a VXLAN overlay with IPsec, made as Docker makes its encrypted overlay.

After moby 20.10, libnetwork/drivers/overlay. encryption.go: ESP in transport mode, AES-128-GCM with an ICV of
64 bits; it takes packets by a mark that those of this VNI get on UDP port 4789, and what comes in clear is
dropped. ov_network.go: the VXLAN device is made where the node's address is, moved into a sandbox and put on a
bridge there; it learns nothing and is told all neighbours; the MTU is 1424. The rules are nftables' instead of
iptables' with u32.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from ipaddress import IPv4Interface

from tests.bench import link
from tests.bench.measure import Effort, NotHere, Row
from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.world import Node, Task, World, device_name
from tests.support import stage
from tests.support.by_hand import ReferenceFailed, run

_VNI, _PORT, _MARK = 4097, 4789, 0xD0C4E3
_EXPANSION = 26  # bytes that ESP adds: SPI 4, sequence number 4, IV 8, padding's length 1, next header 1, ICV 8
_MTU = 1500 - 50 - _EXPANSION  # VXLAN adds 50
_EMULATED = "in QEMU, where every instruction of either cipher is emulated: no figure of a real processor"
_RULES = f"""
table inet encrypted {{
    chain out {{
        type route hook output priority mangle;
        udp dport {_PORT} @th,96,24 {_VNI} meta mark set {_MARK}
    }}
    chain in {{
        type filter hook input priority filter;
        udp dport {_PORT} @th,96,24 {_VNI} meta secpath exists accept
        udp dport {_PORT} @th,96,24 {_VNI} drop
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class _End:
    """A task on the overlay, the sandbox of its node, and the MAC address that the other end is told."""

    task: Task
    sandbox: str
    mac: str


def measure(effort: Effort) -> list[Row]:
    """Throughput and round trip."""
    with stage.world() as (world, folder):
        nodes = world.nodes()
        ends = _Overlay(world, nodes).ends()
        ours = link.linked(world, nodes, folder)
        note = _EMULATED if GUEST_VARIABLE in os.environ else ""
        reference = "VXLAN with IPsec (AES-GCM)"
        rows = link.rows(effort, "overlay", ours, ends, reference, aims=(">= 1.0", "<= 1.0"), note=note)
        for node in nodes:
            assert _encrypted_bytes(node) > 0
        return rows


class _Overlay:
    """Two nodes that are joined by it."""

    def __init__(self, world: World, nodes: tuple[Node, Node]) -> None:
        self._world = world
        self._nodes = nodes

    def ends(self) -> tuple[Task, Task]:
        """One task on each node. Raises NotHere where the kernel has no ESP."""
        self._encrypt()
        near, far = (self._end(node, number) for number, node in enumerate(self._nodes, 1))
        for end, other in ((near, far), (far, near)):
            host, device = str(other.task.node.address.ip), end.task.name
            run("bridge", "-n", end.sandbox, "fdb", "add", other.mac, "dev", device, "dst", host, "self", "permanent")
            neighbour = (str(other.task.address.ip), "lladdr", other.mac, "dev", device, "nud", "permanent")
            run("ip", "-n", end.sandbox, "neigh", "add", *neighbour)
        return near.task, far.task

    def _encrypt(self) -> None:
        """The same two associations on both nodes, each way one, and on either the policy for its own packets."""
        key = secrets.token_hex(16)
        ends = [node.address.ip for node in self._nodes]
        ways = [(f"src {ends[n]} dst {ends[1 - n]} proto esp spi {0x1000 + n:#x} reqid {_MARK}", n) for n in (0, 1)]
        cipher = "aead rfc4106(gcm(aes))"
        states = [f"xfrm state add {way} mode transport {cipher} 0x{key}{0x1000 + n:08x} 64" for way, n in ways]
        for node, (way, n) in zip(self._nodes, ways, strict=True):
            selector = f"src {ends[n]}/32 dst {ends[1 - n]}/32 proto udp dport {_PORT} dir out"
            policy = f"xfrm policy add {selector} mark {_MARK} mask 0xffffffff tmpl {way} mode transport"
            name = stage.short(node.netns)
            try:
                run("ip", "-n", name, "-batch", "-", stdin="\n".join([*states, policy, ""]))  # a key is no argument
            except ReferenceFailed as why:
                raise NotHere(f"this kernel has no IPsec as Docker uses it ({why})") from why
            run("nsenter", f"--net=/run/netns/{name}", "nft", "-f", "-", stdin=_RULES)

    def _end(self, node: Node, number: int) -> _End:
        """A sandbox with a bridge, on it the VXLAN device and one end of a task's veth pair."""
        task = Task(node, self._world.netns(), IPv4Interface(f"10.0.9.{number}/24"), 0, device_name())
        home, sandbox, inside = (stage.short(one) for one in (node.netns, self._world.netns(), task.netns))
        mac = f"02:42:0a:00:09:{number:02x}"
        vxlan = ("type", "vxlan", "id", str(_VNI), "dstport", str(_PORT), "proxy", "l2miss", "l3miss", "nolearning")
        run("ip", "-n", home, "link", "add", task.name, "netns", sandbox, "mtu", str(_MTU), *vxlan)
        port = ("type", "veth", "peer", "name", "port", "netns", sandbox, "mtu", str(_MTU))
        run("ip", "link", "add", "eth0", "netns", inside, "address", mac, "mtu", str(_MTU), *port)
        run("ip", "-n", sandbox, "link", "add", "br0", "mtu", str(_MTU), "type", "bridge")
        for device in (task.name, "port"):
            run("ip", "-n", sandbox, "link", "set", device, "master", "br0", "up")
        run("ip", "-n", sandbox, "link", "set", "br0", "up")
        run("ip", "-n", inside, "address", "add", str(task.address), "dev", "eth0")
        run("ip", "-n", inside, "link", "set", "eth0", "up")
        return _End(task, sandbox, mac)


def _encrypted_bytes(node: Node) -> int:
    """What has passed a node's associations: its rules let nothing in that has not, and this is what did."""
    text = run("ip", "-n", stage.short(node.netns), "-s", "xfrm", "state")
    return min(int(count) for count in re.findall(r"lifetime current:\s+(\d+)\(bytes\)", text))
