"""What a link made by the agent carries, against one that was made by hand between the same two nodes.

The agent's link has rules, which judge every packet; what was made by hand has none. So the agent's is measured once
more with its rules taken away.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

from agent.firewall import nft
from agent.interface import reconcile
from tests.bench.measure import Effort, Row, crosswise
from tests.netns.world import Node, Task, World
from tests.support import stage
from tests.support.by_hand import write_wg_file

_TIMEOUT = 30.0  # seconds without a byte, after which something is broken
_CHUNK = 1 << 18  # bytes
_MESSAGE = 64  # bytes
_RULED = "ours has its rules, which judge every packet; the other has none"
_BARE = "ours without its rules, which nothing but a measurement takes away"


def measure(effort: Effort) -> list[Row]:
    """Throughput and round trip."""
    with stage.world() as (world, folder):
        nodes = world.nodes()
        ours = linked(world, nodes, folder)
        theirs = (world.task(nodes[0]), world.task(nodes[1]))
        for number, (task, other) in enumerate((theirs, theirs[::-1])):
            config = stage.interface(task.name, task, (stage.peer_of(other),))
            stage.by_hand(task).wire(config, write_wg_file(folder / f"wg{number}", config))
        by_hand, aims = "wired with wg and ip", (">= 0.98", "<= 1.02")
        ruled = rows(effort, "link", ours, theirs, by_hand, aims, _RULED)
        for task in ours:
            nft.remove(task.netns)
        bare = rows(effort, "link.bare", ours, theirs, by_hand, aims, _BARE, "a link without its rules")
        return [*ruled, *bare]


def linked(world: World, nodes: tuple[Node, Node], folder: Path) -> tuple[Task, Task]:
    """A task on either node, with a link between them as the agent makes it."""
    ends = (world.task(nodes[0]), world.task(nodes[1]))
    for number, (task, other) in enumerate((ends, ends[::-1])):
        config = stage.interface(task.name, task, (stage.peer_of(other),))
        hosts = stage.hosts_file(folder, f"hosts{number}")
        reconcile.reconcile(task.node.backend, task.netns, hosts, config, None, complete=True)
    return ends


def rows(  # noqa: PLR0917 - called twice, with names where they tell something
    effort: Effort,
    key: str,
    ours: tuple[Task, Task],
    theirs: tuple[Task, Task],
    reference: str,
    aims: tuple[str, str],
    note: str = "",
    over: str = "a link",
) -> list[Row]:
    """Two pairs of tasks in turns: one TCP stream, then messages there and back."""
    streams = crosswise(
        effort.turns, lambda: throughput(*ours, effort.seconds), lambda: throughput(*theirs, effort.seconds)
    )
    trips = crosswise(
        effort.trips, lambda: round_trip(*ours, effort.exchanges), lambda: round_trip(*theirs, effort.exchanges)
    )
    stream, trip = f"one TCP stream over {over}", f"{_MESSAGE} bytes there and back over {over}"
    return [
        Row(f"{key}.throughput", stream, reference, "Mbit/s", "higher", *streams, aims[0], note),
        Row(f"{key}.round_trip", trip, reference, "ms", "lower", *trips, aims[1], note),
    ]


@contextlib.contextmanager
def connection(
    source: Task, target: Task, at: IPv4Address | None = None
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the source's end and the target's, which is asked for at its own address or another."""
    with target.netns.run(lambda: socket.create_server((str(target.address.ip), 0))) as listener:
        listener.settimeout(_TIMEOUT)
        where = (str(at or target.address.ip), listener.getsockname()[1])
        with (
            source.netns.run(lambda: socket.create_connection(where, _TIMEOUT)) as outbound,
            listener.accept()[0] as inbound,
        ):
            for end in (outbound, inbound):
                end.settimeout(_TIMEOUT)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                yield outbound, inbound
            finally:  # whoever waits at either end is not to wait longer
                for end in (outbound, inbound):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)


def throughput(source: Task, target: Task, seconds: float, *, at: IPv4Address | None = None) -> float:
    """Mbit/s of one TCP stream, by what has arrived."""
    with ThreadPoolExecutor(1) as pool, connection(source, target, at) as (outbound, inbound):
        began = time.perf_counter()
        arrived = pool.submit(_drain, inbound)
        chunk = bytes(_CHUNK)
        while time.perf_counter() - began < seconds:
            outbound.sendall(chunk)
        outbound.shutdown(socket.SHUT_WR)
        received, ended = arrived.result()
        return received * 8 / (ended - began) / 1e6


def _drain(inbound: socket.socket) -> tuple[int, float]:
    """How many bytes came, and when the last did."""
    buffer = bytearray(_CHUNK)
    total = 0
    while got := inbound.recv_into(buffer):
        total += got
    return total, time.perf_counter()


def round_trip(source: Task, target: Task, exchanges: int) -> float:
    """Milliseconds: the median of some messages that are sent back at once."""
    with ThreadPoolExecutor(1) as pool, connection(source, target) as (outbound, inbound):
        echo = pool.submit(_echo, inbound)
        times = []
        for _ in range(exchanges):
            began = time.perf_counter()
            outbound.sendall(bytes(_MESSAGE))
            outbound.recv(_MESSAGE, socket.MSG_WAITALL)
            times.append(time.perf_counter() - began)
        outbound.shutdown(socket.SHUT_WR)
        echo.result()
        return statistics.median(times) * 1000


def _echo(inbound: socket.socket) -> None:
    while message := inbound.recv(_MESSAGE, socket.MSG_WAITALL):
        inbound.sendall(message)
