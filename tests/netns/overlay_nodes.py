"""Nodes with an overlay as Docker makes one: a VXLAN device in a namespace of its own, whose packets the node sends.

container [eth0] -- overlay netns [br0, vxlan1] .. node netns [under] -- hub netns [bridge or router] -- other nodes
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Self

from agent.linux.netns import TaskNetns
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.keeper import Keeper, Wanted
from agent.node_encryption.key import NodeKeys
from agent.node_encryption.policy_routing import PlainPorts
from agent.node_encryption.tunnel import desired
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import LinkKey, LinkKeys, PresharedKey
from mesh.model.encryption.records import NODES_KEY, NodeEncryption, Underlay
from mesh.model.encryption.status import Mode, Step
from mesh.model.net import IPAddress, UdpEndpoint
from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.world import World, device_name, ip, make_backend, wait_for

VXLAN_PORT = 4789
VNI = 4097
WIREGUARD_PORTS = (51819, 51818)
PLAIN_PORTS = PlainPorts(WIREGUARD_PORTS, (51820, 53819), (2379, 2380))
MTU = 1450
"""Of an overlay as Docker makes it."""
UNDERLAY_MTU = 1500
_APART_S = 2.0
_INTERVAL_S = 0.01
"""Between two pings."""
_AFTER_S = 0.3
"""A ping goes on after its block."""
_HUB_MTU = 9000
"""A switch takes all that a node sends; the node at the other end may not."""


def short(netns: TaskNetns) -> str:
    return Path(netns.path).name


def batch(netns: TaskNetns, *lines: str) -> None:
    """Run lines of `ip` in a namespace, by one process."""
    command = ["ip", "-n", short(netns), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{lines}: {done.stderr}"


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
    keys: NodeKeys
    place: Underlay = field(init=False)
    """By the records."""
    keeper: Keeper | None = None
    kept: list[int] = field(default_factory=list)
    """Ports whose plain packets are to be refused after a reboot too, 0 for none, as the keeper said it."""

    def __post_init__(self) -> None:
        first = self.keys.stated[0]
        self.place = Underlay(self.name, first.public_key, UdpEndpoint(self.address, first.port))

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def inside(self) -> str:
        """The container's address."""
        return f"10.0.9.{self.number}"

    @property
    def inside6(self) -> str:
        """Its IPv6 address."""
        return f"fd00:9::{self.number}"

    @property
    def mac(self) -> str:
        return f"02:42:0a:00:09:{self.number:02x}"

    def keep(self, epoch: int) -> None:
        """What an agent does with its keys after each reading of the records."""
        self.keys.keep(epoch, [key.public_key for key in self.place.keys])

    def start(self) -> Keeper:
        """An agent's part begins."""

        def keep(port: int) -> str:
            self.kept.append(port)
            return ""

        self.keeper = Keeper(self.device, self.folder, after_reboot=keep, plain=PLAIN_PORTS)
        self.keeper.start(lambda: None)
        return self.keeper

    def restart(self) -> None:
        """The agent ends, and another one begins that knows nothing."""
        assert self.keeper is not None
        self.keeper.stop()
        self.device.backend.close()
        self.device = NodeDevice(self.netns, make_backend(self.netns.path), self.device.names[0])
        self.keys = NodeKeys(self.folder.with_suffix(".state"), WIREGUARD_PORTS)
        self.start()

    def do(self, command: str) -> str:
        done = self.netns.run(
            lambda: subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def forget_mtus(self) -> None:
        """The container knows of no way's MTU, as at its start."""
        for version in ("-4", "-6"):
            ip("-n", short(self.container), version, "route", "flush", "cache")

    def vxlan_to(self, other: OverlayNode, address: IPv4Address | None = None) -> None:
        """What libnetwork writes for each task elsewhere; for IPv6 the container is told itself."""
        name = short(self.overlay)
        to = str(address or other.address)
        entry = ("lladdr", other.mac, "nud", "permanent", "dev")
        ip("-n", name, "neighbour", "replace", other.inside, *entry, "vxlan1")
        ip("-n", short(self.container), "neighbour", "replace", other.inside6, *entry, "eth0")
        subprocess.run(
            ["bridge", "-n", name, "fdb", "replace", other.mac, "dev", "vxlan1", "dst", to, "self", "permanent"],
            check=True,
        )


class Cluster:
    """Nodes that share an overlay; what a controller writes is given to their keepers at once.

    Args:
        world: of the namespaces.
        size: number of nodes.
        version: of IP on the underlay.
        mtu: of the overlay.
        underlay: MTU of the underlay at each node, all the same where one is missing.
        routed: whether a router joins the nodes, in place of a switch.
    """

    foreign = IPv4Address("192.0.2.99")
    """On the underlay, and nobody's."""

    def __init__(
        self,
        world: World,
        size: int,
        version: int = 4,
        *,
        mtu: int = MTU,
        underlay: Sequence[int] = (),
        routed: bool = False,
    ) -> None:
        self._world = world
        self._mtu = mtu
        self._routed = routed
        self._folder = tempfile.TemporaryDirectory(prefix="linkwire-overlays-")
        self.hub = world.netns()
        if routed:
            forward = ("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            self.hub.run(lambda: subprocess.run(forward, check=True))
        else:
            batch(self.hub, f"link add bridge mtu {_HUB_MTU} type bridge", "link set bridge up")
        mtus = [*underlay, *[UNDERLAY_MTU] * (size - len(underlay))]
        self.nodes = [self._node(number, version, mtu) for number, mtu in enumerate(mtus, 1)]
        for node in self.nodes:
            for other in self.nodes:
                if node is not other:
                    node.vxlan_to(other)
        self.generation = 0
        self.epoch = 0
        self.rotating = list(self.nodes)
        self.record: NodeEncryption | None = None
        self.link_key = LinkKey.generate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.keeper is not None:
                node.keeper.stop()
            for name in node.device.names:
                node.device.backend.delete(node.netns, name)
            node.device.backend.close()
        self._folder.cleanup()

    def _node(self, number: int, version: int, underlay: int) -> OverlayNode:
        netns, overlay, container = (self._world.netns() for _ in range(3))
        folder = Path(self._folder.name) / str(number)
        folder.mkdir()
        (folder / "1-overlay").symlink_to(overlay.path)
        device = NodeDevice(netns, make_backend(netns.path), device_name())
        address = ip_address(f"2001:db8::{number}" if version == 6 else f"192.0.2.{number}")
        keys = NodeKeys(folder.with_suffix(".state"), WIREGUARD_PORTS)
        node = OverlayNode(number, address, netns, overlay, container, folder, device, keys)
        self._join(node, underlay)
        shared, mtu = short(overlay), f"mtu {self._mtu}"
        local = "local ::" if version == 6 else ""
        vxlan = f"type vxlan id {VNI} dstport {VXLAN_PORT} learning proxy l2miss l3miss {local}"
        batch(netns, f"link add vxlan1 {mtu} {vxlan}", f"link set vxlan1 netns {shared}")
        batch(
            overlay,
            f"link add br0 {mtu} type bridge",
            f"address add 10.0.9.{100 + number}/24 dev br0",
            f"link add veth0 {mtu} type veth peer name eth0 netns {short(container)} {mtu} address {node.mac}",
            *(f"link set {name} master br0 {mtu} up" for name in ("vxlan1", "veth0")),
            "link set br0 up",
        )
        batch(
            container,
            f"address add {node.inside}/24 dev eth0",
            f"address add {node.inside6}/64 dev eth0 nodad",
            "link set eth0 up",
        )
        return node

    def _join(self, node: OverlayNode, mtu: int) -> None:
        """Join a node to the underlay, whose own end takes whatever is sent to it or routed there."""
        number, hub = node.number, short(self.hub)
        own = (f"192.0.2.{number}", f"2001:db8::{number}")
        wide = mtu if self._routed else _HUB_MTU
        batch(node.netns, f"link add under mtu {mtu} type veth peer name n{number} netns {hub} mtu {wide}")
        if not self._routed:
            batch(self.hub, f"link set n{number} master bridge up")
            hosts = [
                f"address add {address}/{length} dev under" for address, length in zip(own, (24, 64), strict=True)
            ]
            batch(node.netns, hosts[0], f"{hosts[1]} nodad", "link set under up")
            return
        router = ("192.0.2.254", "2001:db8::fe")
        here = [f"address add {router[0]}/32 dev n{number}", f"address add {router[1]}/128 dev n{number} nodad"]
        batch(self.hub, *here, f"link set n{number} up", *(f"route add {address} dev n{number}" for address in own))
        batch(node.netns, f"address add {own[0]}/32 dev under", f"address add {own[1]}/128 dev under nodad")
        ways = [
            line
            for address in router
            for line in (f"route add {address} dev under", f"route add default via {address}")
        ]
        batch(node.netns, "link set under up", *ways)

    def do(self, command: str) -> None:
        """Run a command on what joins the nodes."""
        done = self.hub.run(
            lambda: subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def give(self, mode: Mode | None, step: Step = "accept") -> None:
        """Give all keepers the records; with no mode, none. A node without a keeper has no place in them."""
        self.generation += 1
        self.record = None if mode is None else NodeEncryption(mode, step, VXLAN_PORT, self.generation)
        for node in self.nodes:
            self.tell(node)
            if step == "accept" and node.keeper is not None and GUEST_VARIABLE in os.environ:
                # Handshakes that begin at once undo each other. WireGuard begins the next ones up to a third of a
                # second apart, and for an emulated processor that is at once.
                time.sleep(_APART_S)

    def tell(self, node: OverlayNode) -> None:
        """Give one keeper the records as they are now."""
        if node.keeper is None:
            return
        tunnel = None
        if self.record is not None:
            underlays = [other.place for other in self.nodes if other.keeper is not None]
            link_keys = LinkKeys({NODES_KEY: self.link_key})
            psk = partial(_psk, link_keys)
            tunnel = desired(self.record, underlays, node.name, node.keys.held, psk)
        node.keeper.want(Wanted(tunnel, complete=True))

    def tell_all(self) -> None:
        """Give all keepers the records, one after another."""
        for node in self.nodes:
            if node.keeper is not None:
                node.keep(self.epoch)
                self.tell(node)

    def offer_next(self, epoch: int) -> None:
        """What the controller writes first: each node's key of a new epoch beside the one that it has."""
        self.epoch = epoch
        for node in self.rotating:
            node.keep(epoch)
            node.place = replace(node.place, next=node.keys.stated[-1])
            self.tell_all()

    def drop_first(self) -> None:
        """What it writes when all have moved: the new key alone, one node after another."""
        for node in self.rotating:
            key = node.place.next
            assert key is not None
            endpoint = UdpEndpoint(node.address, key.port)
            node.place = Underlay(node.name, key.public_key, endpoint, key.epoch)
            self.tell_all()

    def await_epochs(self, *epochs: int, only: Iterable[OverlayNode] | None = None) -> None:
        """Wait until all have the devices of these epochs, and send by the last one alone."""
        keepers = [node.keeper for node in only or self.nodes if node.keeper is not None]
        wait_for(lambda: all(_is_at(keeper, epochs) for keeper in keepers), 30)

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
            ),
            30,
        )

    def _acknowledged(self, node: OverlayNode, mode: Mode | None, ready: int) -> bool:
        assert node.keeper is not None
        status = node.keeper.status
        if mode is None or status is None:
            return mode is None and status is None and node.device.read().is_off
        return status.generation == self.generation and status.ready == ready


def _is_at(keeper: Keeper, epochs: tuple[int, ...]) -> bool:
    return keeper.keys is not None and (keeper.keys.epochs, keeper.keys.waiting) == (epochs, ())


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
        self._arguments = ["ping", "-n", "-i", f"{_INTERVAL_S}", "-s", str(size), target.inside]
        self._source = source
        self._process: subprocess.Popen[str] | None = None
        # Read at the end: a pipe that nobody reads would stop it.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.result = Pinged(0, 0)

    def __enter__(self) -> Self:
        self._process = self._source.container.run(
            lambda: subprocess.Popen(self._arguments, stdout=self._output, text=True)
        )
        status = Path(f"/proc/{self._process.pid}/status")
        wait_for(lambda: _catches(status.read_text(), signal.SIGINT))
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        time.sleep(_AFTER_S)
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        with self._output:
            self._output.seek(0)
            output = self._output.read()
        found = re.search(r"(\d+) packets transmitted", output)
        assert found, output
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)}
        sent, last = int(found[1]), max(answered, default=0)
        # What was sent after the block may be on its way.
        counted = last if answered and sent - last <= _AFTER_S / _INTERVAL_S else sent
        self.result = Pinged(counted, len(answered))


def _catches(status: str, number: signal.Signals) -> bool:
    """Whether a process has begun to handle a signal: before, it would only end of it."""
    (caught,) = re.findall(r"(?m)^SigCgt:\s+([0-9a-f]+)$", status)
    return bool(int(caught, 16) >> (number - 1) & 1)


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
