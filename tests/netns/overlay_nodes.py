"""Nodes with an overlay as Docker makes one: a VXLAN device in a namespace of its own, whose packets the node sends.

container [eth0] -- overlay netns [br0, vxlan1] .. node netns [under] -- hub netns [bridge] -- the other nodes
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Self

from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.keeper import Keeper, Wanted
from agent.node_encryption.tunnel import desired
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.crypto.preshared_keys import LinkKey, LinkKeys, PresharedKey
from mesh.model.encryption.records import NODES_KEY, NodeEncryption, Underlay
from mesh.model.encryption.status import Mode, Step
from mesh.model.net import IPAddress, UdpEndpoint
from tests.netns.world import World, device_name, ip, make_backend, wait_for

VXLAN_PORT = 4789
WIREGUARD_PORT = 51819
_MTU = "1450"


def short(netns: TaskNetns) -> str:
    return Path(netns.path).name


@dataclass
class OverlayNode:
    """A node, its overlay, a container there, and the keeper of its part in node encryption."""

    number: int
    address: IPAddress
    """On the underlay, where the overlay's packets are sent to."""
    netns: TaskNetns
    overlay: TaskNetns
    container: TaskNetns
    folder: Path
    device: NodeDevice
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    keeper: Keeper | None = None

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def inside(self) -> str:
        """The container's address."""
        return f"10.0.9.{self.number}"

    @property
    def mac(self) -> str:
        return f"02:42:0a:00:09:{self.number:02x}"

    @property
    def underlay(self) -> Underlay:
        return Underlay(self.name, self.key.public, UdpEndpoint(self.address, WIREGUARD_PORT))

    def start(self) -> Keeper:
        """An agent's part begins."""
        self.keeper = Keeper(self.device, self.folder)
        self.keeper.start(lambda: None)
        return self.keeper

    def restart(self) -> None:
        """The agent ends, and another one begins that knows nothing."""
        assert self.keeper is not None
        self.keeper.stop()
        self.device = NodeDevice(self.netns, self.device.backend, self.device.name)
        self.start()

    def do(self, command: str) -> str:
        done = self.netns.run(
            lambda: subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def vxlan_to(self, other: OverlayNode, address: IPv4Address | None = None) -> None:
        """What libnetwork writes for each task elsewhere."""
        name = short(self.overlay)
        to = str(address or other.address)
        ip("-n", name, "neighbour", "replace", other.inside, "lladdr", other.mac, "dev", "vxlan1", "nud", "permanent")
        subprocess.run(
            ["bridge", "-n", name, "fdb", "replace", other.mac, "dev", "vxlan1", "dst", to, "self", "permanent"],
            check=True,
        )


class Cluster:
    """Nodes that share an overlay; what a controller writes is given to their keepers at once."""

    foreign = IPv4Address("192.0.2.99")
    """On the underlay, and nobody's."""

    def __init__(self, world: World, size: int, version: int = 4) -> None:
        self._world = world
        self._folder = tempfile.TemporaryDirectory(prefix="linkwire-overlays-")
        self.hub = world.netns()
        ip("-n", short(self.hub), "link", "add", "bridge", "type", "bridge")
        ip("-n", short(self.hub), "link", "set", "bridge", "up")
        self.nodes = [self._node(number, version) for number in range(1, size + 1)]
        for node in self.nodes:
            for other in self.nodes:
                if node is not other:
                    node.vxlan_to(other)
        self.generation = 0
        self.link_key = LinkKey.generate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.keeper is not None:
                node.keeper.stop()
            node.device.backend.delete(node.netns, node.device.name)
            node.device.backend.close()
        self._folder.cleanup()

    def _node(self, number: int, version: int) -> OverlayNode:
        netns, overlay, container = (self._world.netns() for _ in range(3))
        folder = Path(self._folder.name) / str(number)
        folder.mkdir()
        (folder / "1-overlay").symlink_to(overlay.path)
        device = NodeDevice(netns, make_backend(netns.path), device_name())
        address = ip_address(f"2001:db8::{number}" if version == 6 else f"192.0.2.{number}")
        node = OverlayNode(number, address, netns, overlay, container, folder, device)
        home, shared, inside = short(netns), short(overlay), short(container)
        ip(*f"link add under netns {home} type veth peer name n{number} netns {short(self.hub)}".split())
        ip("-n", short(self.hub), "link", "set", f"n{number}", "master", "bridge", "up")
        ip("-n", home, "address", "add", f"192.0.2.{number}/24", "dev", "under")
        ip("-n", home, "address", "add", f"2001:db8::{number}/64", "dev", "under", "nodad")
        ip("-n", home, "link", "set", "under", "up")
        vxlan = ["type", "vxlan", "id", "4097", "dstport", str(VXLAN_PORT), "learning", "proxy", "l2miss", "l3miss"]
        vxlan += ["local", "::"] if version == 6 else []
        ip("-n", home, "link", "add", "vxlan1", "mtu", _MTU, *vxlan)
        ip("-n", home, "link", "set", "vxlan1", "netns", shared)
        ip("-n", shared, "link", "add", "br0", "mtu", _MTU, "type", "bridge")
        ip("-n", shared, "address", "add", f"10.0.9.{100 + number}/24", "dev", "br0")
        ip("link", "add", "eth0", "netns", inside, "type", "veth", "peer", "name", "veth0", "netns", shared)
        ip("-n", inside, "link", "set", "eth0", "address", node.mac, "mtu", _MTU)
        ip("-n", inside, "address", "add", f"{node.inside}/24", "dev", "eth0")
        for device_up in ("vxlan1", "veth0"):
            ip("-n", shared, "link", "set", device_up, "master", "br0", "mtu", _MTU, "up")
        ip("-n", shared, "link", "set", "br0", "up")
        ip("-n", inside, "link", "set", "eth0", "up")
        return node

    def give(self, mode: Mode | None, step: Step = "accept") -> None:
        """Give all keepers the records; with no mode, none. A node without a keeper has no place in them."""
        self.generation += 1
        underlays = [node.underlay for node in self.nodes if node.keeper is not None]
        link_keys = LinkKeys({NODES_KEY: self.link_key})
        for node in self.nodes:
            if node.keeper is None:
                continue
            tunnel = None
            if mode is not None:
                record = NodeEncryption(mode, step, VXLAN_PORT, self.generation)
                psk = partial(_psk, link_keys, node.key.public)
                tunnel = desired(record, underlays, node.name, node.key, psk)
            node.keeper.want(Wanted(tunnel, complete=True))

    def switch(self, mode: Mode | None, step: Step = "accept", *, ready: int | None = None) -> None:
        """Give the records, and wait as the controller does for each node's acknowledgement, and for peers to answer.

        That is `ready` of them, by default all.
        """
        self.give(mode, step)
        wait_for(
            lambda: all(
                self._acknowledged(node, mode, len(self.nodes) - 1 if ready is None else ready)
                for node in self.nodes
                if node.keeper
            )
        )

    def _acknowledged(self, node: OverlayNode, mode: Mode | None, ready: int) -> bool:
        assert node.keeper is not None
        status = node.keeper.status
        if mode is None or status is None:
            return mode is None and status is None and node.device.read().is_off
        return status.generation == self.generation and status.ready == ready


def _psk(link_keys: LinkKeys, own: PublicKey, other: PublicKey) -> PresharedKey | None:
    return link_keys.between(own, other, (NODES_KEY,))


@dataclass(frozen=True)
class Pinged:
    sent: int
    received: int

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Pinging:
    """A ping every 10 ms from one container to another, while the block runs."""

    def __init__(self, source: OverlayNode, target: OverlayNode, size: int = 56) -> None:
        self._arguments = ["ping", "-n", "-q", "-i", "0.01", "-s", str(size), target.inside]
        self._source = source
        self._process: subprocess.Popen[str] | None = None
        self.result = Pinged(0, 0)

    def __enter__(self) -> Self:
        self._process = self._source.container.run(
            lambda: subprocess.Popen(self._arguments, stdout=subprocess.PIPE, text=True)
        )
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        time.sleep(0.3)
        self._process.send_signal(2)
        output = self._process.communicate()[0]
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found, output
        sent, received = int(found[1]), int(found[2])
        # The last one may be on its way.
        self.result = Pinged(received if sent == received + 1 else sent, received)


class Wire:
    """Capture of the overlay packets in plain on the wire of all nodes, while the block runs."""

    def __init__(self, cluster: Cluster, only: str = f"udp port {VXLAN_PORT}") -> None:
        self._hub = cluster.hub
        self._only = only
        self._folder = tempfile.TemporaryDirectory(prefix="linkwire-wire-")
        self._file = Path(self._folder.name) / "wire.pcap"
        self._process: subprocess.Popen[str] | None = None
        self.packets = 0

    def __enter__(self) -> Self:
        command = ["tcpdump", "-i", "any", "-s", "128", "-U", "--immediate-mode", "-w", str(self._file), self._only]
        self._process = self._hub.run(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        assert self._process.stderr is not None
        while "listening on" not in (line := self._process.stderr.readline()):
            assert line, "tcpdump did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        time.sleep(0.2)
        self._process.terminate()
        self._process.communicate()
        read = ["tcpdump", "-n", "-r", str(self._file)]
        self.packets = len(subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines())
        self._folder.cleanup()
