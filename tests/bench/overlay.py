"""A link against what it takes the place of: a VXLAN overlay with IPsec, made as Docker makes its encrypted overlay.

After moby 20.10, libnetwork/drivers/overlay; tests/support/docker_ipsec.py says what the encryption is.
ov_network.go: the VXLAN device is made where the node's address is, moved into a sandbox and put on a bridge there;
it learns nothing and is told all neighbours; the MTU is 1424.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Interface

from tests.bench import link
from tests.bench.measure import Effort, NotHere, Row
from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.world import Node, Task, World, device_name
from tests.support import docker_ipsec, stage
from tests.support.by_hand import ReferenceFailed, run

_VNI, _PORT = 4097, 4789
MTU = 1500 - 50 - docker_ipsec.EXPANSION  # VXLAN adds 50
EMULATED = "in QEMU, where every instruction of either cipher is emulated: no figure of a real processor"


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
        note = EMULATED if GUEST_VARIABLE in os.environ else ""
        reference = "VXLAN with IPsec (AES-GCM)"
        rows = link.rows(effort, "overlay", ours, ends, reference, aims=(">= 1.0", "<= 1.0"), note=note)
        for node in nodes:
            # Their rules let nothing in that is not encrypted, and this is what was.
            assert docker_ipsec.encrypted_bytes(stage.short(node.netns)) > 0
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
        ends = [docker_ipsec.End(stage.short(node.netns), node.address.ip) for node in self._nodes]
        try:
            docker_ipsec.encrypt(ends, _VNI, _PORT)
        except ReferenceFailed as why:
            raise NotHere(f"this kernel has no IPsec as Docker uses it ({why})") from why

    def _end(self, node: Node, number: int) -> _End:
        """A sandbox with a bridge, on it the VXLAN device and one end of a task's veth pair."""
        task = Task(node, self._world.netns(), IPv4Interface(f"10.0.9.{number}/24"), 0, device_name())
        home, sandbox, inside = (stage.short(one) for one in (node.netns, self._world.netns(), task.netns))
        mac = f"02:42:0a:00:09:{number:02x}"
        vxlan = ("type", "vxlan", "id", str(_VNI), "dstport", str(_PORT), "proxy", "l2miss", "l3miss", "nolearning")
        run("ip", "-n", home, "link", "add", task.name, "netns", sandbox, "mtu", str(MTU), *vxlan)
        port = ("type", "veth", "peer", "name", "port", "netns", sandbox, "mtu", str(MTU))
        run("ip", "link", "add", "eth0", "netns", inside, "address", mac, "mtu", str(MTU), *port)
        run("ip", "-n", sandbox, "link", "add", "br0", "mtu", str(MTU), "type", "bridge")
        for device in (task.name, "port"):
            run("ip", "-n", sandbox, "link", "set", device, "master", "br0", "up")
        run("ip", "-n", sandbox, "link", "set", "br0", "up")
        run("ip", "-n", inside, "address", "add", str(task.address), "dev", "eth0")
        run("ip", "-n", inside, "link", "set", "eth0", "up")
        return _End(task, sandbox, mac)
