"""Node encryption against what else may be under an overlay: nothing, Docker's IPsec, WireGuard set up by hand.

Each has two nodes of its own, with an overlay as Docker makes one and a container on either node. All are measured in
turns, and of those of one round the first is another each time. The agent's keeper has ended by then: the kernel, or
wireguard-go, goes on without it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface, ip_network
from pathlib import Path

from mesh.model.encryption.status import Step
from mesh.model.net import UdpEndpoint
from mesh.topology.peer_cache import KEEPALIVE
from mesh.topology.policy import Policy
from mesh.topology.wgtypes import InterfaceConfig, PeerConfig
from tests.bench import overlay
from tests.bench.link import connection, round_trip
from tests.bench.measure import Effort, Row, in_turns
from tests.bench.run import Run
from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.overlay_nodes import VNI, VXLAN_PORT, WIREGUARD_PORTS, Cluster, OverlayNode, batch, short
from tests.netns.world import MESH, MESH6, Node, Task
from tests.support import docker_ipsec, stage
from tests.support.by_hand import ReferenceFailed, Wiring, write_wg_file

_OURS = "node encryption"
_PLAIN, _IPSEC, _BY_HAND = "plain VXLAN", "VXLAN with IPsec (AES-GCM)", "WireGuard set up by hand under VXLAN"
_SAME_CIPHER = "VXLAN with IPsec (ChaCha20-Poly1305)"
_CIPHERS = {"ipsec": docker_ipsec.DOCKERS, "same_cipher": docker_ipsec.WIREGUARDS}
_REFERENCES = {
    "plain": (_PLAIN, "", ""),
    "ipsec": (_IPSEC, ">= 1.0", "<= 1.0"),
    "same_cipher": (_SAME_CIPHER, ">= 1.0", "<= 1.0"),
    "by_hand": (_BY_HAND, ">= 0.98", "<= 1.02"),
}
"""Names for programs: names for people, and the aims of what is better higher and lower."""
_STREAMS = {"one": (1, "one TCP stream"), "eight": (8, "eight TCP streams")}
_SECONDS = 2.5
"""Times the effort's: shorter, the processors' idle time is not known well enough, which is counted in 10 ms."""
_CHUNK = 1 << 18  # bytes
_RULED = "ours has the rules that refuse plain packets, and the other has none"
_TABLE = 4789


@dataclass(frozen=True, slots=True)
class _Carried:
    """What some streams carried: Mbit/s, and seconds of all processors for a gigabit."""

    throughput: float
    cpu: float


_Ends = tuple[Task, Task]


def measure(effort: Effort) -> Run:
    """Throughput of one stream and of eight, the processors' time for it, and round trip."""
    run = Run()
    with stage.world() as (world, folder), ExitStack() as stack:
        pairs = {name: stack.enter_context(Cluster(world, 2)) for name in (_OURS, _PLAIN, _BY_HAND)}
        _encrypt(pairs[_OURS])
        _by_hand(pairs[_BY_HAND], folder)
        for reference, cipher in _CIPHERS.items():
            with_ipsec = stack.enter_context(Cluster(world, 2, mtu=overlay.MTU - cipher.icv // 8 + 8))
            try:
                docker_ipsec.encrypt(_esp_ends(with_ipsec), VNI, VXLAN_PORT, cipher)
            except ReferenceFailed as why:
                run.not_here[f"nodes.{reference}"] = f"this kernel has no such IPsec ({why})"
            else:
                pairs[_REFERENCES[reference][0]] = with_ipsec
        ways = {name: _ends(pair) for name, pair in pairs.items()}
        run.rows += _rows(effort, ways)
        for name in (_OURS, _BY_HAND):
            assert all(_received(node) for node in pairs[name].nodes), f"{name} carried nothing"
        for name in pairs.keys() & {_IPSEC, _SAME_CIPHER}:
            assert all(docker_ipsec.encrypted_bytes(end.netns) for end in _esp_ends(pairs[name]))
    return run


def _esp_ends(pair: Cluster) -> list[docker_ipsec.End]:
    return [docker_ipsec.End(short(node.netns), node.address) for node in pair.nodes]


def _rows(effort: Effort, ways: dict[str, _Ends]) -> Iterator[Row]:
    note = overlay.EMULATED if GUEST_VARIABLE in os.environ else ""
    for key, (count, streams) in _STREAMS.items():
        seconds, turns = effort.seconds * _SECONDS, max(2, effort.turns // 4)
        found = in_turns(turns, {name: _carrying(ends, count, seconds) for name, ends in ways.items()})
        for reference, (name, higher, lower) in _REFERENCES.items():
            if name not in found:
                continue
            ours, theirs = found[_OURS], found[name]
            told = "; ".join(filter(None, (_RULED, note)))
            over = f"{streams} over an overlay with node encryption"
            rates = ([each.throughput for each in ours], [each.throughput for each in theirs])
            spent = ([each.cpu for each in ours], [each.cpu for each in theirs])
            yield Row(f"nodes.{reference}.throughput.{key}", over, name, "Mbit/s", "higher", *rates, higher, told)
            yield Row(
                f"nodes.{reference}.cpu.{key}", f"CPU of {over}", name, "s CPU/Gbit", "lower", *spent, lower, told
            )
    trips = in_turns(effort.trips, {name: _trip(ends, effort.exchanges) for name, ends in ways.items()})
    for reference, (name, _, lower) in _REFERENCES.items():
        if name in trips:
            what = "64 bytes there and back over an overlay with node encryption"
            yield Row(
                f"nodes.{reference}.round_trip", what, name, "ms", "lower", trips[_OURS], trips[name], lower, note
            )


def _encrypt(pair: Cluster) -> None:
    """Node encryption as agents set it up, in `strict`."""
    for node in pair.nodes:
        node.start()
    steps: tuple[Step, ...] = ("accept", "send", "enforce")
    for step in steps:
        pair.switch("strict", step)
    for node in pair.nodes:
        assert node.keeper is not None
        node.keeper.stop()


def _by_hand(pair: Cluster, folder: Path) -> None:
    """The same device as a person would make it with `wg` and `ip`, and the route to the other node."""
    for node, other in (pair.nodes, pair.nodes[::-1]):
        allowed = frozenset({ip_network(other.address)})
        peer = PeerConfig(
            other.keys.stated[0].public_key,
            UdpEndpoint(other.address, WIREGUARD_PORTS[0]),
            allowed,
            stage.SHARED,
            KEEPALIVE,
        )
        config = InterfaceConfig(
            name=node.device.names[0],
            private_key=node.keys.held[0].private_key,
            listen_port=WIREGUARD_PORTS[0],
            addresses=(IPv4Interface(f"100.95.0.{node.number}/32"),),
            routes=(),
            mtu=node.device.mtu([other.address]),
            peers=(peer,),
            hosts=(),
            policy=Policy(MESH, MESH6),
        )
        home = short(node.netns)
        wiring = Wiring(home, home, userspace=node.device.backend.name == "userspace")
        wiring.wire(config, write_wg_file(folder / f"wg{node.number}", config))
        batch(
            node.netns,
            f"route add {other.address} dev {config.name} src {node.address} table {_TABLE}",
            f"rule add pref 1000 ipproto udp dport {VXLAN_PORT} lookup {_TABLE}",
        )


def _ends(pair: Cluster) -> _Ends:
    """The two containers."""
    source, target = (_task(node) for node in pair.nodes)
    return source, target


def _task(node: OverlayNode) -> Task:
    home = Node(node.netns, node.device.backend, IPv4Interface(f"{node.address}/24"))
    return Task(home, node.container, IPv4Interface(f"{node.inside}/24"), 0)


def _received(node: OverlayNode) -> int:
    """Bytes that a node's device has had from the other one's."""
    device = node.device.backend.read(node.netns, node.device.names[0])
    return sum(peer.rx_bytes for peer in device.peers.values())


def _trip(ends: _Ends, exchanges: int) -> Callable[[], float]:
    return lambda: round_trip(*ends, exchanges)


def _carrying(ends: _Ends, count: int, seconds: float) -> Callable[[], _Carried]:
    return lambda: carried(*ends, count, seconds)


def carried(source: Task, target: Task, count: int, seconds: float) -> _Carried:
    """Send by so many TCP streams at once, and measure by what has arrived and by the processors' idle time."""
    with ExitStack() as stack, ThreadPoolExecutor(2 * count) as pool:
        streams = [stack.enter_context(connection(source, target)) for _ in range(count)]
        idle, began = _idle(), time.perf_counter()
        drained = [pool.submit(_drain, inbound) for _, inbound in streams]
        for sender in [pool.submit(_send, outbound, began + seconds) for outbound, _ in streams]:
            sender.result()
        bits = sum(each.result() for each in drained) * 8
        took = time.perf_counter() - began
        busy = took * (os.cpu_count() or 1) - (_idle() - idle)
    return _Carried(bits / took / 1e6, max(busy, 0.0) / (bits / 1e9))


def _send(outbound: socket.socket, until: float) -> None:
    chunk = bytes(_CHUNK)
    outbound.sendall(chunk)  # also where a thread begins late
    while time.perf_counter() < until:
        outbound.sendall(chunk)
    outbound.shutdown(socket.SHUT_WR)


def _drain(inbound: socket.socket) -> int:
    """Bytes that came."""
    buffer, total = bytearray(_CHUNK), 0
    while got := inbound.recv_into(buffer, _CHUNK, socket.MSG_WAITALL):
        total += got
    return total


def _idle() -> float:
    """Seconds that all processors have had nothing to do, since the start of the machine."""
    _, *ticks = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(ticks[3]) + int(ticks[4])) / os.sysconf("SC_CLK_TCK")
