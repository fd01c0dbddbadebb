"""Namespaces, devices and files for a measurement, and that nothing of them stays, also after Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from agent.holder import sockets
from agent.linux.netns import TaskNetns
from mesh.crypto.keys import PrivateKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.net import UdpEndpoint
from mesh.topology.ipam import twin
from mesh.topology.peer_cache import KEEPALIVE
from mesh.topology.policy import Allow, Balance, Policy
from mesh.topology.wgtypes import HostEntry, InterfaceConfig, PeerConfig, Route
from tests.netns.world import MESH, MESH6, NETNS_FOLDER, Task, World, ip, own_leftovers, wait_until_nothing_is_left
from tests.support.by_hand import Wiring

MTU = 1420  # bytes: Ethernet's 1500 less IPv6, UDP and WireGuard around a packet
SHARED = PresharedKey.generate()
_FAR = IPv4Address("192.0.2.2")  # the second node of World.nodes
_VIP = MESH.broadcast_address - 1


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let what cleans up finish, and a Ctrl-C that came meanwhile count after it."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, _: held.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def world() -> Iterator[tuple[World, Path]]:
    """A world, and a folder that only root may enter."""
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
        made = World()
        try:
            yield made, Path(folder)
        finally:
            with uninterrupted():
                made.close()


def end_leftovers() -> list[str]:
    """Take away what an interrupt left half-made, deaf to another one. Returns what would not go."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not own_leftovers():
        return []
    for path in sockets.SOCKETS.glob(f"lw{os.getpid():07d}*.sock"):
        pid = sockets.process(path.stem)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        path.unlink(missing_ok=True)
    for path in NETNS_FOLDER.glob(f"lwtest-{os.getpid()}-*"):
        ip("netns", "delete", path.name)
    return wait_until_nothing_is_left()


def short(netns: TaskNetns) -> str:
    """A namespace's name, as `ip netns` has it."""
    return Path(netns.path).name


def address(netns: TaskNetns, device: str, own: IPv4Address) -> None:
    """Give a namespace an address of its own, and a way to everybody else that leads nowhere."""
    name = short(netns)
    ip("-n", name, "link", "add", device, "type", "veth", "peer", "name", f"{device}0")
    ip("-n", name, "address", "add", f"{own}/32", "dev", device)
    for end in (device, f"{device}0"):
        ip("-n", name, "link", "set", end, "up")
    ip("-n", name, "route", "add", "default", "dev", device)


def by_hand(task: Task) -> Wiring:
    """The reference's way of wiring a task."""
    return Wiring(short(task.node.netns), short(task.netns), userspace=task.node.backend.name == "userspace")


def strangers(count: int, *, keepalive: int = KEEPALIVE) -> tuple[PeerConfig, ...]:
    """Peers that are not there: packets for them end at the second node, where nobody hears."""
    first = int(MESH.network_address) + (1 << 8)
    return tuple(
        PeerConfig(
            public_key=PrivateKey.generate().public,
            endpoint=UdpEndpoint(_FAR, 20_000 + n),
            allowed_ips=frozenset({IPv4Network(first + n), IPv6Network(twin(MESH6, IPv4Address(first + n)))}),
            preshared_key=PresharedKey.generate(),
            keepalive=keepalive,
        )
        for n in range(count)
    )


def vip() -> IPv4Address:
    """Of all peers, in `interface`."""
    return _VIP


def interface(name: str, task: Task, peers: tuple[PeerConfig, ...], *, mtu: int = MTU) -> InterfaceConfig:
    """What a task is meant to have: one name and one VIP for all of its peers, and with each a link either way."""
    networks = (network for peer in peers for network in peer.allowed_ips)
    addresses = tuple(sorted(network.network_address for network in networks if isinstance(network, IPv4Network)))
    allow = (Allow("peer", addresses, None),)
    return InterfaceConfig(
        name=name,
        private_key=task.key,
        listen_port=task.port,
        addresses=(IPv4Interface((task.address.ip, 32)), IPv6Interface((task.address6, 128))),
        routes=(Route(MESH), Route(MESH6)),
        mtu=mtu,
        peers=peers,
        hosts=(HostEntry(_VIP, ("peer",)), HostEntry(twin(MESH6, _VIP), ("peer",))),
        policy=Policy(MESH, MESH6, (Balance(_VIP, addresses, "db"),), allow, allow),
    )


def peer_of(task: Task) -> PeerConfig:
    """A task as another's peer."""
    change = task.as_peer()
    assert change.endpoint is not None
    assert change.allowed_ips is not None
    return PeerConfig(change.public_key, change.endpoint, change.allowed_ips, SHARED, KEEPALIVE)


def hosts_file(folder: Path, name: str) -> str:
    """A container's hosts file, as Docker makes it."""
    path = folder / name
    path.write_text("127.0.0.1\tlocalhost\n")
    return str(path)
