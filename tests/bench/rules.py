"""What a task's rules cost on its link: the same two tasks with them and without, in turns.

With the rules everything goes to the provider's VIP, without them to the task's own address, since there is no VIP.
WireGuard costs so much more than rules that it hides them: so they are put on a bare veth pair as well, where nothing
else takes time. There one thread with both ends does all the work of a message, so its CPU is what the message cost.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.linux import interfaces
from mesh.model.labels.ports import PortRange
from mesh.topology.policy import Allow, Balance, Policy
from mesh.topology.wgtypes import Route
from tests.bench.link import connection, throughput
from tests.bench.measure import Effort, Row, crosswise
from tests.netns.world import MESH, MESH6, Node, Task, World, ip
from tests.support import stage

_VIP = MESH.broadcast_address - 1
_TIMEOUT = 30.0  # seconds
_TIMEOUT_TIMEVAL = struct.pack("ll", int(_TIMEOUT), 0)
_RESET = struct.pack("ii", 1, 0)  # struct linger: no TIME_WAIT, so that ports do not run out
_MESSAGE = 64  # bytes
_PORTS = (PortRange("tcp", 80, 80), PortRange("tcp", 1024, 65535), PortRange("udp", 53, 53))


@dataclass(frozen=True, slots=True)
class _Size:
    key: str
    what: str
    links: int
    backends: int


_ONE = _Size("one", "1 link", 1, 1)
_TWENTY = _Size("twenty", "20 links", 20, 1)
_TRACKED = _Size("tracked", "conntrack and NAT, no rules", 0, 0)
_HUNDRED = _Size("hundred", "20 links, 100 backends", 20, 100)


_ONLY_TRACKED = (
    "add table inet tracked",
    "add chain inet tracked vip { type nat hook output priority -100; }",
    *(f"add chain inet tracked {hook} {{ type filter hook {hook} priority 0; }}" for hook in ("input", "output")),
    *(f"add rule inet tracked {hook} ct state invalid drop" for hook in ("input", "output")),
)
"""What makes the kernel track connections and translate addresses, as any rule about them does."""


def measure(effort: Effort) -> list[Row]:
    """Throughput and connections, over a link and over a veth pair in its place."""
    with stage.world() as (world, _):
        nodes = world.nodes()
        linked = (world.task(nodes[0]), world.task(nodes[1]))
        for task, other in (linked, linked[::-1]):
            task.wire(other)
        bare = _joined_by_veth(world, nodes[0])
        return [
            *(_throughput(effort, "rules", "a link", linked, size) for size in (_ONE, _HUNDRED)),
            *(_connections(effort, "rules", "a link", linked, size) for size in (_ONE, _TWENTY, _HUNDRED)),
            *(_messages(effort, bare, size) for size in (_TRACKED, _ONE, _HUNDRED)),
            _messages(effort, bare, _ONE, _TRACKED),
            *(_connections(effort, "rules.veth", "veth", bare, size) for size in (_ONE, _TWENTY, _HUNDRED)),
        ]


def _joined_by_veth(world: World, node: Node) -> tuple[Task, Task]:
    """Two tasks whose device is the end of a veth pair."""
    ends = [Task(node, world.netns(), IPv4Interface((MESH[1000 + n], 32)), 1 + n) for n in range(2)]
    names = [stage.short(task.netns) for task in ends]
    pair = [("name", task.name, "netns", name) for task, name in zip(ends, names, strict=True)]
    ip("link", "add", *pair[0], "type", "veth", "peer", *pair[1])
    for task in ends:
        interfaces.add_address(task.netns, task.name, task.address)
        interfaces.set_up(task.netns, task.name)
        interfaces.add_route(task.netns, task.name, Route(MESH))
    return ends[0], ends[1]


def _throughput(effort: Effort, key: str, over: str, ends: tuple[Task, Task], size: _Size) -> Row:
    def turn(at: IPv4Address | None) -> float:
        _toggle(ends, size if at else None)
        return throughput(*ends, effort.seconds, at=at)

    turns = crosswise(_turns(effort), lambda: turn(_VIP), lambda: turn(None))
    what = f"one TCP stream over {over} with rules, {size.what}"
    return Row(f"{key}.throughput.{size.key}", what, "no rules", "Mbit/s", "higher", *turns)


def _messages(effort: Effort, ends: tuple[Task, Task], size: _Size, other: _Size | None = None) -> Row:
    """To the task's own address where the other way has no VIP either."""

    def turn(with_rules: _Size | None) -> float:
        _toggle(ends, with_rules)
        to_vip = with_rules is not None and with_rules.links and other is None
        return message(*ends, effort.exchanges * 20, at=_VIP if to_vip else None)

    turns = crosswise(_turns(effort), lambda: turn(size), lambda: turn(other))
    what = f"CPU of {_MESSAGE} bytes there and back over veth with {size.what}"
    key = f"rules.veth.message.{size.key}" + (".own" if other else "")
    return Row(key, what, other.what if other else "no rules", "us CPU", "lower", *turns)


def message(source: Task, target: Task, exchanges: int, *, at: IPv4Address | None = None) -> float:
    """Microseconds of CPU: over veth what is sent is received before the call returns, also by the other end."""
    with connection(source, target, at) as (outbound, inbound):
        for end in (outbound, inbound):  # the kernel's time-out: Python's is a call of poll more, each time
            end.settimeout(None)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT_TIMEVAL)
        began = time.thread_time()
        for _ in range(exchanges):
            for one, other in ((outbound, inbound), (inbound, outbound)):
                one.sendall(bytes(_MESSAGE))
                other.recv(_MESSAGE, socket.MSG_WAITALL)
        return (time.thread_time() - began) / exchanges * 1e6


def _turns(effort: Effort) -> int:
    """Ten rows, and none of them with an aim: a tenth is enough."""
    return max(2, effort.turns // 10)


def _connections(effort: Effort, key: str, over: str, ends: tuple[Task, Task], size: _Size) -> Row:
    def turn(at: IPv4Address | None) -> float:
        _toggle(ends, size if at else None)
        return connections(*ends, effort.seconds, at=at)

    turns = crosswise(_turns(effort), lambda: turn(_VIP), lambda: turn(None))
    what = f"connections over {over} with rules, {size.what}"
    return Row(f"{key}.connections.{size.key}", what, "no rules", "1/s", "higher", *turns)


def connections(source: Task, target: Task, seconds: float, *, at: IPv4Address | None = None) -> float:
    """How many connections are opened and closed in a second, one after the other."""
    with target.netns.run(lambda: socket.create_server((str(target.address.ip), 0), backlog=1024)) as listener:
        port = listener.getsockname()[1]
        stop = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, stop))
        thread.start()
        try:
            return source.netns.run(lambda: _connect((str(at or target.address.ip), port), seconds))
        finally:
            stop.set()
            thread.join()


def _connect(where: tuple[str, int], seconds: float) -> float:
    count = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        with socket.create_connection(where, _TIMEOUT) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        count += 1
    return count / elapsed


def _accept(listener: socket.socket, stop: threading.Event) -> None:
    listener.settimeout(0.05)
    while not stop.is_set():
        try:
            listener.accept()[0].close()
        except OSError:  # nobody came, or went at once
            continue


def _toggle(ends: tuple[Task, Task], size: _Size | None) -> None:
    """The rules of a consumer and its provider, whose other links are to tasks that are not there."""
    source, target = ends
    for task in ends:
        task.command("nft", "add table inet tracked; delete table inet tracked")
    if size is None or not size.links:
        for task in ends:
            nft.remove(task.netns)
            if size is not None:
                task.command("nft", "; ".join(_ONLY_TRACKED))
        return
    addresses = [target.address.ip, *(MESH[5000 + n] for n in range(size.backends - 1))]
    others = tuple(Allow(f"other{n:03d}", (MESH[10_000 + n],), _PORTS) for n in range(size.links - 1))
    # All backends are the one that is there: which of them it is costs the same.
    balance = (
        *(Balance(MESH[20_000 + n], (MESH[10_000 + n],), f"other{n:03d}") for n in range(size.links - 1)),
        Balance(_VIP, (target.address.ip,) * size.backends, "provider"),
    )
    outbound = (*others, Allow("provider", tuple(sorted(addresses)), _PORTS))
    inbound = (Allow("consumer", (source.address.ip,), _PORTS), *others)
    nft.apply(source.netns, render(Policy(MESH, MESH6, balance, outbound), source.name))
    nft.apply(target.netns, render(Policy(MESH, MESH6, inbound=inbound), target.name))
